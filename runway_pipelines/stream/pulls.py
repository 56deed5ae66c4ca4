"""What a pull's thread does: it hands a snapshot's bytes, or the warehouse's, over to the event loop that sends them.

The thread waits while the client is slow, so the memory for a client is bounded, and stops when the client has left.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from threading import BoundedSemaphore, Event, Lock, Thread

from runway_pipelines.credentials.sessions import AllSessionsInUse, PartnerSessions
from runway_pipelines.errors import (
    Permanent,
    RunwayError,
    SessionEnded,
    StoredObjectDamaged,
    Transient,
    Unavailable,
)
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.encoding import RosterCounts, encode_roster
from runway_pipelines.rosters.extraction import checked_pieces, select_roster
from runway_pipelines.rosters.quality import CheckResult
from runway_pipelines.stream.negotiation import ByteRange
from runway_pipelines.systems.aws.object_store import ObjectStore
from runway_pipelines.systems.disk import machine_trouble, temporary_folder
from runway_pipelines.systems.snowflake.client import EduSession, Selection
from runway_pipelines.systems.snowflake.connection import Place

log = logging.getLogger(__name__)
# At most PARTS_AHEAD parts of PART_BYTES are on their way to a client, besides what the encoder holds.
PART_BYTES = 128 * 1024
PARTS_AHEAD = 8
# Attempts to resume a snapshot where S3 broke off.
READ_ATTEMPTS = 3
# Attempts to read the warehouse, as long as nothing was sent, and the pauses between them.
WAREHOUSE_ATTEMPTS = 3
WAREHOUSE_PAUSE_SECONDS = 0.5
# 2.6 times as fast as zlib's default (530 MB/s of a synthetic roster), for 29 % more bytes.
GZIP_LEVEL = 2
_GZIP = 31  # zlib's window bits with gzip's header


class NoRoom(Unavailable):
    """The process, or the partner, has as many pulls under way as it may."""


class ClientGone(Exception):
    """Nobody wants the bytes any more."""


@dataclass(frozen=True)
class Failed:
    """The thread ended with this error; what it handed over is incomplete."""

    error: Exception


@dataclass(frozen=True)
class Finished:
    """Everything was handed over."""


@dataclass(frozen=True)
class Abandoned:
    """The client left, or was too slow, before the thread was done."""

    reason: str = ""


Ending = Failed | Finished | Abandoned


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> bool:
    """Have the loop call it, from a thread; False if the loop is closed because the server has stopped."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return False
    return True


class Handoff:
    """One producer thread, and one consumer in the event loop that created this."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: asyncio.Queue[bytes | Ending] = asyncio.Queue()
        self._room = BoundedSemaphore(PARTS_AHEAD)
        self._gone = Event()
        self.is_begun = False

    @property
    def is_abandoned(self) -> bool:
        """Whether the consumer has left."""
        return self._gone.is_set()

    def put(self, piece: bytes | memoryview) -> None:
        """In the thread: hand over a piece of any size, waiting for room. Raises `ClientGone`."""
        for start in range(0, len(piece), PART_BYTES):
            self._room.acquire()
            if self._gone.is_set():
                raise ClientGone
            self.is_begun = True
            self._call(bytes(piece[start : start + PART_BYTES]))

    def wait_for_leave(self, seconds: float) -> bool:
        """In the thread: pause that long, or until the consumer has left; returns whether it has."""
        return self._gone.wait(seconds)

    def end(self, ending: Failed | Finished) -> None:
        """In the thread: the last word, even if nobody listens."""
        with suppress(ClientGone):
            self._call(ending)

    def _call(self, item: bytes | Ending) -> None:
        if not call_soon(self._loop, lambda: self._parts.put_nowait(item)):
            self._gone.set()
            raise ClientGone

    async def get(self) -> bytes | Ending:
        """In the loop: the next part, or how it ended; once abandoned, nothing on its way is sent."""
        item = Abandoned() if self._gone.is_set() else await self._parts.get()
        if self._gone.is_set():
            return Abandoned()
        if isinstance(item, bytes):
            self._room.release()
        return item

    def abandon(self) -> None:
        """In the loop: the consumer leaves; a thread waiting for room wakes and stops."""
        if not self._gone.is_set():
            self._gone.set()
            self._parts.put_nowait(Abandoned())
            with suppress(ValueError):  # there was room
                self._room.release()


@dataclass
class Pull:
    """One pull, as its thread and the event loop see it.

    The thread calls ``on_ready`` once it has what it waited for. ``on_end`` is called when the thread is done, or if it
    could not be started.
    """

    handoff: Handoff
    is_gzip: bool = False
    on_ready: Callable[[], object] = lambda: None
    on_end: Callable[[], object] = lambda: None
    as_of: datetime | None = None
    lines: int = 0
    _waits_for: EduSession | None = None
    _is_stopped: bool = False
    _lock: Lock = field(default_factory=Lock)

    def start(self, work: Callable[[Pull], None]) -> None:
        """Do the work in its own thread, which no shutdown waits for. Raises `NoRoom`."""
        try:
            Thread(target=self._run, args=(work,), name="pull", daemon=True).start()
        except RuntimeError:
            self.on_end()
            raise NoRoom(
                expected="a thread for one more pull",
                came="none",
                remedy="lower RUNWAY_STREAM_MOST_PULLS, or give the process more threads and memory",
            ) from None

    def _run(self, work: Callable[[Pull], None]) -> None:
        ending: Failed | Finished = Finished()
        try:
            work(self)
        except ClientGone:
            pass
        except RunwayError as error:
            ending = Failed(error)
        except Exception as error:  # noqa: BLE001
            # A library's error that we do not map: its text may quote a row.
            trouble = machine_trouble(error, temporary_folder())
            ending = Failed(
                trouble
                or Permanent(expected="a roster", came=f"an unexpected {type(error).__name__}", remedy="report it")
            )
        finally:
            self.handoff.end(ending)
            self.on_end()

    def hand_over(self, pieces: Iterator[memoryview] | Iterator[bytes]) -> None:
        """Hand over all pieces, compressed if the client accepts that; raises `ClientGone`."""
        if not self.is_gzip:
            for piece in pieces:
                self.handoff.put(piece)
            return
        compressor = zlib.compressobj(GZIP_LEVEL, wbits=_GZIP)
        for piece in pieces:
            self.handoff.put(compressor.compress(piece))
        self.handoff.put(compressor.flush())

    def select(self, session: EduSession, tenant: PartnerTenant, runway_run_id: int) -> Selection | None:
        """Run the statement, which `abandon` stops; None if the client had already left.

        Raises `ClientGone` if the session is being closed, even if the answer came first: nobody may use it again.
        """
        with self._lock:
            if self.handoff.is_abandoned:
                return None
            self._waits_for = session
        try:
            selection = select_roster(session, tenant, run_id=f"stream-{runway_run_id}")
        finally:
            with self._lock:
                self._waits_for = None
        if self._is_stopped:
            raise ClientGone
        return selection

    def abandon(self) -> None:
        """In the loop: the client left; stop the thread and the statement it waits for.

        Closing its session makes Snowflake abort the statement; the driver has no other public way to stop one whose id
        is not known yet.
        """
        self.handoff.abandon()
        with self._lock:
            session, self._waits_for = self._waits_for, None
            self._is_stopped = self._is_stopped or session is not None
        if session is not None:
            Thread(target=session.close, name="abort", daemon=True).start()


Guarded = Callable[[RosterCounts, Place], tuple[CheckResult, ...]]


def unguarded(counts: RosterCounts, place: Place) -> tuple[CheckResult, ...]:
    """For an operator who asked for the warehouse's roster."""
    return ()


@dataclass(frozen=True)
class WarehousePull:
    """The roster that the warehouse has now, if the guards let its announcements pass."""

    sessions: PartnerSessions
    tenant: PartnerTenant
    runway_run_id: int
    fillers: bool = True
    guarded: Guarded = unguarded

    def __call__(self, pull: Pull) -> None:
        """Raises our errors. A session that saw none returns to the pool, even if the client left.

        A transient failure (an ended session, a broken connection) is tried again as long as the client got nothing.
        """
        for attempt in range(1, WAREHOUSE_ATTEMPTS + 1):
            try:
                self._read(pull)
                return
            except Transient as error:
                is_final = error is self.sessions.refusal or isinstance(error, AllSessionsInUse)
                if pull.handoff.is_begun or is_final or attempt == WAREHOUSE_ATTEMPTS:
                    raise
                pause = 0 if isinstance(error, SessionEnded) else WAREHOUSE_PAUSE_SECONDS * attempt
                if pull.handoff.wait_for_leave(pause):
                    raise ClientGone from None
                log.info("%s: the warehouse is asked again: %s", self.tenant, error)

    def _read(self, pull: Pull) -> None:
        with self.sessions.session() as session:
            pull.on_ready()
            selection = pull.select(session, self.tenant, self.runway_run_id)
            is_taken = selection is not None and self._hand_over(pull, selection, session.place)
        if not is_taken:
            raise ClientGone

    def _hand_over(self, pull: Pull, selection: Selection, place: Place) -> bool:
        """Whether the client took all of it."""
        pull.as_of = selection.started_at
        counts = RosterCounts()
        try:
            pieces = encode_roster(selection.batches, self.tenant.tenant_code, counts, fillers=self.fillers)
            pull.hand_over(checked_pieces(pieces, counts, lambda counts: self.guarded(counts, place)))
        except ClientGone:
            return False
        finally:
            pull.lines = counts.lines
            selection.batches.close()  # type: ignore[attr-defined]
        return True


@dataclass(frozen=True)
class SessionProof:
    """Only proves that a session can be had: for HEAD, which must not cost a statement."""

    sessions: PartnerSessions

    def __call__(self, pull: Pull) -> None:
        with self.sessions.session():
            pull.on_ready()


@dataclass(frozen=True)
class SnapshotPull:
    """A snapshot's bytes, or a part of them; the last chunk is withheld until the whole matches its digest.

    So a part that reaches the end is read from the beginning: a client that resumes has the bytes before it.
    """

    store: ObjectStore
    key: str
    sha256: str
    part: ByteRange
    size: int
    on_damage: Callable[[], object] = lambda: None

    def __call__(self, pull: Pull) -> None:
        """Raises `Unavailable` if S3 keeps breaking off, `StoredObjectDamaged` if the digest differs."""
        pull.on_ready()
        chunks = self._read(pull, self.part.first) if self.part.last < self.size - 1 else self._verified(pull)
        pull.hand_over(_counted(chunks, pull))

    def _read(self, pull: Pull, position: int) -> Iterator[bytes]:
        attempts = 0
        while position <= self.part.last:
            try:
                for chunk in self.store.chunks(self.key, position, self.part.last):
                    if pull.handoff.is_abandoned:
                        raise ClientGone
                    position += len(chunk)
                    yield chunk
                    attempts = 0
                if position <= self.part.last:
                    raise Unavailable(expected="the rest of an object", came="its end", remedy="try again")
            except Unavailable:
                # S3 hangs up on a slow reader; a snapshot never changes, so reading can resume.
                attempts += 1
                if attempts == READ_ATTEMPTS:
                    raise

    def _verified(self, pull: Pull) -> Iterator[bytes]:
        digest, last, not_wanted = hashlib.sha256(), b"", self.part.first
        for chunk in self._read(pull, 0):
            if last:
                yield last
            digest.update(chunk)
            last, not_wanted = chunk[not_wanted:], max(0, not_wanted - len(chunk))
        if digest.hexdigest() != self.sha256:
            self.on_damage()
            raise StoredObjectDamaged(
                expected=f"sha256 {self.sha256} in {self.store.uri(self.key)}",
                came=digest.hexdigest(),
                remedy="publish the tenant's roster anew",
            )
        yield last


def _counted(chunks: Iterator[bytes], pull: Pull) -> Iterator[bytes]:
    for chunk in chunks:
        pull.lines += chunk.count(b"\n")
        yield chunk
