"""A tenant's roster from the warehouse, as the bytes of the file: the core that snapshots and the live stream share.

Runs the statement, then encodes and counts its rows. Where the bytes go (a private file, a client) is up to the caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from runway_pipelines.errors import Held, Unavailable
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.encoding import CONSUMER_CONTRACT, RosterCounts, encode_roster
from runway_pipelines.rosters.quality import NOT_EMPTY, count_unreadable_systems
from runway_pipelines.rosters.query import ROSTER_SQL

if TYPE_CHECKING:
    from runway_pipelines.systems.snowflake.client import EduSession, Selection


def select_roster(session: EduSession, tenant: PartnerTenant, *, run_id: str) -> Selection:
    """Run the roster's statement; raises `QueryFailed` or `Unavailable`."""
    return session.select(
        ROSTER_SQL, {"tenant_code": tenant.tenant_code}, query_tag=f"runway_pipelines tenant={tenant} run={run_id}"
    )


def roster_pieces(selection: Selection, tenant: PartnerTenant, counts: RosterCounts) -> Iterator[memoryview]:
    """The file's bytes in pieces of whole lines, filling ``counts``.

    Raises what `encode_roster` raises, and `Unavailable` at the end if fewer rows came than the server announced.
    """
    yield from encode_roster(selection.batches, tenant.tenant_code, counts)
    if counts.rows != selection.row_count:
        raise Unavailable(
            expected=f"the {selection.row_count} rows of query {selection.query_id}",
            came=f"{counts.rows} rows",
            remedy="run again: part of the result did not arrive, and none of it was kept",
        )


def checked_pieces(pieces: Iterable[memoryview], counts: RosterCounts) -> Iterator[memoryview]:
    """The same pieces, checked against the blocking rules on the way to a reader who cannot wait for the whole roster.

    Raises `Held` in place of the first piece with an id system that the consumer's run cannot read, and at the end if
    there is no student.
    """
    for piece in pieces:
        if unreadable := count_unreadable_systems(counts.students_by_id_system):
            raise Held(
                check=CONSUMER_CONTRACT,
                expected="id systems that the consumer's run can read",
                came=f"{unreadable} with a comma, a quote or a trailing #",
                remedy="correct id_system in the warehouse",
            )
        yield piece
    if not counts.students:
        raise Held(
            check=NOT_EMPTY,
            expected="a student of this tenant",
            came="none",
            remedy="check that the warehouse has the tenant's students: consumers refuse an empty roster",
        )


def in_small_batches(batches: Iterable[pa.Table], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of at most ``rows``, which bounds the memory that encoding takes."""
    for batch in batches:
        yield from batch.to_batches(max_chunksize=rows)
