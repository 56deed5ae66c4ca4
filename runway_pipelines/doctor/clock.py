"""Compares this machine's clock with a server's: pure but for the two clocks, which are arguments.

A wrong clock dates rosters wrongly, and servers refuse tokens and signatures that were made at another time.
Snowflake's JWTs and RDS' tokens tolerate a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from runway_pipelines.doctor.findings import CheckStatus, Seen

Now = Callable[[], datetime]
TOLERANCE = timedelta(seconds=60)


def utc_now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)


def seen_clock(whose: str, theirs: Callable[[], datetime | None], now: Now) -> Seen:
    """Compare ``theirs`` (``whose`` is "Postgres'") with ours. The time that the answer was under way counts for
    neither side.
    """
    asked = now()
    moment = theirs()
    answered = now()
    if moment is None:
        return Seen(CheckStatus.SKIPPED, f"an answer that says nothing of {whose} clock")
    behind = max(moment - answered, timedelta())
    ahead = max(asked - moment, timedelta())
    off = max(ahead, behind)
    if off <= TOLERANCE:
        return Seen(CheckStatus.OK, f"within {TOLERANCE.total_seconds():g} s of {whose}")
    amount = f"{off.total_seconds():.0f} s" if off < timedelta(hours=1) else str(off).partition(".")[0]
    return Seen(
        CheckStatus.WARNING,
        f"this machine's clock is {amount} {'ahead of' if ahead else 'behind'} {whose}",
        "find out which of the two is wrong, and have it set by a time server (chronyc tracking); a run with a fast "
        "clock dates its rosters in the future",
    )
