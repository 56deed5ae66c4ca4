"""The two Postgres databases: the application's, read only and the home of the tenants' locks, and the catalogue's."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, ClassVar

import dagster as dg
import psycopg
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout
from pydantic import PrivateAttr

from runway_pipelines.errors import AuthenticationRefused, LockTimeout, Permanent, RunwayError, Unavailable

POOL_SIZE = 10
IDLE_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 10
# A lock's connection stands idle while a roster is uploaded, so no timeout of the role may end it; and a host that
# vanished must be noticed within a minute (the system's default is two hours), for its locks go with its connection.
SESSION_SETTINGS = (
    "idle_in_transaction_session_timeout=30000",
    "idle_session_timeout=0",
    "tcp_keepalives_idle=30",
    "tcp_keepalives_interval=10",
    "tcp_keepalives_count=3",
)
# A session that stood idle for too long, and a server that is not the primary any more: psycopg takes them for defects.
PASSING_STATES = ("25P03", "25P04", "25006")
KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}


class PostgresDatabase(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A pool of connections; opened at first use, closed when the run ends. What differs is in the subclasses."""

    # Settings of every session, beside the common ones; what to set when a login is refused; where its tables are told.
    session_settings: ClassVar[tuple[str, ...]] = ()
    login_variables: ClassVar[str] = ""
    contract: ClassVar[str] = ""

    host: str
    port: int
    database: str
    user: str
    password: str | None = None
    sslmode: str = "prefer"

    _pool: ConnectionPool[Connection[Any]] | None = PrivateAttr(default=None)
    _opening: Lock = PrivateAttr(default_factory=Lock)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the pool."""
        self.close()

    def close(self) -> None:
        """Close the pool; opening it again is possible."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        """A connection in autocommit; raises `Unavailable`, or `Permanent` for what the server refuses."""
        pool = self._opened()
        try:
            with pool.connection(timeout=CONNECT_TIMEOUT_SECONDS) as connection:
                yield connection
        except (psycopg.Error, PoolTimeout) as error:
            raise self._mapped(error) from None

    def _opened(self) -> ConnectionPool[Connection[Any]]:
        """The pool, opened once after a connection that says what is wrong (a pool only says that it waited)."""
        with self._opening:
            if self._pool is None:
                try:
                    psycopg.connect(**self._connection_arguments()).close()
                except psycopg.Error as error:
                    raise self._mapped(error) from None
                self._pool = ConnectionPool(
                    kwargs={**self._connection_arguments(), "autocommit": True},
                    min_size=0,
                    max_size=POOL_SIZE,
                    max_idle=IDLE_SECONDS,
                    check=ConnectionPool.check_connection,
                    open=True,
                )
            return self._pool

    def _connection_arguments(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "dbname": self.database,
            "user": self.user,
            "password": self.password,
            "sslmode": self.sslmode,
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "options": " ".join(f"-c {setting}" for setting in (*self.session_settings, *SESSION_SETTINGS)),
            "application_name": "runway_pipelines",
            **KEEPALIVES,
        }

    def _mapped(self, error: Exception) -> RunwayError:
        """By SQLSTATE; a driver's text can quote a connection string, so none of it is passed on."""
        expected = f"the database {self.database} at {self.host}:{self.port}"
        state = getattr(error, "sqlstate", None)
        # A connection that never stood has no SQLSTATE, only a text.
        if state in ("28P01", "28000") or "authentication failed" in str(error):
            return AuthenticationRefused(
                expected=f"{expected} to let user {self.user} in",
                came="a refused login",
                remedy=f"correct {self.login_variables}",
                code=state,
            )
        if isinstance(error, PoolTimeout) or (isinstance(error, psycopg.OperationalError) and state is None):
            return Unavailable(expected=expected, came="no connection", remedy="see whether the server is up")
        if isinstance(error, psycopg.OperationalError) or state in PASSING_STATES:
            return Unavailable(expected=expected, came="a broken connection", remedy="try again", code=state)
        return Permanent(
            expected=f"{expected} to answer",
            came=f"{type(error).__name__} ({state})",
            remedy=f"compare its tables with {self.contract}",
            code=state,
        )


class ApplicationDatabase(PostgresDatabase):
    """The application's database, of which nothing is changed."""

    session_settings = ("default_transaction_read_only=on", "statement_timeout=0")  # waiting for a lock is a statement
    login_variables = "RUNWAY_APP_DB_USER and RUNWAY_APP_DB_PASSWORD"
    contract = "the rosters contract, section 5"

    @contextmanager
    def advisory_lock(self, name: str, wait_seconds: int) -> Iterator[Connection[Any]]:
        """Hold the lock of this name; it goes with the connection, so a process that dies lets go of it.

        A session lock in autocommit: a transaction kept open for as long as an upload takes would be ended by
        ``idle_in_transaction_session_timeout``. Advisory locks write nothing, so read-only connections may take them.
        Raises `LockTimeout`.
        """
        with self.connection() as connection:
            connection.execute("select set_config('lock_timeout', %s, false)", [f"{wait_seconds}s"])
            try:
                connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [name])
            except psycopg.errors.LockNotAvailable:
                raise LockTimeout(
                    expected=f"the lock {name} within {wait_seconds} s",
                    came="another run that still holds it",
                    remedy="wait for that run, then run again",
                ) from None
            try:
                yield connection
            finally:
                if not connection.broken:
                    connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", [name])


class CatalogueDatabase(PostgresDatabase):
    """The catalogue's database, in which the library identity is written.

    Its own application works in it too: a statement gives up before it has stood in the way for long.
    """

    session_settings = (
        "default_transaction_read_only=off",
        r"default_transaction_isolation=read\ committed",  # what was waited for is seen by the next statement
        "statement_timeout=120000",
        "lock_timeout=30000",
    )
    login_variables = "RUNWAY_CATALOGUE_DB_USER and RUNWAY_CATALOGUE_DB_PASSWORD"
    contract = "the library identity contract, section 5"
