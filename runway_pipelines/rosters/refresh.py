"""One tenant's roster from the warehouse to the gate, and a partner's tenants over a few sessions."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import IO

from tenacity import (
    retry,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.errors import Held, LockTimeout, Permanent, RunwayError, Transient
from runway_pipelines.operations.defects import logged_defect
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.encoding import RosterCounts, encode_roster
from runway_pipelines.rosters.extraction import select_roster
from runway_pipelines.rosters.gate import publish_extract
from runway_pipelines.rosters.manifest import lock_name
from runway_pipelines.rosters.outcome import Extract, RefreshContext, TenantOutcome, TenantStatus, refused
from runway_pipelines.rosters.quality import as_refusals, unreadable
from runway_pipelines.systems.aws.object_store import FileDigest
from runway_pipelines.systems.disk import disk_errors
from runway_pipelines.systems.snowflake.client import EduSession

ATTEMPTS = 3
REPORT_LINES = 500_000  # progress is logged each time a tenant has read this many more


def refresh_tenants(
    context: RefreshContext,
    sessions: PartnerSessions,
    tenants: Sequence[PartnerTenant],
    school_years: tuple[int, ...],
    *,
    threads: int,
) -> Iterator[TenantOutcome]:
    """Refresh a partner's tenants over at most ``threads`` sessions; yields each outcome once it is known.

    One tenant's failure is its outcome and does not stop the others.
    """
    with ThreadPoolExecutor(max_workers=max(1, min(threads, len(tenants))), thread_name_prefix="roster") as executor:
        futures = [executor.submit(_outcome, context, sessions, tenant, school_years) for tenant in tenants]
        lines = 0
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                outcome = future.result()
                own_lines = outcome.manifest.lines if outcome.manifest else 0
                lines += own_lines
                message = (
                    f"{outcome.tenant}: {outcome.state}, {own_lines} lines, {outcome.seconds * 1000:.0f} ms: "
                    f"{outcome.reason} [{done} of {len(tenants)} tenants, {lines} lines so far]"
                )
                log = context.log.info if outcome.status.is_success else context.log.error
                log(message, extra={"tenant": str(outcome.tenant)})
                yield outcome
        finally:
            for future in futures:
                future.cancel()


def _outcome(
    context: RefreshContext, sessions: PartnerSessions, tenant: PartnerTenant, school_years: tuple[int, ...]
) -> TenantOutcome:
    """`refresh_tenant`, with transient failures tried again and all others made an outcome."""
    started = time.monotonic()
    attempt = retry(
        # No retry for a lock that was waited for already (it would query the warehouse again, only to wait again), nor
        # for a partner that is refused as a whole.
        retry=retry_if_exception_type(Transient)
        & retry_if_not_exception_type(LockTimeout)
        & retry_if_exception(lambda error: error is not sessions.refusal),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        reraise=True,
    )(refresh_tenant)
    try:
        return attempt(context, sessions, tenant, school_years)
    except Held as held:
        blocks = (unreadable(held.check, str(held)),)
        outcome = refused(tenant, blocks, as_refusals(blocks), time.monotonic() - started)
    except RunwayError as error:
        outcome = TenantOutcome(tenant, TenantStatus.FAILED, str(error), time.monotonic() - started)
    except Exception as error:  # noqa: BLE001 - the other tenants go on; the run fails, naming this one
        reason = logged_defect(context.log, str(tenant), error, extra={"tenant": str(tenant)})
        outcome = TenantOutcome(tenant, TenantStatus.FAILED, reason, time.monotonic() - started)
    return replace(outcome, known_at=context.now())


def refresh_tenant(
    context: RefreshContext, sessions: PartnerSessions, tenant: PartnerTenant, school_years: tuple[int, ...]
) -> TenantOutcome:
    """Read the tenant's roster, check it, keep it, and publish it to each school year.

    The query runs without the tenant's lock; checks, upload, copies and pointer need it. Raises our errors; after
    one, either the old roster or the new one is published.
    """
    started = time.monotonic()
    # A TemporaryFile has no name (O_TMPFILE): nobody else can open it, and SIGKILL leaves nothing behind.
    with disk_errors(), tempfile.TemporaryFile() as file:
        with sessions.session() as session:
            extract = extract_roster(
                session, tenant, file, run_id=context.run_id, log=context.log, fillers=context.fillers
            )
        with context.database.advisory_lock(lock_name(tenant), context.lock_wait_seconds) as lock:
            if not context.has_roster(lock, tenant):
                raise Permanent(
                    expected="a tenant that has cross-year matching",
                    came=f"{tenant}, which left while its roster was read",
                    remedy="do nothing: nothing was published",
                )
            outcome = publish_extract(context, tenant, school_years, file, extract, started, lock)
            return replace(outcome, known_at=context.now())


def extract_roster(
    session: EduSession,
    tenant: PartnerTenant,
    file: IO[bytes],
    *,
    run_id: str,
    log: logging.Logger,
    fillers: bool = True,
) -> Extract:
    """Run the roster statement, and write and hash the encoded lines."""
    started = time.monotonic()
    selection = select_roster(session, tenant, run_id=run_id)
    counts = RosterCounts()
    sha256, crc32, size, next_report = hashlib.sha256(), 0, 0, REPORT_LINES
    for piece in encode_roster(selection.batches, tenant.tenant_code, counts, fillers=fillers):
        sha256.update(piece)
        crc32 = zlib.crc32(piece, crc32)
        size += file.write(piece)
        if counts.lines >= next_report:
            log.info(f"{tenant}: {counts.lines} lines so far")
            next_report += REPORT_LINES
    file.flush()
    return Extract(
        digest=FileDigest(sha256=sha256.hexdigest(), crc32=crc32, size=size),
        counts=counts,
        query_id=selection.query_id,
        query_started_at=selection.started_at,
        query_seconds=round(time.monotonic() - started, 3),
        secret_version=session.secret_version,
        place=session.place,
    )
