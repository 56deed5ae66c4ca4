"""The gate between a roster that was read and its readers: it is published, held, kept beside a pin, or refused.

Every run publishes through `publish_extract`. Only a person's decision publishes in another way (`decisions`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import IO, Any

from psycopg import Connection

from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.wording import SHA256_SHOWN
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.audit import on_record
from runway_pipelines.rosters.earlier import carried_on
from runway_pipelines.rosters.guards import GUARD_NAMES, as_warnings, holding
from runway_pipelines.rosters.holds import Hold, delete_hold, held_for, write_hold
from runway_pipelines.rosters.judgement import judged, manifest_of
from runway_pipelines.rosters.manifest import Earlier, Manifest, Pointer, Signature
from runway_pipelines.rosters.outcome import Extract, RefreshContext, TenantOutcome, TenantStatus, refused
from runway_pipelines.rosters.publication import (
    Published,
    copy_again,
    keep_snapshot,
    point,
    previous_of,
    publish,
    published_in_words,
)
from runway_pipelines.rosters.quality import STUDENTS_LOST, CheckResult, as_refusals, blocking
from runway_pipelines.rosters.record import Entry
from runway_pipelines.rosters.standing import Standing, find_standing


def publish_extract(
    context: RefreshContext,
    tenant: PartnerTenant,
    school_years: tuple[int, ...],
    file: IO[bytes],
    extract: Extract,
    started: float,
    lock: Connection[Any],
) -> TenantOutcome:
    """Judge a roster that was read, then publish it, hold it or leave it: the only way in which a run publishes.

    Called under the tenant's lock; ``lock`` is the connection that holds it. ``started`` is by the monotonic clock.
    """
    standing = find_standing(context, tenant, school_years)
    if (later := standing.published_after(extract.query_started_at)) is not None:
        return TenantOutcome(
            tenant,
            TenantStatus.SUPERSEDED,
            f"run {later.run_id} published the roster of a later query, so this one is discarded",
            time.monotonic() - started,
            manifest=standing.manifest,
            verified_at=later.verified_at,
        )
    if (hold := standing.held_after(extract.query_started_at, context.now())) is not None:
        # This roster is discarded, because its query is older. The tenant still waits for a person.
        return TenantOutcome(tenant, TenantStatus.HELD, hold.said_of(tenant), time.monotonic() - started, hold=hold)

    manifest = manifest_of(context, tenant, file, extract, standing)
    results, expected = judged(context, tenant, manifest, standing)
    if blocks := blocking(results):
        # A guard would wait for a person, but nobody can approve a refused roster.
        results = as_warnings(results, GUARD_NAMES, "the roster is refused, whatever is decided")
        _published_again(context, tenant, school_years, standing, lock)
        return refused(tenant, blocks, as_refusals(results), time.monotonic() - started)

    keep_snapshot(context.store, tenant, file, extract.digest, manifest, known=standing.manifest)
    # The lock ends with its connection. If that broke during a long upload, another run may be copying by now.
    lock.execute("select 1")
    if standing.published is not None and standing.pinned is not None:
        keys_written = _published_again(context, tenant, school_years, standing, lock)
        if standing.hold is not None:  # a rollback was killed before it ended the hold
            delete_hold(context.store, tenant)
        return _pinned(tenant, manifest, standing.published, standing.pinned, results, keys_written, started)
    if holding(results) or standing.has_rejected(manifest.sha256):
        keys_written = _published_again(context, tenant, school_years, standing, lock)
        return _held(context, tenant, manifest, extract, standing, results, keys_written, started)

    with _recorded(context, expected), _released(context, tenant, standing.hold, manifest):
        keys_written = publish(context.store, tenant, school_years, extract.digest)
        pointer = Pointer(
            sha256=manifest.sha256,
            verified_at=context.now().isoformat(),
            query_started_at=extract.query_started_at.isoformat(),
            secret_version_id=extract.secret_version,
            run_id=context.run_id,
            previous_sha256=previous_of(standing.pointer, manifest.sha256),
            place=extract.place,
            earlier=_earlier(standing, manifest, expected, context.now()),
        )
        point(context.store, tenant, pointer, replacing=standing.stored)

    unchanged = standing.pointer is not None and standing.pointer.sha256 == manifest.sha256
    return TenantOutcome(
        tenant,
        TenantStatus.UNCHANGED if unchanged else TenantStatus.NEW,
        "; ".join(filter(None, [published_in_words(school_years, keys_written), standing.wrong_clock])),
        time.monotonic() - started,
        manifest=manifest,
        verified_at=pointer.verified_at,
        check_results=results,
        school_years=school_years,
        keys_written=keys_written,
    )


def _earlier(standing: Standing, manifest: Manifest, expected: Sequence[Entry], now: datetime) -> tuple[Earlier, ...]:
    """What the pointer remembers of the last days; nothing after a loss that a person expected."""
    if any(entry.details["guard"] == STUDENTS_LOST for entry in expected):
        return ()
    return carried_on(standing.pointer, standing.manifest, manifest, now)


@contextmanager
def _recorded(context: RefreshContext, entries: Iterable[Entry]) -> Iterator[None]:
    with ExitStack() as records:
        for entry in entries:
            records.enter_context(on_record(context.store, entry, context.now))
        yield


def _held(
    context: RefreshContext,
    tenant: PartnerTenant,
    manifest: Manifest,
    extract: Extract,
    standing: Standing,
    results: tuple[CheckResult, ...],
    keys_written: tuple[str, ...],
    started: float,
) -> TenantOutcome:
    """Hold the candidate, which is kept by now; what was published stays, in every school year."""
    now = context.now().isoformat(timespec="seconds")
    before = standing.hold
    is_same = before is not None and before.sha256 == manifest.sha256
    reasons = held_for(holding(results))
    hold = Hold(
        sha256=manifest.sha256,
        since=now,
        run_id=context.run_id,
        # A rejected candidate may pass every guard by now: an expectation lets it, or another tenant's approval.
        reasons=before.reasons if before is not None and is_same and not reasons else reasons,
        published_sha256=standing.pointer.sha256 if standing.pointer else None,
        students=manifest.students,
        seen_at=now,
        query_started_at=extract.query_started_at.isoformat(),
        secret_version_id=extract.secret_version,
        place=extract.place,
    )
    # Rejected bytes stay rejected, whichever guards hold them today.
    if before is not None and is_same and (before.rejected or before.guards == hold.guards):
        hold = replace(hold, since=before.since, run_id=before.run_id, rejected=before.rejected)
        write_hold(context.store, tenant, hold)
    else:
        entry = _entry(context, tenant, "hold", hold.published_sha256, hold.sha256, {"guards": ", ".join(hold.guards)})
        with on_record(context.store, entry, context.now):
            write_hold(context.store, tenant, hold)
    to_do = hold.what_to_do(tenant)
    return TenantOutcome(
        tenant,
        TenantStatus.HELD,
        hold.said_of(tenant),
        time.monotonic() - started,
        check_results=tuple(
            replace(result, reason=f"{result.reason}. {to_do}") if result in holding(results) else result
            for result in results
        ),
        keys_written=keys_written,
        hold=hold,
        candidate=manifest,
    )


def _pinned(
    tenant: PartnerTenant,
    manifest: Manifest,
    published: Published,
    pinned: Signature,
    results: tuple[CheckResult, ...],
    keys_written: tuple[str, ...],
    started: float,
) -> TenantOutcome:
    """Publish nothing: a person pinned what is published, and it stays until a person unpins it."""
    return TenantOutcome(
        tenant,
        TenantStatus.PINNED,
        f"pinned {pinned}. The warehouse's roster {manifest.sha256[:SHA256_SHOWN]} is kept, and not "
        f"published. To publish again: runway-pipelines rosters unpin {tenant.quoted} --reason '...'",
        time.monotonic() - started,
        manifest=published.manifest,
        verified_at=published.pointer.verified_at,
        check_results=results,
        keys_written=keys_written,
        candidate=manifest,
        pinned_at=pinned.at,
    )


def _published_again(
    context: RefreshContext,
    tenant: PartnerTenant,
    school_years: tuple[int, ...],
    standing: Standing,
    lock: Connection[Any],
) -> tuple[str, ...]:
    """See to it that every school year has what is published when this run publishes nothing new."""
    if standing.pointer is None:
        return ()
    sha256 = standing.pointer.sha256
    try:
        return copy_again(context.store, tenant, school_years, sha256, lambda: lock.execute("select 1"))
    except RunwayError as error:
        context.log.warning(f"{tenant}: what is published was not copied anew: {error}", extra={"tenant": str(tenant)})
        return ()


@contextmanager
def _released(context: RefreshContext, tenant: PartnerTenant, hold: Hold | None, manifest: Manifest) -> Iterator[None]:
    """Publish a candidate that passes; the hold, if there is one, ends with it."""
    if hold is None:
        yield
        return
    details = {"held_sha256": hold.sha256, "guards": ", ".join(hold.guards)}
    with on_record(
        context.store, _entry(context, tenant, "release", hold.published_sha256, manifest.sha256, details), context.now
    ):
        yield
        delete_hold(context.store, tenant)


def _entry(
    context: RefreshContext,
    tenant: PartnerTenant,
    what: str,
    from_sha256: str | None,
    to_sha256: str,
    details: Mapping[str, str],
) -> Entry:
    return Entry(what, tenant.partner_id, tenant.tenant_code, context.run_id, from_sha256, to_sha256, details=details)
