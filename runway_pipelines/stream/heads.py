"""The time that a client has for a request's head. uvicorn bounds the idle time between two requests, and nothing else:
a client that sends a byte now and then, or none at all, would keep its connection for ever.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# From the connection on, or from a further head's first byte. An honest client sends its head at once.
HEAD_SECONDS = 30.0


class BoundedHeads(H11Protocol):
    """uvicorn's protocol, which hangs up when a head, or the rest of an answered body, is not whole in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a head."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Expect a head from its first byte until it is whole."""
        if self.conn.their_state is h11.IDLE:
            self._expect()
        super().data_received(data)
        if self.cycle is None or not self.cycle.response_complete:
            if self.conn.their_state is not h11.IDLE:
                self._expect_no_more()
        elif self.timeout_keep_alive_task is None:
            # These bytes ended uvicorn's own timer. If they are the rest of a body that was answered already, no other
            # one would start.
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._expect_no_more()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._deadline is None:
            # It ends like a connection that was idle for too long.
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _expect_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
