"""Postgres, found by environment, service and role, or by a plain host; and the pipeline's own two databases.

The application's is read only and the home of the tenants' locks; in the catalogue's the library identity is written.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, ClassVar

import dagster as dg
import psycopg
from psycopg import Connection
from pydantic import Field, PrivateAttr

from runway_pipelines.errors import ConfigurationError, LockTimeout, RunwayError
from runway_pipelines.systems.aws.lookups import StoreLookups
from runway_pipelines.systems.certificate_files import read_ca_file
from runway_pipelines.systems.lookups import as_port
from runway_pipelines.systems.postgres.errors import Whereabouts, mapped
from runway_pipelines.systems.postgres.names import PostgresConnection, load_postgres
from runway_pipelines.systems.postgres.pool import HealingPool
from runway_pipelines.systems.vocabulary import DEFAULT_REGION, Role, parse_env, parse_role

POOL_SIZE = 10
IDLE_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 10
IDLE_IN_TRANSACTION_MS = 30_000
# A lock's connection stands idle while a roster is uploaded, so no timeout of the role may end it; and a host that
# vanished must be noticed within a minute (the system's default is two hours), for its locks go with its connection.
SESSION_SETTINGS = {
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
# Keepalives are not sent while something is unanswered: the last one bounds that (the system's default is 15 minutes).
KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}


class PostgresResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A pool of connections; opened at first use, closed when the run ends.

    With ``host`` it goes there, as ``username`` with ``password``. Without, ``env``, ``service``, ``role`` and
    ``db_id`` say where, looked up anew each time that the pool is opened, and ``database`` and ``username`` override
    what they give; the password is a fresh RDS IAM token for each connection in mirror and prod, the secret's in dev.
    ``tunnel`` (host:port) is connected to in place of an RDS endpoint, whose certificate and token stay its own.
    ``ca_file`` is a bundle of certificates in PEM.
    """

    # What to set when a login is refused; where its tables are told.
    login_variables: ClassVar[str] = "the user and the password"
    contract: ClassVar[str] = "the contract"

    env: str | None = None
    service: str | None = None
    role: str = Role.APP.value
    db_id: str | None = None
    database: str | None = None
    username: str | None = None
    region: str = DEFAULT_REGION
    tunnel: str | None = None
    ca_file: str | None = None

    host: str | None = None
    port: int = 5432
    password: str | None = Field(default=None, repr=False)
    sslmode: str = "prefer"

    pool_size: int = Field(default=POOL_SIZE, ge=1)
    idle_seconds: float = Field(default=IDLE_SECONDS, gt=0)
    connect_timeout_seconds: int = Field(default=CONNECT_TIMEOUT_SECONDS, ge=1)
    statement_timeout_ms: int | None = Field(default=None, ge=0)
    lock_timeout_ms: int | None = Field(default=None, ge=0)
    idle_in_transaction_ms: int = Field(default=IDLE_IN_TRANSACTION_MS, ge=0)

    _pool: HealingPool | None = PrivateAttr(default=None)
    _opening: Lock = PrivateAttr(default_factory=Lock)
    _goal: PostgresConnection | None = PrivateAttr(default=None)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the pool."""
        self.close()

    def open(self) -> None:
        """Connect, so that what is wrong is known; does nothing where the pool is open.

        Raises `AuthenticationRefused` at once, `Unavailable` after three attempts, and `SecretMissing`,
        `SecretMalformed`, `ConfigurationError` for what it is found by.
        """
        self._opened()

    def close(self) -> None:
        """Close the pool; opening it again is possible."""
        with self._opening:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        """A connection in autocommit; raises what `open` does, and `Permanent` for what the server refuses."""
        pool = self._opened()
        try:
            with pool.connection() as connection:
                yield connection
        except psycopg.Error as error:
            raise mapped(error, self._whereabouts()) from None

    def destination(self) -> PostgresConnection:
        """Where connections go now; raises what the lookups raise."""
        if self.host is not None:
            return self._plain(self.host)
        if not self.env or not self.service:
            raise ConfigurationError(
                expected="a database's host, or the stores' environment and a service",
                came="neither",
                remedy="set RUNWAY_STORES_ENV and the service, or the host, as docs/configuration.md lists them",
            )
        lookups = self._lookups()
        return load_postgres(
            lookups.get_secret,
            lookups.get_parameter,
            env=parse_env(self.env),
            service=self.service,
            role=parse_role(self.role),
            db_id=self.db_id,
            database=self.database,
            username=self.username,
            region=self.region,
        )

    def session_settings(self) -> dict[str, str]:
        """Settings of every session, by their names in Postgres."""
        timeouts = {
            "statement_timeout": self.statement_timeout_ms,
            "lock_timeout": self.lock_timeout_ms,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_ms,
        }
        return {name: str(value) for name, value in timeouts.items() if value is not None} | SESSION_SETTINGS

    def _plain(self, host: str) -> PostgresConnection:
        if not self.database or not self.username:
            raise ConfigurationError(
                expected=f"a database and a user at the host {host}", came="none", remedy="set both beside the host"
            )
        return PostgresConnection(host, self.port, self.database, self.username, self.password, region=self.region)

    def _opened(self) -> HealingPool:
        """The pool, opened once, and once more after it closed itself."""
        with self._opening:
            if self._pool is None or self._pool.is_closed:
                self._pool = None
                self._goal = self.destination()
                pool = self._new_pool(self._goal)
                try:
                    pool.open()
                except (psycopg.Error, RunwayError, UnicodeError) as error:
                    raise mapped(error, self._whereabouts()) from None
                self._pool = pool
            return self._pool

    def _new_pool(self, goal: PostgresConnection) -> HealingPool:
        fixed = self._connection_arguments(goal)
        lookups = self._lookups()

        def arguments() -> dict[str, Any]:
            if not goal.is_iam:
                return fixed
            return fixed | {"password": lookups.database_token(goal.host, goal.port, goal.username)}

        return HealingPool(
            arguments,
            self.session_settings(),
            size=self.pool_size,
            idle_seconds=self.idle_seconds,
            wait_seconds=self.connect_timeout_seconds,
        )

    def _connection_arguments(self, goal: PostgresConnection) -> dict[str, Any]:
        return {
            "host": goal.host,
            "port": goal.port,
            "dbname": goal.database,
            "user": goal.username,
            "password": goal.password,
            "connect_timeout": self.connect_timeout_seconds,
            "application_name": "runway_pipelines",
            **KEEPALIVES,
            **self._tls(goal),
            **(tunnelled(self.tunnel) if self.tunnel and goal.is_iam else {}),
        }

    def _tls(self, goal: PostgresConnection) -> dict[str, str]:
        """A host that was looked up is verified or, in dev, has no TLS; a plain one is as ``sslmode`` says."""
        mode = self.sslmode if self.host is not None else "verify-full" if goal.is_tls else "disable"
        if not mode.startswith("verify"):
            return {"sslmode": mode}
        if self.ca_file:
            return {"sslmode": mode, "sslrootcert": read_ca_file(self.ca_file, "RUNWAY_DB_CA_FILE")}
        # For a plain host, libpq's own default (PGSSLROOTCERT, a file in the home) stays what it is.
        return {"sslmode": mode} | ({"sslrootcert": "system"} if self.host is None else {})

    def _lookups(self) -> StoreLookups:
        return StoreLookups(self.region)

    def _whereabouts(self) -> Whereabouts:
        goal = self._goal
        if goal is None:
            return Whereabouts("the database", "", self.login_variables, self.contract)
        login = self.login_variables if self.host is not None else f"the {'IAM policy' if goal.is_iam else 'secret'}"
        return Whereabouts(
            f"the database {goal.database} at {goal.host}:{goal.port}", goal.username, login, self.contract
        )


class ApplicationDatabase(PostgresResource):
    """The application's database, of which nothing is changed."""

    login_variables = "RUNWAY_APP_DB_USER and RUNWAY_APP_DB_PASSWORD"
    contract = "the rosters contract, section 5"

    role: str = Role.RO.value
    statement_timeout_ms: int | None = Field(default=0, ge=0)  # waiting for a lock is a statement

    def session_settings(self) -> dict[str, str]:
        """Read only, whatever the role may do."""
        return {"default_transaction_read_only": "on"} | super().session_settings()

    @contextmanager
    def advisory_lock(self, name: str, wait_seconds: int) -> Iterator[Connection[Any]]:
        """Hold the lock of this name; it goes with the connection, so a process that dies lets go of it.

        A session lock in autocommit: a transaction kept open for as long as an upload takes would be ended by
        ``idle_in_transaction_session_timeout``. Advisory locks write nothing, so read-only connections may take them.
        Raises `LockTimeout`.
        """
        with self.connection() as connection, _lock_timeout(connection, f"{wait_seconds}s"):
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


class CatalogueDatabase(PostgresResource):
    """The catalogue's database, in which the library identity is written.

    Its own application works in it too: a statement gives up before it has stood in the way for long.
    """

    login_variables = "RUNWAY_CATALOGUE_DB_USER and RUNWAY_CATALOGUE_DB_PASSWORD"
    contract = "the library identity contract, section 5"

    statement_timeout_ms: int | None = Field(default=120_000, ge=0)
    lock_timeout_ms: int | None = Field(default=30_000, ge=0)

    def session_settings(self) -> dict[str, str]:
        """Writing, and what was waited for is seen by the next statement."""
        return {
            "default_transaction_read_only": "off",
            "default_transaction_isolation": "read committed",
        } | super().session_settings()


@contextmanager
def _lock_timeout(connection: Connection[Any], timeout: str) -> Iterator[None]:
    """Another timeout while it lasts: the connection is somebody else's after that."""
    (before,) = connection.execute("select current_setting('lock_timeout')").fetchone() or ("0",)
    change = "select set_config('lock_timeout', %s, false)"
    connection.execute(change, [timeout])
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute(change, [before])


def tunnelled(tunnel: str) -> dict[str, Any]:
    """What libpq is told to connect to ``tunnel`` while the host that is verified stays the real one."""
    host, _, port = tunnel.rpartition(":")
    number = as_port(port, "a port", "RUNWAY_DB_TUNNEL")
    try:
        address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][4][0]
    except (OSError, UnicodeError):
        raise ConfigurationError(
            expected="the host in RUNWAY_DB_TUNNEL to have an address", came="none", remedy="correct RUNWAY_DB_TUNNEL"
        ) from None
    return {"hostaddr": str(address), "port": number}
