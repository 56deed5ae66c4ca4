"""One transaction as a whole: what to do when it fails.

Belongs here: telling what the database refuses (a `Refused`, which the same rows would get again) from what befell the
connection (tried again, with new connections of the pool). What is done within is somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import psycopg
from psycopg import Connection
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from runway_pipelines.errors import Transient

# A connection from the pool, in autocommit; raises what `CatalogueDatabase.connection` raises.
Connections = Callable[[], AbstractContextManager[Connection[Any]]]
Result = TypeVar("Result")

# With the pool's own 10 s for a connection: a server that restarts or fails over within a minute is waited for.
ATTEMPTS = 8
_LONGEST_WAIT_SECONDS = 10
# What a trigger says of a row is as much the database's word as a constraint; 54000 is an index entry that is too long.
_ABOUT_THE_ROWS = ("22", "23", "44", "P0", "54000")


class Refused(Exception):
    """The database refuses these rows: trying them again gives the same. ``reason`` quotes none of them."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def in_transaction(
    connections: Connections, work: Callable[[Connection[Any]], Result], *, read_only: bool = False
) -> Result:
    """What ``work`` returns, committed; ``work`` is done again from the start when its connection was lost, a deadlock
    was resolved at its cost or the server went away, so it must keep nothing of a failed attempt.

    Raises `Refused`, or the last `Transient` when ``ATTEMPTS`` were in vain, or what else `Connections` raise.
    """
    attempts = Retrying(
        retry=retry_if_exception_type(Transient),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=_LONGEST_WAIT_SECONDS),
        reraise=True,
    )
    result: Result = attempts(_once, connections, work, read_only)
    return result


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
    if not state.startswith(_ABOUT_THE_ROWS):
        return None
    constraint = error.diag.constraint_name if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__} ({state})" + (f" by {constraint}" if constraint else "")
