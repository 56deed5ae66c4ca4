"""A partner's index of rosters: the state of each tenant as of its last refresh."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from threading import Lock
from typing import Any, Self

import orjson
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from runway_pipelines.errors import PublicationRaced, StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant, shown, why_unusable
from runway_pipelines.partner_tenants.registry import RosterPartner
from runway_pipelines.rosters.advice import COMMAND_LINE
from runway_pipelines.rosters.freshness import ahead_of, moment_of
from runway_pipelines.rosters.manifest import Manifest, index_key
from runway_pipelines.rosters.outcome import TenantOutcome, TenantStatus
from runway_pipelines.rosters.publication import READERS, read_published
from runway_pipelines.systems.aws.object_store import ObjectStore, StoredDocument
from runway_pipelines.systems.snowflake.connection import Place

NEVER = "never refreshed"
UNUSABLE_CODE = "unusable_code"
DEPARTED = "not in the registry"
RETURNED = "back in the registry, not refreshed since"
PLACES_ASKED = 3  # how many published rosters' warehouses are compared where a few are enough
STILL_PUBLISHED = "what was published stays until it is deleted with runway-pipelines rosters purge"
WRITE_ATTEMPTS = 8


@dataclass(frozen=True)
class IndexEntry:
    """One tenant. ``refreshed_at`` (ISO 8601, UTC) is when the warehouse last confirmed what is published, ``status``
    how the last try ended. ``since`` is when a person's decision was first needed, or made (held, pinned);
    ``failing_since`` is when the current unbroken series of failed or refused tries began: the end of its first try.
    ``changed_at`` is when a new roster was last published, and ``students_before`` the size of the one it replaced,
    None for a first roster. The other counts are its manifest's, if that compares these two. ``decided_at`` is when a
    person last decided about the tenant outside Dagster, which therefore does not know of it. ``as_of`` is when the
    outcome was known that the entry tells.
    """

    tenant_code: str
    status: str
    reason: str
    refreshed_at: str | None = None
    sha256: str | None = None
    lines: int = 0
    students: int = 0
    since: str | None = None
    failing_since: str | None = None
    changed_at: str | None = None
    students_added: int | None = None
    students_removed: int | None = None
    students_changed: int | None = None
    students_before: int | None = None
    decided_at: str | None = None
    as_of: str | None = None

    @property
    def name(self) -> str:
        """The code as it is shown to people, escaped if it is unusable, because then it may hold anything."""
        return shown(self.tenant_code) if self.is_unusable else self.tenant_code

    @property
    def is_unusable(self) -> bool:
        """Whether the tenant can have no roster, because its code cannot be a key."""
        return self.status == UNUSABLE_CODE

    @property
    def has_departed(self) -> bool:
        """Whether the tenant is no longer in the registry."""
        return self.status == DEPARTED

    @property
    def has_snapshot(self) -> bool:
        """Whether a roster of this tenant was ever kept, published or not."""
        return self.sha256 is not None


_MEMBERS = frozenset(field.name for field in fields(IndexEntry))


@dataclass(frozen=True)
class PartnerIndex:
    """All of a partner's tenants, in order."""

    partner_id: str
    school_years: tuple[int, ...]
    tenants: tuple[IndexEntry, ...]
    run_id: str | None = None

    @classmethod
    def read(cls, store: ObjectStore, partner: RosterPartner) -> Self:
        """The stored index, with the partner's tenants of today; a damaged index starts over."""
        return cls.parse(store.read(index_key(partner.partner_id)), partner)

    @classmethod
    def parse(cls, stored: StoredDocument | None, partner: RosterPartner) -> Self:
        """`read` for a document that was read already.

        A tenant that left the registry stays in the index as long as its roster is published.
        """
        try:
            document = orjson.loads(stored.body) if stored else {"tenants": []}
            known = {member["tenant_code"]: _entry(member) for member in document["tenants"]}
            run_id = document.get("run_id")
        except (KeyError, TypeError, ValueError):
            known, run_id = {}, None
        registered = frozenset(partner.tenant_codes)
        return cls(
            partner.partner_id,
            partner.published_years,
            tuple(
                sorted(
                    [_present(known.get(code, IndexEntry(code, NEVER, ""))) for code in partner.tenant_codes]
                    + [IndexEntry(code, UNUSABLE_CODE, why_unusable(code) or "") for code in partner.unusable_codes]
                    + [
                        replace(entry, status=DEPARTED, reason=STILL_PUBLISHED)
                        for code, entry in known.items()
                        if code not in registered and entry.has_snapshot
                    ],
                    key=lambda entry: entry.tenant_code,
                )
            ),
            run_id,
        )

    def updated(self, outcomes: Iterable[TenantOutcome], run_id: str, now: datetime) -> PartnerIndex:
        """The index after a run that ended at ``now``; a tenant that failed keeps what it had published."""
        by_code = {outcome.tenant.tenant_code: outcome for outcome in outcomes}
        return PartnerIndex(
            self.partner_id,
            self.school_years,
            tuple(
                _after(entry, by_code[entry.tenant_code], run_id, now) if entry.tenant_code in by_code else entry
                for entry in self.tenants
            ),
            run_id,
        )

    def to_json(self) -> bytes:
        """The document, readable by a person."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


_again_if_another_run_wrote_it = retry(
    retry=retry_if_exception_type(PublicationRaced),
    stop=stop_after_attempt(WRITE_ATTEMPTS),
    wait=wait_random_exponential(multiplier=0.1, max=2),
    reraise=True,
)


@_again_if_another_run_wrote_it
def record_outcomes(
    store: ObjectStore, partner: RosterPartner, outcomes: Iterable[TenantOutcome], run_id: str, now: datetime
) -> PartnerIndex:
    """Update the stored index with a run's outcomes; if another run wrote it meanwhile, read and write again."""
    key = index_key(partner.partner_id)
    stored = store.read(key)
    index = PartnerIndex.parse(stored, partner).updated(outcomes, run_id, now)
    store.write(key, index.to_json(), replacing=stored)
    return index


def failing_since(store: ObjectStore, partner: RosterPartner) -> Mapping[str, str]:
    """When each tenant whose last try failed began to fail, by tenant code."""
    tenants = PartnerIndex.read(store, partner).tenants
    return {entry.tenant_code: entry.failing_since for entry in tenants if entry.failing_since is not None}


class PublishedPlaces:
    """The warehouses that a partner's published rosters come from, read once and only when somebody asks.

    A tenant's first roster is compared with them: it has nothing else to be compared with.
    """

    def __init__(self, store: ObjectStore, partner: RosterPartner, *, at_most: int | None = None) -> None:
        self._store = store
        self._partner = partner
        self._at_most = at_most
        self._reading = Lock()
        self._places: dict[PartnerTenant, Place] | None = None

    def __call__(self, tenant: PartnerTenant | None = None) -> list[Place]:
        """The places of all tenants, or of all but this one."""
        with self._reading:
            if self._places is None:
                self._places = self._read()
        return [place for other, place in self._places.items() if other != tenant]

    def _read(self) -> dict[PartnerTenant, Place]:
        index = PartnerIndex.read(self._store, self._partner)
        published = [entry.tenant_code for entry in index.tenants if entry.has_snapshot]
        tenants = [PartnerTenant(self._partner.partner_id, code) for code in published]
        chosen = tenants if self._at_most is None else tenants[: self._at_most]
        with ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="places") as executor:
            places = executor.map(self._place_of, chosen)
        return {tenant: place for tenant, place in zip(chosen, places, strict=True) if place}

    def _place_of(self, tenant: PartnerTenant) -> Place | None:
        try:
            published = read_published(self._store, tenant)
        except StoredObjectDamaged:
            return None
        return published.place if published else None


@_again_if_another_run_wrote_it
def forget_tenant(store: ObjectStore, tenant: PartnerTenant) -> None:
    """Remove a purged tenant from its partner's index. A damaged index starts over anyway, and is left."""
    key = index_key(tenant.partner_id)
    stored = store.read(key)
    if stored is None:
        return
    try:
        document = orjson.loads(stored.body)
        document["tenants"] = [entry for entry in document["tenants"] if entry["tenant_code"] != tenant.tenant_code]
    except (KeyError, TypeError, ValueError):
        return
    store.write(key, orjson.dumps(document, option=orjson.OPT_INDENT_2), replacing=stored)


def _entry(member: dict[str, Any]) -> IndexEntry:
    """An entry as it was stored, without members of a later version; raises `TypeError` or `ValueError`."""
    entry = IndexEntry(**{name: value for name, value in member.items() if name in _MEMBERS})
    if entry.refreshed_at is not None and datetime.fromisoformat(entry.refreshed_at).tzinfo is None:
        raise ValueError("refreshed_at has no time zone")
    return entry


def _present(entry: IndexEntry) -> IndexEntry:
    """The entry of a tenant in the registry. A tenant that had left counts again, with the age of its roster."""
    if entry.is_unusable:
        return IndexEntry(entry.tenant_code, NEVER, "")
    return replace(entry, status=RETURNED, reason="") if entry.has_departed else entry


def _since(entry: IndexEntry, outcome: TenantOutcome) -> str | None:
    """A failed refresh says nothing about a hold, and a refusal by a check is not a hold."""
    if outcome.hold is not None:
        return outcome.hold.since
    return entry.since if outcome.status is TenantStatus.FAILED else None


def _tells_later(entry: IndexEntry, outcome: TenantOutcome, now: datetime) -> bool:
    """Whether the entry is of a later outcome. A run is recorded when it ends, and much may be decided meanwhile."""
    recorded = moment_of(entry.as_of) if entry.as_of else None
    if recorded is None or outcome.known_at is None or ahead_of(now, recorded) is not None:
        return False
    return outcome.known_at < recorded


def _after(entry: IndexEntry, outcome: TenantOutcome, run_id: str, now: datetime) -> IndexEntry:
    if _tells_later(entry, outcome, now):
        return entry
    if outcome.known_at is not None:
        entry = replace(entry, as_of=outcome.known_at.astimezone(UTC).isoformat())
    if run_id == COMMAND_LINE:
        entry = replace(entry, decided_at=_stored(now))
    if not outcome.status.is_success or outcome.manifest is None:
        return replace(
            entry,
            status=outcome.status.value,
            reason=outcome.reason,
            since=_since(entry, outcome),
            failing_since=None if outcome.hold else entry.failing_since or _stored(now),
        )
    # If this run was superseded, it is the other run's moment: this run confirmed nothing.
    verified_at = None if outcome.verified_at is None else moment_of(outcome.verified_at)
    if outcome.status.is_published and outcome.manifest.sha256 != entry.sha256:
        entry = _changed(entry, outcome.manifest, now)
    return replace(
        entry,
        status=outcome.status.value,
        reason=outcome.reason,
        refreshed_at=entry.refreshed_at if verified_at is None else _stored(verified_at),
        sha256=outcome.manifest.sha256,
        lines=outcome.manifest.lines,
        students=outcome.manifest.students,
        since=outcome.pinned_at,
        failing_since=None,
    )


def _changed(entry: IndexEntry, manifest: Manifest, now: datetime) -> IndexEntry:
    """The entry with its newest change. If older bytes came back, their manifest compares two other snapshots."""
    is_compared = manifest.previous_sha256 == entry.sha256
    return replace(
        entry,
        changed_at=_stored(now),
        students_added=manifest.students_added if is_compared else None,
        students_removed=manifest.students_removed if is_compared else None,
        students_changed=manifest.students_changed if is_compared else None,
        students_before=entry.students if entry.has_snapshot else None,
    )


def _stored(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
