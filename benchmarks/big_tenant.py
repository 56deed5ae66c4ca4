"""One tenant of any size, for benchmarks: a stream of batches in bounded memory.

Belongs here: volume. The batches are clean (no duplicates, no shared codes); what can be wrong with rows is
`dataset.py`. Every batch is a function of the numbers of its students alone, so batch size does not change the rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.local.dataset import ASSOCIATIONS, IDENTIFICATION_CODES, SCHEMAS, SCHOOL_YEARS, SEED
from runway_pipelines.local.draws import Draws, Flags, Ints
from runway_pipelines.rosters.query import ROW_SCHEMA

_TEXT = pa.string()
_LEA = 379_999
_SCHOOLS = 400
_TYPES = pa.array(["LocalEducationAgency", "School"])
# The codes that a student can have, in the order of (id_system, id_code); the first stands for none at all.
_SLOTS = pa.array([None, "District", "Local", "Local", "State"], _TEXT)
_NONE, _DISTRICT, _LOCAL, _FURTHER_LOCAL, _STATE = range(5)


@dataclass(frozen=True)
class _Block:
    """Students `first`.. of the tenant. A student's number is its index in the block in all arrays."""

    tenant_code: str
    draws: Draws
    number: Ints
    unique_id: pa.StringArray
    last_year: Ints
    ed_orgs: Flags  # (students, 2): at the LEA, at a school
    school: Ints
    slots: Flags  # (students, 5): has the code of that slot
    codes: pa.StringArray  # slot * students + student

    def keys(self, student: Ints, year: Ints | None = None) -> pa.StringArray:
        if year is None:
            return self.draws.keys("k_student_xyear", self.number[student])
        return self.draws.keys("k_student", self.number[student] * 10_000 + year)

    def ed_org(self, student: Ints, which: Ints) -> pa.Array:
        return pa.array(np.where(which == 0, _LEA, self.school[student]))

    def code(self, student: Ints, slot: Ints) -> pa.StringArray:
        return self.codes.take(pa.array(slot * len(self.number) + student))

    def tenant(self, rows: int) -> pa.StringArray:
        return pa.repeat(pa.scalar(self.tenant_code, _TEXT), rows)


def _blocks(students: int, batch_students: int, tenant_code: str) -> Iterator[_Block]:
    if not 0 <= students < 10_000_000:
        raise ValueError(
            f"students must be from 0 to 9,999,999 (an ID has ten digits, 990 and seven more), not {students}"
        )
    draws = Draws(f"{SEED}/big/{tenant_code}")
    for start in range(0, students, batch_students):
        number = np.arange(start, min(start + batch_students, students))

        def digits(base: int, width: int, number: Ints = number) -> pa.StringArray:
            return pc.utf8_lpad(pc.cast(pa.array(base + number), _TEXT), width, "0")

        at_lea = draws.chance("at lea", number, 0.85)
        at_school = ~at_lea | draws.chance("at school", number, 0.25)
        slots = np.zeros((len(number), 5), np.bool_)
        for slot, rate in ((_DISTRICT, 0.12), (_LOCAL, 0.95), (_STATE, 0.85)):
            slots[:, slot] = draws.chance(f"slot {slot}", number, rate)
        slots[:, _FURTHER_LOCAL] = slots[:, _LOCAL] & draws.chance("further", number, 0.03)
        slots[:, _NONE] = ~slots.any(axis=1)
        further = pc.binary_join_element_wise("L", digits(20_000_000, 9), "")  # sorts after the digits
        none = pa.nulls(len(number), _TEXT)
        yield _Block(
            tenant_code=tenant_code,
            draws=draws,
            number=number,
            unique_id=digits(990_0000000, 11),
            last_year=np.where(draws.chance("left", number, 0.15), SCHOOL_YEARS[-2], SCHOOL_YEARS[-1]),
            ed_orgs=np.stack([at_lea, at_school], axis=1),
            school=_LEA * 1000 + 1 + draws.below("school", number, _SCHOOLS),
            slots=slots,
            codes=pa.concat_arrays(
                [none, digits(20_000_000, 9), digits(20_000_000, 9), further, digits(99_0000000, 10)]
            ),
        )


def big_tenant(students: int, *, batch_students: int = 50_000, tenant_code: str = "big") -> Iterator[pa.RecordBatch]:
    """The rows of a roster, as a query that filters, joins and sorts in the warehouse gives them (schema ROW_SCHEMA).

    One row for each record (ed_org_id, student_unique_id) and code, a record without codes has one row with nulls.
    Sorted by student_unique_id, ed_org_id, id_system, id_code (bytes); a batch holds whole students. About 2.4 rows a
    student, each row of the student's latest year. Re-slice the batches to have students cut in two, as a server's
    own batches do. What the statement announces comes first, in a batch of its own.
    """
    yield _announcements(students, batch_students, tenant_code)
    for block in _blocks(students, batch_students, tenant_code):
        student, which, slot = np.nonzero(block.ed_orgs[:, :, None] & block.slots[:, None, :])
        system = _SLOTS.take(pa.array(slot))
        tenant = block.tenant(len(student))
        yield pa.RecordBatch.from_arrays(
            [
                tenant,
                block.unique_id.take(pa.array(student)),
                block.ed_org(student, which),
                _TYPES.take(pa.array(which)),
                pa.array(block.last_year[student]),
                pa.array(np.zeros(len(student), dtype=np.int64)),
                pc.if_else(pc.is_valid(system), tenant, pa.scalar(None, _TEXT)),
                system,
                block.code(student, slot),
                pa.nulls(len(student), _TEXT),
                pa.nulls(len(student), pa.int64()),
            ],
            schema=ROW_SCHEMA,
        )


def _announcements(students: int, batch_students: int, tenant_code: str) -> pa.RecordBatch:
    rows, holders = 0, np.zeros(len(_SLOTS), dtype=np.int64)
    for block in _blocks(students, batch_students, tenant_code):
        rows += int((block.ed_orgs.sum(axis=1) * block.slots.sum(axis=1)).sum())
        holders += block.slots.sum(axis=0)
    first_slots = {str(_SLOTS[slot]): int(holders[slot]) for slot in (_DISTRICT, _LOCAL, _STATE) if holders[slot]}
    announced = [
        ("rows", None, rows),
        ("students", None, students),
        *(("id_type", system, number) for system, number in first_slots.items()),
    ]
    return pa.RecordBatch.from_pylist(
        [
            {"tenant_code": tenant_code, "announcement": name, "id_system": system, "number": number}
            for name, system, number in announced
        ],
        schema=ROW_SCHEMA,
    )


def big_tenant_tables(
    students: int, *, batch_students: int = 50_000, tenant_code: str = "big"
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """The same tenant's rows of the two source tables: (associations, identification codes), in batches.

    Each student's latest year and the year before it (with the same codes), codes repeated for every ed-org.
    """
    for block in _blocks(students, batch_students, tenant_code):
        student, before, which = np.nonzero(np.repeat(block.ed_orgs[:, None, :], 2, axis=1))
        year = block.last_year[student] - before
        associations = [
            block.tenant(len(student)),
            pa.array(year),
            block.keys(student, year),
            block.keys(student),
            block.unique_id.take(pa.array(student)),
            block.ed_org(student, which),
            _TYPES.take(pa.array(which)),
        ]
        row, slot = np.nonzero(block.slots[student][:, _DISTRICT:])
        holder = student[row]
        codes = [
            block.tenant(len(row)),
            pa.array(year[row]),
            block.keys(holder, year[row]),
            block.keys(holder),
            block.ed_org(holder, which[row]),
            _SLOTS.take(pa.array(slot + _DISTRICT)),
            pa.nulls(len(row), _TEXT),
            block.code(holder, slot + _DISTRICT),
        ]
        yield (
            pa.RecordBatch.from_arrays(associations, schema=SCHEMAS[ASSOCIATIONS]),
            pa.RecordBatch.from_arrays(codes, schema=SCHEMAS[IDENTIFICATION_CODES]),
        )
