"""Places for pulls: a partner has its share, and who waits for that holds nothing of the others'."""

from __future__ import annotations

import asyncio

import pytest

from runway_pipelines.stream.places import Places


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
