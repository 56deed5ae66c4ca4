"""A response whose body comes from a pull's thread, and which ends cleanly only if the roster is complete.

If a pull fails after its first byte, uvicorn closes the connection: the client sees a chunked body without its last
chunk, or fewer bytes than Content-Length.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starlette.responses import Response

from runway_pipelines.errors import Unavailable
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.stream.metrics import Metrics
from runway_pipelines.stream.pulls import Abandoned, Ending, Failed, Finished, Pull, call_soon
from runway_pipelines.stream.sources import Source

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)
JSON_LINES = "application/x-ndjson"


class Record(Protocol):
    """What a response notes of itself, for the log line and the metrics about it."""

    lines: int
    sent: int

    def first_byte(self) -> None:
        """The answer begins."""

    def over(self, ended: str, reason: str = "") -> None:
        """It has ended."""


@dataclass
class PullRecord:
    """What the log line and the metrics say about a finished pull."""

    tenant: PartnerTenant
    runway_run_id: int
    source: Source
    source_reason: str
    started: float
    metrics: Metrics
    lines: int = 0
    sent: int = 0

    def first_byte(self) -> None:
        self.metrics.first_byte.labels(self.source).observe(time.monotonic() - self.started)

    def over(self, ended: str, reason: str = "") -> None:
        """Log one line per fetch (rosters contract, section 6)."""
        seconds = time.monotonic() - self.started
        self.metrics.pulls.labels(self.source, ended).inc()
        self.metrics.bytes.labels(self.source).inc(self.sent)
        self.metrics.seconds.labels(self.source).observe(seconds)
        log.log(
            logging.INFO if ended == "complete" else logging.WARNING,
            "%s: run %d, %d rows from the %s (%s), %d bytes, %d ms: %s%s",
            self.tenant,
            self.runway_run_id,
            self.lines,
            self.source,
            self.source_reason,
            self.sent,
            seconds * 1000,
            ended,
            f" ({reason})" if reason else "",
            extra={"tenant": str(self.tenant)},
        )


@dataclass(frozen=True)
class Patience:
    """How long a pull waits for its client: ``seconds``, plus the time that the sent bytes take at the lowest rate.

    The rate is an average over the whole pull: progress is seen in lumps, because the kernel reports room in its buffer
    only when a third of up to 4 MB is free. Time in which the client waits for us does not count.
    """

    seconds: float
    bytes_per_second: int

    def left(self, sent: int, waited: float) -> float:
        """Seconds left for the next part, after ``waited`` seconds in total."""
        return self.seconds + sent / self.bytes_per_second - waited


async def unless_gone(request: Request, work: Coroutine[Any, Any, bytes | Ending]) -> bytes | Ending:
    """The work's result; cancelled if the client leaves first."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Abandoned()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def first_part(pull: Pull, work: Callable[[Pull], None], acquire_seconds: float) -> bytes | Ending:
    """Start the pull; returns its first bytes, or why there are none. Cancelling abandons the pull.

    Waits ``acquire_seconds`` for the pull's session, and then as long as the statement takes.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(acquire_seconds) as waiting:

            def no_limit() -> None:
                with suppress(RuntimeError):  # it came too late
                    waiting.reschedule(None)

            pull.on_ready = lambda: call_soon(loop, no_limit)
            pull.start(work)
            return await pull.handoff.get()
    except TimeoutError:
        pull.abandon()
        return Failed(
            Unavailable(
                expected=f"a session within {acquire_seconds:g} s",
                came="none",
                remedy="pull again; raise RUNWAY_STREAM_SESSIONS_PER_PARTNER if it persists",
            )
        )
    except asyncio.CancelledError:
        pull.abandon()
        raise


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _abandon_when_gone(pull: Pull, request: Request) -> None:
    await _gone(request)
    pull.abandon()


class RosterResponse(Response):
    """A pull's response, made once its ``first`` part has arrived."""

    def __init__(
        self,
        first: bytes | Finished,
        pull: Pull,
        request: Request,
        record: Record,
        patience: Patience,
        *,
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        # Response.__init__ would declare an empty body.
        self.status_code = status
        self.background = None
        self.raw_headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        self._first = first
        self._pull = pull
        self._request = request
        self._record = record
        self._patience = patience
        self._waited = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send parts as they come, as fast as the client reads."""
        watch = asyncio.create_task(_abandon_when_gone(self._pull, self._request))
        ending: Ending = Abandoned()
        try:
            ending = await self._send(send)
        finally:
            watch.cancel()
            self._pull.abandon()
            self._note(ending)

    async def _send(self, send: Send) -> Ending:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._record.first_byte()
        part: bytes | Ending = self._first
        try:
            while isinstance(part, bytes):
                await self._send_body(send, part)
                part = await self._pull.handoff.get()
            if isinstance(part, Finished):
                await self._send_body(send, b"")
        except TimeoutError:
            return Abandoned("the client read too slowly")
        return part

    async def _send_body(self, send: Send, part: bytes) -> None:
        """Send a part, or the end; raises `TimeoutError` if the client is too slow."""
        began = time.monotonic()
        async with asyncio.timeout(self._patience.left(self._record.sent, self._waited)):
            await send({"type": "http.response.body", "body": part, "more_body": bool(part)})
        self._waited += time.monotonic() - began
        self._record.sent += len(part)

    def _note(self, ending: Ending) -> None:
        self._record.lines = self._pull.lines
        # A client with all promised bytes may leave before the thread says that it has finished.
        has_all = self.headers.get("content-length") == str(self._record.sent)
        if isinstance(ending, Finished) or has_all:
            self._record.over("complete")
        elif isinstance(ending, Failed):
            self._record.over("torn", str(ending.error))
        else:
            self._record.over("abandoned", ending.reason)
