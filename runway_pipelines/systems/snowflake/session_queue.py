"""SQLAlchemy's queue of pooled connections, with what it lacks: eviction of those that nobody needs.

A Snowflake session ends by itself after four hours, and a NAT forgets its connection long before that: whoever is
handed such a session waits for a failure. What belongs here knows nothing of partners or secrets.
"""

from __future__ import annotations

import logging
import time

from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.util.queue import Empty

_IDLE_SINCE = "idle_since"
# A pool's own lines, under its class's name, tell of every session and quote errors.
logging.getLogger(__name__).setLevel(logging.WARNING)


class SessionQueue(QueuePool):
    """A `QueuePool` that knows since when each of its connections is idle."""

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()
        super()._do_return_conn(record)

    @property
    def idle_sessions(self) -> int:
        """How many open connections wait here; places whose connection was closed after an error do not count."""
        waiting = list(self._pool.queue)  # type: ignore[attr-defined]
        return sum(1 for record in waiting if record.dbapi_connection is not None)

    def evict_idle(self, seconds: float) -> int:
        """Close the connections that wait for longer than that; returns how many.

        Their places stay in the queue, empty, under those that are kept: somebody may be waiting for a place.
        """
        oldest = time.monotonic() - seconds
        waiting: list[ConnectionPoolEntry] = []
        while True:
            try:
                waiting.append(self._pool.get(block=False))
            except Empty:
                break
        evicted = []
        for record in waiting:
            if record.dbapi_connection is not None and record.info.get(_IDLE_SINCE, 0.0) <= oldest:
                evicted.append(record.dbapi_connection)
                # The record's own close would wait for the server.
                record.dbapi_connection = None  # type: ignore[misc]
        waiting.reverse()  # taken newest first: the newest shall be taken first again
        for record in sorted(waiting, key=lambda each: each.dbapi_connection is not None):
            self._pool.put(record, block=False)
        for connection in evicted:  # seconds for each where the network is gone; the places are free by now
            self._close_connection(connection)
        return len(evicted)
