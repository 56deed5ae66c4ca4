"""Which of a partner's rosters are too old: pure.

Dagster's own freshness policy looks at the newest materialization of a whole asset: one live tenant keeps it green.
Here every tenant counts, by the time when its published roster was last confirmed correct. A time in the future is no
confirmation: a run with a fast clock wrote it, or the clock that judges is slow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from runway_pipelines.operations.run_report import Straggler
from runway_pipelines.operations.wording import first_few

if TYPE_CHECKING:
    from runway_pipelines.rosters.index import IndexEntry

MOST_NAMED = 10
# How far apart two correct clocks may be.
CLOCK_TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True)
class Freshness:
    """A partner's rosters at one moment; ``stragglers`` has the oldest first."""

    tenants: int
    stragglers: tuple[Straggler, ...]
    oldest: timedelta | None
    most_age: timedelta

    @property
    def summary(self) -> str:
        """One sentence for a person, naming the first stragglers."""
        within = f"confirmed correct within {self.most_age.total_seconds() / 3600:g} hours"
        if not self.stragglers:
            return f"all {self.tenants} tenants were {within}"
        named = first_few((straggler.tenant_code for straggler in self.stragglers), MOST_NAMED)
        text = f"{len(self.stragglers)} of {self.tenants} tenants were not {within}: {named}"
        if ahead := sum(1 for straggler in self.stragglers if straggler.is_ahead):
            text += (
                f". {ahead} of them {'is' if ahead == 1 else 'are'} dated in the future: the clock of a run was fast, "
                "or this one's is slow"
            )
        for status, words in (("held", "held until a person decides"), ("pinned", "pinned by a person")):
            waiting = [straggler for straggler in self.stragglers if straggler.status == status and straggler.since]
            if waiting:
                dated = [f"{one.tenant_code} since {(one.since or '')[:10]}" for one in waiting]
                text += f". {len(waiting)} of them {words}: {first_few(dated, MOST_NAMED)}"
        if unusable := sum(1 for straggler in self.stragglers if straggler.has_unusable_code):
            text += (
                f". {unusable} of them can have no roster, because of {'its code' if unusable == 1 else 'their codes'}"
            )
        return text


def freshness_of(entries: Iterable[IndexEntry], now: datetime, most_age: timedelta) -> Freshness:
    """Judge the tenants that are in the registry; ``now`` has a time zone."""
    ages = {entry: _age(entry, now) for entry in entries if not entry.has_departed}
    stragglers = [
        Straggler(entry.name, age, entry.status, entry.reason, has_unusable_code=entry.is_unusable, since=entry.since)
        for entry, age in ages.items()
        if age is None or not is_recent(age, most_age)
    ]
    return Freshness(
        tenants=len(ages),
        stragglers=tuple(sorted(stragglers, key=_oldest_first)),
        oldest=max((age for age in ages.values() if age is not None and age >= -CLOCK_TOLERANCE), default=None),
        most_age=most_age,
    )


def is_recent(age: timedelta, most_age: timedelta) -> bool:
    """Whether an age is at most ``most_age``, and not that of a moment in the future (beyond `CLOCK_TOLERANCE`)."""
    return -CLOCK_TOLERANCE <= age <= most_age


def moment_of(text: str) -> datetime | None:
    """A stored moment, or None for one that cannot be read or has no time zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def ahead_of(now: datetime, *moments: datetime | None) -> timedelta | None:
    """How far the latest of the moments is in the future; None within `CLOCK_TOLERANCE`."""
    ahead = max((moment - now for moment in moments if moment is not None), default=timedelta())
    return ahead if ahead > CLOCK_TOLERANCE else None


def _age(entry: IndexEntry, now: datetime) -> timedelta | None:
    return None if entry.refreshed_at is None else now - datetime.fromisoformat(entry.refreshed_at)


def _oldest_first(straggler: Straggler) -> tuple[bool, timedelta, str]:
    """Tenants that were never published come first."""
    return straggler.age is not None, -(straggler.age or timedelta()), straggler.tenant_code
