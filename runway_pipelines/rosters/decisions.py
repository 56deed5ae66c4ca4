"""What a person decides about a tenant's roster: approve, reject, roll back, unpin, and what is expected to come.

A decision takes the tenant's lock and follows the order of a refresh (snapshot, copies, pointer); it never asks the
warehouse. It is on record before it takes effect and after. Killed at any moment, it leaves the tenant as before or as
decided; saying it again finishes it. See the publication guards contract, section 3.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from psycopg import Connection

from runway_pipelines.errors import DecisionRefused, StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.audit import Entry, on_record
from runway_pipelines.rosters.guards import GUARD_NAMES
from runway_pipelines.rosters.holds import (
    LEAST_SHA256,
    SHA256_SHOWN,
    Expectation,
    Expectations,
    Hold,
    delete_hold,
    read_expectations,
    read_hold,
    signed,
    write_expectations,
    write_hold,
)
from runway_pipelines.rosters.manifest import Manifest, Pointer, Signature, lock_name, pointer_key
from runway_pipelines.rosters.outcome import TenantOutcome, TenantStatus
from runway_pipelines.rosters.publication import (
    copy_again,
    point,
    previous_of,
    publish,
    read_manifest,
    readable_pointer,
    verified_digest,
    whole_sha256,
)
from runway_pipelines.rosters.quality import blocking, judge_announced, not_empty
from runway_pipelines.systems.aws.object_store import ObjectStore, StoredDocument
from runway_pipelines.systems.postgres.databases import ApplicationDatabase

MOST_EXPECTED = timedelta(days=60)


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
    """A decision, and the tenant as it finds it under its lock."""

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
        """Put it on record before the body makes it take effect, and after."""
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
    """Make a decision take effect; returns what is published then.

    Raises `DecisionRefused` for one that does not fit what is there, `StoredObjectDamaged` where the snapshot is not
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
    return replace(outcome, seconds=time.monotonic() - started)


def _approve(case: _Case) -> TenantOutcome:
    pointer, hold = case.pointer, case.hold
    if pointer is not None and pointer.pinned is not None:
        raise _refused("a tenant that is not pinned", f"{case.tenant} pinned {pointer.pinned}", "unpin it first")
    if hold is None and pointer is not None and _names(case.decision.sha256, pointer.sha256):
        # It was said before, and the process died before it said that it was done.
        return _as_it_is(case, pointer, "published already")
    hold = _candidate(case)
    if pointer is not None and pointer.sha256 not in (hold.published_sha256, hold.sha256):
        raise _refused(
            "a candidate that was compared with what is published now",
            f"one that was held beside {(hold.published_sha256 or 'nothing')[:SHA256_SHOWN]}",
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
        raise _refused("a candidate that is not published", "one that was approved meanwhile", "roll back instead")
    hold = replace(hold, rejected=hold.rejected or case.signature)
    with case.recorded(to=hold.sha256):
        write_hold(case.context.store, case.tenant, hold)
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
            # Never what was rolled back from: a second one would publish it again.
            previous_sha256=manifest.previous_sha256,
            pinned=case.signature,
            place=manifest.place or (case.pointer.place if case.pointer else None),
        )
        outcome = _publish(case, pinned, manifest)
        delete_hold(case.context.store, case.tenant)
    return replace(
        outcome,
        status=TenantStatus.PINNED,
        reason=f"rolled back to {sha256[:SHA256_SHOWN]} and pinned {case.signature}; {outcome.reason}",
        pinned_at=case.signature.at,
    )


def _unpin(case: _Case) -> TenantOutcome:
    pointer = case.pointer
    if pointer is None:
        raise _refused("a tenant with a published roster", f"none for {case.tenant}", "refresh it")
    if pointer.pinned is not None:
        with case.recorded(to=pointer.sha256):
            point(case.context.store, case.tenant, replace(pointer, pinned=None), replacing=case.stored)
            _copy_again(case)
    return _as_it_is(case, pointer, "not pinned: the next refresh publishes, if the guards let it")


def _candidate(case: _Case) -> Hold:
    """The hold, if the decision names its candidate."""
    hold, named = case.hold, case.decision.sha256
    if hold is None:
        raise _refused(
            f"a candidate of {case.tenant} that is held",
            "none",
            f"see what is published: runway-pipelines rosters show {case.tenant}",
        )
    if not _names(named, hold.sha256):
        raise _refused(
            f"at least the first {LEAST_SHA256} digits of the candidate that was looked at",
            f"{named or 'none'}; what is held now is {hold.sha256[:SHA256_SHOWN]}, since {hold.since}",
            f"look at it (runway-pipelines rosters diff {case.tenant}), then decide",
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
    remedy = f"name one with --to; runway-pipelines rosters show {case.tenant} lists them"
    if named is None:
        if pointer is not None and pointer.pinned is not None:
            # Said before, by a process that died before its end: this finishes it. Further back leads --to.
            return pointer.sha256
        if pointer is None or pointer.previous_sha256 is None:
            raise _refused("a snapshot that was published before", "none", remedy)
        return pointer.previous_sha256
    if len(named) < LEAST_SHA256:
        raise _refused(f"at least the first {LEAST_SHA256} digits of a snapshot", f"{len(named)} digits", remedy)
    return whole_sha256(case.context.store, case.tenant, named)


def _acceptable(case: _Case, sha256: str) -> Manifest:
    """A kept snapshot's manifest, if it passes what nobody can approve away."""
    manifest = read_manifest(case.context.store, case.tenant, sha256)
    if manifest is None:
        raise _refused("a snapshot with a manifest", f"none for {sha256[:SHA256_SHOWN]}", "choose another, or refresh")
    if blocks := blocking([not_empty(manifest), *judge_announced(manifest)]):
        reasons = "; ".join(result.reason for result in blocks)
        raise _refused("a roster that passes every blocking check", reasons, "correct the warehouse, then refresh")
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
        f"published to {len(years)} school years, {len(keys_written)} of them written",
        0,
        manifest=manifest,
        verified_at=pointer.verified_at,
        school_years=years,
        keys_written=keys_written,
    )


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
    """What is published, where nothing was left to publish."""
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


def expect(
    context: DecisionContext,
    partner_id: str,
    tenant_code: str | None,
    guards: Sequence[str],
    until: datetime,
    decided_by: str,
    reason: str,
) -> Expectation:
    """Approve ahead a change that is known to come; raises `DecisionRefused`, `PublicationRaced`."""
    now = context.now()
    signature = signed(decided_by, reason, now)
    unknown = sorted(set(guards) - set(GUARD_NAMES))
    if unknown or not guards:
        raise _refused(f"guards of {', '.join(GUARD_NAMES)}", ", ".join(unknown) or "none", "name those that will fail")
    if not now < until <= now + MOST_EXPECTED:
        raise _refused(
            f"an end between now and {MOST_EXPECTED.days} days from now",
            until.isoformat(),
            "say until when it is expected",
        )
    expectation = Expectation(
        uuid.uuid4().hex[:8], tuple(guards), until.astimezone(UTC).isoformat(timespec="seconds"), signature, tenant_code
    )
    known, stored = read_expectations(context.store, partner_id)
    kept = tuple(each for each in known.expectations if datetime.fromisoformat(each.until) > now)
    with on_record(context.store, _of_expectation("expect", partner_id, context.run_id, expectation), context.now):
        write_expectations(context.store, partner_id, Expectations((*kept, expectation)), replacing=stored)
    return expectation


def end_expectation(
    context: DecisionContext, partner_id: str, expectation_id: str, decided_by: str, reason: str
) -> Expectation:
    """End an expectation before its time; raises `DecisionRefused`, `PublicationRaced`."""
    signature = signed(decided_by, reason, context.now())
    known, stored = read_expectations(context.store, partner_id)
    found = [each for each in known.expectations if each.id == expectation_id]
    if not found:
        raise _refused(
            f"the id of one of {partner_id}'s {len(known.expectations)} expectations", expectation_id, "list them"
        )
    (ended,) = found
    entry = _of_expectation("expect-end", partner_id, context.run_id, replace(ended, signature=signature))
    with on_record(context.store, entry, context.now):
        rest = tuple(each for each in known.expectations if each.id != expectation_id)
        write_expectations(context.store, partner_id, Expectations(rest), replacing=stored)
    return ended


def _of_expectation(what: str, partner_id: str, run_id: str, expectation: Expectation) -> Entry:
    return Entry(
        what,
        partner_id,
        expectation.tenant_code,
        run_id,
        signature=expectation.signature,
        details={
            "expectation": expectation.id,
            "guards": ", ".join(expectation.guards),
            "until": expectation.until,
        },
    )


def _refused(expected: str, came: str, remedy: str) -> DecisionRefused:
    return DecisionRefused(expected=expected, came=came, remedy=remedy)
