"""Which of a partner's rosters are older than they may be: pure.

Dagster's own freshness policy looks at the newest materialization of a whole asset: one live tenant keeps it green.
Here each tenant counts, by when its published roster was last confirmed correct.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from runway_pipelines.rosters.index import IndexEntry


class Straggler(NamedTuple):
    """A tenant whose roster is too old; ``age`` is None where none was ever published."""

    tenant_code: str
    age: timedelta | None
    status: str
    reason: str


@dataclass(frozen=True)
class Freshness:
    """How a partner's rosters stand at one moment; ``stragglers`` with the oldest first."""

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
        named = ", ".join(straggler.tenant_code for straggler in self.stragglers[:_NAMED])
        more = len(self.stragglers) - _NAMED
        return f"{len(self.stragglers)} of {self.tenants} tenants were not {within}: {named}" + (
            f" and {more} more" if more > 0 else ""
        )


_NAMED = 10


def freshness_of(entries: Iterable[IndexEntry], now: datetime, most_age: timedelta) -> Freshness:
    """Judge the tenants that are in the registry; ``now`` has a time zone."""
    ages = {entry: _age(entry, now) for entry in entries if not entry.has_departed}
    stragglers = [
        Straggler(entry.tenant_code, age, entry.status, entry.reason)
        for entry, age in ages.items()
        if age is None or age > most_age
    ]
    return Freshness(
        tenants=len(ages),
        stragglers=tuple(sorted(stragglers, key=_oldest_first)),
        oldest=max((age for age in ages.values() if age is not None), default=None),
        most_age=most_age,
    )


def _age(entry: IndexEntry, now: datetime) -> timedelta | None:
    return None if entry.refreshed_at is None else now - datetime.fromisoformat(entry.refreshed_at)


def _oldest_first(straggler: Straggler) -> tuple[bool, timedelta, str]:
    """Who was never published comes first."""
    return straggler.age is not None, -(straggler.age or timedelta()), straggler.tenant_code
