"""``POST /earthbeam/jobs/{run_id}/resolutions``: whose rows are these (student resolution contract, section 6).

One thread reads the body as it comes, resolves, and hands the answer over. Nothing of it is written anywhere, and no
log line has more than counts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

from starlette.responses import Response

from runway_pipelines.credentials.sessions import AllSessionsInUse
from runway_pipelines.errors import SessionEnded, Transient
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.stream.bodies import Inbox, receive_body
from runway_pipelines.stream.limits import BlockingCalls, Places
from runway_pipelines.stream.metrics import Metrics
from runway_pipelines.stream.negotiation import accepts_gzip
from runway_pipelines.stream.persons_cache import PersonsCache
from runway_pipelines.stream.pools import PartnerPools
from runway_pipelines.stream.pulls import Abandoned, ClientGone, Ending, Failed, Handoff, NoRoom, Pull, call_soon
from runway_pipelines.stream.refusals import Refusal, tenant_of
from runway_pipelines.stream.runs import RunTenant
from runway_pipelines.stream.streaming import JSON_LINES, Patience, RosterResponse, unless_gone
from runway_pipelines.students.events import foreign_reason
from runway_pipelines.students.lines import MOST_BYTES, FileTooLarge, GzipBroken, inflated, lines_of
from runway_pipelines.students.observables import MOST_LINES, TooManyCandidates
from runway_pipelines.systems.aws.secret_versions import Current, Gone, Observation

if TYPE_CHECKING:
    from starlette.requests import Request

    from runway_pipelines.students.resolution import Resolved
    from runway_pipelines.students.warehouse import TenantPersons

log = logging.getLogger(__name__)
# Each holds its observables (a quarter of a GB for 500,000 usual lines); reading one is mostly waiting for its client.
MOST_FILES, MOST_FILES_PER_PARTNER = 8, 4
# A file takes two cores and up to 2 GB while it is weighed; two at a time would be no faster, and might not fit.
MOST_AT_WORK = 1
WAREHOUSE_ATTEMPTS = 3
WAREHOUSE_PAUSE_SECONDS = 0.5
PIECE_BYTES = 64 * 1024
_GZIP = ("gzip", "x-gzip")


@dataclass
class ResolutionRecord:
    """What the log line and the metrics say about a file; no candidate and no student is in it."""

    tenant: PartnerTenant
    runway_run_id: int
    started: float
    metrics: Metrics
    lines: int = 0
    sent: int = 0

    def first_byte(self) -> None:
        """Nothing is measured: the answer begins when all is resolved."""

    def over(self, ended: str, reason: str = "") -> None:
        """Log one line for the file."""
        seconds = time.monotonic() - self.started
        self.metrics.resolutions.labels(ended).inc()
        self.metrics.resolution_seconds.observe(seconds)
        log.log(
            logging.INFO if ended == "complete" else logging.WARNING,
            "%s: run %d, %d candidates resolved, %d bytes, %d ms: %s%s",
            self.tenant,
            self.runway_run_id,
            self.lines,
            self.sent,
            seconds * 1000,
            ended,
            f" ({reason})" if reason else "",
            extra={"tenant": str(self.tenant)},
        )


class ResolutionRoute:
    """The route, over what all requests share."""

    def __init__(
        self,
        pools: PartnerPools,
        persons: PersonsCache,
        metrics: Metrics,
        call: BlockingCalls,
        patience: Patience,
        *,
        is_on: Callable[[str], bool],
        acquire_seconds: float,
    ) -> None:
        self._pools = pools
        self._persons = persons
        self._metrics = metrics
        self._call = call
        self._patience = patience
        self._is_on = is_on
        self._acquire_seconds = acquire_seconds
        self._places = Places(MOST_FILES, MOST_FILES_PER_PARTNER)
        self._at_work = BoundedSemaphore(MOST_AT_WORK)

    async def answer(self, request: Request, run: RunTenant) -> Response:
        """The resolutions, or a `Refusal`; raises our errors for what is a 500."""
        record = ResolutionRecord(self._tenant(run), run.runway_run_id, time.monotonic(), self._metrics)
        is_gzip = _is_gzip(request)
        seen = await self._call(self._pools.look, record.tenant.partner_id)
        pull = Pull(Handoff(), accepts_gzip(request.headers.get("accept-encoding")))
        first = await self._first_part(request, pull, record, seen, is_gzip=is_gzip)
        if isinstance(first, Failed):
            error = _as_refusal(first.error)
            record.over("refused" if isinstance(error, Refusal) else "failed", type(first.error).__name__)
            raise error from None
        if isinstance(first, Abandoned):
            record.over("abandoned", first.reason)
            return Response(status_code=204)  # to nobody
        headers = {
            "Content-Type": JSON_LINES,
            # Students' IDs: no cache keeps them.
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Vary": "Accept-Encoding",
            **({"Content-Encoding": "gzip"} if pull.is_gzip else {}),
        }
        return RosterResponse(first, pull, request, record, self._patience, status=200, headers=headers)

    def _tenant(self, run: RunTenant) -> PartnerTenant:
        """The run's tenant; raises `Refusal` as the roster does, and if the partner has not switched resolution on."""
        tenant = tenant_of(run)
        if not self._is_on(tenant.partner_id):
            raise Refusal(409, "student_resolution_is_off", "The run's partner has not switched student resolution on.")
        return tenant

    async def _first_part(
        self, request: Request, pull: Pull, record: ResolutionRecord, seen: Observation, *, is_gzip: bool
    ) -> bytes | Ending:
        """Read and resolve; returns the first bytes, or why there are none. Its place is freed when its thread ends."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._acquire_seconds):
                give_back = await self._places.take(record.tenant.partner_id)
        except TimeoutError:
            return Failed(
                NoRoom(
                    expected=f"room for one more file within {self._acquire_seconds:g} s",
                    came=f"{MOST_FILES_PER_PARTNER} files of this partner, or {MOST_FILES} of all, under way",
                    remedy="send it again later, or run one more server",
                )
            )
        pull.on_end = lambda: call_soon(loop, give_back)
        inbox = Inbox()
        lines = lines_of(inflated(inbox) if is_gzip else inbox)  # the limits apply after decompression
        pull.start(lambda started: self._work(started, record, lines, seen))
        receiving = asyncio.create_task(receive_body(request, inbox, self._patience))
        resolving = asyncio.create_task(pull.handoff.get())
        try:
            await asyncio.wait((receiving, resolving), return_when=asyncio.FIRST_COMPLETED)
            if resolving.done():  # it failed while the body was still coming
                return resolving.result()
            is_whole = receiving.result()
            inbox.end(is_whole=is_whole)
            if not is_whole:
                pull.abandon()
                return Abandoned("the body broke off")
            first = await unless_gone(request, _result_of(resolving))
            if isinstance(first, Abandoned):
                pull.abandon()
            return first
        except TimeoutError:
            inbox.end(is_whole=False)
            pull.abandon()
            record.over("abandoned", "the body came too slowly")
            raise Refusal(408, "body_too_slow", "The body came too slowly, and none of it was resolved.") from None
        except asyncio.CancelledError:
            inbox.end(is_whole=False)
            pull.abandon()
            raise
        finally:
            receiving.cancel()
            resolving.cancel()
            await asyncio.gather(receiving, resolving, return_exceptions=True)

    def _work(self, pull: Pull, record: ResolutionRecord, lines: Iterator[bytes], seen: Observation) -> None:
        """In the thread: everything but the socket."""
        # duckdb takes a tenth of a second to import, and most servers resolve nothing.
        from runway_pipelines.students.model import shipped_model
        from runway_pipelines.students.observables import read_candidates
        from runway_pipelines.students.resolution import resolve

        candidates = read_candidates(lines, datetime.now(UTC).date())
        persons = self._persons.get(record.tenant, _version(seen), lambda: self._ask(pull, record, seen))
        if pull.handoff.is_abandoned:
            raise ClientGone
        with self._at_work:
            resolved = resolve(candidates, persons.persons, shipped_model())
        if resolved.summary.is_foreign:
            warn_of_foreign_file(record.tenant, record.runway_run_id, foreign_reason(resolved.summary))
        pull.lines = len(resolved.resolutions)
        pull.hand_over(_answer_pieces(resolved, persons, record.started))

    def _ask(self, pull: Pull, record: ResolutionRecord, seen: Observation) -> TenantPersons:
        """Ask the warehouse; retry what is transient. A client that leaves stops no statement: others may want it."""
        from runway_pipelines.students.warehouse import fetch_persons

        attempt = 1
        while True:
            sessions = self._pools.of(record.tenant.partner_id, seen)
            try:
                with sessions.session() as session:
                    return fetch_persons(session, record.tenant, run_id=f"stream-{record.runway_run_id}")
            except Transient as error:
                is_final = error is sessions.refusal or isinstance(error, AllSessionsInUse)
                if is_final or attempt == WAREHOUSE_ATTEMPTS:
                    raise
                pause = 0 if isinstance(error, SessionEnded) else WAREHOUSE_PAUSE_SECONDS * attempt
                log.info("%s: the warehouse is asked again: %s", record.tenant, error)
            if pull.handoff.wait_for_leave(pause):
                raise ClientGone
            attempt += 1


def warn_of_foreign_file(tenant: PartnerTenant, runway_run_id: int, reason: str) -> None:
    """Log it in the words that the alarm looks for: the server's role has no right to send events."""
    log.warning("%s: run %d: another district's file: %s", tenant, runway_run_id, reason, extra={"tenant": str(tenant)})


def _version(seen: Observation) -> str | None:
    """The version that kept persons must have: "" (none has it) if the secret is gone, None (any) if it is unknown."""
    match seen:
        case Current(secret_version=version):
            return version
        case Gone():
            return ""
    return None


def _is_gzip(request: Request) -> bool:
    """Whether the body comes in gzip; raises `Refusal` for another type or encoding, or too large a declared length."""
    media_type, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    charset = dict(part.strip().partition("=")[::2] for part in parameters.split(";")).get("charset", "utf-8")
    if media_type.strip() != JSON_LINES or charset.strip('"') != "utf-8":
        raise Refusal(415, "unsupported_media_type", f"Candidates are {JSON_LINES}, in UTF-8.", {"Accept": JSON_LINES})
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", *_GZIP):
        raise Refusal(
            415, "unsupported_content_encoding", "A body comes as it is, or in gzip.", {"Accept-Encoding": "gzip"}
        )
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MOST_BYTES:
        raise _too_large()
    return encoding in _GZIP


def _as_refusal(error: Exception) -> Exception:
    """A refusal, if the error is the client's fault; the error itself otherwise."""
    match error:
        case TooManyCandidates():
            return Refusal(413, "too_many_candidates", f"A file has at most {MOST_LINES:,} candidates.")
        case FileTooLarge():
            return _too_large()
        case GzipBroken():
            return Refusal(400, "broken_gzip", "The body is declared as gzip, but is something else or ends early.")
    return error


def _too_large() -> Refusal:
    return Refusal(413, "file_too_large", f"A file has at most {MOST_BYTES:,} bytes.")


def _answer_pieces(resolved: Resolved, persons: TenantPersons, started: float) -> Iterator[bytes]:
    """The answer's lines in pieces that are worth handing over."""
    from runway_pipelines.students.resolution import encode_answer

    facts = {
        "asked_at": persons.asked_at.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 3),
    }
    piece = bytearray()
    for line in encode_answer(resolved, facts):
        piece += line
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


async def _result_of(task: asyncio.Task[bytes | Ending]) -> bytes | Ending:
    return await task
