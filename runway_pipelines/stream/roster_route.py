"""``GET /earthbeam/jobs/{run_id}/roster``: from the snapshot when it is fresh, else from the warehouse."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from starlette.responses import Response

from runway_pipelines.errors import Held, RunwayError
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.guards import GUARD_NAMES
from runway_pipelines.rosters.manifest import snapshot_key
from runway_pipelines.stream.choosing import HELD, Served, Snapshot, SourceChooser
from runway_pipelines.stream.limits import BlockingCalls, Places
from runway_pipelines.stream.metrics import Metrics
from runway_pipelines.stream.negotiation import (
    ByteRange,
    Unsatisfiable,
    accepts_gzip,
    etag,
    is_known,
    is_outdated,
    may_resume,
    parse_range,
)
from runway_pipelines.stream.pools import PartnerPools
from runway_pipelines.stream.pulls import (
    Abandoned,
    Ending,
    Failed,
    Handoff,
    NoRoom,
    Pull,
    SessionProof,
    SnapshotPull,
    WarehousePull,
    call_soon,
)
from runway_pipelines.stream.refusals import Refusal, tenant_of
from runway_pipelines.stream.runs import RunTenant
from runway_pipelines.stream.sources import Source
from runway_pipelines.stream.streaming import JSON_LINES, Patience, PullRecord, RosterResponse, first_part, unless_gone
from runway_pipelines.systems.aws.object_store import ObjectStore

if TYPE_CHECKING:
    from starlette.requests import Request

log = logging.getLogger(__name__)
# Student identifiers: no cache keeps them. A client may still ask whether what it has is current.
_NOT_STORED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class RosterRoute:
    """The route, over what all requests share."""

    def __init__(
        self,
        chooser: SourceChooser,
        store: ObjectStore,
        pools: PartnerPools,
        metrics: Metrics,
        call: BlockingCalls,
        places: Places,
        patience: Patience,
        *,
        acquire_seconds: float,
        fillers: bool,
    ) -> None:
        self._chooser = chooser
        self._store = store
        self._pools = pools
        self._metrics = metrics
        self._call = call
        self._places = places
        self._patience = patience
        self._acquire_seconds = acquire_seconds
        self._fillers = fillers

    async def answer(self, request: Request, run: RunTenant) -> Response:
        """The roster, 304, 206, or a `Refusal`; raises our errors for what is a 500."""
        started = time.monotonic()
        tenant = tenant_of(run)
        try:
            requested = Source(request.query_params.get("source", Source.AUTO))
        except ValueError:
            raise Refusal(400, "unknown_source", f"source is one of {', '.join(Source)}.") from None
        served = await self._call(self._chooser.choose, tenant, requested)
        reason = served.reason

        def record(source: Source, reason: str) -> PullRecord:
            return PullRecord(tenant, run.runway_run_id, source, reason, started, self._metrics)

        if served.snapshot is not None:
            try:
                return await self._from_snapshot(
                    request, served.snapshot, record(Source.SNAPSHOT, reason), served.standing
                )
            except RunwayError as error:
                if requested is Source.SNAPSHOT or served.standing or isinstance(error, NoRoom):
                    raise
                log.warning("%s: the warehouse is asked, because the snapshot cannot be read: %s", tenant, error)
                reason = "the snapshot cannot be read"
        try:
            return await self._from_warehouse(request, tenant, served, record(Source.WAREHOUSE, reason))
        except Held as held:
            if served.fallback is None or held.check not in GUARD_NAMES:
                raise
            log.warning("%s: the snapshot is served, because a guard holds the warehouse's roster: %s", tenant, held)
            return await self._from_snapshot(
                request,
                served.fallback,
                record(Source.SNAPSHOT, f"{held.check} holds the warehouse's roster"),
                {HELD: "true"},
            )

    async def _from_snapshot(
        self, request: Request, snapshot: Snapshot, record: PullRecord, standing: Mapping[str, str]
    ) -> Response:
        pointer, size = snapshot.pointer, snapshot.size
        # A range counts bytes as they are stored. HTTP/1.0 has no way to mark the end of a body without a length.
        is_ranged = request.method == "GET" and "range" in request.headers
        is_gzip = not is_ranged and _is_chunked(request) and accepts_gzip(request.headers.get("accept-encoding"))
        validator = etag(pointer.sha256, is_gzip=is_gzip)
        headers = {
            **_NOT_STORED,
            "ETag": validator,
            "Vary": "Accept-Encoding",
            "X-Roster-Source": Source.SNAPSHOT,
            "X-Roster-Sha256": pointer.sha256,
            "X-Roster-As-Of": pointer.verified_at,
            "Accept-Ranges": "bytes",
            **standing,
        }
        _require_current(request, validator)
        for known in (validator, etag(pointer.sha256, is_gzip=not is_gzip)):
            if is_known(request.headers.get("if-none-match"), known):
                return Response(status_code=304, headers=headers | {"ETag": known})
        whole = ByteRange(0, size - 1)
        part = None
        if is_ranged and may_resume(request.headers.get("if-range"), validator):
            try:
                part = parse_range(request.headers["range"], size)
            except Unsatisfiable:
                raise Refusal(
                    416,
                    "range_not_satisfiable",
                    "The range begins after the end.",
                    {"Content-Range": f"bytes */{size}"},
                ) from None
        headers |= {"Content-Type": JSON_LINES}
        if is_gzip:
            headers |= {"Content-Encoding": "gzip"}
        else:
            headers |= {"Content-Length": str((part or whole).size)}
        if part is not None:
            headers |= {"Content-Range": f"bytes {part.first}-{part.last}/{size}"}
        if request.method == "HEAD":
            head = Response(headers=headers)
            if is_gzip:
                del head.headers["content-length"]  # Starlette's 0 would claim to be the length of GET's body
            return head

        work = SnapshotPull(
            self._store,
            snapshot_key(record.tenant, pointer.sha256),
            pointer.sha256,
            part or whole,
            size,
            lambda: self._chooser.note_damage(record.tenant, pointer),
        )
        return await self._stream(
            request, work, record, is_gzip=is_gzip, status=200 if part is None else 206, headers=lambda pull: headers
        )

    async def _from_warehouse(
        self, request: Request, tenant: PartnerTenant, served: Served, record: PullRecord
    ) -> Response:
        if not _is_chunked(request):
            raise Refusal(
                426,
                "http_1_1_is_needed",
                "In HTTP/1.0 a roster that broke off would look complete.",
                {"Upgrade": "HTTP/1.1", "Connection": "Upgrade"},
            )
        _require_current(request, None)
        is_gzip = accepts_gzip(request.headers.get("accept-encoding"))
        sessions = self._pools.of(tenant.partner_id, served.seen)

        def headers(pull: Pull) -> dict[str, str]:
            return (
                {
                    **_NOT_STORED,
                    "Content-Type": JSON_LINES,
                    "Vary": "Accept-Encoding",
                    "X-Roster-Source": Source.WAREHOUSE,
                    "Accept-Ranges": "none",
                    **served.standing,
                }
                | ({"X-Roster-As-Of": pull.as_of.isoformat()} if pull.as_of else {})
                | ({"Content-Encoding": "gzip"} if is_gzip else {})
            )

        proof_is_enough = request.method == "HEAD"
        pull = WarehousePull(sessions, tenant, record.runway_run_id, self._fillers, served.guarded)
        work = SessionProof(sessions) if proof_is_enough else pull
        return await self._stream(
            request, work, record, is_gzip=is_gzip and not proof_is_enough, status=200, headers=headers
        )

    async def _stream(
        self,
        request: Request,
        work: Callable[[Pull], None],
        record: PullRecord,
        *,
        is_gzip: bool,
        status: int,
        headers: Callable[[Pull], dict[str, str]],
    ) -> Response:
        """Wait for the first byte; raises what failed before it."""
        pull = Pull(Handoff(), is_gzip)
        first = await unless_gone(request, self._first_part(pull, work, record.tenant.partner_id))
        if isinstance(first, Failed):
            record.over("failed")
            raise first.error
        if isinstance(first, Abandoned):
            record.over("abandoned")
            return Response(status_code=204)  # to nobody
        return RosterResponse(first, pull, request, record, self._patience, status=status, headers=headers(pull))

    async def _first_part(self, pull: Pull, work: Callable[[Pull], None], partner_id: str) -> bytes | Ending:
        """The pull's first bytes, once there is a place for it. It keeps the place until its thread is done."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._acquire_seconds):
                give_back = await self._places.take(partner_id)
        except TimeoutError:
            return Failed(
                NoRoom(
                    expected=f"room for one more pull within {self._acquire_seconds:g} s",
                    came="RUNWAY_STREAM_MOST_PULLS_PER_PARTNER of this partner, or RUNWAY_STREAM_MOST_PULLS of all",
                    remedy="see why they take so long; raise it, or run one more server",
                )
            )
        self._metrics.in_flight.inc()

        def release() -> None:
            self._metrics.in_flight.dec()
            give_back()

        pull.on_end = lambda: call_soon(loop, release)
        return await first_part(pull, work, self._acquire_seconds)


def _require_current(request: Request, validator: str | None) -> None:
    """Refuse a client that wants to go on with other bytes than these; the warehouse's have no validator."""
    if is_outdated(request.headers.get("if-match"), validator):
        raise Refusal(412, "precondition_failed", "The roster is not the one that If-Match names.")


def _is_chunked(request: Request) -> bool:
    """Whether a body of unknown length can show the client that it is whole."""
    return str(request.scope["http_version"]) != "1.0"
