"""The gate between a roster that was read and its readers: it is published, held, kept beside a pin, or refused.

Every run publishes through `publish_extract`; nothing else does, but a person's decision (`decisions`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import IO, Any

from psycopg import Connection

from runway_pipelines.errors import Permanent, RunwayError, StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.audit import Entry, on_record
from runway_pipelines.rosters.comparison import RosterChanges, compare_rosters
from runway_pipelines.rosters.freshness import ahead_of, moment_of
from runway_pipelines.rosters.guards import (
    GUARD_NAMES,
    Comparison,
    as_warnings,
    combine,
    holding,
    judge_guards,
)
from runway_pipelines.rosters.holds import (
    SHA256_SHOWN,
    Hold,
    delete_hold,
    held_for,
    read_expectations,
    read_hold,
    what_to_do,
    write_hold,
)
from runway_pipelines.rosters.manifest import (
    Manifest,
    Pointer,
    Signature,
    pointer_key,
    snapshot_key,
    snapshots_prefix,
    stable_key,
)
from runway_pipelines.rosters.outcome import Extract, RefreshContext, TenantOutcome, TenantStatus
from runway_pipelines.rosters.publication import (
    Published,
    copy_again,
    keep_snapshot,
    parse_published,
    point,
    previous_of,
    publish,
    read_manifest,
)
from runway_pipelines.rosters.quality import CheckResult, blocking, judge
from runway_pipelines.systems.aws.object_store import StoredDocument


def publish_extract(
    context: RefreshContext,
    tenant: PartnerTenant,
    school_years: tuple[int, ...],
    file: IO[bytes],
    extract: Extract,
    started: float,
    lock: Connection[Any],
) -> TenantOutcome:
    """Judge a roster that was read, and publish it, hold it, or leave it: the one way by which a run publishes.

    Under the tenant's ``lock``, which is the connection that holds it. ``started`` is of the monotonic clock.
    """
    stored, hold = context.store.read(pointer_key(tenant)), read_hold(context.store, tenant)
    published = _without_pointer(context, tenant, school_years, hold) if stored is None else None
    published = published or _published(context, tenant, stored)
    wrong_clock = _wrong_clock(context, tenant, published)
    if (later := _later(context, published, hold, extract, is_pointer_wrong=bool(wrong_clock))) is not None:
        return TenantOutcome(
            tenant,
            TenantStatus.SUPERSEDED,
            f"{later} the roster of a later query, so this one is discarded",
            time.monotonic() - started,
            manifest=published.manifest if published else None,
            verified_at=published.pointer.verified_at if published else None,
        )

    context.store.abort_pending_uploads(snapshots_prefix(tenant))
    manifest = _manifest(context, tenant, file, extract, published)
    is_first = stored is None and published is None
    results, expected = _judged(context, tenant, manifest, published, is_first=is_first)
    if blocks := blocking(results):
        reason = "; ".join(result.reason for result in blocks)
        # A guard waits for a person, and nobody can approve this.
        results = as_warnings(results, GUARD_NAMES, "the roster is refused, whatever is decided")
        _published_again(context, tenant, school_years, published, lock)
        return TenantOutcome(tenant, TenantStatus.HELD, reason, time.monotonic() - started, check_results=results)

    keep_snapshot(
        context.store, tenant, file, extract.digest, manifest, known=published.manifest if published else None
    )
    # The lock ends with its connection. If that broke during a long upload, another run may be copying by now.
    lock.execute("select 1")
    if published is not None and (pinned := published.pointer.pinned) is not None:
        keys_written = _published_again(context, tenant, school_years, published, lock)
        if hold is not None:  # a rollback was killed before it ended it
            delete_hold(context.store, tenant)
        return _pinned(tenant, manifest, published, pinned, results, keys_written, started)
    if holding(results):
        keys_written = _published_again(context, tenant, school_years, published, lock)
        return _held(context, tenant, manifest, extract, published, results, hold, keys_written, started)

    with _recorded(context, expected), _released(context, tenant, hold, manifest):
        keys_written = publish(context.store, tenant, school_years, extract.digest)
        pointer = Pointer(
            sha256=manifest.sha256,
            verified_at=context.now().isoformat(),
            query_started_at=extract.query_started_at.isoformat(),
            secret_version_id=extract.secret_version,
            run_id=context.run_id,
            previous_sha256=previous_of(published.pointer if published else None, manifest.sha256),
            place=extract.place,
        )
        point(context.store, tenant, pointer, replacing=stored)

    unchanged = published is not None and published.pointer.sha256 == manifest.sha256
    return TenantOutcome(
        tenant,
        TenantStatus.UNCHANGED if unchanged else TenantStatus.NEW,
        "; ".join(filter(None, [_publication_reason(school_years, keys_written), wrong_clock])),
        time.monotonic() - started,
        manifest=manifest,
        verified_at=pointer.verified_at,
        check_results=results,
        school_years=school_years,
        keys_written=keys_written,
    )


def _later(
    context: RefreshContext,
    published: Published | None,
    hold: Hold | None,
    extract: Extract,
    *,
    is_pointer_wrong: bool,
) -> str | None:
    """Which run did what with a later query's roster; None if none did.

    When two runs overlap, the older query must not release what the newer one held.
    """
    if published is not None and not is_pointer_wrong and published.pointer.is_newer_than(extract.query_started_at):
        return f"run {published.pointer.run_id} published"
    held_of = moment_of(hold.query_started_at) if hold else None
    if hold is None or held_of is None or ahead_of(context.now(), held_of) is not None:
        return None
    return f"run {hold.run_id} held" if held_of > extract.query_started_at else None


def _judged(
    context: RefreshContext, tenant: PartnerTenant, manifest: Manifest, published: Published | None, *, is_first: bool
) -> tuple[tuple[CheckResult, ...], tuple[Entry, ...]]:
    """Every rule's and every guard's result; what somebody expected is a warning, to be put on record if it passes."""
    before = published.manifest if published else None
    place = published.place if published else None
    comparison = Comparison(before, is_first, () if before else context.places(tenant), place)
    results = combine(judge(manifest, before, context.thresholds), judge_guards(manifest, comparison, context.guards))
    if published is not None and published.pointer.pinned is not None:
        return as_warnings(results, GUARD_NAMES, "nothing is published while the tenant is pinned"), ()
    return _expected(context, tenant, manifest, results, published) if holding(results) else (results, ())


def _expected(
    context: RefreshContext,
    tenant: PartnerTenant,
    manifest: Manifest,
    results: tuple[CheckResult, ...],
    published: Published | None,
) -> tuple[tuple[CheckResult, ...], tuple[Entry, ...]]:
    try:
        expectations, _ = read_expectations(context.store, tenant.partner_id)
    except StoredObjectDamaged as error:
        context.log.warning(f"{tenant}: nothing is expected: {error}", extra={"tenant": str(tenant)})
        return results, ()
    entries = []
    for result in holding(results):
        expected = expectations.covering(tenant, result.rule.name, context.now())
        if expected is None:
            continue
        results = as_warnings(results, [result.rule.name], f"expected {expected.signature}")
        passed = Entry(
            "expected",
            tenant.partner_id,
            tenant.tenant_code,
            context.run_id,
            published.pointer.sha256 if published else None,
            manifest.sha256,
            expected.signature,
            {"expectation": expected.id, "guard": result.rule.name, **result.numbers},
        )
        entries.append(passed)
    return results, tuple(entries)


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
    published: Published | None,
    results: tuple[CheckResult, ...],
    standing: Hold | None,
    keys_written: tuple[str, ...],
    started: float,
) -> TenantOutcome:
    """Hold the candidate, which is kept by now; what was published stays, in every school year."""
    now = context.now().isoformat(timespec="seconds")
    hold = Hold(
        sha256=manifest.sha256,
        since=now,
        run_id=context.run_id,
        reasons=held_for(holding(results)),
        published_sha256=published.pointer.sha256 if published else None,
        students=manifest.students,
        seen_at=now,
        query_started_at=extract.query_started_at.isoformat(),
        secret_version_id=extract.secret_version,
        place=extract.place,
    )
    # Bytes that were rejected stay so, whichever guards hold them today.
    is_same = standing is not None and standing.sha256 == hold.sha256
    if standing is not None and is_same and (standing.rejected or standing.guards == hold.guards):
        hold = replace(hold, since=standing.since, run_id=standing.run_id, rejected=standing.rejected)
        write_hold(context.store, tenant, hold)
    else:
        entry = _entry(context, tenant, "hold", hold.published_sha256, hold.sha256, {"guards": ", ".join(hold.guards)})
        with on_record(context.store, entry, context.now):
            write_hold(context.store, tenant, hold)
    command = what_to_do(tenant, hold.sha256, is_first=published is None)
    return TenantOutcome(
        tenant,
        TenantStatus.HELD,
        hold.said_of(tenant),
        time.monotonic() - started,
        check_results=tuple(
            replace(result, reason=f"{result.reason}. {command}") if result in holding(results) else result
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
    """Publish nothing: a person chose what is published, until a person ends that."""
    return TenantOutcome(
        tenant,
        TenantStatus.PINNED,
        f"pinned {pinned}. The warehouse's roster {manifest.sha256[:SHA256_SHOWN]} is kept, and not "
        f"published. To publish again: runway-pipelines rosters unpin {tenant} --reason '...'",
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
    published: Published | None,
    lock: Connection[Any],
) -> tuple[str, ...]:
    """See to it that every school year has what is published, where this run publishes nothing else."""
    if published is None:
        return ()
    sha256 = published.pointer.sha256
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


def _without_pointer(
    context: RefreshContext, tenant: PartnerTenant, school_years: tuple[int, ...], hold: Hold | None
) -> Published | None:
    """What readers have where there is no pointer: a first run was killed before it, or somebody deleted it."""
    sizes = (context.store.stat(stable_key(tenant, year)) for year in school_years)
    digests = (found.sha256 for found in sizes if found is not None and found.sha256 is not None)
    sha256 = next(digests, hold.published_sha256 if hold else None)
    if sha256 is None:
        return None
    manifest = read_manifest(context.store, tenant, sha256)
    started_at = manifest.query_started_at if manifest else datetime.min.replace(tzinfo=UTC).isoformat()
    secret_version = manifest.secret_version_id if manifest else ""
    return Published(Pointer(sha256, started_at, started_at, secret_version, context.run_id), manifest)


def _published(context: RefreshContext, tenant: PartnerTenant, stored: StoredDocument | None) -> Published | None:
    """What is published. A pointer that cannot be read holds the candidate, and a decision writes it anew."""
    try:
        return parse_published(context.store, tenant, stored)
    except StoredObjectDamaged as error:
        context.log.warning(f"{tenant}: nothing to compare with: {error}", extra={"tenant": str(tenant)})
        return None


def _wrong_clock(context: RefreshContext, tenant: PartnerTenant, published: Published | None) -> str | None:
    """What to say of a pointer from the future, which supersedes nothing; None for one that is not.

    Otherwise one run with a fast clock would have all later ones discarded until its time has come.
    """
    if published is None:
        return None
    pointer, now = published.pointer, context.now()
    ahead = ahead_of(now, moment_of(pointer.query_started_at), moment_of(pointer.verified_at))
    if ahead is None:
        return None
    said = (
        f"the pointer of run {pointer.run_id} is from the future ({str(ahead).partition('.')[0]} ahead of now) and is "
        "replaced: the clock of that run was fast, or this one's is slow"
    )
    context.log.warning(f"{tenant}: {said}; runway-pipelines doctor compares clocks", extra={"tenant": str(tenant)})
    return said


def _publication_reason(school_years: Sequence[int], keys_written: Sequence[str]) -> str:
    if not school_years:
        return "not published: the partner has no enabled school year without send_to_ods, and only those use this file"
    return f"published to {len(school_years)} school years, {len(keys_written)} of them written"


def _manifest(
    context: RefreshContext, tenant: PartnerTenant, file: IO[bytes], extract: Extract, published: Published | None
) -> Manifest:
    counts = extract.counts
    changes = _changes(context, tenant, file, extract, published)
    return Manifest(
        partner_id=tenant.partner_id,
        tenant_code=tenant.tenant_code,
        sha256=extract.digest.sha256,
        bytes=extract.digest.size,
        **vars(counts)
        | {
            "students_by_id_system": dict(sorted(counts.students_by_id_system.items())),
            "students_by_school_year": {str(year): n for year, n in sorted(counts.students_by_school_year.items())},
        },
        query_id=extract.query_id,
        query_started_at=extract.query_started_at.isoformat(),
        query_seconds=extract.query_seconds,
        secret_version_id=extract.secret_version,
        run_id=context.run_id,
        created_at=context.now().isoformat(),
        previous_sha256=published.pointer.sha256 if published else None,
        students_added=changes.added if changes else None,
        students_removed=changes.removed if changes else None,
        students_changed=changes.changed if changes else None,
        account=extract.place.account,
        database=extract.place.database,
        schema=extract.place.schema,
    )


def _changes(
    context: RefreshContext, tenant: PartnerTenant, file: IO[bytes], extract: Extract, published: Published | None
) -> RosterChanges | None:
    """What changed since the published snapshot; None if there is none or it cannot be read."""
    if published is None:
        return None
    if published.pointer.sha256 == extract.digest.sha256:
        return RosterChanges(0, 0, 0)
    file.seek(0)
    try:
        return compare_rosters(context.store.lines(snapshot_key(tenant, published.pointer.sha256)), _lines(file))
    except Permanent as error:
        message = f"{tenant}: not compared with the previous snapshot: {error}"
        context.log.warning(message, extra={"tenant": str(tenant)})
        return None


def _lines(file: IO[bytes]) -> Iterable[bytes]:
    return iter(file.readline, b"")
