"""Limits on blocking calls and on pulls, of the process and of each partner."""

from __future__ import annotations

import asyncio
import threading

import pytest

from runway_pipelines.stream.limits import MOST_CALLS, BlockingCalls, Places, in_thread
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


async def is_free(places: Places, partner_id: str) -> bool:
    """Whether a place can be had at once; it is given back."""
    try:
        async with asyncio.timeout(0.05):
            give_back = await places.take(partner_id)
    except TimeoutError:
        return False
    give_back()
    return True


def test_a_partner_that_has_its_share_waits_and_the_others_do_not() -> None:
    async def run() -> None:
        places = Places(3, 2)
        held = [await places.take("acme") for _ in range(2)]
        waiting = [asyncio.create_task(places.take("acme")) for _ in range(5)]
        assert not await is_free(places, "acme")
        assert await is_free(places, "borealis")
        held.pop()()
        async with asyncio.timeout(1):
            await waiting[0]
        assert not any(task.done() for task in waiting[1:])
        for task in waiting:
            task.cancel()

    asyncio.run(run())


@pytest.mark.parametrize(("most", "of_a_partner"), [(1, 5), (5, 1)])
def test_who_gives_up_waiting_leaves_no_place_behind(most: int, of_a_partner: int) -> None:
    async def run() -> None:
        places = Places(most, of_a_partner)
        give_back = await places.take("acme")
        for _ in range(10):
            assert not await is_free(places, "acme")
        give_back()
        assert await is_free(places, "acme")
        taken = [await places.take("acme") for _ in range(min(most, of_a_partner))]
        assert not await is_free(places, "acme")
        assert taken

    asyncio.run(run())
