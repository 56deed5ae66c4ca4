"""Sorted rows in, the exact bytes of the file out, in bounded memory: pure (rosters contract, sections 2 and 3).

The rows of `query.ROSTER_SQL` are encoded column by column, 600,000 students a second on one core; a Python object for
each line would halve that (``make bench``). A slice ends where a student ends, so memory depends on the slice and on
one student's rows, not on the roster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.errors import Held, RowsUnreadable
from runway_pipelines.rosters.query import ROW_SCHEMA

SLICE_ROWS = 65_536
DEFAULT_ED_ORG_TYPE = "LocalEducationAgency"
# More than any state has. Beyond, codes must be in the column of the systems, and would show in the metadata as names.
MOST_ID_SYSTEMS = 50

ROWS_OF_TENANT = "rows_of_tenant"
CONSUMER_CONTRACT = "consumer_contract"


@dataclass
class RosterCounts:
    """A roster in numbers.

    ``rows`` came from the warehouse. A *record* is one student in one ed org, a *line* one line of the file.
    ``colliding_codes`` counts distinct (system, code) pairs, ``rows_without_identity`` the rows left out because they
    lack a student, an ed org or a year, ``students_by_id_system`` the students with a usable code of each system.
    """

    rows: int = 0
    records: int = 0
    lines: int = 0
    students: int = 0
    students_without_codes: int = 0
    colliding_codes: int = 0
    rows_without_identity: int = 0
    students_by_id_system: Counter[str] = field(default_factory=Counter)
    students_by_school_year: Counter[int] = field(default_factory=Counter)


def encode_roster(
    batches: Iterable[pa.Table | pa.RecordBatch], tenant_code: str, counts: RosterCounts
) -> Iterator[memoryview]:
    """Yield the file's bytes in pieces of whole lines, and fill ``counts``.

    ``batches`` hold rows of `query.ROW_SCHEMA` (column names in any case), in the statement's order. Raises `Held` for
    another tenant's row or too many id systems, `RowsUnreadable` for unexpected columns, types or order.
    """
    for rows in _whole_students(_slices(batches, tenant_code, counts)):
        if rows.num_rows:
            yield _encode_students(rows, counts)
    if len(counts.students_by_id_system) > MOST_ID_SYSTEMS:
        raise _too_many_systems(len(counts.students_by_id_system))


def _slices(
    batches: Iterable[pa.Table | pa.RecordBatch], tenant_code: str, counts: RosterCounts
) -> Iterator[pa.RecordBatch]:
    """Slices of one schema, checked to be the tenant's, without the rows that lack an identity."""
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        for part in table.to_batches(max_chunksize=SLICE_ROWS):
            rows = _with_schema(part)
            _check_tenant(rows, tenant_code)
            counts.rows += rows.num_rows
            identified = pc.and_(pc.is_valid(rows["student_unique_id"]), pc.is_valid(rows["ed_org_id"]))
            identified = pc.and_(identified, pc.is_valid(rows["api_year"]))
            kept = identified.true_count
            if kept < rows.num_rows:
                counts.rows_without_identity += rows.num_rows - kept
                rows = rows.filter(identified)
            yield rows


def _with_schema(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The columns in our order and types; Snowflake sends each batch in the smallest integer type that fits."""
    positions = {name.lower(): position for position, name in enumerate(batch.schema.names)}
    missing = [name for name in ROW_SCHEMA.names if name not in positions]
    if missing:
        raise RowsUnreadable(
            expected=f"the columns {', '.join(ROW_SCHEMA.names)}",
            came=f"a result without {', '.join(missing)}",
            remedy="compare the statement with the warehouse's tables",
        )
    columns = [_with_type(column, batch.column(positions[column.name])) for column in ROW_SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


def _with_type(column: pa.Field, values: pa.Array) -> pa.Array:
    """Text must be text and whole numbers whole numbers: an id sent as a number has lost its leading zeros."""
    found = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    fits = _is_text_type if pa.types.is_string(column.type) else _is_whole_number
    try:
        if fits(found) or pa.types.is_null(found):
            return values.cast(column.type)
    except pa.ArrowInvalid:
        pass
    raise RowsUnreadable(
        expected=f"{column.name} as {column.type}",
        came=f"values of type {values.type} that do not fit",
        remedy="compare the warehouse's tables with the rosters contract, section 1 (docs/contracts)",
    )


def _is_text_type(found: pa.DataType) -> bool:
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))


def _is_whole_number(found: pa.DataType) -> bool:
    return bool(pa.types.is_integer(found) or (pa.types.is_decimal(found) and found.scale == 0))


def _check_tenant(rows: pa.RecordBatch, tenant_code: str) -> None:
    """Every row must belong to the requested tenant, in the association and in the code if there is one."""
    foreign = _count_true(pc.not_equal(rows["tenant_code"], tenant_code)) + rows["tenant_code"].null_count
    code_of_tenant = pc.fill_null(pc.equal(rows["code_tenant_code"], tenant_code), False)
    foreign += _count_true(pc.and_(pc.is_valid(rows["id_code"]), pc.invert(code_of_tenant)))
    if foreign:
        raise Held(
            check=ROWS_OF_TENANT,
            expected=f"rows of tenant {tenant_code} only",
            came=f"{foreign} rows of another tenant",
            remedy="check the warehouse's tenant_code values: none of these rows was kept",
        )


def _whole_students(slices: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, cut so that each student's are in one piece; checks the order within and between slices."""
    held_back: pa.RecordBatch | None = None
    for rows in slices:
        if not rows.num_rows:
            continue
        joined = rows if held_back is None else pa.concat_batches([held_back, rows])
        _check_order(joined)
        ids = joined["student_unique_id"]
        last_start = pc.index(ids, ids[-1]).as_py()
        if last_start:
            yield joined.slice(0, last_start)
        held_back = joined.slice(last_start)
    if held_back is not None:
        yield held_back


def _check_order(rows: pa.RecordBatch) -> None:
    """Rows must ascend strictly by student, ed org, system and code, text in the order of its UTF-8 bytes.

    The encoder groups neighbours: out of order, a student would be in the file twice.
    """
    before, after = rows.slice(0, rows.num_rows - 1), rows.slice(1)
    out_of_order = 0
    same = pa.scalar(True)
    for name in ("student_unique_id", "ed_org_id", "id_system", "id_code"):
        out_of_order += _count_true(pc.and_(same, pc.less(after[name], before[name])))
        same = pc.and_(same, pc.equal(after[name], before[name]))
    if out_of_order or _count_true(same):
        raise RowsUnreadable(
            expected="distinct rows sorted by student, ed org, id system and code in the order of their UTF-8 bytes",
            came="rows out of that order",
            remedy="give the warehouse's columns a binary collation",
        )


def _encode_students(rows: pa.RecordBatch, counts: RosterCounts) -> memoryview:
    """The lines of complete students."""
    starts_student = _starts(rows["student_unique_id"])
    starts_record = starts_student | _starts(rows["ed_org_id"])
    record_of_row = np.cumsum(starts_record) - 1
    first_rows = np.flatnonzero(starts_record)
    starts_student_record = starts_student[first_rows]
    in_first_record = starts_student_record[record_of_row]

    usable, colliding_first = _usable_codes(rows)
    code_rows = np.flatnonzero(usable)
    codes = _CodeGroups.build(record_of_row[code_rows], rows["id_system"].take(pa.array(code_rows)), len(first_rows))
    line_record, line_offsets, line_codes = codes.lines()

    _count(counts, rows, codes, code_rows, starts_student, in_first_record, line_record.size, first_rows.size)
    counts.colliding_codes += int(np.count_nonzero(colliding_first & in_first_record))

    entries = _code_entries(rows, pa.array(code_rows))
    joined = pc.binary_join(
        pa.ListArray.from_arrays(pa.array(line_offsets, pa.int32()), entries.take(pa.array(line_codes))), ","
    )
    heads = _line_heads(rows.take(pa.array(first_rows)))
    if line_record.size != first_rows.size:
        heads = heads.take(pa.array(line_record))
    return _data(pc.binary_join_element_wise(heads, joined, "]}\n", ""))


@dataclass(frozen=True)
class _CodeGroups:
    """The usable codes of a piece, grouped by record and system.

    ``record`` is each code's record, ``first`` whether it is the first of its system there, ``first_codes`` the
    positions of those first ones, and ``first_offsets`` where each record's share of them begins (one more than
    records).
    """

    record: np.ndarray
    first: np.ndarray
    first_codes: np.ndarray
    first_offsets: np.ndarray

    @classmethod
    def build(cls, record: np.ndarray, system: pa.Array, records: int) -> _CodeGroups:
        first = _starts(system)
        first[1:] |= record[1:] != record[:-1]
        first_codes = np.flatnonzero(first)
        per_record = np.bincount(record[first_codes], minlength=records)
        return cls(record, first, first_codes, np.concatenate(([0], np.cumsum(per_record))))

    def lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each line's record, where its codes begin (one more than lines), and the codes' positions.

        A record's first line has the first code of every system. Each further code makes another line: that code, then
        the first codes of the other systems. Every line has as many codes as its record has systems.
        """
        records = self.first_offsets.size - 1
        systems = np.diff(self.first_offsets)
        extra_codes = np.flatnonzero(~self.first)
        extra_record = self.record[extra_codes]
        line_record = np.repeat(np.arange(records), 1 + np.bincount(extra_record, minlength=records))
        line_systems = systems[line_record]
        line_offsets = np.concatenate(([0], np.cumsum(line_systems)))

        within = np.arange(line_offsets[-1]) - np.repeat(line_offsets[:-1], line_systems)
        base = np.repeat(self.first_offsets[:-1][line_record], line_systems)
        if not extra_codes.size:
            return line_record, line_offsets, self.first_codes[base + within]

        # An extra line has its own code in front: [e, f0 .. f(p-1), f(p+1) ..], where p is the place of e's system.
        is_extra = np.ones(line_record.size, dtype=bool)
        is_extra[np.flatnonzero(_changes(line_record))] = False
        place = np.full(line_record.size, -1)
        place[is_extra] = np.cumsum(self.first)[extra_codes] - 1 - self.first_offsets[extra_record]
        place_of_entry = np.repeat(place, line_systems)
        shifted = within - ((within <= place_of_entry) & (place_of_entry >= 0))
        codes = self.first_codes[base + np.maximum(shifted, 0)]
        codes[line_offsets[:-1][is_extra]] = extra_codes
        return line_record, line_offsets, codes


def _usable_codes(rows: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Which rows have a code that goes into the file, and which are the first holder of a colliding one."""
    present = pc.and_(_is_text(rows["id_system"]), _is_text(rows["id_code"]))
    rank = pc.fill_null(rows["collision_rank"], 0)
    usable = _numpy(pc.and_(present, pc.equal(rank, 0)))
    return usable, _numpy(pc.and_(present, pc.equal(rank, 1)))


def _is_text(column: pa.Array) -> pa.Array:
    return pc.fill_null(pc.not_equal(column, ""), False)


def _count(
    counts: RosterCounts,
    rows: pa.RecordBatch,
    codes: _CodeGroups,
    code_rows: np.ndarray,
    starts_student: np.ndarray,
    in_first_record: np.ndarray,
    lines: int,
    records: int,
) -> None:
    """Add a piece. Codes are counted in a student's first record, for every record has the same."""
    students = int(np.count_nonzero(starts_student))
    counts.records += records
    counts.lines += lines
    counts.students += students
    years = rows["api_year"].take(pa.array(np.flatnonzero(starts_student)))
    counts.students_by_school_year.update(_value_counts(years))

    counted = code_rows[codes.first & in_first_record[code_rows]]
    systems = rows["id_system"].take(pa.array(counted))
    counts.students_by_id_system.update(_value_counts(systems))
    with_codes = np.unique(codes.record[codes.first & in_first_record[code_rows]]).size
    counts.students_without_codes += students - int(with_codes)
    if len(counts.students_by_id_system) > MOST_ID_SYSTEMS:
        raise _too_many_systems(len(counts.students_by_id_system))


def _code_entries(rows: pa.RecordBatch, code_rows: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(
        '{"studentIdentificationSystemDescriptor":"',
        json_text(rows["id_system"].take(code_rows)),
        '","identificationCode":"',
        json_text(rows["id_code"].take(code_rows)),
        '"}',
        "",
    )


def _line_heads(records: pa.RecordBatch) -> pa.Array:
    return pc.binary_join_element_wise(
        '{"educationOrganizationReference":{"educationOrganizationId":',
        records["ed_org_id"].cast(pa.string()),
        ',"link":{"rel":"',
        json_text(pc.fill_null(records["ed_org_type"], DEFAULT_ED_ORG_TYPE)),
        '"}},"studentReference":{"studentUniqueId":"',
        json_text(records["student_unique_id"]),
        '"},"studentIdentificationCodes":[',
        "",
    )


def json_text(values: pa.Array) -> pa.Array:
    """Each string as it appears between the quotes of a JSON string; nulls stay null.

    The raw bytes show whether any value of the column needs an escape; hardly any does.
    """
    raw = np.frombuffer(_data(values), dtype=np.uint8)
    if not np.any((raw < 0x20) | (raw == ord('"')) | (raw == ord("\\"))):
        return values
    needs_escape = pc.match_substring_regex(values, r'["\\\x00-\x1f]')
    escaped = [orjson.dumps(text)[1:-1].decode() for text in values.filter(needs_escape).to_pylist()]
    return pc.replace_with_mask(values, pc.fill_null(needs_escape, False), pa.array(escaped, pa.string()))


def _data(strings: pa.Array) -> memoryview:
    """The bytes of all strings of an array, end to end, without a copy."""
    _, offsets_buffer, data_buffer = strings.buffers()
    if data_buffer is None or not len(strings):
        return memoryview(b"")
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)[strings.offset : strings.offset + len(strings) + 1]
    return memoryview(data_buffer)[int(offsets[0]) : int(offsets[-1])]


def _starts(column: pa.Array) -> np.ndarray:
    """Where a value differs from the one before it, as the first always does. The column has no nulls."""
    starts = np.ones(len(column), dtype=bool)
    if len(column) > 1:
        starts[1:] = _numpy(pc.not_equal(column[1:], column[:-1]))
    return starts


def _changes(values: np.ndarray) -> np.ndarray:
    changes = np.ones(values.size, dtype=bool)
    changes[1:] = values[1:] != values[:-1]
    return changes


def _numpy(mask: pa.Array) -> np.ndarray:
    return np.asarray(mask.to_numpy(zero_copy_only=False), dtype=bool)


def _count_true(mask: pa.Array) -> int:
    return int(mask.true_count)


def _value_counts(values: pa.Array) -> dict:  # type: ignore[type-arg]
    return {entry["values"]: entry["counts"] for entry in values.value_counts().to_pylist()}


def _too_many_systems(found: int) -> Held:
    return Held(
        check=CONSUMER_CONTRACT,
        expected=f"at most {MOST_ID_SYSTEMS} different id systems",
        came=f"at least {found}",
        remedy="check whether id_system and id_code are swapped in the warehouse",
    )
