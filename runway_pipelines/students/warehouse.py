"""Brings a tenant's students from the partner's warehouse into memory (student resolution contract, section 4).

Runs the statements of `query`, and proves that each answer is whole and the tenant's. Nothing is written, and no error
quotes a value. What a warehouse lacks for resolution is an error of resolution alone: the session stays good for
rosters, which read none of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.errors import Held, QueryFailed, RowsUnreadable, RunwayError, Unavailable
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.encoding import ROWS_OF_TENANT
from runway_pipelines.rosters.query import roster_parameters
from runway_pipelines.students.memory_database import USUAL_MEANS, Means
from runway_pipelines.students.persons import Persons, prepare_persons
from runway_pipelines.students.query import CODES, PROOF, SCHOOLS, STUDENTS, STUDENTS_TABLE, Source, readable_sql
from runway_pipelines.systems.core_files import forbid_core_files

if TYPE_CHECKING:
    from runway_pipelines.systems.snowflake.client import EduSession

# No such table or column, or no right to it. Only the driver's text says which, and it quotes values.
_NOT_READABLE = frozenset({"904", "2003", "2043", "3001"})
_MASKED = r"^\*+$"


class StudentsNotReadable(RowsUnreadable):
    """The warehouse lacks a table or a column that resolution reads; the message names it. Rosters do not need it."""


class NoStudents(RowsUnreadable):
    """The warehouse has no student of the tenant."""


@dataclass(frozen=True, repr=False)
class TenantPersons:
    """A tenant's students in memory, when the warehouse was asked for them, and with which version of the secret."""

    persons: Persons
    asked_at: datetime
    secret_version: str


def fetch_persons(
    session: EduSession, tenant: PartnerTenant, *, run_id: str, means: Means = USUAL_MEANS
) -> TenantPersons:
    """Ask the warehouse for the tenant's students, and prepare them. ``run_id`` goes into the statements' query tag.

    Raises `StudentsNotReadable`, `NoStudents`, `RowsUnreadable` for other types than the contract's, `Held` for another
    tenant's row, `QueryFailed`, `Unavailable` (also for an answer that is not whole) and `TooLargeToResolve`.
    """
    forbid_core_files()
    asked_at = datetime.now(UTC)
    students, schools, codes = (_rows(session, tenant, each, run_id) for each in (STUDENTS, SCHOOLS, CODES))
    _check_not_masked(students)
    persons = prepare_persons(students, schools, codes, means)
    if persons.count == 0:
        raise NoStudents(
            expected=f"students of {tenant}",
            came=f"none in {STUDENTS_TABLE}",
            remedy="compare the tenant's code with tenant_code in the warehouse, and load the tenant's students",
        )
    return TenantPersons(persons, asked_at, session.secret_version)


def _rows(session: EduSession, tenant: PartnerTenant, source: Source, run_id: str) -> pa.Table:
    """A statement's answer, proven to be whole and of this tenant alone."""
    query_tag = f"runway_pipelines resolution tenant={tenant} run={run_id}"
    parameters = roster_parameters(tenant.tenant_code, datetime.now(UTC).date())
    try:
        answer = session.select(source.statement, parameters, query_tag=query_tag)
        batches = [_checked(batch, tenant, source) for batch in answer.batches]
    except QueryFailed as error:
        raise _explained(session, source, error, query_tag) from None
    rows = pa.concat_tables([source.returned.empty_table(), *(batch for batch, _ in batches)])
    _check_whole(rows.num_rows, (count for _, count in batches), source)
    return rows


def _checked(batch: pa.Table, tenant: PartnerTenant, source: Source) -> tuple[pa.Table, int]:
    """The rows in our types, compared with the tenant, and how many rows the whole answer has."""
    columns = {name.lower(): batch.column(place) for place, name in enumerate(batch.column_names)}
    missing = [name for name in (*source.returned.names, *PROOF.names) if name not in columns]
    if missing:
        raise RowsUnreadable(
            expected=f"the columns {', '.join(source.returned.names)} of {source.table}",
            came=f"a result without {', '.join(missing)}",
            remedy="report it: the statement names them",
        )
    added = {field.name: _as_type(columns[field.name], field, source) for field in PROOF}
    is_ours = pc.fill_null(pc.equal(added["tenant_code"], tenant.tenant_code), False)
    foreign = batch.num_rows - (pc.sum(is_ours).as_py() or 0)
    if foreign:
        raise Held(
            check=ROWS_OF_TENANT,
            expected=f"rows of tenant {tenant.tenant_code} only",
            came=f"{foreign} rows of another tenant in {source.table}",
            remedy="check the warehouse's tenant_code values: none of these rows was kept",
        )
    rows = pa.table([_as_type(columns[each.name], each, source) for each in source.returned], schema=source.returned)
    return rows, pc.max(added["row_count"]).as_py() or 0


def _as_type(values: pa.ChunkedArray, field: pa.Field, source: Source) -> pa.ChunkedArray:
    """Text must be text: an ID that is sent as a number has lost its zeros. Numbers come in the smallest type."""
    found = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    is_text = pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_null(found)
    try:
        if is_text or not pa.types.is_string(field.type):
            return values.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # the text quotes a value
        pass
    raise RowsUnreadable(
        expected=f"{field.name} of {source.table} as {field.type}",
        came=f"values of type {values.type} that do not fit",
        remedy="compare the warehouse's table with the student resolution contract, section 4 (docs/contracts)",
    )


def _check_whole(rows: int, counts: Iterable[int], source: Source) -> None:
    """Every row says how many there are: the driver does not compare, and a user's limit cuts silently."""
    announced = max(counts, default=0)
    if rows != announced:
        raise Unavailable(
            expected=f"{announced:,} rows of {source.table}",
            came=f"{rows:,}",
            remedy="try again; if it persists, look for a limit on the user's results, such as ROWS_PER_RESULTSET",
        )


def _check_not_masked(students: pa.Table) -> None:
    """Behind a masking policy all students look like one."""
    for name in ("k_student_xyear", "student_unique_id"):
        if pc.any(pc.match_substring_regex(students[name], _MASKED)).as_py():
            raise RowsUnreadable(
                expected=f"{name} of {STUDENTS_TABLE} unmasked",
                came="asterisks in its place",
                remedy="exempt the secret's role from the warehouse's masking policy",
            )


def _explained(session: EduSession, source: Source, error: QueryFailed, query_tag: str) -> RunwayError:
    """The error, naming the table or its columns. To find them, the warehouse is asked once more."""
    if error.code not in _NOT_READABLE:
        return error
    if not _is_readable(session, readable_sql(source.table), query_tag):
        return StudentsNotReadable(
            expected=f"the table {source.table}",
            came=f"Snowflake's error {error.code}: it does not exist, or the role may not read it",
            remedy="grant the secret's role SELECT on it, or switch student resolution off for the partner",
            code=error.code,
        )
    missing = [
        column for column in source.needed if not _is_readable(session, readable_sql(source.table, column), query_tag)
    ]
    return StudentsNotReadable(
        expected=f"{source.table} with the columns {', '.join(source.needed)}",
        came=f"none called {', '.join(missing) or 'as one of them'}",
        remedy="bring the warehouse's staging models up to date, or switch student resolution off for the partner",
        code=error.code,
    )


def _is_readable(session: EduSession, statement: str, query_tag: str) -> bool:
    """Whether the statement compiles. It reads no row, so it needs no warehouse."""
    try:
        for _ in session.select(statement, {}, query_tag=query_tag).batches:
            pass
    except QueryFailed as error:
        if error.code not in _NOT_READABLE:
            raise
        return False
    return True
