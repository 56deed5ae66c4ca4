"""The synthetic data set is the same everywhere, has the contract's types, and all that goes wrong in reality."""

import hashlib
import json
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.big_tenant import big_tenant, big_tenant_tables
from runway_pipelines.local import dataset
from runway_pipelines.local.dataset import associations, identification_codes
from runway_pipelines.local.partners import Partner, Tenant, synthetic_partners
from runway_pipelines.rosters.encoding import RosterCounts, encode_roster
from runway_pipelines.rosters.query import ROW_SCHEMA
from tests.reference_roster import ReferenceRoster, reference_roster

PARTNERS = {partner.partner_id: partner for partner in synthetic_partners()}
PAIRS = [(partner, tenant) for partner in PARTNERS.values() for tenant in partner.tenants]
# The smallest one, a middle one, one that is full of schools, and the biggest.
SAMPLES = [("acme", "juniper"), ("borealis", "district-7"), ("cascade", "springfield"), ("acme", "ashford")]
Row = dict[str, Any]


def named(partner_id: str, code: str) -> tuple[Partner, Tenant]:
    partner = PARTNERS[partner_id]
    return partner, next(tenant for tenant in partner.tenants if tenant.code == code)


@cache
def rows(partner_id: str, code: str) -> tuple[list[Row], list[Row]]:
    partner, tenant = named(partner_id, code)
    return associations(partner, tenant).to_pylist(), identification_codes(partner, tenant).to_pylist()


@cache
def roster(partner_id: str, code: str) -> ReferenceRoster:
    return reference_roster(code, *rows(partner_id, code))


def digest(table: pa.Table) -> str:
    return hashlib.sha256(json.dumps(table.to_pylist(), default=str).encode()).hexdigest()[:16]


def latest_years(found: list[Row]) -> dict[str, int]:
    years: dict[str, int] = {}
    for row in found:
        years[row["k_student_xyear"]] = max(row["api_year"], years.get(row["k_student_xyear"], 0))
    return years


def test_the_same_rows_on_every_machine() -> None:
    """Written down, so that a change of the generator, of numpy or of pyarrow that changes rows is seen."""
    partner, tenant = named("acme", "juniper")
    generators = (associations, identification_codes, dataset.students, dataset.schools)
    assert [digest(generate(partner, tenant)) for generate in generators] == [
        "efdce5eda64441d9",
        "8be9b86867ad1d04",
        "67f477ba7c096746",
        "43bd8e22310f6e21",
    ]


def test_rows_do_not_depend_on_what_was_generated_before() -> None:
    partner, tenant = named("cascade", "ogdenville")
    first = identification_codes(partner, tenant)
    associations(*named("acme", "ashford"))
    assert identification_codes(partner, tenant).equals(first)


@pytest.mark.parametrize(("partner", "tenant"), PAIRS, ids=[f"{p.partner_id}/{t.code}" for p, t in PAIRS])
def test_columns_types_and_number_of_students(partner: Partner, tenant: Tenant) -> None:
    for name, generate in (
        (dataset.ASSOCIATIONS, associations),
        (dataset.IDENTIFICATION_CODES, identification_codes),
        (dataset.STUDENTS, dataset.students),
        (dataset.SCHOOLS, dataset.schools),
    ):
        table = generate(partner, tenant)
        table.validate(full=True)
        assert table.schema == dataset.SCHEMAS[name]
        assert set(table["tenant_code"].to_pylist()) <= {tenant.code}
        assert set(table["api_year"].to_pylist()) <= set(dataset.SCHOOL_YEARS)
    unique_ids = set(associations(partner, tenant)["student_unique_id"].to_pylist()) - {None, ""}
    assert len(unique_ids) == tenant.students
    assert all("990" in unique_id for unique_id in unique_ids)


def test_children_share_names_and_twins_a_birth_date_and_a_grade_fits_the_age() -> None:
    partner, tenant = named("acme", "ashford")
    students, schools = dataset.students(partner, tenant).to_pylist(), dataset.schools(partner, tenant).to_pylist()
    known = {row["k_student_xyear"]: row for row in students if row["api_year"] == 2026}
    assert {row["k_student_xyear"] for row in students} == {row["k_student_xyear"] for row in schools}
    names = Counter((row["first_name"], row["last_name"]) for row in known.values())
    assert max(names.values()) > 3
    families = Counter((row["last_name"], row["birth_date"]) for row in known.values())
    twins = [row for row in known.values() if row["is_multiple_birth"]]
    assert len(twins) > 20
    assert sum(families[row["last_name"], row["birth_date"]] > 1 for row in twins) > len(twins) / 2
    earlier = defaultdict(set)
    for row in students:
        earlier[row["k_student_xyear"]].add(row["last_name"])
    assert 20 < sum(len(each) > 1 for each in earlier.values()) < len(earlier) / 20
    ninth = [row for row in schools if row["entry_grade_level"] == "Ninth grade" and row["api_year"] == 2026]
    assert {2025 - known[row["k_student_xyear"]]["birth_date"].year for row in ninth} == {14, 15}


def test_columns_are_those_of_the_contract() -> None:
    keys = {"tenant_code": "string", "api_year": "int64", "k_student": "string", "k_student_xyear": "string"}
    contract = {
        dataset.ASSOCIATIONS: {**keys, "student_unique_id": "string", "ed_org_id": "int64", "ed_org_type": "string"},
        dataset.IDENTIFICATION_CODES: {
            **keys, "ed_org_id": "int64", "id_system": "string", "assigning_org": "string", "id_code": "string",
        },
    }  # fmt: skip
    for name, columns in contract.items():
        assert {field.name: str(field.type) for field in dataset.SCHEMAS[name]} == columns


def test_the_partners_differ_as_promised() -> None:
    healthy = [p for p in PARTNERS.values() if p.has_secret and p.cross_year_matching_enabled and not p.deleted]
    assert [(p.partner_id, len(p.tenants)) for p in healthy] == [("acme", 12), ("borealis", 40), ("cascade", 4)]
    assert sum(not p.has_secret for p in PARTNERS.values()) == 1
    assert sum(not p.cross_year_matching_enabled for p in PARTNERS.values()) == 1
    assert sum(p.deleted for p in PARTNERS.values()) == 1
    for attribute in ("account", "user"):
        assert len({getattr(p, attribute).upper() for p in PARTNERS.values()}) == len(PARTNERS)
    assert len({(p.database, p.schema) for p in PARTNERS.values()}) == len(PARTNERS)

    tenants = [tenant for partner in healthy for tenant in partner.tenants]
    assert sum(t.deleted for t in tenants) == 3
    assert sum(t.is_global for t in tenants) == 1
    assert [t.code for t in tenants if t.students == 0 and not t.deleted] == ["kestrel"]
    assert max(t.students for t in tenants) == 5000
    assert min(t.students for t in tenants if t.students) == 200
    assert 50_000 <= sum(tenant.students for _, tenant in PAIRS) <= 70_000

    no_ods = {p.partner_id: [year for year, send_to_ods in p.enabled_years if not send_to_ods] for p in healthy}
    assert no_ods == {"acme": [2024, 2025, 2026], "borealis": [2026], "cascade": []}
    assert [send_to_ods for _, send_to_ods in PARTNERS["acme"].enabled_years].count(True) == 1


@pytest.mark.parametrize(("partner_id", "code"), SAMPLES)
def test_every_kind_of_trouble_with_students_is_there(partner_id: str, code: str) -> None:
    found, _ = rows(partner_id, code)
    usable = [row for row in found if row["student_unique_id"] and row["ed_org_id"] is not None]
    latest = latest_years(usable)
    ids = {row["student_unique_id"] for row in usable}
    keys = defaultdict(set)
    ed_orgs = defaultdict(set)
    record_types = defaultdict(set)
    for row in usable:
        keys[row["student_unique_id"]].add(row["k_student_xyear"])
        if row["api_year"] == latest[row["k_student_xyear"]]:
            ed_orgs[row["k_student_xyear"]].add(row["ed_org_id"])
            record_types[(row["student_unique_id"], row["ed_org_id"])].add(row["ed_org_type"])

    count = {
        "leading zero": sum(i.startswith("0") for i in ids),
        "the same but for a zero": sum("0" + i in ids for i in ids),
        "apostrophe": sum("'" in i for i in ids),
        "quote": sum('"' in i for i in ids),
        "backslash": sum("\\" in i for i in ids),
        "not ASCII": sum(not i.isascii() for i in ids),
        "beyond the basic plane": sum(max(i) > "\uffff" for i in ids),
        "leading space": sum(i.startswith(" ") for i in ids),
        "trailing space": sum(i.endswith(" ") for i in ids),
        "no student_unique_id": sum(row["student_unique_id"] is None for row in found),
        "empty student_unique_id": sum(row["student_unique_id"] == "" for row in found),
        "no ed org": sum(row["ed_org_id"] is None for row in found),
        "no type": sum(row["ed_org_type"] is None for row in found),
        "empty type": sum(row["ed_org_type"] == "" for row in found),
        "a record with and without a type": sum(None in types and len(types) > 1 for types in record_types.values()),
        "LEA and school": sum(min(orgs) < 10**6 < max(orgs) for orgs in ed_orgs.values()),
        "two schools": sum(len(orgs) == 2 and min(orgs) > 10**6 for orgs in ed_orgs.values()),
        "missing from the last year": sum(year < 2026 for year in latest.values()),
        "two keys": sum(len(of) == 2 for of in keys.values()),
        "two keys in one year": sum(len(of) == 2 and {latest[key] for key in of} == {2026} for of in keys.values()),
        "duplicate row": len(found) - len({json.dumps(row) for row in found}),
    }
    assert not [trouble for trouble, times in count.items() if times == 0]
    assert count["no type"] < 0.05 * len(found)
    assert count["duplicate row"] < 0.02 * len(found)


@pytest.mark.slow
@pytest.mark.parametrize(("partner_id", "code"), SAMPLES)
def test_every_kind_of_trouble_with_codes_is_there(partner_id: str, code: str) -> None:
    found_associations, found = rows(partner_id, code)
    usable = [row for row in found_associations if row["student_unique_id"] and row["ed_org_id"] is not None]
    latest = latest_years(usable)
    student_of = {row["k_student_xyear"]: row["student_unique_id"] for row in usable}
    good = [row for row in found if row["id_system"] and row["id_code"] and row["k_student_xyear"] in student_of]
    texts = {row["id_code"] for row in good}
    current, earlier = defaultdict(set), defaultdict(set)
    holders, systems_of_text = defaultdict(set), defaultdict(set)
    ed_orgs = defaultdict(set)
    for row in good:
        key, one = row["k_student_xyear"], (row["id_system"], row["id_code"])
        ed_orgs[(key, row["api_year"], one)].add(row["ed_org_id"])
        if row["api_year"] == latest[key]:
            current[student_of[key]].add(one)
            holders[one].add(student_of[key])
            systems_of_text[row["id_code"]].add((row["id_system"], student_of[key]))
        elif row["api_year"] < latest[key]:
            earlier[student_of[key]].add(one)
    several = [student for student, codes in current.items() if max(Counter(s for s, _ in codes).values()) > 1]
    students = set(student_of.values())
    with_rows = {student_of.get(row["k_student_xyear"]) for row in found}

    count = {
        "no row at all": len(students - with_rows),
        "only null or empty codes": len((students & with_rows) - set(current) - set(earlier)),
        "null code": sum(row["id_code"] is None for row in found),
        "empty code": sum(row["id_code"] == "" for row in found),
        "no system": sum(row["id_system"] is None for row in found),
        "empty system": sum(row["id_system"] == "" for row in found),
        "leading zero": sum(text.startswith("0") for text in texts),
        "the same but for zeros": sum(
            text.isdigit() and text.zfill(6) != text and text.zfill(6) in texts for text in texts
        ),
        "apostrophe": sum("'" in text for text in texts),
        "quote": sum('"' in text for text in texts),
        "backslash": sum("\\" in text for text in texts),
        "not ASCII": sum(not text.isascii() for text in texts),
        "leading or trailing space": sum(text != text.strip() for text in texts),
        "shared by two": sum(len(who) == 2 for who in holders.values()),
        "shared by three": sum(len(who) == 3 for who in holders.values()),
        "several of one system": len(several),
        "old code": sum(bool(earlier[student] - codes) for student, codes in current.items()),
        "old code of somebody that somebody else has now": sum(
            one in holders and student not in holders[one] for student, codes in earlier.items() for one in codes
        ),
        "one text in two systems": sum(len({s for s, _ in uses}) > 1 for uses in systems_of_text.values()),
        "repeated for several ed orgs": sum(len(orgs) > 1 for orgs in ed_orgs.values()),
        "duplicate row": len(found) - len({json.dumps(row) for row in found}),
        "of a year without an association": sum(
            row["api_year"] > latest.get(row["k_student_xyear"], 9999) for row in found
        ),
        "of somebody without student_unique_id": sum(row["k_student_xyear"] not in student_of for row in found),
    }
    assert not [trouble for trouble, times in count.items() if times == 0]
    assert {row["id_system"] for row in good} == {"Local", "State", "District"}
    assert 0 < len(students - set(current)) < 0.15 * len(students)
    assert roster(partner_id, code).colliding_codes == count["shared by two"] + count["shared by three"]
    assert roster(partner_id, code).colliding_codes < 0.02 * len(students)


def test_rows_are_shuffled() -> None:
    found, codes = rows("acme", "juniper")
    for some in (found, codes):
        keys = [row["k_student_xyear"] for row in some]
        assert sum(a == b for a, b in pairwise(keys)) < 0.1 * len(keys)


@pytest.mark.parametrize("students", [*range(0, 70, 3), 199])
def test_a_tenant_of_any_size_can_be_generated(students: int) -> None:
    tenant = Tenant("tiny", students)
    found = associations(PARTNERS["acme"], tenant).to_pylist()
    codes = identification_codes(PARTNERS["acme"], tenant).to_pylist()
    result = reference_roster("tiny", found, codes)
    assert result.students == students
    assert (result.lines == []) is (students == 0)


def test_the_big_tenant_is_sorted_and_both_of_its_forms_give_the_same_roster() -> None:
    batches = list(big_tenant(500, batch_students=120))
    assert [batch.schema for batch in batches] == [ROW_SCHEMA] * 6
    assert pa.Table.from_batches(batches).equals(pa.Table.from_batches(big_tenant(500)))
    joined = [row for batch in batches[1:] for row in batch.to_pylist()]
    order = [
        (row["student_unique_id"].encode(), row["ed_org_id"], row["id_system"] or "", row["id_code"] or "")
        for row in joined
    ]
    assert order == sorted(set(order))

    pairs = list(big_tenant_tables(500, batch_students=120))
    result = reference_roster(
        "big", *([row for part in side for row in part.to_pylist()] for side in zip(*pairs, strict=True))
    )
    assert b"".join(result.lines) == b"".join(encode_roster(batches, "big", RosterCounts()))
    assert (result.students, result.colliding_codes) == (500, 0)
    assert len(result.lines) > result.records > 500
