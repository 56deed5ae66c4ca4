"""psycopg's pool, with a fresh password for each connection, session settings, and the reasons for failures.

psycopg's pool only reports a timeout. This one remembers why its last attempt to connect failed; if another attempt
would fail the same way (a refused login, a certificate), it closes at once, and its callers get that reason. With
tokens a refusal says less, because RDS refuses good ones now and then: one more is minted, and as long as connections
work, they go on serving.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock, Thread
from typing import Any, Self
from weakref import WeakSet

import psycopg
from psycopg import Connection
from psycopg_pool import ConnectionPool

from runway_pipelines.systems.postgres.check import check_answers
from runway_pipelines.systems.postgres.errors import is_final, is_refused_password
from runway_pipelines.systems.store_resource import ATTEMPTS, retrying

# Without it, a database meant for reading would be open for writing.
REQUIRED_SETTINGS = ("default_transaction_read_only",)
_CLOSING_SECONDS = 1.0
# A token changes once a second: one that is minted sooner is the same.
NEW_TOKEN_SECONDS = 1.05

_log = logging.getLogger(__name__)


class HealingPool:
    """A pool of connections in autocommit that replaces broken ones without failing its caller.

    ``arguments`` is called for each physical connection, so that no token is used twice; an error that it raises counts
    as a failed attempt. With ``mints_tokens`` it is called once more for a login that is refused.
    """

    def __init__(
        self,
        arguments: Callable[[], Mapping[str, Any]],
        settings: Mapping[str, str],
        *,
        size: int,
        idle_seconds: float,
        wait_seconds: float,
        mints_tokens: bool = False,
    ) -> None:
        self._arguments = arguments
        self._settings = settings
        self._mints_tokens = mints_tokens
        self._standing: WeakSet[Connection[Any]] = WeakSet()
        self._probed: Connection[Any] | None = None
        self._failure: Exception | None = None
        self._noting = Lock()
        # Half the caller's timeout checks its own connection, half the rest of the pool.
        self._answer_seconds = wait_seconds / 2
        neighbour_seconds = wait_seconds / 2 / size
        self._pool: ConnectionPool[Connection[Any]] = _pool_class(neighbour_seconds)(
            connection_class=_connecting_with(self._connect),
            min_size=0,
            max_size=size,
            max_idle=idle_seconds,
            timeout=wait_seconds,
            # psycopg backs off by itself, from 1 s, while somebody waits.
            reconnect_timeout=wait_seconds,
            check=self._check,
            open=False,
        )

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, by its owner or by itself."""
        return self._pool.closed

    def open(self) -> None:
        """Connect, in at most three attempts; raises the last one's error."""
        # Its warnings quote the driver; what matters is logged below, or raised.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        self._probed = retrying(lambda error: not is_final(error), ATTEMPTS)(self._new_connection)
        self._pool.open()

    def close(self) -> None:
        """Close idle connections now, and the others when they are returned."""
        self._pool.close(_CLOSING_SECONDS)
        if (probed := self._take_probed()) is not None:
            probed.close()

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        """A connection that has just answered.

        Raises `PoolTimeout` if all are in use, or the last attempt's error if connecting failed.
        """
        try:
            connection = self._pool.getconn()
        except psycopg.OperationalError as error:  # PoolTimeout, PoolClosed
            if (failure := self._failure) is not None:
                if not self._has_others():
                    self.close()  # opening again looks up anew where the server is
                raise failure from None
            raise error from None
        try:
            with connection:
                yield connection
        finally:
            self._pool.putconn(connection)

    def _connect(self) -> Connection[Any]:
        """The pool's next connection: first the one that `open` made, then new ones."""
        if (probed := self._take_probed()) is not None:
            return probed
        try:
            connection = self._new_connection()
        except Exception as error:
            self._failure = error
            _log.warning("Connecting to Postgres failed: %s", type(error).__name__)
            if is_final(error) and not self._has_others():
                # In another thread: closing waits for the pool's workers, and this is one of them.
                Thread(target=self._pool.close, args=(_CLOSING_SECONDS,), daemon=True).start()
            raise
        self._failure = None
        return connection

    def _has_others(self) -> bool:
        """Whether other connections still work; False with a static password, because its refusal is final."""
        with self._noting:
            return self._mints_tokens and not self._pool.closed and any(not each.closed for each in self._standing)

    def _new_connection(self) -> Connection[Any]:
        try:
            connection = psycopg.connect(**self._arguments(), autocommit=True)
        except psycopg.OperationalError as error:
            if not (self._mints_tokens and is_refused_password(error)):
                raise
            _log.warning("Postgres refused a token; one more is minted, because RDS refuses good ones now and then")
            time.sleep(NEW_TOKEN_SECONDS)
            connection = psycopg.connect(**self._arguments(), autocommit=True)
        try:
            apply_settings(connection, self._settings)
        except BaseException:
            connection.close()
            raise
        with self._noting:
            self._standing.add(connection)
        return connection

    def _take_probed(self) -> Connection[Any] | None:
        with self._noting:
            probed, self._probed = self._probed, None
        return probed

    def _check(self, connection: Connection[Any]) -> None:
        """Probe a connection; if it is broken, probe the idle ones too.

        Drawing ten broken ones one by one would take longer than the caller waits: the pool pauses between draws.
        """
        try:
            check_answers(connection, self._answer_seconds)
        except psycopg.Error:
            self._pool.check()
            raise


def _pool_class(answer_seconds: float) -> type[ConnectionPool[Connection[Any]]]:
    """A pool that probes each idle connection for no longer than ``answer_seconds``."""

    class Probing(ConnectionPool[Connection[Any]]):
        @staticmethod
        def check_connection(conn: Connection[Any]) -> None:
            check_answers(conn, answer_seconds)

    return Probing


def apply_settings(connection: Connection[Any], settings: Mapping[str, str]) -> None:
    """Apply the settings in one statement; one that the server refuses is logged, and the others still apply.

    As startup options, it would refuse the login. Raises psycopg's error for one of `REQUIRED_SETTINGS`.
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
        _log.warning("Postgres refuses the session setting %s (%s); the server's value stays", name, error.sqlstate)


def _connecting_with(connect: Callable[[], Connection[Any]]) -> type[Connection[Any]]:
    """A connection class for psycopg's pool, which makes its connections with this classmethod."""

    class Connecting(Connection[Any]):
        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
            return connect()  # type: ignore[return-value]

    return Connecting
