"""A tenant's roster out of the warehouse, as the bytes of the file: the one core of snapshots and of the live stream.

Belongs here: the statement, its answer encoded and counted. Where the bytes go (a private file, a client) does not.
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
    """The file's bytes in pieces that end with a line, filling ``counts``; raises what `encode_roster` raises, and
    `Unavailable` at the end when fewer rows came than the server said.
    """
    yield from encode_roster(selection.batches, tenant.tenant_code, counts)
    if counts.rows != selection.row_count:
        raise Unavailable(
            expected=f"the {selection.row_count} rows of query {selection.query_id}",
            came=f"{counts.rows} rows",
            remedy="run again: a part of the answer did not arrive, and nothing of it was kept",
        )


def checked_pieces(pieces: Iterable[memoryview], counts: RosterCounts) -> Iterator[memoryview]:
    """The same pieces for a reader who takes them at once, held to the rules that keep a roster from being published.

    Raises `Held` in place of the first piece that breaks one: an id system that the consumer's run cannot read, or
    no student at all.
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
            remedy="look whether the warehouse has the tenant's students: consumers refuse an empty roster",
        )


def in_small_batches(batches: Iterable[pa.Table], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of at most ``rows``: what is encoded at once is what is held at once."""
    for batch in batches:
        yield from batch.to_batches(max_chunksize=rows)
