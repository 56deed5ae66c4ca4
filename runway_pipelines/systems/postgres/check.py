"""A probe of a connection with a deadline: psycopg's own check waits for as long as TCP does.

With a tunnel whose far end vanished, or a frozen backend, that is forever.
"""

import select
import time
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.pq import ExecStatus


def check_answers(connection: Connection[Any], seconds: float) -> None:
    """One round trip with an empty statement; raises psycopg's error, and closes a connection that does not answer."""
    pgconn, deadline = connection.pgconn, time.monotonic() + seconds
    pgconn.send_query(b"")
    while True:
        while (is_unsent := bool(pgconn.flush())) or pgconn.is_busy():
            socket = select.poll()
            socket.register(pgconn.socket, select.POLLIN | (select.POLLOUT if is_unsent else 0))
            if not socket.poll(max(0.0, deadline - time.monotonic()) * 1000):
                connection.close()
                raise psycopg.OperationalError("no answer in time")
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return
        if result.status not in (ExecStatus.EMPTY_QUERY, ExecStatus.COMMAND_OK):
            raise psycopg.OperationalError("the connection was ended")
