"""Calls that block, away from the event loop: so many at once, each in a thread that no shutdown waits for.

The worker threads of anyio and asyncio are joined when the process ends, and who is cancelled waits for them: with an
AWS that does not answer, that is minutes.
"""

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
    """What the call gives, or raises. Who is cancelled leaves at once; the thread ends when the call does."""
    answer: Future[T] = Future()

    def run() -> None:
        answer.set_running_or_notify_cancel()
        try:
            result = work(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            answer.set_exception(error)
        else:
            answer.set_result(result)

    Thread(target=run, name="call", daemon=True).start()
    return await asyncio.wrap_future(answer)


class BlockingCalls:
    """`in_thread` for a server's requests, `MOST_CALLS` at the same time; others wait."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(MOST_CALLS)

    async def __call__(self, work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        async with self._room:
            return await in_thread(work, *arguments)
