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
# Each costs `lock_timeout`, 30 s: somebody who holds a row for a minute may hold it for an hour.
ATTEMPTS_WHEN_LOCKED = 2
_LONGEST_WAIT_SECONDS = 10
# What a trigger says of a row is as much the database's word as a constraint; 54000 is an index entry that is too long.
_ABOUT_THE_ROWS = ("22", "23", "44", "P0", "54000")
# Classes that begin with one of these are nobody's but a trigger's own (``ERRCODE``), but for those of Postgres itself.
_CUSTOM = tuple("56789IJKLMNOPQRSTUVWXYZ")
_POSTGRES = ("53", "54", "55", "57", "58", "P0", "XX")
_LOCK_NOT_AVAILABLE = "55P03"


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


def is_locked(error: RunwayError) -> bool:
    """Whether somebody else held a row for longer than we wait: about these rows, not about the database."""
    return error.code == _LOCK_NOT_AVAILABLE


def _is_enough(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    attempts = ATTEMPTS_WHEN_LOCKED if isinstance(error, RunwayError) and is_locked(error) else ATTEMPTS
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
    is_custom = state.startswith(_CUSTOM) and not state.startswith(_POSTGRES)
    if not (is_custom or state.startswith(_ABOUT_THE_ROWS)):
        return None
    constraint = error.diag.constraint_name if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__} ({state})" + (f" by {constraint}" if constraint else "")
