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
import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.errors import Held, RowsUnreadable, Unavailable
from runway_pipelines.rosters import query
from runway_pipelines.rosters.arrow_columns import (
    as_mask,
    bytes_of,
    changes,
    count_true,
    in_schema,
    integers,
    starts,
    value_counts,
)
from runway_pipelines.rosters.json_columns import count_unsafe, json_text
from runway_pipelines.rosters.query import id_type_of

# Any size gives the same bytes. With 65,536 rows, 200,000 students take 0.07 CPU-seconds less, out of two, and 110 MB
# more (`benchmarks/end_to_end.py`).
SLICE_ROWS = 8_192
DEFAULT_ED_ORG_TYPE = "LocalEducationAgency"
# More than any state has. A roster with more must have codes in the systems' column, which the metadata would show.
MOST_ID_SYSTEMS = 50
# Consumers join a blank ID with every student who has no code of its type. A filler is a code that no file holds.
FILLER = "no-code:"

ROWS_OF_TENANT = "rows_of_tenant"
CONSUMER_CONTRACT = "consumer_contract"


@dataclass
class RosterCounts:
    """A roster in numbers.

    ``rows`` came from the warehouse. A *record* is one student in one ed org, a *line* one line of the file.
    ``students_by_id_system`` counts the students with a usable code of each system; no filler counts. ``unsafe_ids``
    are students whose id holds what consumers would have to escape.

    The rest is what the warehouse announced: the students, all rows of the tenant's associations, those left out
    because they lack a student, an ed org or a year or because their year is implausible, the same for its codes, the
    ids that share a key with another id, the distinct (ID type, code) pairs that several students share, the codes that
    stand for no code, and the ids, codes and keys that a masking policy hides.
    """

    rows: int = 0
    records: int = 0
    lines: int = 0
    students: int = 0
    students_without_codes: int = 0
    unsafe_ids: int = 0
    association_rows: int = 0
    rows_without_identity: int = 0
    implausible_rows: int = 0
    code_rows: int = 0
    implausible_codes: int = 0
    merged_ids: int = 0
    colliding_codes: int = 0
    placeholder_codes: int = 0
    masked_values: int = 0
    students_by_id_system: Counter[str] = field(default_factory=Counter)
    students_by_school_year: Counter[int] = field(default_factory=Counter)


# The announcements that become counts as they are.
_COUNTED = (
    query.STUDENTS,
    *(query.ASSOCIATION_ROWS, query.ROWS_WITHOUT_IDENTITY, query.IMPLAUSIBLE_ROWS),
    *(query.CODE_ROWS, query.IMPLAUSIBLE_CODES, query.MERGED_IDS),
    *(query.COLLIDING_CODES, query.PLACEHOLDER_CODES, query.MASKED_VALUES),
)


def encode_roster(
    batches: Iterable[pa.Table | pa.RecordBatch], tenant_code: str, counts: RosterCounts, *, fillers: bool = True
) -> Iterator[memoryview]:
    """Yield the file's bytes in pieces of whole lines, and fill ``counts``, the announced ones before the first.

    ``batches`` hold rows of `query.ROW_SCHEMA` (column names in any case), in the statement's order. With ``fillers``,
    every line has an entry for each ID type of the tenant. Raises `Held` for another tenant's row or too many id
    systems, `RowsUnreadable` for unexpected columns, types or order, `Unavailable` if fewer or more rows came than were
    announced.
    """
    encoder = _Encoder(tenant_code, counts, fillers)
    for rows in _whole_students(encoder.slices(batches)):
        yield encoder.encode(rows)
    encoder.check_complete()


class _Encoder:
    """One roster on its way: the announcements that came first, and the counts."""

    def __init__(self, tenant_code: str, counts: RosterCounts, fillers: bool) -> None:
        self._tenant_code = tenant_code
        self._counts = counts
        self._fillers = fillers
        self._announced: Counter[str] = Counter()
        self._students = 0
        self._id_systems: list[str] = []  # one for each ID type, in the order of the types
        self._id_types: pa.Array = pa.array([], pa.string())

    def slices(self, batches: Iterable[pa.Table | pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Slices of one schema, checked to be the tenant's. The announcements are noted and left out."""
        for batch in batches:
            table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
            for part in table.to_batches(max_chunksize=SLICE_ROWS):
                rows = in_schema(part)
                _check_tenant(rows, self._tenant_code)
                if rows["announcement"].null_count < rows.num_rows:
                    is_announcement = pc.is_valid(rows["announcement"])
                    self._note(rows.filter(is_announcement))
                    rows = rows.filter(pc.invert(is_announcement))
                self._counts.rows += rows.num_rows
                if rows.num_rows:
                    yield rows

    def _note(self, announcements: pa.RecordBatch) -> None:
        if self._counts.rows:
            raise _incomplete("the announcements before all other rows", "some of them later")
        systems = self._counts.students_by_id_system
        columns = (announcements[name].to_pylist() for name in ("announcement", "id_system", "number"))
        for name, id_system, number in zip(*columns, strict=True):
            self._announced[name] += number
            if name == query.ID_TYPE:
                systems[id_system] += number
                if len(systems) > MOST_ID_SYSTEMS:
                    raise _too_many_systems()
            elif name in _COUNTED:
                setattr(self._counts, name, self._announced[name])
        self._id_systems = sorted(systems, key=lambda system: id_type_of(system).encode())
        self._id_types = pa.array([id_type_of(system) for system in self._id_systems], pa.string())

    def check_complete(self) -> None:
        """Raise `Unavailable` unless as many rows and students came as the statement announced."""
        if query.ROWS not in self._announced or self._counts.rows != self._announced[query.ROWS]:
            announced = self._announced.get(query.ROWS, "an announced number of")
            raise _incomplete(f"{announced} rows", f"{self._counts.rows} rows")
        if self._students != self._counts.students:
            raise _incomplete(f"{self._counts.students} students", f"{self._students} students")

    def encode(self, rows: pa.RecordBatch) -> memoryview:
        """The lines of complete students."""
        starts_student = starts(rows["student_unique_id"])
        starts_record = starts_student | starts(rows["ed_org_id"])
        first_rows = np.flatnonzero(starts_record)
        code_rows = np.flatnonzero(as_mask(pc.and_(pc.is_valid(rows["id_system"]), pc.is_valid(rows["id_code"]))))
        codes = _Codes(
            record=(np.cumsum(starts_record) - 1)[code_rows],
            id_type=self._positions(rows["id_system"].take(pa.array(code_rows))),
        )
        records = rows.take(pa.array(first_rows))
        first_codes = codes.first_of_each_type(len(first_rows), len(self._id_types))
        self._count(records, starts_student[first_rows], first_codes)

        entries = [
            _code_entries(rows["id_system"].take(pa.array(code_rows)), rows["id_code"].take(pa.array(code_rows)))
        ]
        if self._fillers:
            entries += self._filler_entries(records["student_unique_id"], first_codes, len(code_rows))
        line_record, line_offsets, line_entries = codes.lines(first_codes)
        self._counts.lines += line_record.size
        joined = pc.binary_join(
            pa.ListArray.from_arrays(
                pa.array(line_offsets, pa.int32()), pa.concat_arrays(entries).take(pa.array(line_entries))
            ),
            ",",
        )
        heads = _line_heads(records)
        if line_record.size != first_rows.size:
            heads = heads.take(pa.array(line_record))
        return bytes_of(pc.binary_join_element_wise(heads, joined, "]}\n", ""))

    def _positions(self, id_systems: pa.Array) -> np.ndarray:
        """The place of each code's ID type among the announced ones."""
        places = pc.index_in(_id_types(id_systems), self._id_types)
        if places.null_count:
            raise _incomplete("every ID type to be announced", f"{places.null_count} codes of types that were not")
        return integers(places)

    def _filler_entries(self, student_ids: pa.Array, first_codes: np.ndarray, position: int) -> list[pa.Array]:
        """Entries for the missing codes, whose positions (from ``position``) are noted in ``first_codes``."""
        found = []
        for place, id_system in enumerate(self._id_systems):
            missing = np.flatnonzero(first_codes[:, place] < 0)
            if missing.size:
                codes = pc.binary_join_element_wise(FILLER, student_ids.take(pa.array(missing)), "")
                found.append(_code_entries(pa.repeat(id_system, missing.size), codes))
                first_codes[missing, place] = position + np.arange(missing.size)
                position += missing.size
        return found

    def _count(self, records: pa.RecordBatch, starts_spelling: np.ndarray, first_codes: np.ndarray) -> None:
        """Add a piece to the counts. A student is counted in its first record: every record has the same codes."""
        first = starts_spelling & (integers(records["is_further_spelling"]) == 0)
        students = records.filter(pa.array(first))
        self._counts.records += records.num_rows
        self._students += students.num_rows
        self._counts.students_without_codes += int(np.count_nonzero((first_codes[first] < 0).all(axis=1)))
        self._counts.students_by_school_year.update(value_counts(students["api_year"]))
        self._counts.unsafe_ids += count_unsafe(students["student_unique_id"])


def _check_tenant(rows: pa.RecordBatch, tenant_code: str) -> None:
    """Every row must belong to the requested tenant, in the association and in the code if there is one."""
    foreign = count_true(pc.not_equal(rows["tenant_code"], tenant_code)) + rows["tenant_code"].null_count
    code_of_tenant = pc.fill_null(pc.equal(rows["code_tenant_code"], tenant_code), False)
    foreign += count_true(pc.and_(pc.is_valid(rows["id_code"]), pc.invert(code_of_tenant)))
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
    for name in ("student_unique_id", "ed_org_id", "id_type", "id_code"):
        earlier, later = (_id_types(part["id_system"]) if name == "id_type" else part[name] for part in (before, after))
        out_of_order += count_true(pc.and_(same, pc.less(later, earlier)))
        same = pc.and_(same, pc.equal(later, earlier))
    if out_of_order or count_true(same):
        raise RowsUnreadable(
            expected="distinct rows sorted by student, ed org, id system and code in the order of their UTF-8 bytes",
            came="rows out of that order",
            remedy="give the warehouse's columns a binary collation",
        )


@dataclass(frozen=True)
class _Codes:
    """A piece's codes in the order of their rows: the record of each, and the place of its ID type."""

    record: np.ndarray
    id_type: np.ndarray

    def first_of_each_type(self, records: int, id_types: int) -> np.ndarray:
        """For each record and ID type the position of its first code, or -1."""
        first = np.full((records, id_types), -1)
        starts = np.flatnonzero(self._starts_type())
        first[self.record[starts], self.id_type[starts]] = starts
        return first

    def lines(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each line's record, where its entries begin (one offset more than lines), and the entries' positions.

        A record's first line has its first entry of every type. Each further code makes another line: that code, then
        the first entries of the other types.
        """
        extra_codes = np.flatnonzero(~self._starts_type())
        extra_record = self.record[extra_codes]
        line_record = np.repeat(np.arange(len(first)), 1 + np.bincount(extra_record, minlength=len(first)))
        lines = first[line_record]
        if extra_codes.size:
            # An extra line is [e, f0 .. f(p-1), f(p+1) ..], where p is the place of e's type.
            is_extra = ~changes(line_record)
            places = np.arange(first.shape[1])
            moved = places <= self.id_type[extra_codes][:, None]
            source = np.where(moved, places - 1, places)
            lines[is_extra] = np.take_along_axis(first[extra_record], source, axis=1)
            lines[is_extra, 0] = extra_codes
        present = lines >= 0
        return line_record, np.concatenate(([0], np.cumsum(present.sum(axis=1)))), lines[present]

    def _starts_type(self) -> np.ndarray:
        """Whether each code is its record's first of its type."""
        starts: np.ndarray = changes(self.record) | changes(self.id_type)
        return starts


def _code_entries(id_systems: pa.Array, codes: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(
        '{"studentIdentificationSystemDescriptor":"',
        json_text(id_systems),
        '","identificationCode":"',
        json_text(codes),
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


def _id_types(systems: pa.Array) -> pa.Array:
    """The ID type of each id system; null stays null."""
    if b"#" not in bytes(bytes_of(systems)):
        return systems
    texts = systems.dictionary_encode()
    types = pa.array([id_type_of(system) for system in texts.dictionary.to_pylist()], pa.string())
    return types.take(texts.indices)


def _incomplete(expected: str, came: str) -> Unavailable:
    return Unavailable(
        expected=f"the whole answer: {expected}",
        came=came,
        remedy="run again: none of it was kept. If it happens again, ask the partner what limits the user's results, "
        "such as ROWS_PER_RESULTSET",
    )


def _too_many_systems() -> Held:
    return Held(
        check=CONSUMER_CONTRACT,
        expected=f"at most {MOST_ID_SYSTEMS} different id systems",
        came=f"at least {MOST_ID_SYSTEMS + 1}",
        remedy="check whether id_system and id_code are swapped in the warehouse",
    )
