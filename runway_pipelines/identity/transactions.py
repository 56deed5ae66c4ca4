"""One transaction as a whole: what to do when it fails.

Belongs here: telling what the database refuses (a `Refused`, which the same rows would get again) from what befell the
connection (tried again, with new connections of the pool). What is done within is somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Event
from typing import Any, TypeVar

import psycopg
from psycopg import Connection
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)

from runway_pipelines.errors import RunwayError, Transient

# A connection from the pool, in autocommit; raises what `CatalogueDatabase.connection` raises.
Connections = Callable[[], AbstractContextManager[Connection[Any]]]
Result = TypeVar("Result")

# With the pool's own 10 s for a connection: a server that restarts or fails over within a minute is waited for.
ATTEMPTS = 8
# Each costs `lock_timeout`, 30 s, or `statement_timeout`, 120 s: who holds a row for so long may hold it for hours.
ATTEMPTS_WHEN_HELD_UP = 2
_LONGEST_WAIT_SECONDS = 10
# What a trigger says of a row is as much the database's word as a constraint; 54000 is an index entry that is too long.
_ABOUT_THE_ROWS = ("22", "23", "44", "P0", "54000")
# The classes of SQLSTATE that Postgres uses (its manual, appendix A); any other is a trigger's own (``ERRCODE``).
_CLASSES = {
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22",
    "23", "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40",
    "42", "44", "53", "54", "55", "57", "58", "72", "F0", "HV", "P0", "XX",
}  # fmt: skip
_HELD_UP = ("55P03", "57014")  # lock_not_available, query_canceled


class Refused(Exception):
    """The database refuses these rows: trying them again gives the same. ``reason`` quotes none of them."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def in_transaction(
    connections: Connections,
    work: Callable[[Connection[Any]], Result],
    *,
    read_only: bool = False,
    stopped: Event | None = None,
) -> Result:
    """What ``work`` returns, committed; ``work`` is done again from the start when its connection was lost, a deadlock
    was resolved at its cost or the server went away, so it must keep nothing of a failed attempt. Once ``stopped`` is
    set, a failed attempt is the last.

    Raises `Refused`, or the last `Transient` when ``ATTEMPTS`` were in vain, or what else `Connections` raise.
    """
    stopped = stopped or Event()
    attempts = Retrying(
        retry=retry_if_exception_type(Transient),
        stop=stop_any(_is_enough, stop_when_event_set(stopped)),  # type: ignore[arg-type]
        wait=wait_random_exponential(multiplier=0.1, max=_LONGEST_WAIT_SECONDS),
        sleep=sleep_using_event(stopped),
        reraise=True,
    )
    result: Result = attempts(_once, connections, work, read_only)
    return result


def is_held_up(error: RunwayError) -> bool:
    """Whether a lock or a statement took longer than we wait: about these rows, not about the database."""
    return error.code in _HELD_UP


def _is_enough(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    attempts = ATTEMPTS_WHEN_HELD_UP if isinstance(error, RunwayError) and is_held_up(error) else ATTEMPTS
    return state.attempt_number >= attempts


def _once(connections: Connections, work: Callable[[Connection[Any]], Result], read_only: bool) -> Result:
    with connections() as connection:
        try:
            with connection.transaction():
                if read_only:
                    connection.execute("set transaction read only")
                return work(connection)
        except (psycopg.Error, UnicodeEncodeError) as error:
            reason = _refusal(error)
            if reason is None:
                raise
        # Outside the handler: the driver's text, which may quote a row, is not its context.
        raise Refused(reason)


def _refusal(error: Exception) -> str | None:
    """What the database says of the rows; None for an error that is not about them."""
    if isinstance(error, UnicodeEncodeError):
        return "a text without a UTF-8 form"
    state = getattr(error, "sqlstate", None)
    if state is None:  # raised by the driver before anything was sent: a NUL byte
        return "a value that cannot be sent" if isinstance(error, psycopg.DataError) else None
    if state[:2] in _CLASSES and not state.startswith(_ABOUT_THE_ROWS):
        return None
    constraint = error.diag.constraint_name if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__} ({state})" + (f" by {constraint}" if constraint else "")
