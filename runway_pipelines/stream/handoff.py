"""Bytes from a thread that blocks to the event loop that sends them, a few at a time.

The thread waits while the client is slow, so what is held for a client does not grow; it stops when the client is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import BoundedSemaphore, Event

# What is on the way to one client at most: PARTS_AHEAD parts of PART_BYTES, and what the encoder has in hand.
PART_BYTES = 128 * 1024
PARTS_AHEAD = 8


class ClientGone(Exception):
    """Nobody wants the bytes any more."""


@dataclass(frozen=True)
class Failed:
    """The thread ended with this error; what it had handed over before is not all there is."""

    error: Exception


@dataclass(frozen=True)
class Finished:
    """All of it was handed over."""


@dataclass(frozen=True)
class Abandoned:
    """The client left, or took too long, before the thread was done."""

    reason: str = ""


Ending = Failed | Finished | Abandoned


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> bool:
    """Have the loop call it, from a thread; False when the loop was closed, because the server has stopped."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return False
    return True


class Handoff:
    """One producer thread, one consumer in the event loop that made this."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: asyncio.Queue[bytes | Ending] = asyncio.Queue()
        self._room = BoundedSemaphore(PARTS_AHEAD)
        self._gone = Event()

    @property
    def is_abandoned(self) -> bool:
        """Whether the consumer has left."""
        return self._gone.is_set()

    def put(self, piece: bytes | memoryview) -> None:
        """Hand over a piece of any size, waiting for room (in the thread). Raises `ClientGone`."""
        for start in range(0, len(piece), PART_BYTES):
            self._room.acquire()
            self._send(bytes(piece[start : start + PART_BYTES]))

    def end(self, ending: Failed | Finished) -> None:
        """The last word (of the thread); nobody may be listening."""
        with suppress(ClientGone):
            self._call(ending)

    def _send(self, part: bytes) -> None:
        if self._gone.is_set():
            raise ClientGone
        self._call(part)

    def _call(self, item: bytes | Ending) -> None:
        if not call_soon(self._loop, lambda: self._parts.put_nowait(item)):
            self._gone.set()
            raise ClientGone

    async def get(self) -> bytes | Ending:
        """The next part, or how it ended; what was on the way to a client that has left is not sent any more."""
        item = Abandoned() if self._gone.is_set() else await self._parts.get()
        if self._gone.is_set():
            return Abandoned()
        if isinstance(item, bytes):
            self._room.release()
        return item

    def abandon(self) -> None:
        """The consumer leaves (in the loop): a thread that waits for room is woken and stops."""
        if not self._gone.is_set():
            self._gone.set()
            self._parts.put_nowait(Abandoned())
            with suppress(ValueError):  # there was room
                self._room.release()
