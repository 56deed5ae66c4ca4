"""What a warehouse may send wrong is refused before it becomes a line, and what it may send otherwise is taken."""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import Held, RowsUnreadable, Unavailable
from runway_pipelines.rosters import encoding
from runway_pipelines.rosters.encoding import (
    CONSUMER_CONTRACT,
    ROWS_OF_TENANT,
    RosterCounts,
    encode_roster,
)
from runway_pipelines.rosters.query import ROW_SCHEMA
from tests.factories import TENANT, announcement, announcements, everything_said_by, roster_row, roster_rows

CANARY = "c4n4ry"
INTEGER_COLUMNS = ("ed_org_id", "api_year", "is_further_spelling")
# As Snowflake sends NUMBER(38, 0): the smallest that holds a batch's values, or a decimal.
SENT_AS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.decimal128(19, 0), pa.decimal128(38, 0)]


def encoded(*batches: pa.Table | pa.RecordBatch) -> bytes:
    return counted(*batches)[0]


def counted(*batches: pa.Table | pa.RecordBatch, fillers: bool = False) -> tuple[bytes, RosterCounts]:
    counts = RosterCounts()
    pieces = encode_roster([announcements(*batches), *batches], TENANT.tenant_code, counts, fillers=fillers)
    return b"".join(pieces), counts


def recast(table: pa.Table, column: str, type_: pa.DataType) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, table[column].cast(type_))


def refusal(batches: Iterable[pa.Table], error: type[Held] | type[RowsUnreadable]) -> Any:
    """The refusal of these batches, which says nothing of a student."""
    announced = roster_rows(announcement("rows", 0), *(announcement("id_type", 1, name) for name in ("Local", "State")))
    with pytest.raises(error) as refused:
        list(encode_roster([announced, *batches], TENANT.tenant_code, RosterCounts()))
    assert CANARY not in everything_said_by(refused.value)
    return refused.value


GOOD = roster_rows(roster_row("1", "Local", "0012"), roster_row("1", "State", "7"), roster_row("2"))


@pytest.mark.parametrize("rows", [1, 2, 1000])
@pytest.mark.parametrize(
    "foreign",
    [
        roster_row(CANARY, "Local", CANARY, tenant_code="district-1"),
        roster_row(CANARY, "Local", CANARY, code_tenant_code="district-1"),
        roster_row(CANARY, "Local", CANARY, tenant_code="District-12"),
        roster_row(CANARY, "Local", CANARY, code_tenant_code="district-12 "),
        roster_row(CANARY, tenant_code=""),
        roster_row(CANARY, tenant_code=None),
        roster_row(None, tenant_code="district-1"),
        roster_row(None, tenant_code=None),
    ],
    ids=lambda row: f"{row['tenant_code']!r}, {row['code_tenant_code']!r}",
)
def test_one_row_of_another_tenant_at_the_very_end_holds_the_whole_roster(foreign: dict[str, Any], rows: int) -> None:
    own = [roster_row(f"{number:06}", "Local", f"L{number}") for number in range(rows)]
    held = refusal([roster_rows(*own[:-1]), roster_rows(own[-1], foreign)], Held)
    assert held.check == ROWS_OF_TENANT
    assert held.came == "1 rows of another tenant"


def test_a_foreign_row_beyond_the_first_slice_of_a_large_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SLICE_ROWS", 4)
    own = [roster_row(f"{number:06}") for number in range(9)]
    assert refusal([roster_rows(*own, roster_row("z", tenant_code="district-1"))], Held).check == ROWS_OF_TENANT


@given(st.lists(st.sampled_from([TENANT.tenant_code, "district-1", None]), min_size=1, max_size=6))
def test_a_roster_is_accepted_only_if_every_row_is_the_tenants(tenants: list[str | None]) -> None:
    rows = [roster_row(str(number), tenant_code=tenant) for number, tenant in enumerate(tenants)]
    if set(tenants) == {TENANT.tenant_code}:
        assert encoded(*map(roster_rows, rows)).count(b"\n") == len(rows)
    else:
        refusal(map(roster_rows, rows), Held)


def test_a_code_without_a_tenant_holds_the_roster() -> None:
    refusal([roster_rows(roster_row("1", "Local", CANARY, code_tenant_code=None))], Held)


@pytest.mark.parametrize("missing", ROW_SCHEMA.names)
def test_a_missing_column_is_named(missing: str) -> None:
    refused = refusal([GOOD, GOOD.drop_columns([missing])], RowsUnreadable)
    assert refused.came == f"a result without {missing}"


UNUSABLE_TYPES = [
    ("ed_org_id", pa.array([CANARY, "9", "9"])),
    ("ed_org_id", pa.array([9.5, 9.0, 9.0])),
    ("ed_org_id", pa.array([[9], [9], [9]])),
    ("ed_org_id", pa.array([9, 9, 2**63], pa.uint64())),
    ("ed_org_id", pa.array(["9.0", "9.0", "9.0"]).cast(pa.decimal128(38, 1))),
    ("is_further_spelling", pa.array([{"x": 1}] * 3)),
    ("api_year", pa.array([b"\xff"] * 3)),
    ("student_unique_id", pa.array([[CANARY]] * 3)),
    ("id_code", pa.array([{"x": CANARY}] * 3)),
    ("id_code", pa.array([b"\xff\xfe"] * 3)),
    ("tenant_code", pa.array([[TENANT.tenant_code]] * 3)),
]


@pytest.mark.parametrize(("column", "values"), UNUSABLE_TYPES, ids=lambda value: str(getattr(value, "type", value)))
def test_a_column_of_a_type_that_does_not_fit_is_refused_with_its_name_and_the_type_that_came(
    column: str, values: pa.Array
) -> None:
    table = GOOD.set_column(GOOD.schema.get_field_index(column), column, values)
    refused = refusal([GOOD.slice(0, 0), table], RowsUnreadable)
    assert refused.expected == f"{column} as {ROW_SCHEMA.field(column).type}"
    assert str(values.type) in refused.came


@pytest.mark.parametrize("column", ["student_unique_id", "id_code"])
@pytest.mark.parametrize("type_", [pa.int64(), pa.float64(), pa.decimal128(38, 0)], ids=str)
def test_an_id_that_is_not_text_is_refused(column: str, type_: pa.DataType) -> None:
    table = roster_rows(roster_row("1", "Local", "1"), roster_row("2", "Local", "2"))
    refusal([recast(table, column, type_)], RowsUnreadable)


@given(st.permutations(["Z", "a", "é", "\uffff", "\U0001f600"]), st.integers(1, 5))
def test_students_out_of_the_order_of_their_bytes_are_refused_wherever_batches_end(
    students: list[str], batch_rows: int
) -> None:
    table = roster_rows(*(roster_row(student) for student in students))
    batches = table.to_batches(max_chunksize=batch_rows)
    if students == sorted(students, key=str.encode):
        assert encoded(*batches).count(b"\n") == 5
    else:
        with pytest.raises(RowsUnreadable, match="rows out of that order"):
            encoded(*batches)


def test_rows_out_of_order_are_refused_without_naming_the_students() -> None:
    refusal([roster_rows(roster_row(f"{CANARY}2")), roster_rows(roster_row(f"{CANARY}1"))], RowsUnreadable)


@pytest.mark.parametrize(
    "rows",
    [
        [roster_row("1", "A", "1"), roster_row("1", "B", "1"), roster_row("1", "A", "2")],
        [roster_row("1", "A", "2"), roster_row("1", "A", "1")],
        [roster_row("1", "A", "1", ed_org=9), roster_row("1", "A", "1", ed_org=8), roster_row("1", "A", "2", ed_org=9)],
    ],
    ids=["systems", "codes", "ed orgs"],
)
def test_a_students_rows_out_of_order_are_refused(rows: list[dict[str, Any]]) -> None:
    refusal([roster_rows(*rows)], RowsUnreadable)


def with_systems(systems: int) -> list[dict[str, Any]]:
    names = sorted(f"{CANARY}{number}" for number in range(systems))
    return [roster_row(f"{number:06}", system, "1") for number, system in enumerate(names)]


@pytest.mark.parametrize("batch_rows", [1, 1000])
def test_more_id_systems_than_any_state_has_hold_the_roster_and_are_not_named(batch_rows: int) -> None:
    table = announcements(roster_rows(*with_systems(51)))
    held = refusal([pa.table(batch) for batch in table.to_batches(max_chunksize=batch_rows)], Held)
    assert held.check == CONSUMER_CONTRACT
    assert held.came == "at least 51"


def test_as_many_id_systems_as_a_state_may_have_are_accepted() -> None:
    assert encoded(roster_rows(*with_systems(50))).count(b"\n") == 50


@given(st.lists(st.tuples(*(st.sampled_from(SENT_AS) for _ in INTEGER_COLUMNS)), min_size=3, max_size=3))
def test_integers_may_have_a_different_width_in_each_batch(
    types_of_batches: list[tuple[pa.DataType, ...]],
) -> None:
    rows = [
        roster_row("1", "Local", "0012", ed_org=8, api_year=25),
        roster_row("1", "Local", "0012", ed_org=9, api_year=25),
        roster_row("2", "Local", "7", ed_org=9, api_year=24, is_further_spelling=1),
    ]
    whole = roster_rows(*rows)
    batches = []
    for number, types in enumerate(types_of_batches):
        batch = whole.slice(number, 1)
        for column, type_ in zip(INTEGER_COLUMNS, types, strict=True):
            batch = recast(batch, column, type_)
        batches.append(batch)
    file, counts = counted(*batches)
    assert file == encoded(whole)
    assert dict(counts.students_by_school_year) == {25: 1}


@pytest.mark.parametrize(
    "type_", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_text_may_come_in_any_of_arrows_forms(type_: pa.DataType) -> None:
    table = GOOD
    for column in ("tenant_code", "student_unique_id", "id_system", "id_code"):
        table = recast(table, column, type_)
    assert encoded(table) == encoded(GOOD)


def test_a_column_of_nulls_may_have_no_type() -> None:
    table = roster_rows(roster_row("1", ed_org_type=None), roster_row("2", ed_org_type=None))
    untyped = table
    for column in ("ed_org_type", "code_tenant_code", "id_system", "id_code", "announcement", "number"):
        untyped = untyped.set_column(untyped.schema.get_field_index(column), column, pa.nulls(2))
    assert encoded(untyped) == encoded(table)


def test_columns_may_come_in_upper_case_in_any_order_with_others_between_them() -> None:
    sent = GOOD.rename_columns([name.upper() for name in GOOD.column_names]).select(list(range(GOOD.num_columns))[::-1])
    sent = sent.add_column(3, "FIRST_NAME", pa.array([CANARY] * 3))
    announced = announcements(GOOD)
    file = b"".join(encode_roster([announced, sent], TENANT.tenant_code, RosterCounts(), fillers=False))
    assert file == encoded(GOOD)
    assert CANARY.encode() not in file


@pytest.mark.parametrize("batches", [[], [GOOD.slice(0, 0)], [GOOD.slice(0, 0)] * 3], ids=len)
def test_no_rows_give_no_bytes_and_no_error(batches: list[pa.Table]) -> None:
    assert counted(*batches) == (b"", RosterCounts())


def test_empty_batches_between_others_change_nothing() -> None:
    empty = GOOD.slice(0, 0)
    assert encoded(empty, GOOD.slice(0, 1), empty, empty, GOOD.slice(1), empty) == encoded(GOOD)


WHOLE = announcements(GOOD).to_pylist()


@pytest.mark.parametrize("announced", [2, 4], ids=["fewer", "more"])
def test_an_answer_with_another_number_of_rows_than_it_says_is_not_taken_for_a_whole_one(announced: int) -> None:
    rows = roster_rows(announcement("rows", announced), *WHOLE[1:], *GOOD.to_pylist())
    with pytest.raises(Unavailable, match=f"{announced} rows.*3 rows.*ROWS_PER_RESULTSET"):
        list(encode_roster([rows], TENANT.tenant_code, RosterCounts()))


@pytest.mark.parametrize("batches", [[], [GOOD.slice(0, 0)], [roster_rows(*WHOLE[1:])]], ids=["none", "empty", "types"])
def test_an_answer_that_does_not_say_how_many_rows_it_has_is_not_taken_for_an_empty_one(
    batches: list[pa.Table],
) -> None:
    with pytest.raises(Unavailable, match="an announced number of rows"):
        list(encode_roster(batches, TENANT.tenant_code, RosterCounts()))


@pytest.mark.parametrize(
    "batches", [[GOOD, roster_rows(*WHOLE)], [roster_rows(WHOLE[0]), GOOD]], ids=["after the rows", "a type is missing"]
)
def test_announcements_that_do_not_fit_the_rows_are_refused(batches: list[pa.Table]) -> None:
    with pytest.raises(Unavailable):
        list(encode_roster(batches, TENANT.tenant_code, RosterCounts()))


def test_what_is_announced_is_counted_before_the_first_piece() -> None:
    said = [announcement(name, number) for name, number in (("placeholder_codes", 3), ("masked_values", 2))]
    said += [announcement("masked_values", 1), announcement("something_new", 9)]
    counts = RosterCounts()
    next(encode_roster([roster_rows(*WHOLE, *said), GOOD], TENANT.tenant_code, counts))
    assert (counts.placeholder_codes, counts.masked_values) == (3, 3)
    assert counts.students_by_id_system == {"Local": 1, "State": 1}


def test_a_student_without_a_code_of_a_type_gets_a_filler_that_counts_nowhere() -> None:
    file, counts = counted(GOOD, fillers=True)
    codes = [
        [entry["identificationCode"] for entry in json.loads(line)["studentIdentificationCodes"]]
        for line in file.splitlines()
    ]
    assert codes == [["0012", "7"], ["no-code:2", "no-code:2"]]
    assert (counts.students, counts.students_without_codes, counts.lines) == (2, 1, 2)


def test_a_line_break_of_unicode_is_escaped_and_an_id_that_consumers_would_have_to_escape_is_counted() -> None:
    texts = ("", '"', "\\", "\t", "\x7f", "\x85", "\u2028", "\u2029", "é")
    rows = [roster_row(f"1{text}", "Local", f"7{text}") for text in texts]
    rows.sort(key=lambda row: row["student_unique_id"].encode())
    file, counts = counted(roster_rows(*rows))
    assert len(file.decode().splitlines()) == len(rows)
    assert [json.loads(line)["studentReference"]["studentUniqueId"] for line in file.splitlines()] == [
        row["student_unique_id"] for row in rows
    ]
    assert counts.unsafe_ids == 5


def test_very_long_texts_come_through_whole() -> None:
    student, system, code = "é" * 2_000_000, "S" * 1_000_000, '"' * 1_000_000
    (line,) = encoded(roster_rows(roster_row("0"), roster_row(student, system, code))).splitlines()[1:]
    record = json.loads(line)
    assert record["studentReference"]["studentUniqueId"] == student
    assert record["studentIdentificationCodes"] == [
        {"studentIdentificationSystemDescriptor": system, "identificationCode": code}
    ]


def test_a_student_with_more_rows_than_a_slice_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [roster_row("1", "Local", f"{number:04}") for number in range(100)] + [roster_row("2", "Local", "x")]
    whole = encoded(roster_rows(*rows))
    monkeypatch.setattr(encoding, "SLICE_ROWS", 7)
    file, counts = counted(roster_rows(*rows))
    assert file == whole
    assert (counts.students, counts.records, counts.lines) == (2, 2, 101)
