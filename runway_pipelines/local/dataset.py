"""The synthetic data set: partners, tenants and the rows that their EDU warehouses hold.

Belongs here: what the warehouses hold, and what is wrong with it, as pure functions of names (no I/O, no clock, no
generator state). Who exists is in `partners.py`; writing it all to servers and files is `seed.py`. Source of the
tables, their columns and types: the cross-year roster contract, section 1, and for the students and their schools the
student resolution contract, section 4.

Every student identifier is invented. Numeric ones start with 990 (after a leading zero, where there is one), a range
that is kept for them here; the odd ones carry the same number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.local.child_names import FIRST_NAMES, OTHER_LAST_NAMES, SPANISH_LAST_NAMES
from runway_pipelines.local.draws import Draws, Flags, Ints, deal
from runway_pipelines.local.partners import Partner, Tenant

SEED = "runway-synthetic-1"
SCHOOL_YEARS = (2023, 2024, 2025, 2026)
ID_SYSTEMS = ("Local", "State", "District")

_TEXT, _INT = pa.string(), pa.int64()
_KEYS = [("tenant_code", _TEXT), ("api_year", _INT), ("k_student", _TEXT), ("k_student_xyear", _TEXT)]
ASSOCIATIONS = "stg_ef3__student_education_organization_associations"
IDENTIFICATION_CODES = "stg_ef3__stu_ed_org__identification_codes"
STUDENTS = "stg_ef3__students"
SCHOOLS = "stg_ef3__student_school_associations"
SCHEMAS: Mapping[str, pa.Schema] = {
    ASSOCIATIONS: pa.schema([*_KEYS, ("student_unique_id", _TEXT), ("ed_org_id", _INT), ("ed_org_type", _TEXT)]),
    IDENTIFICATION_CODES: pa.schema(
        [*_KEYS, ("ed_org_id", _INT), ("id_system", _TEXT), ("assigning_org", _TEXT), ("id_code", _TEXT)]
    ),
    STUDENTS: pa.schema(
        [
            *_KEYS,
            *((name, _TEXT) for name in ("student_unique_id", "first_name", "middle_name", "last_name")),
            *(("generation_code_suffix", _TEXT), ("birth_date", pa.date32()), ("birth_sex", _TEXT)),
            *(("maiden_name", _TEXT), ("is_multiple_birth", pa.bool_())),
        ]
    ),
    SCHOOLS: pa.schema([*_KEYS, ("school_id", _INT), ("entry_grade_level", _TEXT)]),
}

# (prefix, suffix) around a number: 0 is plain, the others are what quoting, JSON escaping, trimming, normalising and
# sorting get wrong (UTF-16 sorts the emoji before the full-width letter, UTF-8 after it; the accent is a combining
# one).
_STYLES = (
    ("", ""), ("O'", ""), ('"', '"'), ("\\", "\\n"), ("Ñ", ""), (" ", ""), ("", " "), ("学", ""), ("\uff5a", ""),
    ("😀", ""), ("", "e\u0301"),
)  # fmt: skip
_ODD = len(_STYLES) - 1

# Which students have what kind of trouble, as (rate, at least); for tenants of 200 students and more. Nobody has two.
_TROUBLES = {
    "no_rows": (0.02, 1), "null_only": (0.02, 2), "several_codes": (0.03, 4), "shared_code": (0.008, 6),
    "shared_state_code": (0.002, 2), "old_code": (0.08, 6), "reused_code": (0.005, 2), "twin": (0.003, 2),
    "odd_id": (0.004, _ODD), "odd_code": (0.004, _ODD), "zero_pair_id": (0.002, 2), "zero_pair_code": (0.002, 2),
}  # fmt: skip
_ASSOCIATION_TROUBLES = {
    "duplicate": (0.004, 2), "also_without_type": (0.001, 1), "no_type": (0.01, 2), "empty_type": (0.001, 1),
    "no_ed_org": (0.0005, 1),
}  # fmt: skip
_CODE_TROUBLES = {
    "duplicate": (0.004, 2), "null_code": (0.003, 1), "empty_code": (0.003, 1), "no_system": (0.0005, 1),
    "empty_system": (0.0005, 1),
}  # fmt: skip

_TYPES = pa.array(["LocalEducationAgency", "School", None, ""], _TEXT)
_LEA, _SCHOOL, _NO_TYPE, _EMPTY_TYPE = range(4)
_SYSTEMS = pa.array([*ID_SYSTEMS, None, ""], _TEXT)
_LOCAL, _STATE, _DISTRICT, _NO_SYSTEM, _EMPTY_SYSTEM = range(5)
_NO_ED_ORG = -1

_FIRST, _SPANISH, _OTHER = (pa.array(names) for names in (FIRST_NAMES, SPANISH_LAST_NAMES, OTHER_LAST_NAMES))
_SUFFIX = pa.array(["Jr", "II", "III"])
_SEX = pa.array(["Female", "Male", None])
_OLDEST_BIRTH = (date(2005, 9, 1) - date(1970, 1, 1)).days
_GRADES = pa.array(
    [
        "Kindergarten", "First grade", "Second grade", "Third grade", "Fourth grade", "Fifth grade", "Sixth grade",
        "Seventh grade", "Eighth grade", "Ninth grade", "Tenth grade", "Eleventh grade", "Twelfth grade",
    ]
)  # fmt: skip


class _Rows(NamedTuple):
    """Rows of a table, by number: `person` indexes people, `year` is an api_year, `kind` indexes _TYPES or _SYSTEMS,
    and `text` the texts of the codes (0 in the associations).
    """

    person: Ints
    year: Ints
    ed_org: Ints
    kind: Ints
    text: Ints

    def at(self, index: Ints | Flags) -> "_Rows":
        return _Rows(*(column[index] for column in self))

    def codes(self, system: int, text: Ints | int) -> "_Rows":
        """The same people, years and ed-orgs as rows of the codes table."""
        return self._replace(kind=np.full_like(self.kind, system), text=np.zeros_like(self.kind) + text)


@dataclass(frozen=True)
class _Tenancy:
    """Everything that the tables of a tenant share. A person is a k_student_xyear: the students come first, then the
    second keys of students who are in twice (`twin`), then people whose student_unique_id is null or empty.
    """

    code: str
    draws: Draws
    students: int
    unique_ids: pa.StringArray  # one for each person
    troubles: Mapping[str, Ints]
    last_year: Ints  # one for each person
    primary: _Rows  # one for each person and year
    secondary: _Rows  # the second ed-org of those who have one
    school: Ints  # of each primary row, whose ed-org may be the LEA


def _styled(texts: pa.StringArray, styles: Ints) -> pa.StringArray:
    prefixes, suffixes = (pa.array(part, _TEXT).take(pa.array(styles)) for part in zip(*_STYLES, strict=True))
    return pc.binary_join_element_wise(prefixes, texts, suffixes, "")


def _digits(numbers: Ints, width: int, padded: Flags) -> pa.StringArray:
    """The numbers in decimal, those of `padded` with leading zeros to `width`."""
    plain = pc.cast(pa.array(numbers), _TEXT)
    return pc.if_else(pa.array(padded), pc.utf8_lpad(plain, width, "0"), plain)


def _halves(pairs: Ints) -> tuple[Ints, Ints]:
    half = len(pairs) // 2
    return pairs[:half], pairs[half : 2 * half]


def _unique_ids(draws: Draws, count: int, troubles: Mapping[str, Ints]) -> pa.StringArray:
    numbers = 990_000_000 + 3 * draws.order("student number", count)
    zero = draws.chance("student zero", np.arange(count), 0.35)
    bare, padded = _halves(troubles["zero_pair_id"])
    numbers[padded], zero[padded], zero[bare] = numbers[bare], True, False
    styles = np.zeros(count, np.int64)
    styles[troubles["odd_id"]] = 1 + np.arange(len(troubles["odd_id"])) % _ODD
    return _styled(_digits(numbers, 10, zero), styles)


@lru_cache(maxsize=1)  # the tables of one tenant are asked for one after the other
def _tenancy(partner_id: str, code: str, students: int) -> _Tenancy:
    draws = Draws(f"{SEED}/{partner_id}/{code}")
    troubles = deal(draws.order("troubles", students), _TROUBLES)
    twin = troubles["twin"]
    nameless = 2 + students // 2000 if students else 0
    people = np.arange(students + len(twin) + nameless)
    second_keys = people[students : students + len(twin)]

    since_2026 = np.searchsorted([72, 84, 93], draws.below("last year", people, 100), side="right")
    last = 2026 - since_2026
    first = np.maximum(last - draws.below("years before", people, 4), 2023)
    last[troubles["old_code"]] = np.maximum(last[troubles["old_code"]], 2024)
    first[troubles["old_code"]] = np.minimum(first[troubles["old_code"]], last[troubles["old_code"]] - 1)
    # Half of the second keys are of the same year, the others ended earlier.
    first[twin], last[twin] = 2026, 2026
    last[second_keys] = np.where(np.arange(len(twin)) % 2 == 0, 2026, 2024)
    first[second_keys] = np.minimum(first[second_keys], last[second_keys])

    years, since, until = np.array(SCHOOL_YEARS)[None, :], first[:, None], last[:, None]
    away = draws.chance("away", people[:, None] * 4 + np.arange(4), 0.03) & (years > since) & (years < until)
    person, column = np.nonzero((years >= since) & (years <= until) & ~away)
    year = years[0, column]

    lea = 370_000 + int(draws.below("lea", np.zeros(1, np.int64), 9_000)[0])
    schools = max(2, students // 250)
    moved = (year > 2023 + draws.below("moves after", person, 6)).astype(np.int64)
    at_school = (draws.below("school", person, schools) + moved) % schools
    # LEA only, LEA and school, school only, two schools
    pattern = np.searchsorted([70, 88, 95], draws.below("ed orgs", person, 100), side="right")
    school = 1000 * lea + 1 + at_school
    next_school = 1000 * lea + 1 + (at_school + 1) % schools
    none, at_lea = np.zeros_like(person), pattern <= 1
    primary = _Rows(person, year, np.where(at_lea, lea, school), np.where(at_lea, _LEA, _SCHOOL), none)
    second = _Rows(person, year, np.where(pattern == 1, school, next_school), none + _SCHOOL, none)

    unique_ids = _unique_ids(draws, students, troubles)
    nobody = pa.array([None, ""] * nameless, _TEXT)[:nameless]
    everybody = pa.concat_arrays([unique_ids, unique_ids.take(pa.array(twin)), nobody])
    return _Tenancy(code, draws, students, everybody, troubles, last, primary, second.at(pattern % 2 == 1), school)


def _table(name: str, tenancy: _Tenancy, person: Ints, year: Ints, columns: Mapping[str, pa.Array]) -> pa.Table:
    """The shuffled table: the keys that all tables have, and the columns of this one."""
    order = pa.array(tenancy.draws.order(f"{name} order", len(person)))
    keys = {
        "tenant_code": pa.repeat(pa.scalar(tenancy.code, _TEXT), len(person)),
        "api_year": pa.array(year),
        "k_student": tenancy.draws.keys("k_student", person * 10_000 + year),
        "k_student_xyear": tenancy.draws.keys("k_student_xyear", person),
    }
    return pa.table({**keys, **columns}, schema=SCHEMAS[name]).take(order).combine_chunks()


def _stack(*parts: _Rows) -> _Rows:
    return _Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def associations(partner: Partner, tenant: Tenant) -> pa.Table:
    """The tenant's rows of stg_ef3__student_education_organization_associations, in no order."""
    tenancy = _tenancy(partner.partner_id, tenant.code, tenant.students)
    rows = _stack(tenancy.primary, tenancy.secondary)
    hands = deal(tenancy.draws.order("association troubles", len(rows.person)), _ASSOCIATION_TROUBLES)
    rows.kind[hands["no_type"]] = _NO_TYPE
    rows.kind[hands["empty_type"]] = _EMPTY_TYPE
    again, nowhere = rows.at(hands["also_without_type"]), rows.at(hands["no_ed_org"])
    again.kind[:], nowhere.ed_org[:] = _NO_TYPE, _NO_ED_ORG
    rows = _stack(rows, rows.at(hands["duplicate"]), again, nowhere)
    columns = {
        "student_unique_id": tenancy.unique_ids.take(pa.array(rows.person)),
        "ed_org_id": pa.array(rows.ed_org, mask=rows.ed_org == _NO_ED_ORG),
        "ed_org_type": _TYPES.take(pa.array(rows.kind)),
    }
    return _table(ASSOCIATIONS, tenancy, rows.person, rows.year, columns)


def _code_texts(tenancy: _Tenancy, size: int) -> pa.StringArray:
    """`size` distinct codes of each system, in the order of ID_SYSTEMS, then a null and an empty one."""
    draws, pool, odd = tenancy.draws, np.arange(size), tenancy.troubles["odd_code"]
    number = 100 + draws.order("code number", size)
    plain = pc.cast(pa.array(number), _TEXT)
    state = pc.utf8_lpad(pc.cast(pa.array(99_000_000 + number), _TEXT), 10, "0")

    padded = draws.chance("code zero", pool, 0.4)
    bare, zero = _halves(tenancy.troubles["zero_pair_code"])  # 12 and 000012, of two students
    number[zero], padded[zero], padded[bare] = number[bare], True, False
    styles = np.zeros(size, np.int64)
    styles[odd] = 1 + np.arange(len(odd)) % _ODD
    # At most 4 x 5,100 codes have five digits, so six places always begin with a zero.
    local = _styled(_digits(number, 6, padded), styles)
    # Half of the District codes are the text of another student's Local code: two systems, so nothing is shared.
    own = pc.binary_join_element_wise("D", plain, "-")
    district = pc.if_else(pa.array(pool % 2 == 0), local.take(pa.array((pool + 1) % max(size, 1))), own)
    return pa.concat_arrays([local, state, district, pa.array([None, ""], _TEXT)])


def _current_codes(tenancy: _Tenancy) -> tuple[list[Flags], list[Ints]]:
    """For each system: who has a code of it, and which code of its pool (students who share a code have the same
    number).
    """
    draws, troubles, people = tenancy.draws, tenancy.troubles, np.arange(len(tenancy.unique_ids))
    has = [draws.chance(f"has {name}", people, rate) for name, rate in zip(ID_SYSTEMS, (0.97, 0.85, 0.12), strict=True)]
    current = [people.copy() for _ in ID_SYSTEMS]
    for name in ("several_codes", "shared_code", "old_code", "reused_code", "odd_code", "zero_pair_code"):
        has[_LOCAL][troubles[name]] = True
    has[_STATE][troubles["shared_state_code"]] = True
    for system in has:
        system[troubles["no_rows"]] = system[troubles["null_only"]] = False

    holders, others = _halves(troubles["shared_code"])
    current[_LOCAL][others] = holders
    current[_LOCAL][others[2:3]] = holders[:1]  # one code that three students share
    holders, others = _halves(troubles["shared_state_code"])
    current[_STATE][others] = holders
    # A number that was given to a new student when its holder got another one: only the old years collide.
    old_code, reused_code = troubles["old_code"], troubles["reused_code"]
    current[_LOCAL][reused_code] = len(people) + old_code[: len(reused_code)]
    # Both keys of a twin have one State code. The nameless have Local codes of students, which collide with nobody's.
    nameless = tenancy.students + len(troubles["twin"])
    current[_STATE][tenancy.students : nameless] = troubles["twin"]
    current[_LOCAL][nameless:] = people[: len(people) - nameless]
    return has, current


def identification_codes(partner: Partner, tenant: Tenant) -> pa.Table:
    """The tenant's rows of stg_ef3__stu_ed_org__identification_codes, in no order."""
    tenancy = _tenancy(partner.partner_id, tenant.code, tenant.students)
    troubles, primary, secondary = tenancy.troubles, tenancy.primary, tenancy.secondary
    # The pool of a system: everybody's current code, then everybody's old, further and third ones.
    count = len(tenancy.unique_ids)
    old, further, third, size = count, 2 * count, 3 * count, 4 * count
    null_code, empty_code = 3 * size, 3 * size + 1

    reports = tenancy.draws.chance("also reports", secondary.person * 10_000 + secondary.year, 0.6)
    reported = _stack(primary, secondary.at(reports))
    parts = []
    for system, (has, current) in enumerate(zip(*_current_codes(tenancy), strict=True)):
        rows = reported.at(has[reported.person])
        code = current[rows.person]
        if system == _LOCAL:
            before = np.isin(rows.person, troubles["old_code"]) & (rows.year < tenancy.last_year[rows.person])
            code = np.where(before, old + rows.person, code)
        parts.append(rows.codes(system, system * size + code))
    more = troubles["several_codes"]
    for system, whose, pool in ((_LOCAL, more, further), (_LOCAL, more[::4], third), (_STATE, more[::3], further)):
        rows = primary.at(np.isin(primary.person, whose))
        parts.append(rows.codes(system, system * size + pool + rows.person))
    for whose, text in ((troubles["null_only"][::2], null_code), (troubles["null_only"][1::2], empty_code)):
        parts.append(primary.at(np.isin(primary.person, whose)).codes(_LOCAL, text))
    # Codes of a year in which the student has no association any more: not of the latest year.
    last = tenancy.last_year[primary.person]
    gone = primary.at((primary.year == last) & (last < SCHOOL_YEARS[-1]))
    gone = gone.at(np.arange(0, len(gone.person), 40))
    parts.append(gone._replace(year=gone.year + 1).codes(_LOCAL, further + gone.person))

    rows = _stack(*parts)
    hands = deal(tenancy.draws.order("code troubles", len(rows.person)), _CODE_TROUBLES)
    spoiled = [rows.at(hands["duplicate"])]
    spoiled += [rows.at(hands[name])._replace(text=np.full(len(hands[name]), text)) for name, text in
                (("null_code", null_code), ("empty_code", empty_code))]  # fmt: skip
    spoiled += [rows.at(hands[name])._replace(kind=np.full(len(hands[name]), system)) for name, system in
                (("no_system", _NO_SYSTEM), ("empty_system", _EMPTY_SYSTEM))]  # fmt: skip
    rows = _stack(rows, *spoiled)
    assigned = tenancy.draws.chance("assigned", np.arange(len(rows.person)), 0.4)
    columns = {
        "ed_org_id": pa.array(rows.ed_org),
        "id_system": _SYSTEMS.take(pa.array(rows.kind)),
        "assigning_org": pc.if_else(pa.array(assigned), pc.cast(pa.array(rows.ed_org), _TEXT), pa.scalar(None, _TEXT)),
        "id_code": _code_texts(tenancy, size).take(pa.array(rows.text)),
    }
    return _table(IDENTIFICATION_CODES, tenancy, rows.person, rows.year, columns)


def students(partner: Partner, tenant: Tenant) -> pa.Table:
    """The tenant's rows of stg_ef3__students, one for each k_student, in no order: what a roster must never contain."""
    tenancy = _tenancy(partner.partner_id, tenant.code, tenant.students)
    draws, person, year = tenancy.draws, tenancy.primary.person, tenancy.primary.year
    families = _families(tenancy)
    # Some have had another family's name, in earlier years.
    had_another = draws.chance("earlier name", person, 0.03) & (year < tenancy.last_year[person])
    family = np.where(had_another, families.of[person] + len(families.of), families.of[person])

    def one_of(field: str, values: pa.Array, rate: float = 1.0) -> pa.Array:
        drawn = draws.below(field, person, len(values))
        return values.take(pa.array(drawn, mask=~draws.chance(f"has {field}", person, rate)))

    columns = {
        "student_unique_id": tenancy.unique_ids.take(pa.array(person)),
        "first_name": _FIRST.take(pa.array(_frequent(draws, "first name", person, len(_FIRST)))),
        "middle_name": one_of("middle name", _FIRST, 0.4),
        "last_name": _last_names(draws, family),
        "generation_code_suffix": one_of("suffix", _SUFFIX, 0.01),
        "birth_date": pc.cast(pa.array(families.born[person].astype(np.int32)), pa.date32()),
        "birth_sex": one_of("birth sex", _SEX),
        "maiden_name": one_of("maiden name", _SPANISH, 0.01),
        "is_multiple_birth": pa.array(
            families.are_twins[person], mask=~draws.chance("has is_multiple_birth", person, 0.7)
        ),
    }
    return _table(STUDENTS, tenancy, person, year, columns)


class _Families(NamedTuple):
    """For each person: the family's number, the birth date in days from 1970, and whether there is a twin."""

    of: Ints
    born: Ints
    are_twins: Flags


def _families(tenancy: _Tenancy) -> _Families:
    """Six in ten have a brother or sister here; of those, one in thirty is a twin."""
    draws, people = tenancy.draws, np.arange(len(tenancy.unique_ids))
    place = np.argsort(draws.order("family", len(people)))
    siblings = place < len(people) * 6 // 10 // 2 * 2
    family = np.where(siblings, place // 2, place)
    are_twins = siblings & draws.chance("twins", family, 0.033)
    # Twins have their family's day of birth, the others their own.
    whose = np.where(are_twins, len(people) + family, people)
    return _Families(family, _OLDEST_BIRTH + draws.below("birth date", whose, 15 * 365), are_twins)


def _last_names(draws: Draws, family: Ints) -> pa.Array:
    """A quarter has two Spanish names, a third of these with a hyphen."""
    first, second = (_SPANISH.take(pa.array(_frequent(draws, name, family, len(_SPANISH)))) for name in ("last", "2nd"))
    separator = pa.array(["-", " "]).take(pa.array((draws.below("hyphen", family, 3) > 0).astype(np.int64)))
    double = pc.binary_join_element_wise(first, second, separator)
    other = _OTHER.take(pa.array(_frequent(draws, "other", family, len(_OTHER))))
    kind = draws.below("last name", family, 4)
    return pc.if_else(pa.array(kind == 0), double, pc.if_else(pa.array(kind == 1), first, other))


def _frequent(draws: Draws, field: str, index: Ints, limit: int) -> Ints:
    """An integer in [0, limit) for each index, small ones more often."""
    return np.minimum(draws.below(field, index, limit), draws.below(f"{field}, again", index, limit))


def schools(partner: Partner, tenant: Tenant) -> pa.Table:
    """The tenant's rows of stg_ef3__student_school_associations, in no order; some come twice."""
    tenancy = _tenancy(partner.partner_id, tenant.code, tenant.students)
    rows = _stack(tenancy.primary._replace(ed_org=tenancy.school), tenancy.secondary)
    age = rows.year - 1 - 1970 + 243 / 365 - _families(tenancy).born[rows.person] / 365.25  # on the first of September
    columns = {
        "school_id": pa.array(rows.ed_org),
        "entry_grade_level": _GRADES.take(pa.array(np.clip(age.astype(np.int64) - 5, 0, len(_GRADES) - 1))),
    }
    return _table(SCHOOLS, tenancy, rows.person, rows.year, columns)
