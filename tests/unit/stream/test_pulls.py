"""A pull's thread, and the handoff of its bytes to the event loop."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.errors import StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.stream import pulls as pulls_module
from runway_pipelines.stream.negotiation import ByteRange
from runway_pipelines.stream.pulls import (
    PART_BYTES,
    PARTS_AHEAD,
    Abandoned,
    ClientGone,
    Failed,
    Finished,
    Handoff,
    NoRoom,
    Pull,
    SnapshotPull,
    WarehousePull,
)
from runway_pipelines.systems.aws.secret_versions import SecretVersion
from runway_pipelines.systems.snowflake.client import Selection
from tests.factories import secret_text
from tests.waiting import PATIENCE_SECONDS, join, wait_until


def test_all_bytes_arrive_in_order_and_then_the_end() -> None:
    async def read() -> bytes:
        handoff = Handoff()
        content = bytes(range(256)) * 8_000

        def produce() -> None:
            for start in range(0, len(content), 700_001):
                handoff.put(memoryview(content)[start : start + 700_001])
            handoff.end(Finished())

        threading.Thread(target=produce).start()
        received = b""
        while isinstance(part := await handoff.get(), bytes):
            assert len(part) <= PART_BYTES
            received += part
        assert part == Finished()
        assert received == content
        return received

    assert asyncio.run(read())


def test_a_thread_is_no_further_ahead_than_the_parts_on_the_way() -> None:
    async def read() -> None:
        handoff, done = Handoff(), 0

        def produce() -> None:
            nonlocal done
            for _ in range(100):
                handoff.put(bytes(PART_BYTES))
                done += 1
            handoff.end(Finished())

        async def is_done(parts: int) -> None:
            await asyncio.to_thread(wait_until, lambda: done >= parts)
            await asyncio.sleep(0.2)  # long enough for one more
            assert done == parts

        thread = threading.Thread(target=produce)
        thread.start()
        await is_done(PARTS_AHEAD)
        await handoff.get()
        await is_done(PARTS_AHEAD + 1)
        while isinstance(await handoff.get(), bytes):
            pass
        join(thread)
        assert done == 100

    asyncio.run(read())


def test_a_thread_that_waits_is_woken_when_the_reader_leaves() -> None:
    async def leave() -> list[str]:
        handoff, ended = Handoff(), []

        def produce() -> None:
            try:
                while True:
                    handoff.put(bytes(PART_BYTES))
            except ClientGone:
                ended.append("gone")
            handoff.end(Failed(ValueError()))

        thread = threading.Thread(target=produce)
        thread.start()
        await asyncio.sleep(0.2)
        handoff.abandon()
        handoff.abandon()
        await asyncio.to_thread(join, thread)
        parts = [await handoff.get() for _ in range(PARTS_AHEAD + 1)]
        assert parts[-1] == Abandoned()
        return ended

    assert asyncio.run(leave()) == ["gone"]


def test_a_reader_that_waits_is_woken_when_it_is_abandoned() -> None:
    async def leave() -> None:
        handoff = Handoff()
        asyncio.get_running_loop().call_later(0.1, handoff.abandon)
        assert await asyncio.wait_for(handoff.get(), PATIENCE_SECONDS) == Abandoned()

    asyncio.run(leave())


def test_a_thread_outlives_its_loop_without_harm() -> None:
    async def make() -> Handoff:
        return Handoff()

    handoff = asyncio.run(make())
    with pytest.raises(ClientGone):
        handoff.put(b"late")
    handoff.end(Finished())
    assert handoff.is_abandoned


def test_nothing_that_was_on_the_way_is_handed_to_a_reader_that_has_left() -> None:
    """Also when the thread was done by then: the pull did not end for the client."""

    async def leave() -> None:
        handoff = Handoff()

        def produce() -> None:
            for _ in range(PARTS_AHEAD):
                handoff.put(bytes(PART_BYTES))
            handoff.end(Finished())

        await asyncio.to_thread(produce)
        assert isinstance(await handoff.get(), bytes)
        handoff.abandon()
        for _ in range(PARTS_AHEAD + 3):
            assert await asyncio.wait_for(handoff.get(), PATIENCE_SECONDS) == Abandoned()

    asyncio.run(leave())


TENANT = PartnerTenant("acme", "north")


class OneSession:
    secret_version = "v1"

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Account:
    """A partner's secret, and a Snowflake that opens any number of sessions."""

    def __init__(self) -> None:
        self.opened: list[OneSession] = []

    def require(self, partner_id: str) -> SecretVersion:
        return SecretVersion("secret", "v1", secret_text())

    def open_session(self, connection: object, *, secret_version: str, query_tag: str) -> OneSession:
        self.opened.append(OneSession())
        return self.opened[-1]


def pull_until_done(make_work: Callable[[PartnerSessions, Pull], Callable[[Pull], None]]) -> tuple[Account, int]:
    """Run a pull whose client may leave; returns the account, and how many sessions the pool would hand out again."""
    account = Account()
    sessions = PartnerSessions("acme", account, account, size=2, query_tag="test")  # type: ignore[arg-type]

    async def run() -> None:
        done = threading.Event()
        pull = Pull(Handoff(), on_end=done.set)
        pull.start(make_work(sessions, pull))
        assert await asyncio.to_thread(done.wait, PATIENCE_SECONDS)

    asyncio.run(run())
    return account, sessions.sessions_idle


def test_a_session_that_comes_after_the_client_has_left_serves_the_next_pull() -> None:
    def leave_first(sessions: PartnerSessions, pull: Pull) -> WarehousePull:
        pull.abandon()
        return WarehousePull(sessions, TENANT, 1)

    account, idle = pull_until_done(leave_first)
    assert (len(account.opened), idle) == (1, 1)
    assert not account.opened[0].closed.is_set()


def test_a_session_that_is_ended_as_its_answer_arrives_is_not_handed_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave_meanwhile(sessions: PartnerSessions, pull: Pull) -> WarehousePull:
        def select(session: object, tenant: PartnerTenant, run_id: str) -> Selection:
            pull.abandon()
            return Selection("query", datetime.now(UTC), (_ for _ in ()))

        monkeypatch.setattr(pulls_module, "select_roster", select)
        return WarehousePull(sessions, TENANT, 1)

    account, idle = pull_until_done(leave_meanwhile)
    assert account.opened[0].closed.wait(PATIENCE_SECONDS)
    assert idle == 0


def test_a_pull_that_gets_no_thread_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        ended: list[bool] = []
        pull = Pull(Handoff(), on_end=lambda: ended.append(True))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(NoRoom):
                pull.start(lambda pull: None)
        assert ended == [True]

    asyncio.run(run())


class StoredBytes:
    """A bucket of one object, which comes in small chunks."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def uri(self, key: str) -> str:
        return key

    def chunks(self, key: str, first: int, last: int) -> Iterator[bytes]:
        for start in range(first, last + 1, 10):
            yield self.content[start : min(start + 10, last + 1)]


def received(stored: bytes, published: bytes, part: ByteRange) -> tuple[bytes, int, Failed | Finished]:
    """What a client gets of a part, the lines that are counted, and how it ends."""

    async def run() -> tuple[bytes, int, Failed | Finished]:
        pull = Pull(Handoff())
        digest = hashlib.sha256(published).hexdigest()
        pull.start(SnapshotPull(StoredBytes(stored), "key", digest, part, len(stored)))  # type: ignore[arg-type]
        content = b""
        while isinstance(got := await pull.handoff.get(), bytes):
            content += got
        assert isinstance(got, Failed | Finished)
        return content, pull.lines, got

    return asyncio.run(run())


def test_a_compressed_pull_waits_for_its_client_too() -> None:
    """Of bytes that nothing can compress; an integration test's roster would fit into the kernel's buffers."""
    content = random.Random(1).randbytes(4 * PARTS_AHEAD * PART_BYTES)
    read = 0

    class Counted(StoredBytes):
        def chunks(self, key: str, first: int, last: int) -> Iterator[bytes]:
            nonlocal read
            for start in range(0, len(content), PART_BYTES):
                read += PART_BYTES
                yield content[start : start + PART_BYTES]

    async def run() -> bytes:
        pull = Pull(Handoff(), is_gzip=True)
        digest, size = hashlib.sha256(content).hexdigest(), len(content)
        pull.start(SnapshotPull(Counted(content), "key", digest, ByteRange(0, size - 1), size))  # type: ignore[arg-type]
        await asyncio.sleep(0.5)
        # What is on the way, the last chunk that is withheld, and what zlib has in hand.
        assert read <= (PARTS_AHEAD + 4) * PART_BYTES
        got = b""
        while isinstance(part := await pull.handoff.get(), bytes):
            got += part
        assert part == Finished()
        return got

    assert gzip.decompress(asyncio.run(run())) == content


CONTENT = b"".join(b"%03d\n" % number for number in range(25))


@pytest.mark.parametrize("first", [0, 1, 9, 10, 55, 94, 95, 99])
@pytest.mark.parametrize("last", [99, 98, 60])
def test_any_part_of_a_snapshot_is_what_is_stored(first: int, last: int) -> None:
    part = ByteRange(first, max(first, last))
    content, lines, ending = received(CONTENT, CONTENT, part)
    assert content == CONTENT[part.first : part.last + 1]
    assert lines == content.count(b"\n")
    assert ending == Finished()


@pytest.mark.parametrize("first", [0, 50, 95])
def test_a_damaged_snapshot_has_no_end_also_for_who_resumes(first: int) -> None:
    content, _, ending = received(CONTENT, CONTENT[:-1] + b"x", ByteRange(first, 99))
    assert len(content) < 100 - first
    assert isinstance(ending, Failed)
    assert isinstance(ending.error, StoredObjectDamaged)


@pytest.mark.parametrize(("number", "said"), [(errno.EMFILE, "ulimit"), (errno.ENOSPC, "a full disk")])
def test_a_limit_of_the_machine_is_named_and_no_defect(number: int, said: str) -> None:
    def work(pull: Pull) -> None:
        raise OSError(number, "CANARY")

    async def run() -> object:
        pull = Pull(Handoff(), is_gzip=False)
        pull.start(work)
        return await pull.handoff.get()

    ending = asyncio.run(run())
    assert isinstance(ending, Failed)
    assert said in str(ending.error)
    assert "unexpected" not in str(ending.error) and "CANARY" not in str(ending.error)
