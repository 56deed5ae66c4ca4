"""Decides which roster a pull gets: the snapshot, or the warehouse's with the guards that judge it. Blocks on I/O."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runway_pipelines.errors import RunwayError, StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.registry import RosterPartner
from runway_pipelines.rosters.earlier import earlier_of
from runway_pipelines.rosters.encoding import RosterCounts
from runway_pipelines.rosters.guards import Comparison, Guards, judge_announced_guards
from runway_pipelines.rosters.holds import Hold, read_hold
from runway_pipelines.rosters.index import PLACES_ASKED, PublishedPlaces
from runway_pipelines.rosters.manifest import Pointer, pointer_key, snapshot_key
from runway_pipelines.rosters.publication import parse_published, readable_pointer
from runway_pipelines.rosters.quality import CheckResult
from runway_pipelines.stream.metrics import Metrics
from runway_pipelines.stream.pools import PartnerPools
from runway_pipelines.stream.pulls import Guarded, unguarded
from runway_pipelines.stream.refusals import Refusal
from runway_pipelines.stream.sources import DamagedSnapshots, Source, choose
from runway_pipelines.systems.aws.object_store import ObjectStore, StoredDocument
from runway_pipelines.systems.aws.secret_versions import Current, Gone, Observation
from runway_pipelines.systems.snowflake.connection import Place

log = logging.getLogger(__name__)
HELD, PINNED = "X-Roster-Held", "X-Roster-Pinned"


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that can serve."""

    pointer: Pointer
    size: int


@dataclass(frozen=True)
class Served:
    """What was decided on a pull, and why. ``snapshot`` is None for the warehouse.

    ``standing`` are the headers that tell of a hold or a pin. ``guarded`` judges the warehouse's roster beside what is
    published; if that roster must not pass, ``fallback`` is served.
    """

    snapshot: Snapshot | None
    seen: Observation
    reason: str
    standing: Mapping[str, str]
    guarded: Guarded = unguarded
    fallback: Snapshot | None = None


class SourceChooser:
    """Chooses for one pull after another, and remembers which snapshots were found damaged."""

    def __init__(
        self, store: ObjectStore, pools: PartnerPools, metrics: Metrics, *, fresh_for: timedelta, guards: Guards
    ) -> None:
        self._store = store
        self._pools = pools
        self._metrics = metrics
        self._fresh_for = fresh_for
        self._guards = guards
        self._damaged = DamagedSnapshots()

    def choose(self, tenant: PartnerTenant, requested: Source) -> Served:
        """Look at the secret, at what is published and at a hold or a pin, as far as they matter (in a thread).

        Raises `Unavailable` if it cannot be known whether a hold stands; a request for the warehouse goes around holds.
        """
        seen: Observation = (
            Gone("nobody looked") if requested is Source.SNAPSHOT else self._pools.look(tenant.partner_id)
        )
        found: Snapshot | None = None
        trouble: RunwayError | None = None
        stored = None if requested is Source.WAREHOUSE else self._store.read(pointer_key(tenant))
        try:
            found = self._snapshot(tenant, stored)
        except RunwayError as error:
            if requested is Source.SNAPSHOT:
                raise
            trouble = error
            log.warning("%s: the snapshot cannot be used: %s", tenant, error)
        hold = None if requested is Source.WAREHOUSE else read_hold(self._store, tenant)
        pointer = readable_pointer(tenant, stored)
        pinned = pointer.pinned if pointer else None  # also where its snapshot is damaged
        choice = choose(
            requested,
            found.pointer if found else None,
            seen.secret_version if isinstance(seen, Current) else None,
            standing=f"pinned {pinned}" if pinned else f"held since {hold.since}" if hold else None,
            now=datetime.now(UTC),
            fresh_for=self._fresh_for,
        )
        standing = {PINNED: "true"} if pinned else {HELD: "true"} if hold else {}
        if choice.snapshot is None and requested is Source.SNAPSHOT:
            raise Refusal(404, "no_snapshot", "No roster was ever published for the run's tenant.")
        if choice.snapshot is None and standing and requested is Source.AUTO:
            if trouble is not None:
                raise trouble
            raise Refusal(409, "roster_is_held", "The run's tenant has no published roster, and its first one is held.")
        return Served(
            found if choice.snapshot else None,
            seen,
            "the snapshot cannot be used" if trouble and not choice.snapshot else choice.reason,
            standing,
            self._guarded(tenant, stored, hold) if requested is Source.AUTO else unguarded,
            found,
        )

    def _guarded(self, tenant: PartnerTenant, stored: StoredDocument | None, hold: Hold | None) -> Guarded:
        """The guards beside what is published, which is read once the warehouse has answered."""

        def guarded(counts: RosterCounts, place: Place) -> tuple[CheckResult, ...]:
            return judge_announced_guards(counts, place, self._comparison(tenant, stored, hold), self._guards)

        return guarded

    def _comparison(self, tenant: PartnerTenant, stored: StoredDocument | None, hold: Hold | None) -> Comparison:
        try:
            published = parse_published(self._store, tenant, stored)
        except StoredObjectDamaged:
            published = None
        manifest, place = (published.manifest, published.place) if published else (None, None)
        if manifest is not None or place is not None:
            earlier = earlier_of(published.pointer if published else None, datetime.now(UTC))
            return Comparison(manifest, is_first=False, place=place, earlier=earlier)
        partner = RosterPartner(tenant.partner_id, tenant.partner_id, (), ())
        places = PublishedPlaces(self._store, partner, at_most=PLACES_ASKED)(tenant)
        was_published = stored is not None or (hold is not None and hold.published_sha256 is not None)
        return Comparison(None, is_first=not was_published, places=places)

    def _snapshot(self, tenant: PartnerTenant, stored: StoredDocument | None) -> Snapshot | None:
        """What the pointer names; raises `StoredObjectDamaged` if the snapshot visibly does not fit the pointer, or an
        earlier pull found that it does not.
        """
        if stored is None:
            return None
        key = pointer_key(tenant)
        pointer = Pointer.from_json(key, stored.body)
        if self._damaged.is_known(tenant, pointer):
            self._metrics.damaged.labels("known").inc()
            raise StoredObjectDamaged(
                expected=f"the bytes that {key} names",
                came="other bytes, as an earlier pull found",
                remedy="publish the tenant's roster anew",
            )
        found = self._store.stat(snapshot_key(tenant, pointer.sha256))
        if found is None or found.sha256 not in (None, pointer.sha256):
            raise StoredObjectDamaged(
                expected=f"the snapshot that {key} points to",
                came="no object" if found is None else "one that says it has another digest",
                remedy="publish the tenant's roster anew",
            )
        return Snapshot(pointer, found.size)

    def note_damage(self, tenant: PartnerTenant, pointer: Pointer) -> None:
        """A pull found that the bytes are not those that the pointer names: serve them no more."""
        self._damaged.remember(tenant, pointer)
        self._metrics.damaged.labels("found").inc()
