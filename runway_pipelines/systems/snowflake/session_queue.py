"""SQLAlchemy's connection pool, with eviction of idle connections, which it lacks.

A Snowflake session expires after four hours, and a NAT forgets its connection long before that: the next borrower would
wait for a failure. Partners and secrets are not known here.
"""

from __future__ import annotations

import logging
import time

from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.util.queue import Empty

_IDLE_SINCE = "idle_since"
# SQLAlchemy logs every session under this name, and quotes errors.
logging.getLogger(__name__).setLevel(logging.WARNING)


class SessionQueue(QueuePool):
    """A `QueuePool` that knows how long each connection has been idle."""

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()
        super()._do_return_conn(record)

    @property
    def idle_sessions(self) -> int:
        """How many open connections are waiting; a slot whose connection was closed after an error does not count."""
        waiting = list(self._pool.queue)  # type: ignore[attr-defined]
        return sum(1 for record in waiting if record.dbapi_connection is not None)

    def evict_idle(self, seconds: float) -> int:
        """Close connections that have been idle for longer; returns how many.

        Their slots stay in the queue, empty, behind the others: somebody may be waiting for a slot.
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
        waiting.reverse()  # taken newest first; the newest must come out first again
        for record in sorted(waiting, key=lambda each: each.dbapi_connection is not None):
            self._pool.put(record, block=False)
        for connection in evicted:  # takes seconds each if the network is gone; the slots are free by now
            self._close_connection(connection)
        return len(evicted)
