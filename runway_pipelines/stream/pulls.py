"""What a pull's thread does: the bytes of a snapshot, or of the warehouse's answer, handed over as they are taken."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock, Thread

from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.errors import Permanent, RunwayError, StoredObjectDamaged, Unavailable
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.encoding import RosterCounts
from runway_pipelines.rosters.extraction import checked_pieces, in_small_batches, roster_pieces, select_roster
from runway_pipelines.stream.handoff import ClientGone, Failed, Finished, Handoff
from runway_pipelines.stream.negotiation import ByteRange
from runway_pipelines.systems.aws.object_store import ObjectStore
from runway_pipelines.systems.snowflake.client import EduSession, Selection

# Rows that are encoded at once: 1.5 MB of lines, an eighth of what a run has in hand, and no slower.
ROWS_AT_ONCE = 8_192
# How often a snapshot is read on from where S3 broke off.
READ_ATTEMPTS = 3
# 2.6 times as fast as zlib's own choice (530 MB/s of a synthetic roster), for 29 % more bytes.
GZIP_LEVEL = 2
_GZIP = 31  # zlib's window bits for gzip's own header


class NoRoom(Unavailable):
    """As many pulls are under way as the process can have."""


@dataclass
class Pull:
    """One pull, as its thread and the event loop see it.

    ``on_ready`` is called (by the thread) when it has what it waited for, ``on_end`` when the thread is done: also when
    none could be started.
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
        """Do the work in a thread of its own, which no shutdown waits for. Raises `NoRoom`."""
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
            # A library's error that nobody mapped: its text may quote a row.
            ending = Failed(
                Permanent(expected="a roster", came=f"an unexpected {type(error).__name__}", remedy="report it")
            )
        finally:
            self.handoff.end(ending)
            self.on_end()

    def hand_over(self, pieces: Iterator[memoryview] | Iterator[bytes]) -> None:
        """All of the pieces, compressed where the client wants that; raises `ClientGone`."""
        if not self.is_gzip:
            for piece in pieces:
                self.handoff.put(piece)
            return
        compressor = zlib.compressobj(GZIP_LEVEL, wbits=_GZIP)
        for piece in pieces:
            self.handoff.put(compressor.compress(piece))
        self.handoff.put(compressor.flush())

    def select(self, session: EduSession, tenant: PartnerTenant, runway_run_id: int) -> Selection | None:
        """Run the statement, which `abandon` stops; None where the client had left before.

        Raises `ClientGone` when the session is being ended, also where the answer came first: nobody may use it again.
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
        """The client left (called in the loop): stop the thread, and the statement that it waits for.

        Snowflake aborts what a session runs when the session ends; the driver has no other public way to stop a
        statement whose id is not known yet.
        """
        self.handoff.abandon()
        with self._lock:
            session, self._waits_for = self._waits_for, None
            self._is_stopped = self._is_stopped or session is not None
        if session is not None:
            Thread(target=session.close, name="abort", daemon=True).start()


@dataclass(frozen=True)
class WarehousePull:
    """The roster as the warehouse has it now."""

    sessions: PartnerSessions
    tenant: PartnerTenant
    runway_run_id: int

    def __call__(self, pull: Pull) -> None:
        """Raises our errors; a session that saw none goes back to the pool, also when the client left."""
        with self.sessions.session() as session:
            pull.on_ready()
            selection = pull.select(session, self.tenant, self.runway_run_id)
            is_taken = selection is not None and self._hand_over(pull, selection)
        if not is_taken:
            raise ClientGone

    def _hand_over(self, pull: Pull, selection: Selection) -> bool:
        """Whether the client took all of it."""
        pull.as_of = selection.started_at
        small = Selection(
            selection.query_id,
            selection.started_at,
            selection.row_count,
            in_small_batches(selection.batches, ROWS_AT_ONCE),  # type: ignore[arg-type]
        )
        counts = RosterCounts()
        try:
            pull.hand_over(checked_pieces(roster_pieces(small, self.tenant, counts), counts))
        except ClientGone:
            return False
        finally:
            pull.lines = counts.lines
            selection.batches.close()  # type: ignore[attr-defined]
        return True


@dataclass(frozen=True)
class SessionProof:
    """That a session can be had, and nothing more: for HEAD, which must not cost a statement."""

    sessions: PartnerSessions

    def __call__(self, pull: Pull) -> None:
        with self.sessions.session():
            pull.on_ready()


@dataclass(frozen=True)
class SnapshotPull:
    """The bytes of a snapshot, or a part of them, whose end is withheld until the whole was compared with its digest.

    A part that reaches the end is read from the beginning, for who resumes a download has the rest of the same bytes.
    """

    store: ObjectStore
    key: str
    sha256: str
    part: ByteRange
    size: int
    on_damage: Callable[[], object] = lambda: None

    def __call__(self, pull: Pull) -> None:
        """Raises `Unavailable` when S3 breaks off again and again, `StoredObjectDamaged` for other bytes."""
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
                # S3 hangs up on a reader that is slow; a snapshot never changes, so it is read on from there.
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
