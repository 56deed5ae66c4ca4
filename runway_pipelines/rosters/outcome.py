"""What a refresh is made with, what it read, and how it ended: the words of `refresh` and `gate`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from psycopg import Connection

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.encoding import RosterCounts
from runway_pipelines.rosters.guards import Guards
from runway_pipelines.rosters.holds import Hold
from runway_pipelines.rosters.manifest import Manifest
from runway_pipelines.rosters.quality import CheckResult, Thresholds, why_refused
from runway_pipelines.systems.aws.object_store import FileDigest, ObjectStore
from runway_pipelines.systems.postgres.databases import ApplicationDatabase
from runway_pipelines.systems.snowflake.connection import Place


class TenantStatus(StrEnum):
    """How a tenant's refresh ended."""

    NEW = "new"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    PINNED = "pinned"
    HELD = "held"
    FAILED = "failed"

    @property
    def is_success(self) -> bool:
        """Whether what is published is right as of this run, or was pinned by a person."""
        return self not in NOT_PUBLISHED

    @property
    def is_published(self) -> bool:
        """Whether the run, or a decision, published the tenant's roster."""
        return self in (TenantStatus.NEW, TenantStatus.UNCHANGED)


NOT_PUBLISHED = frozenset({TenantStatus.HELD, TenantStatus.FAILED})


@dataclass(frozen=True)
class TenantOutcome:
    """What happened to one tenant. ``reason`` tells people why, without student identifiers.

    ``manifest`` is of what is published, and ``verified_at`` when the warehouse confirmed it: in this run, or in the
    one that superseded it. ``candidate`` was taken and kept, and waits (``hold``) or is not published while the tenant
    is pinned (since ``pinned_at``). ``known_at`` is when all this was so: in a refresh and in a decision, under the
    tenant's lock.
    """

    tenant: PartnerTenant
    status: TenantStatus
    reason: str
    seconds: float
    manifest: Manifest | None = None
    verified_at: str | None = None
    check_results: tuple[CheckResult, ...] = ()
    school_years: tuple[int, ...] = ()
    keys_written: tuple[str, ...] = ()
    hold: Hold | None = None
    candidate: Manifest | None = None
    pinned_at: str | None = None
    known_at: datetime | None = None

    @property
    def is_refused(self) -> bool:
        """Whether a check refused the roster: it is not published, and waits for no person's decision."""
        return self.status is TenantStatus.HELD and self.hold is None

    @property
    def state(self) -> str:
        """The status in a word: "refused" if a check refused the roster, "held" if a guard holds it."""
        return "refused" if self.is_refused else self.status.value

    @property
    def said(self) -> str:
        """The status and the reason, or the reason alone if it begins with the status, as for a refusal or a hold."""
        says_so = self.is_refused or self.reason.startswith(f"{self.status} ")
        return self.reason if says_so else f"{self.status}: {self.reason}"


def refused(
    tenant: PartnerTenant, blocks: Iterable[CheckResult], results: tuple[CheckResult, ...], seconds: float
) -> TenantOutcome:
    """The outcome of a refresh whose roster these checks refuse."""
    return TenantOutcome(tenant, TenantStatus.HELD, why_refused(blocks), seconds, check_results=results)


@dataclass(frozen=True)
class RefreshContext:
    """What all refreshes of a run share.

    ``places`` are the warehouses that the partner's rosters come from. ``has_roster`` tells whether a tenant still has
    a roster: it may have left since the run began, and may have been purged.
    """

    store: ObjectStore
    database: ApplicationDatabase
    run_id: str
    thresholds: Thresholds
    guards: Guards
    lock_wait_seconds: int
    log: logging.Logger
    places: Callable[[PartnerTenant], Collection[Place]] = lambda tenant: ()
    has_roster: Callable[[Connection[Any], PartnerTenant], bool] = lambda connection, tenant: True
    fillers: bool = True
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Extract:
    """A roster as it was read from the warehouse into a private file."""

    digest: FileDigest
    counts: RosterCounts
    query_id: str
    query_started_at: datetime
    query_seconds: float
    secret_version: str
    place: Place
