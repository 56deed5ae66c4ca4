"""The statement and the encoder together give the bytes of the naive reference, for any warehouse content."""

from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from runway_pipelines.local.dataset import ASSOCIATIONS, IDENTIFICATION_CODES, SCHEMAS
from runway_pipelines.rosters import encoding
from runway_pipelines.rosters.encoding import RosterCounts, encode_roster
from runway_pipelines.rosters.query import ROSTER_SQL
from tests.properties import examples
from tests.reference_roster import LAST_PLAUSIBLE_YEAR, reference_roster

TENANT = "district-12"
Rows = list[dict[str, Any]]

CONNECTION = duckdb.connect()
(STATEMENT,) = sqlglot.transpile(
    ROSTER_SQL % {"tenant_code": f"'{TENANT}'", "last_plausible_year": LAST_PLAUSIBLE_YEAR}, "snowflake", "duckdb"
)

# Few values, so that everything meets everything; among them what JSON escapes, and what sorts differently by locale.
tenant_codes = st.sampled_from([TENANT, TENANT, TENANT, "district-1"])
years = st.sampled_from([2023, 2024, 2025, 2025, None, 1989, LAST_PLAUSIBLE_YEAR + 1])
# As a warehouse makes them: a hash of the id in lower case, or null. Two ids have one key, as after a correction.
KEYS = {"0604921": "x1", "604921": "x2", "é'1": "x3", "É'1": "x3", 'a"b\\': "x4", "Z": "x5", "z": "x5", "a": "x5"}
KEYS |= {"A": "x5", " 7 ": "x6", "\x01": "x7", "\u2028": "x8"}
student_keys = st.sampled_from([*KEYS.values(), None, ""])
ed_orgs = st.sampled_from([370001, 9, 10, None])
ed_org_types = st.sampled_from(["School", "LocalEducationAgency", "", None])
id_systems = st.sampled_from(
    ["Local", "Local", "State", "uri://a#Local", "uri://b#x#Local", 'uri://x#"State"', "", None]
)
id_codes = st.sampled_from(
    [
        *("0012", "12", "12.0", "12.0.0", ".0", "ä\\", "A-1", "\x85b", "", None),
        *("0", "000.0", "7777", "777", "n/a", " None ", "#N/A", "--", "1.2E+11", "1,2e+11", "E+1", "12E+"),
        *("\\N", "########", "0.00", "0 0", "'0", "000-00-0000", "999-99-9999", "11-11", "-1", "no-code:1", "NO-ID"),
        *("(none)", "<none>", "n / a", "N/A.", "T.B.D.", "#REF", "#div/0", "????", "xxxx", "+0", "0\u2003", "0\u200b"),
        *("X-1", "NA1", "N", "None-7", "#1", "?7"),
        *("N/A\t", "N/A\r", "\t", "\u00a0", "\u00a0TBD", "0012\r"),
    ]
)

identities = st.sampled_from(
    [*KEYS.items(), *((one, None) for one in KEYS), *((one, "") for one in KEYS), ("", "x1"), (None, "x2")]
)
association = st.builds(
    lambda identity, others: others | {"student_unique_id": identity[0], "k_student_xyear": identity[1]},
    identities,
    st.fixed_dictionaries(
        {
            "tenant_code": tenant_codes,
            "api_year": years,
            "k_student": student_keys,
            "ed_org_id": ed_orgs,
            "ed_org_type": ed_org_types,
        }
    ),
)
code = st.fixed_dictionaries(
    {
        "tenant_code": tenant_codes,
        "api_year": years,
        "k_student": student_keys,
        "k_student_xyear": student_keys,
        "ed_org_id": ed_orgs,
        "id_system": id_systems,
        "assigning_org": st.none(),
        "id_code": id_codes,
    }
)


def warehouse_rows(associations: Rows, codes: Rows) -> pa.Table:
    """What the statement gives on these tables, in duckdb's dialect."""
    for name, rows in ((ASSOCIATIONS, associations), (IDENTIFICATION_CODES, codes)):
        CONNECTION.register(name, pa.Table.from_pylist(rows, schema=SCHEMAS[name]))
    return CONNECTION.sql(STATEMENT).to_arrow_table()


def encoded(rows: pa.Table, batch_rows: int, *, fillers: bool = True) -> tuple[bytes, RosterCounts]:
    counts = RosterCounts()
    batches = rows.to_batches(max_chunksize=batch_rows)
    return b"".join(encode_roster(batches, TENANT, counts, fillers=fillers)), counts


@settings(max_examples=examples(250))
@given(st.lists(association, max_size=14), st.lists(code, max_size=20), st.integers(1, 7), st.booleans())
def test_any_content_gives_the_bytes_and_numbers_of_the_reference(
    associations: Rows, codes: Rows, batch_rows: int, fillers: bool
) -> None:
    expected = reference_roster(TENANT, associations, codes, fillers=fillers)
    file, counts = encoded(warehouse_rows(associations, codes), batch_rows, fillers=fillers)
    assert file == b"".join(expected.lines)
    assert (counts.records, counts.students, counts.lines) == (
        expected.records,
        expected.students,
        len(expected.lines),
    )
    assert (counts.colliding_codes, counts.placeholder_codes, counts.implausible_rows) == (
        expected.colliding_codes,
        expected.placeholder_codes,
        expected.implausible_rows,
    )


def test_the_order_of_rows_in_the_warehouse_makes_no_difference() -> None:
    associations = [
        {"tenant_code": TENANT, "api_year": 2025, "k_student": "k", "k_student_xyear": "x" + number}
        | {"student_unique_id": number, "ed_org_id": 370001, "ed_org_type": "School"}
        for number in ("3", "1", "2")
    ]
    codes = [
        {"tenant_code": TENANT, "api_year": 2025, "k_student": "k", "k_student_xyear": "x" + number}
        | {"ed_org_id": 370001, "id_system": system, "assigning_org": None, "id_code": number + text}
        for number in ("1", "2")
        for system, text in (("State", "b"), ("Local", "b"), ("Local", "a"))
    ]
    first, _ = encoded(warehouse_rows(associations, codes), 2)
    second, _ = encoded(warehouse_rows(associations[::-1], codes[::-1]), 3)
    assert first == second
    assert first.count(b"\n") == 5


@pytest.mark.parametrize("slice_rows", [1, 2, 1000])
def test_slices_do_not_change_the_bytes(monkeypatch: pytest.MonkeyPatch, slice_rows: int) -> None:
    from benchmarks.big_tenant import big_tenant

    whole = b"".join(encode_roster(big_tenant(300, tenant_code=TENANT), TENANT, RosterCounts()))
    monkeypatch.setattr(encoding, "SLICE_ROWS", slice_rows)
    assert b"".join(encode_roster(big_tenant(300, tenant_code=TENANT), TENANT, RosterCounts())) == whole
