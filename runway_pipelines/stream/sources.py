"""Where a pull is served from: a pure decision, and the damaged snapshots that must not serve."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from threading import Lock

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.freshness import ahead_of, is_recent, moment_of
from runway_pipelines.rosters.manifest import Pointer

MOST_REMEMBERED = 1_000


class Source(StrEnum):
    """The values of ``?source=`` and (without ``auto``) of ``X-Roster-Source``."""

    SNAPSHOT = "snapshot"
    WAREHOUSE = "warehouse"
    AUTO = "auto"


@dataclass(frozen=True)
class Choice:
    """Serve this snapshot, or (None) ask the warehouse; ``reason`` is for the log."""

    snapshot: Pointer | None
    reason: str


def choose(
    requested: Source,
    published: Pointer | None,
    secret_version: str | None,
    *,
    standing: str | None = None,
    now: datetime,
    fresh_for: timedelta,
) -> Choice:
    """Choose between snapshot and warehouse.

    ``published`` is None if nothing readable is published; ``secret_version`` is the current one, None if unknown or
    gone. An operator who asks for the snapshot gets it at any age. While a hold or a pin is ``standing`` (in words),
    only an operator who asks for the warehouse's roster gets it.
    """
    if requested is Source.WAREHOUSE:
        return Choice(None, "it was asked for, around any hold")
    if standing is not None and requested is Source.AUTO:
        return Choice(published, standing)
    if published is None:
        return Choice(None, "nothing is published")
    if requested is Source.SNAPSHOT:
        return Choice(published, "it was asked for")
    verified_at = moment_of(published.verified_at)
    if verified_at is not None and ahead_of(now, verified_at):
        return Choice(None, "the snapshot is dated in the future")
    if verified_at is None or not is_recent(now - verified_at, fresh_for):
        return Choice(None, "the snapshot is older than the setting allows")
    if published.secret_version_id != secret_version:
        return Choice(None, "the snapshot was made with other credentials than today's")
    return Choice(published, "the snapshot is fresh")


class DamagedSnapshots:
    """Snapshots whose bytes are not those that were published, each until its tenant's pointer is rewritten.

    The run that rewrites the pointer checks the snapshot. Thread-safe; kept in this process alone and for
    `MOST_REMEMBERED` tenants, because forgetting one costs only one torn pull.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._pointers: dict[PartnerTenant, Pointer] = {}

    def remember(self, tenant: PartnerTenant, pointer: Pointer) -> None:
        """Note that the pointer's snapshot is damaged."""
        with self._lock:
            self._pointers.pop(tenant, None)
            while len(self._pointers) >= MOST_REMEMBERED:
                del self._pointers[next(iter(self._pointers))]
            self._pointers[tenant] = pointer

    def is_known(self, tenant: PartnerTenant, pointer: Pointer) -> bool:
        """Whether it was noted, and nothing has been published since."""
        return self._pointers.get(tenant) == pointer
