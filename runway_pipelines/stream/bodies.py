"""A request's body on its way from the event loop to the thread that reads it (student resolution contract, section 6).

The thread takes pieces as fast as it reads them, and the client sends no faster: what is in between is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING

from runway_pipelines.stream.pulls import ClientGone, call_soon

if TYPE_CHECKING:
    from starlette.requests import Request

    from runway_pipelines.stream.streaming import Patience

# uvicorn hands over up to 64 KB at once.
PIECES_AHEAD = 8


class Inbox:
    """One producer in the event loop that created this, and one consumer thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(PIECES_AHEAD)
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._is_whole = False

    async def put(self, piece: bytes) -> None:
        """In the loop: hand over a piece, waiting for room."""
        await self._room.acquire()
        self._pieces.put(piece)

    def end(self, *, is_whole: bool) -> None:
        """In the loop: end the body. If it is not whole, the thread must not take it for a file."""
        self._is_whole = is_whole
        self._pieces.put(None)

    def __iter__(self) -> Iterator[bytes]:
        """In the thread: the pieces. Raises `ClientGone` if the body broke off."""
        while (piece := self._pieces.get()) is not None:
            call_soon(self._loop, self._room.release)
            yield piece
        if not self._is_whole:
            raise ClientGone


async def receive_body(request: Request, inbox: Inbox, patience: Patience) -> bool:
    """Hand the body over as it comes; returns whether it came whole. Raises `TimeoutError` if the client is too slow.

    Only the time that is spent waiting for the client counts.
    """
    received, waited = 0, 0.0
    while True:
        began = time.monotonic()
        async with asyncio.timeout(patience.left(received, waited)):
            message = await request.receive()
        waited += time.monotonic() - began
        if message["type"] == "http.disconnect":
            return False
        piece: bytes = message.get("body", b"")
        received += len(piece)
        if piece:
            await inbox.put(piece)
        if not message.get("more_body", False):
            return True
