"""A thread waits for a slow reader, and stops when the reader has left."""

import asyncio
import threading

import pytest

from runway_pipelines.stream.handoff import PART_BYTES, PARTS_AHEAD, Abandoned, ClientGone, Failed, Finished, Handoff
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
