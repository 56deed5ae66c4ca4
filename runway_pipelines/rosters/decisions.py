"""What a person decides about a tenant's roster: approve, reject, roll back, unpin.

A decision takes the tenant's lock and follows the order of a refresh (snapshot, copies, pointer); it never asks the
warehouse. It is on record before it takes effect and after. A process that is killed at any moment leaves the tenant as
before or as decided; making the decision again finishes it. See the publication guards contract, section 3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from psycopg import Connection

from runway_pipelines.errors import DecisionRefused, StoredObjectDamaged
from runway_pipelines.operations.wording import LEAST_SHA256, SHA256_SHOWN
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.audit import complete_begun, entries, on_record
from runway_pipelines.rosters.holds import (
    Hold,
    delete_hold,
    read_hold,
    signed,
    write_hold,
)
from runway_pipelines.rosters.manifest import Manifest, Pointer, Signature, lock_name, pointer_key
from runway_pipelines.rosters.outcome import TenantOutcome, TenantStatus
from runway_pipelines.rosters.publication import (
    copy_again,
    list_manifests,
    point,
    previous_of,
    publish,
    published_in_words,
    published_keys,
    read_manifest,
    readable_pointer,
    verified_digest,
    whole_sha256,
)
from runway_pipelines.rosters.quality import blocking, judge_announced, not_empty
from runway_pipelines.rosters.record import WERE_PUBLISHED, Entry
from runway_pipelines.systems.aws.object_store import ObjectStore, StoredDocument
from runway_pipelines.systems.postgres.databases import ApplicationDatabase


class What(StrEnum):
    """The decisions about one tenant."""

    APPROVE = "approve"
    REJECT = "reject"
    ROLLBACK = "rollback"
    UNPIN = "unpin"


@dataclass(frozen=True)
class Decision:
    """What is decided, by whom and why.

    ``sha256`` (or its first digits) names the candidate to approve or reject, or the snapshot to roll back to; without
    it a rollback goes to the one that was published before.
    """

    what: What
    decided_by: str
    reason: str
    sha256: str | None = None


@dataclass(frozen=True)
class DecisionContext:
    """What decisions are made with."""

    store: ObjectStore
    database: ApplicationDatabase
    run_id: str
    lock_wait_seconds: int
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class _Case:
    """A decision, and the tenant's state as read under its lock."""

    context: DecisionContext
    tenant: PartnerTenant
    school_years: tuple[int, ...]
    decision: Decision
    signature: Signature
    stored: StoredDocument | None
    pointer: Pointer | None
    hold: Hold | None
    lock: Connection[Any]

    @contextmanager
    def recorded(self, to: str) -> Iterator[None]:
        """Record the decision before the body makes it take effect, and again after."""
        entry = Entry(
            self.decision.what.value,
            self.tenant.partner_id,
            self.tenant.tenant_code,
            self.context.run_id,
            self.pointer.sha256 if self.pointer else None,
            to,
            self.signature,
            {"guards": ", ".join(self.hold.guards)} if self.hold else {},
        )
        with on_record(self.context.store, entry, self.context.now):
            yield


def decide(
    context: DecisionContext, tenant: PartnerTenant, school_years: Sequence[int], decision: Decision
) -> TenantOutcome:
    """Make a decision take effect; returns what is published afterwards.

    Raises `DecisionRefused` if the decision does not fit what is there, `StoredObjectDamaged` if the snapshot is not
    what was kept, `LockTimeout`.
    """
    signature = signed(decision.decided_by, decision.reason, context.now())
    act = {What.APPROVE: _approve, What.REJECT: _reject, What.ROLLBACK: _roll_back, What.UNPIN: _unpin}[decision.what]
    started = time.monotonic()
    with context.database.advisory_lock(lock_name(tenant), context.lock_wait_seconds) as lock:
        stored = context.store.read(pointer_key(tenant))
        # A damaged pointer is written anew.
        pointer, hold = readable_pointer(tenant, stored), read_hold(context.store, tenant)
        outcome = act(_Case(context, tenant, tuple(school_years), decision, signature, stored, pointer, hold, lock))
        known_at = context.now()
    return replace(outcome, seconds=time.monotonic() - started, known_at=known_at)


def _approve(case: _Case) -> TenantOutcome:
    pointer, hold = case.pointer, case.hold
    if pointer is not None and pointer.pinned is not None:
        raise refusal("a tenant that is not pinned", f"{case.tenant} pinned {pointer.pinned}", "unpin it first")
    if hold is None and pointer is not None and _names(case.decision.sha256, pointer.sha256):
        # The decision was made before, and its process died before it recorded that it was done.
        _complete_record(case, pointer.sha256)
        return _as_it_is(case, pointer, "published already")
    hold = _candidate(case)
    if pointer is not None and pointer.sha256 not in (hold.published_sha256, hold.sha256):
        raise refusal(
            "a candidate that was compared with what is published now",
            f"one that was compared with {(hold.published_sha256 or 'nothing')[:SHA256_SHOWN]}",
            f"refresh {case.tenant}, then decide",
        )
    manifest = _acceptable(case, hold.sha256)
    with case.recorded(to=hold.sha256):
        approved = Pointer(
            sha256=hold.sha256,
            verified_at=hold.seen_at,
            query_started_at=hold.query_started_at,
            secret_version_id=hold.secret_version_id,
            run_id=case.context.run_id,
            previous_sha256=previous_of(pointer, hold.sha256),
            place=hold.place,
        )
        outcome = _publish(case, approved, manifest)
        delete_hold(case.context.store, case.tenant)
    return replace(outcome, reason=f"approved {case.signature.said}; {outcome.reason}")


def _reject(case: _Case) -> TenantOutcome:
    hold, pointer = _candidate(case), case.pointer
    if pointer is not None and pointer.sha256 == hold.sha256 != hold.published_sha256:
        raise refusal("a candidate that is not published", "one that was approved meanwhile", "roll back instead")
    hold = replace(hold, rejected=hold.rejected or case.signature)
    with case.recorded(to=hold.sha256):
        write_hold(case.context.store, case.tenant, hold)
        if pointer is None:
            _withdraw(case, hold.sha256)
        _copy_again(case)
    return TenantOutcome(case.tenant, TenantStatus.HELD, hold.said_of(case.tenant), 0, hold=hold)


def _roll_back(case: _Case) -> TenantOutcome:
    sha256 = _target(case)
    manifest = _acceptable(case, sha256)
    with case.recorded(to=sha256):
        pinned = Pointer(
            sha256=sha256,
            verified_at=manifest.created_at,  # when the warehouse last gave these bytes is not known
            query_started_at=manifest.query_started_at,
            secret_version_id=manifest.secret_version_id,
            run_id=case.context.run_id,
            # Never what this rolls back from: a second rollback would publish it again.
            previous_sha256=manifest.previous_sha256,
            pinned=case.signature,
            place=manifest.place or (case.pointer.place if case.pointer else None),
        )
        outcome = _publish(case, pinned, manifest)
        delete_hold(case.context.store, case.tenant)
    what = f"rolled back to {sha256[:SHA256_SHOWN]} with {manifest.students:,} students, and pinned {case.signature}"
    return replace(
        outcome,
        status=TenantStatus.PINNED,
        reason=f"{what}; {outcome.reason}",
        pinned_at=case.signature.at,
    )


def _unpin(case: _Case) -> TenantOutcome:
    pointer = case.pointer
    if pointer is None:
        raise refusal("a tenant with a published roster", f"none for {case.tenant}", "refresh it")
    if pointer.pinned is not None:
        with case.recorded(to=pointer.sha256):
            point(case.context.store, case.tenant, replace(pointer, pinned=None), replacing=case.stored)
            _copy_again(case)
    else:
        _complete_record(case, None)
    return _as_it_is(case, pointer, "not pinned: the next refresh publishes, if the guards let it")


def _complete_record(case: _Case, to_sha256: str | None) -> None:
    """Record that the decision has taken effect, if an earlier process made it and died before recording that."""
    context, what = case.context, case.decision.what.value
    complete_begun(context.store, case.tenant, context.now(), what, to_sha256=to_sha256)


def _candidate(case: _Case) -> Hold:
    """The hold, if the decision names its candidate."""
    hold, named = case.hold, case.decision.sha256
    if hold is None:
        raise refusal(
            f"a candidate of {case.tenant} that is held",
            "none",
            f"see what is published: runway-pipelines rosters show {case.tenant.quoted}",
        )
    if not _names(named, hold.sha256):
        raise refusal(
            f"at least the first {LEAST_SHA256} digits of the candidate that was looked at",
            f"{named or 'none'}; what is held now is {hold.sha256[:SHA256_SHOWN]}, since {hold.since}",
            f"look at it (runway-pipelines rosters diff {case.tenant.quoted}), then decide",
        )
    return hold


def _names(beginning: str | None, sha256: str | None) -> bool:
    return (
        beginning is not None
        and sha256 is not None
        and len(beginning) >= LEAST_SHA256
        and sha256.startswith(beginning.lower())
    )


def _target(case: _Case) -> str:
    """The snapshot to roll back to."""
    pointer, named = case.pointer, case.decision.sha256
    remedy = f"name one with --to; runway-pipelines rosters show {case.tenant.quoted} lists them"
    if named is None:
        if pointer is not None and pointer.pinned is not None:
            # Rolled back before, perhaps by a process that died: this finishes it. To go further back, use --to.
            return pointer.sha256
        if pointer is None or pointer.previous_sha256 is None:
            raise refusal("a snapshot that was published before", "none", remedy)
        return pointer.previous_sha256
    if len(named) < LEAST_SHA256:
        raise refusal(f"at least the first {LEAST_SHA256} digits of a snapshot", f"{len(named)} digits", remedy)
    found = whole_sha256(case.context.store, case.tenant, named)
    if not _was_published(case, found):
        raise refusal(
            "a snapshot that was published",
            f"{found[:SHA256_SHOWN]}, a candidate that was never published",
            f"choose another; what is held is published with runway-pipelines rosters approve {case.tenant.quoted}",
        )
    return found


def _was_published(case: _Case, sha256: str) -> bool:
    """Whether the snapshot is or was published.

    Each manifest names what was published when it was taken, and each decision what was published before it. A pruning
    records what the manifests that it deletes say of the snapshots that stay.
    """
    pointer, store, tenant = case.pointer, case.context.store, case.tenant
    if pointer is not None and sha256 in (pointer.sha256, pointer.previous_sha256):
        return True
    return any(manifest.previous_sha256 == sha256 for manifest in list_manifests(store, tenant)) or any(
        sha256 in (entry.from_sha256, *str(entry.details.get(WERE_PUBLISHED, "")).split())
        for entry in entries(store, tenant)
    )


def _acceptable(case: _Case, sha256: str) -> Manifest:
    """A kept snapshot's manifest, if it passes the checks that nobody can override."""
    manifest = read_manifest(case.context.store, case.tenant, sha256)
    if manifest is None:
        raise refusal("a snapshot with a manifest", f"none for {sha256[:SHA256_SHOWN]}", "choose another, or refresh")
    if blocks := blocking([not_empty(manifest), *judge_announced(manifest)]):
        reasons = "; ".join(result.reason for result in blocks)
        raise refusal("a roster that passes every blocking check", reasons, "correct the warehouse, then refresh")
    return manifest


def _publish(case: _Case, pointer: Pointer, manifest: Manifest) -> TenantOutcome:
    """Publish a kept snapshot, verified: copies, then the pointer."""
    store, tenant, years = case.context.store, case.tenant, case.school_years
    digest = verified_digest(store, tenant, pointer.sha256)
    # The lock ends with its connection. If that broke while the snapshot was read, a run may be copying by now.
    case.lock.execute("select 1")
    keys_written = publish(store, tenant, years, digest)
    point(store, tenant, pointer, replacing=case.stored)
    is_same = case.pointer is not None and case.pointer.sha256 == pointer.sha256
    return TenantOutcome(
        tenant,
        TenantStatus.UNCHANGED if is_same else TenantStatus.NEW,
        published_in_words(years, keys_written),
        0,
        manifest=manifest,
        verified_at=pointer.verified_at,
        school_years=years,
        keys_written=keys_written,
    )


def _withdraw(case: _Case, sha256: str) -> None:
    """Delete the copies of a first roster: an approval may have died between two of them, and they are rejected."""
    store = case.context.store
    copies = {key: store.stat(key) for key in published_keys(store, case.tenant, with_snapshots=False)}
    store.delete([key for key, found in copies.items() if found is not None and found.sha256 == sha256])


def _copy_again(case: _Case) -> None:
    """See to it that every school year has what is published: another decision may have died between two copies."""
    if case.pointer is None:
        return
    # A damaged snapshot cannot be copied, and this decision publishes nothing.
    with suppress(StoredObjectDamaged):
        copy_again(
            case.context.store,
            case.tenant,
            case.school_years,
            case.pointer.sha256,
            lambda: case.lock.execute("select 1"),
        )


def _as_it_is(case: _Case, pointer: Pointer, reason: str) -> TenantOutcome:
    """The outcome when nothing was left to publish: what is published already."""
    manifest = read_manifest(case.context.store, case.tenant, pointer.sha256)
    return TenantOutcome(
        case.tenant,
        TenantStatus.UNCHANGED,
        reason,
        0,
        manifest=manifest,
        verified_at=pointer.verified_at,
        school_years=case.school_years,
    )


def refusal(expected: str, came: str, remedy: str) -> DecisionRefused:
    """A decision that does not fit what is there."""
    return DecisionRefused(expected=expected, came=came, remedy=remedy)
