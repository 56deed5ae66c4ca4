"""Runs one transaction and handles its failure.

A row that the database refuses raises `Refused`, because it would be refused again. A missing right is about no
row: it ends the run. A failed connection is tried again with another one from the pool.
"""

from __future__ import annotations

import re
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

from runway_pipelines.errors import Permanent, RunwayError, Transient

# A connection from the pool, in autocommit; raises what `CatalogueDatabase.connection` raises.
Connections = Callable[[], AbstractContextManager[Connection[Any]]]
Result = TypeVar("Result")

# With the pool's 10 s per connection, enough to outlast a restart or failover of a minute.
ATTEMPTS = 8
# Each costs `lock_timeout`, 30 s, or `statement_timeout`, 120 s; a row held for so long may be held for hours.
ATTEMPTS_WHEN_HELD_UP = 2
_LONGEST_WAIT_SECONDS = 10
# Classes and states about the rows. P0 is a trigger's refusal; 54000 is an index entry that is too long.
_ABOUT_THE_ROWS = ("22", "23", "44", "P0", "54000")
# The SQLSTATE classes that Postgres uses (its manual, appendix A); any other comes from a trigger (``ERRCODE``).
_CLASSES = {
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22",
    "23", "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40",
    "42", "44", "53", "54", "55", "57", "58", "72", "F0", "HV", "P0", "XX",
}  # fmt: skip
_HELD_UP = ("55P03", "57014")  # lock_not_available, query_canceled
# The one text of the server's that is repeated: it names the object, and no row.
_DENIED = re.compile(r"permission denied for (?:schema|table|sequence|function) \w+")


class Refused(Exception):
    """The database refuses these rows, and would again. ``reason`` quotes none of them."""

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
    """Commit ``work`` and return its result. A lost connection or a deadlock runs ``work`` again from the start, so it
    must keep nothing of a failed attempt. Setting ``stopped`` ends the retries.

    Raises `Refused`, the last `Transient` after ``ATTEMPTS``, `Permanent` for a missing right, and what `Connections`
    raise.
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
    """Whether a lock or statement timed out: that concerns these rows, not the database."""
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
            failure = _failure(error)
            if failure is None:
                raise
        # Outside the handler, so that the driver's text, which may quote a row, is not the context.
        raise failure


def _failure(error: Exception) -> Refused | Permanent | None:
    """The failure to raise in place of the error; None for an error that the connection's owner maps."""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        denied = _DENIED.fullmatch(error.diag.message_primary or "")
        return Permanent(
            expected="the right to read and write the catalogue's tables",
            came="a missing right" + (f": {denied.group()}" if denied else ""),
            remedy="grant it as docs/operations.md says; `runway-pipelines doctor` names every missing right",
            code=error.sqlstate,
        )
    reason = _refusal(error)
    return None if reason is None else Refused(reason)


def _refusal(error: Exception) -> str | None:
    """Why the database refuses the rows; None for an error that is not about them."""
    if isinstance(error, UnicodeEncodeError):
        return "a text that UTF-8 cannot encode"
    state = getattr(error, "sqlstate", None)
    if state is None:  # the driver raised it before sending: a NUL byte
        return "a value that the driver cannot send" if isinstance(error, psycopg.DataError) else None
    if state[:2] in _CLASSES and not state.startswith(_ABOUT_THE_ROWS):
        return None
    constraint = error.diag.constraint_name if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__} ({state})" + (f" by {constraint}" if constraint else "")
