"""Which of a tenant's snapshots are kept, and which are pruned: pure (publication guards contract, section 6)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runway_pipelines.errors import InvalidKey
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.manifest import SNAPSHOTS_PREFIX

# A run stores its snapshot first, and points to it last. A younger snapshot may belong to a run under way.
LEAST_AGE = timedelta(days=1)
_SNAPSHOT_NAME = re.compile(r"([0-9a-f]{64})\.jsonl")


@dataclass(frozen=True)
class Retention:
    """How many of a tenant's newest snapshots are kept, and for how many days the first of each month."""

    keep_last: int
    monthly_days: int


@dataclass(frozen=True, order=True)
class StoredSnapshot:
    """A snapshot as the bucket lists it; ``stored_at`` is aware. Sorts oldest first."""

    stored_at: datetime
    sha256: str
    size: int


def parse_snapshot_key(key: str) -> tuple[PartnerTenant, str] | None:
    """The tenant and the sha256 of a snapshot's key; None for any other key."""
    prefix, *parts = key.split("/")
    if prefix != SNAPSHOTS_PREFIX or len(parts) != 3:
        return None
    partner_id, tenant_code, name = parts
    named = _SNAPSHOT_NAME.fullmatch(name)
    try:
        return (PartnerTenant(partner_id, tenant_code), named[1]) if named else None
    except InvalidKey:  # no run of ours wrote below such a name
        return None


def to_prune(
    snapshots: Iterable[StoredSnapshot], retention: Retention, now: datetime, protected: Collection[str] = ()
) -> list[StoredSnapshot]:
    """The snapshots of one tenant that are no longer needed, oldest first.

    Kept are the newest, the monthly firsts, the ``protected`` (digests), and what is younger than `LEAST_AGE` at
    ``now`` (aware, of the clock that dated the snapshots).
    """
    oldest_first = sorted(snapshots)
    kept = {*oldest_first[-retention.keep_last :], *_monthly_firsts(oldest_first, retention.monthly_days, now)}
    return [
        each
        for each in oldest_first
        if each not in kept and each.sha256 not in protected and now - each.stored_at >= LEAST_AGE
    ]


def _monthly_firsts(oldest_first: Sequence[StoredSnapshot], days: int, now: datetime) -> Iterable[StoredSnapshot]:
    """The earliest snapshot of each calendar month (UTC), if it was stored within the last ``days``.

    The whole month counts, not its part within ``days``: otherwise the oldest month's first would move on each night.
    """
    firsts: dict[tuple[int, int], StoredSnapshot] = {}
    for snapshot in oldest_first:
        stored_at = snapshot.stored_at.astimezone(UTC)
        firsts.setdefault((stored_at.year, stored_at.month), snapshot)
    return (first for first in firsts.values() if now - first.stored_at < timedelta(days=days))
