"""psycopg's pool, with what it leaves to its user: a fresh password for each connection, session settings, reasons.

A pool only says that it waited. This one remembers why its last attempt to connect failed, and where trying again gives
the same (a refused login, a certificate) it closes at once, so that whoever waits is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock, Thread
from typing import Any, Self

import psycopg
from psycopg import Connection
from psycopg_pool import ConnectionPool
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from runway_pipelines.systems.postgres.check import check_answers
from runway_pipelines.systems.postgres.errors import is_final

ATTEMPTS = 3
FIRST_WAIT_SECONDS = 1.0
# Refusing it would open for writing what is meant to be read.
REQUIRED_SETTINGS = ("default_transaction_read_only",)
_CLOSING_SECONDS = 1.0

_log = logging.getLogger(__name__)


class HealingPool:
    """A pool of connections in autocommit, which replaces broken ones without failing who asks for one.

    ``arguments`` gives the arguments of one physical connection: it is called anew for each, so that a token is never
    used twice. What it raises counts as a failed attempt.
    """

    def __init__(
        self,
        arguments: Callable[[], Mapping[str, Any]],
        settings: Mapping[str, str],
        *,
        size: int,
        idle_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._arguments = arguments
        self._settings = settings
        self._probed: Connection[Any] | None = None
        self._failure: Exception | None = None
        self._noting = Lock()
        # Of the time that a caller waits, half is for the connection that it draws, and half for all of its neighbours.
        self._answer_seconds = wait_seconds / 2
        neighbour_seconds = wait_seconds / 2 / size
        self._pool: ConnectionPool[Connection[Any]] = _pool_class(neighbour_seconds)(
            connection_class=_connecting_with(self._connect),
            min_size=0,
            max_size=size,
            max_idle=idle_seconds,
            timeout=wait_seconds,
            # By its own backoff, from 1 s, for as long as somebody waits.
            reconnect_timeout=wait_seconds,
            check=self._check,
            open=False,
        )

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, by whoever it was."""
        return self._pool.closed

    @property
    def stats(self) -> dict[str, int]:
        """The numbers that psycopg keeps."""
        return self._pool.get_stats()

    def open(self) -> None:
        """Connect, at most three times, so that what is wrong is known; raises what the last attempt met."""
        attempts = Retrying(
            retry=retry_if_exception(lambda error: not is_final(error)),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=FIRST_WAIT_SECONDS, min=FIRST_WAIT_SECONDS),
            reraise=True,
        )
        # Its warnings quote the driver; what matters of them is said below, or raised.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        self._probed = attempts(self._new_connection)
        self._pool.open()

    def close(self) -> None:
        """Close the connections that are not in use; the others when they are given back."""
        self._pool.close(_CLOSING_SECONDS)
        if (probed := self._take_probed()) is not None:
            probed.close()

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        """A connection that answered just now.

        Raises `PoolTimeout` when all are in use, and the reason of the last attempt where connecting is what failed.
        """
        try:
            connection = self._pool.getconn()
        except psycopg.OperationalError as error:  # PoolTimeout, PoolClosed
            if (failure := self._failure) is not None:
                self.close()  # whoever opens anew looks up anew where the server is
                raise failure from None
            raise error from None
        try:
            with connection:
                yield connection
        finally:
            self._pool.putconn(connection)

    def _connect(self) -> Connection[Any]:
        """The next connection of the pool: the one that opening it was tried with, then new ones."""
        if (probed := self._take_probed()) is not None:
            return probed
        try:
            connection = self._new_connection()
        except Exception as error:
            self._failure = error
            _log.warning("Connecting to Postgres failed: %s", type(error).__name__)
            if is_final(error):
                # From a thread of its own: closing waits for the pool's workers, of which this is one.
                Thread(target=self._pool.close, args=(_CLOSING_SECONDS,), daemon=True).start()
            raise
        self._failure = None
        return connection

    def _new_connection(self) -> Connection[Any]:
        connection = psycopg.connect(**self._arguments(), autocommit=True)
        try:
            apply_settings(connection, self._settings)
        except BaseException:
            connection.close()
            raise
        return connection

    def _take_probed(self) -> Connection[Any] | None:
        with self._noting:
            probed, self._probed = self._probed, None
        return probed

    def _check(self, connection: Connection[Any]) -> None:
        """Whether it still answers. Where it does not, its neighbours are looked at too: drawn one by one, ten broken
        ones would cost a caller more than it waits, for the pool pauses between two of them.
        """
        try:
            check_answers(connection, self._answer_seconds)
        except psycopg.Error:
            self._pool.check()
            raise


def _pool_class(answer_seconds: float) -> type[ConnectionPool[Connection[Any]]]:
    """A pool of psycopg's, whose look at idle connections waits no longer than this for each."""

    class Looking(ConnectionPool[Connection[Any]]):
        @staticmethod
        def check_connection(conn: Connection[Any]) -> None:
            check_answers(conn, answer_seconds)

    return Looking


def apply_settings(connection: Connection[Any], settings: Mapping[str, str]) -> None:
    """The session's settings, in one statement; one that the server refuses is logged, and the others stand.

    Startup options would refuse the login instead. Raises psycopg's error for one of `REQUIRED_SETTINGS`.
    """
    if not settings:
        return
    calls = ", ".join(["set_config(%s, %s, false)"] * len(settings))
    try:
        connection.execute(f"select {calls}", [part for item in settings.items() for part in item])
    except psycopg.DatabaseError:
        if connection.broken:
            raise
        for name, value in settings.items():
            _apply(connection, name, value)


def _apply(connection: Connection[Any], name: str, value: str) -> None:
    try:
        connection.execute("select set_config(%s, %s, false)", [name, value])
    except psycopg.DatabaseError as error:
        if connection.broken or name in REQUIRED_SETTINGS:
            raise
        _log.warning(
            "Postgres refuses the session setting %s (%s); it is left as the server has it", name, error.sqlstate
        )


def _connecting_with(connect: Callable[[], Connection[Any]]) -> type[Connection[Any]]:
    """A connection class for psycopg's pool, which makes each of its connections by this classmethod."""

    class Connecting(Connection[Any]):
        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
            return connect()  # type: ignore[return-value]

    return Connecting
