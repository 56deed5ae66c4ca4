"""Calls that block: so many at once, and nobody who leaves waits for one."""

from __future__ import annotations

import asyncio
import threading

import pytest

from runway_pipelines.stream.blocking import MOST_CALLS, BlockingCalls, in_thread
from tests.waiting import PATIENCE_SECONDS, wait_until


def test_a_call_gives_what_it_gives_and_raises_what_it_raises() -> None:
    def refuse() -> None:
        raise LookupError("no")

    assert asyncio.run(in_thread(divmod, 7, 2)) == (3, 1)
    with pytest.raises(LookupError, match="no"):
        asyncio.run(in_thread(refuse))


def test_who_is_cancelled_leaves_a_call_that_hangs_at_once() -> None:
    """Also the end of the process does: its thread is a daemon."""
    threads: list[threading.Thread] = []
    release = threading.Event()

    def hang() -> None:
        threads.append(threading.current_thread())
        release.wait(PATIENCE_SECONDS)

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await in_thread(hang)

    asyncio.run(run())
    wait_until(lambda: threads)
    assert threads[0].is_alive()
    assert threads[0].daemon
    release.set()


def test_only_so_many_run_at_the_same_time() -> None:
    running, most = 0, 0
    lock, together = threading.Lock(), threading.Barrier(MOST_CALLS)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(PATIENCE_SECONDS)  # breaks unless that many are under way at once
        with lock:
            running -= 1

    async def run() -> None:
        call = BlockingCalls()
        await asyncio.gather(*(call(work) for _ in range(2 * MOST_CALLS)))

    asyncio.run(run())
    assert most == MOST_CALLS
