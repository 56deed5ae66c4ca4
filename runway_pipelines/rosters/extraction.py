"""A tenant's roster from the warehouse, as the bytes of the file: the core that snapshots and the live stream share.

Runs the statement, then encodes and counts its rows. Where the bytes go (a private file, a client) is up to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runway_pipelines.errors import Held
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.encoding import RosterCounts
from runway_pipelines.rosters.guards import holding
from runway_pipelines.rosters.quality import CheckResult, blocking, judge_announced, not_empty
from runway_pipelines.rosters.query import ROSTER_SQL, roster_parameters

if TYPE_CHECKING:
    from runway_pipelines.systems.snowflake.client import EduSession, Selection


def select_roster(session: EduSession, tenant: PartnerTenant, *, run_id: str) -> Selection:
    """Run the roster's statement; raises `QueryFailed` or `Unavailable`."""
    return session.select(
        ROSTER_SQL,
        roster_parameters(tenant.tenant_code, datetime.now(UTC).date()),
        query_tag=f"runway_pipelines tenant={tenant} run={run_id}",
    )


def checked_pieces(
    pieces: Iterable[memoryview], counts: RosterCounts, guarded: Callable[[RosterCounts], tuple[CheckResult, ...]]
) -> Iterator[memoryview]:
    """The same pieces, checked on the way to a reader who cannot wait for the whole roster.

    Raises `Held` in place of the first piece if the announcements fail a blocking rule or a guard (``guarded``), and at
    the end if there is no student.
    """
    for number, piece in enumerate(pieces):
        if number == 0:
            _hold((*blocking(judge_announced(counts)), *holding(guarded(counts))))
        yield piece
    _hold(blocking((*judge_announced(counts), not_empty(counts))))


def _hold(failed: Iterable[CheckResult]) -> None:
    for result in failed:
        raise Held(
            check=result.rule.name,
            expected=f"a roster that passes {result.rule.name}",
            came=result.reason,
            remedy="see what the tenant's next refresh says, and decide"
            if result.holds
            else "correct the data in the warehouse, and try again",
        )
