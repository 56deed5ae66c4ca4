"""A roster that was read, beside what is published: its manifest, and what every check and guard says of it.

Reads what is needed to compare and writes nothing. What follows from the results is the gate's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from runway_pipelines.errors import Permanent, StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.comparison import RosterChanges, compare_rosters
from runway_pipelines.rosters.earlier import earlier_of
from runway_pipelines.rosters.guards import GUARD_NAMES, Comparison, as_warnings, combine, holding, judge_guards
from runway_pipelines.rosters.holds import read_expectations
from runway_pipelines.rosters.manifest import Manifest, Pointer, snapshot_key
from runway_pipelines.rosters.outcome import Extract, RefreshContext
from runway_pipelines.rosters.quality import CheckResult, judge
from runway_pipelines.rosters.record import Entry
from runway_pipelines.rosters.standing import Standing


def manifest_of(
    context: RefreshContext, tenant: PartnerTenant, file: IO[bytes], extract: Extract, standing: Standing
) -> Manifest:
    """The roster in numbers, compared with what is published."""
    counts, pointer, published = extract.counts, standing.pointer, standing.manifest
    changes = _changes(context, tenant, file, extract, pointer)
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
        previous_sha256=pointer.sha256 if pointer else None,
        students_added=changes.added if changes else None,
        students_removed=changes.removed if changes else None,
        students_changed=changes.changed if changes else None,
        account=extract.place.account,
        database=extract.place.database,
        schema=extract.place.schema,
        trend=published.trend_before(extract.digest.sha256) if published else (),
    )


def _changes(
    context: RefreshContext, tenant: PartnerTenant, file: IO[bytes], extract: Extract, pointer: Pointer | None
) -> RosterChanges | None:
    """What changed since the published snapshot; None if there is none or it cannot be read."""
    if pointer is None:
        return None
    if pointer.sha256 == extract.digest.sha256:
        return RosterChanges(0, 0, 0)
    file.seek(0)
    try:
        return compare_rosters(context.store.lines(snapshot_key(tenant, pointer.sha256)), _lines(file))
    except Permanent as error:
        message = f"{tenant}: not compared with the previous snapshot: {error}"
        context.log.warning(message, extra={"tenant": str(tenant)})
        return None


def _lines(file: IO[bytes]) -> Iterable[bytes]:
    return iter(file.readline, b"")


def judged(
    context: RefreshContext, tenant: PartnerTenant, manifest: Manifest, standing: Standing
) -> tuple[tuple[CheckResult, ...], tuple[Entry, ...]]:
    """Every rule's and guard's result. A failure that somebody expected is a warning, with an entry for the record."""
    before, published = standing.manifest, standing.published
    place = published.place if published else None
    earlier = earlier_of(standing.pointer, context.now())
    comparison = Comparison(before, standing.is_first, () if before else context.places(tenant), place, earlier)
    results = combine(judge(manifest, before, context.thresholds), judge_guards(manifest, comparison, context.guards))
    if standing.pinned is not None:
        return as_warnings(results, GUARD_NAMES, "nothing is published while the tenant is pinned"), ()
    return _expected(context, tenant, manifest, results, standing.pointer) if holding(results) else (results, ())


def _expected(
    context: RefreshContext,
    tenant: PartnerTenant,
    manifest: Manifest,
    results: tuple[CheckResult, ...],
    pointer: Pointer | None,
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
            pointer.sha256 if pointer else None,
            manifest.sha256,
            expected.signature,
            {"expectation": expected.id, "guard": result.rule.name, **result.numbers},
        )
        entries.append(passed)
    return results, tuple(entries)
