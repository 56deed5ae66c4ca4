"""How much happens at the same time: blocking calls, and pulls in the process and for each partner (a bulkhead)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar, TypeVarTuple, Unpack

MOST_CALLS = 40
T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


async def in_thread(work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
    """Run a blocking call away from the event loop. Cancelling returns at once; the thread ends with the call.

    anyio's and asyncio's worker threads are joined when the process ends, and a cancelled caller waits for them, for
    minutes if AWS does not answer.
    """
    answer: Future[T] = Future()

    def run() -> None:
        answer.set_running_or_notify_cancel()
        try:
            result = work(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            answer.set_exception(error)
        else:
            answer.set_result(result)

    Thread(target=run, name="call", daemon=True).start()
    return await asyncio.wrap_future(answer)


class BlockingCalls:
    """`in_thread` for a server's requests, at most `MOST_CALLS` at the same time; the others wait."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(MOST_CALLS)

    async def __call__(self, work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        async with self._room:
            return await in_thread(work, *arguments)


class Places:
    """Places for pulls, for one event loop; first come, first served.

    A partner whose warehouse is stuck fills its own places until its pulls give up, and leaves the others theirs.
    """

    def __init__(self, most: int, most_of_a_partner: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._most_of_a_partner = most_of_a_partner
        self._of_partner: dict[str, asyncio.Semaphore] = {}

    async def take(self, partner_id: str) -> Callable[[], None]:
        """Wait for one of the partner's places, then for one of the process's; the returned call frees both."""
        own = self._of_partner.setdefault(partner_id, asyncio.Semaphore(self._most_of_a_partner))
        await own.acquire()
        try:
            await self._all.acquire()
        except asyncio.CancelledError:
            own.release()
            raise

        def give_back() -> None:
            own.release()
            self._all.release()

        return give_back
