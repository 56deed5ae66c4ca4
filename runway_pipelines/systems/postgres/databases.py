"""Postgres, located by environment, service and role, or by a plain host; and the pipeline's two databases.

The application's is read-only and holds the tenants' locks; the library identity is written to the catalogue's.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import psycopg
from psycopg import Connection
from pydantic import Field, PrivateAttr

from runway_pipelines.errors import ConfigurationError, LockTimeout
from runway_pipelines.systems.aws.lookups import StoreLookups
from runway_pipelines.systems.certificates import read_ca_file
from runway_pipelines.systems.lookups import as_port
from runway_pipelines.systems.postgres.errors import Whereabouts, postgres_errors
from runway_pipelines.systems.postgres.names import PostgresConnection, load_postgres
from runway_pipelines.systems.postgres.pool import HealingPool
from runway_pipelines.systems.store_resource import StoreResource
from runway_pipelines.systems.vocabulary import Role, parse_env, parse_role

POOL_SIZE = 10
IDLE_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 10
IDLE_IN_TRANSACTION_MS = 30_000
# A lock's connection is idle while a roster is uploaded, so no timeout of the role may end it. A client that vanished
# must be noticed within a minute (the system's default is two hours): its locks are held as long as its connection.
SESSION_SETTINGS = {
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
# No keepalive is sent while something is unanswered; tcp_user_timeout bounds that (the system's default: 15 minutes).
KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}


class PostgresResource(StoreResource):
    """A pool of connections.

    With ``host`` it connects there, as ``username`` with ``password``. Otherwise ``env``, ``service``, ``role`` and
    ``db_id`` locate the database each time the pool is opened, and ``database`` and ``username`` override what they
    give. The password is a fresh RDS IAM token for each connection in mirror and prod, and the secret's in dev.
    ``tunnel`` (host:port) replaces the address of an RDS endpoint, but not the name in its certificate and token.
    ``ca_file`` is a PEM bundle.
    """

    # What to correct after a refused login, and where the tables are specified.
    login_variables: ClassVar[str] = "the user and the password"
    contract: ClassVar[str] = "the contract"

    env: str | None = None
    service: str | None = None
    role: str = Role.APP.value
    db_id: str | None = None
    database: str | None = None
    username: str | None = None
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

    _destination: PostgresConnection | None = PrivateAttr(default=None)

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        """A connection in autocommit; raises what `open` does, and `Permanent` for what the server refuses."""
        pool: HealingPool = self._opened()
        with postgres_errors(self._whereabouts()), pool.connection() as connection:
            yield connection

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
        return load_postgres(
            StoreLookups(self.region),
            env=parse_env(self.env),
            service=self.service,
            role=parse_role(self.role),
            db_id=self.db_id,
            database=self.database,
            username=self.username,
        )

    def session_settings(self) -> dict[str, str]:
        """Every session's settings, by their names in Postgres."""
        timeouts = {
            "statement_timeout": self.statement_timeout_ms,
            "lock_timeout": self.lock_timeout_ms,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_ms,
        }
        return {name: str(value) for name, value in timeouts.items() if value is not None} | SESSION_SETTINGS

    def _plain(self, host: str) -> PostgresConnection:
        if not self.database or not self.username:
            raise ConfigurationError(
                expected=f"a database and a user at the host {host}", came="at least one unset", remedy="set both"
            )
        return PostgresConnection(host, self.port, self.database, self.username, self.password)

    def _has_closed_itself(self, client: HealingPool) -> bool:
        return client.is_closed

    def _connected(self) -> HealingPool:
        goal = self._destination = self.destination()
        pool = self._new_pool(goal)
        where = self._whereabouts()
        try:
            with postgres_errors(where):
                pool.open()
        except UnicodeError:
            raise ConfigurationError(
                expected=f"a host's name in {where.place}", came="an impossible one", remedy="correct the host"
            ) from None
        return pool

    def _new_pool(self, goal: PostgresConnection) -> HealingPool:
        fixed = self._connection_arguments(goal)
        lookups = StoreLookups(self.region)

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
            mints_tokens=goal.is_iam,
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
            **(_tunnelled(self.tunnel) if self.tunnel and goal.is_iam else {}),
        }

    def _tls(self, goal: PostgresConnection) -> dict[str, str]:
        """A looked-up host is verified or, in dev, has no TLS; a plain host follows ``sslmode``."""
        mode = self.sslmode if self.host is not None else "verify-full" if goal.is_tls else "disable"
        if not mode.startswith("verify"):
            return {"sslmode": mode}
        if self.ca_file:
            return {"sslmode": mode, "sslrootcert": read_ca_file(self.ca_file, "RUNWAY_DB_CA_FILE")}
        # A plain host keeps libpq's own default (PGSSLROOTCERT, or a file in the home).
        return {"sslmode": mode} | ({"sslrootcert": "system"} if self.host is None else {})

    def _whereabouts(self) -> Whereabouts:
        goal = self._destination
        if goal is None:
            return Whereabouts("the database", "", self.login_variables, self.contract)
        login = self.login_variables if self.host is not None else f"the {'IAM policy' if goal.is_iam else 'secret'}"
        place = f"the database {goal.database} at {goal.host}:{goal.port}"
        return Whereabouts(place, goal.username, login, self.contract)


class ApplicationDatabase(PostgresResource):
    """The application's database, which is never written to."""

    login_variables = "RUNWAY_APP_DB_USER and RUNWAY_APP_DB_PASSWORD"
    contract = "the rosters contract, section 5 (docs/contracts)"

    role: str = Role.RO.value
    statement_timeout_ms: int | None = Field(default=0, ge=0)  # waiting for a lock is a statement

    def session_settings(self) -> dict[str, str]:
        """Read-only, whatever the role may do."""
        return {"default_transaction_read_only": "on"} | super().session_settings()

    @contextmanager
    def advisory_lock(self, name: str, wait_seconds: int) -> Iterator[Connection[Any]]:
        """Hold the lock of this name; a process that dies releases it with its connection. Raises `LockTimeout`.

        It is a session lock in autocommit: ``idle_in_transaction_session_timeout`` would end a transaction that stays
        open for an upload. Advisory locks write nothing, so a read-only connection can take them.
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
    """The catalogue's database, where the library identity is written.

    Its own application uses it too, so a statement gives up before it blocks others for long.
    """

    login_variables = "RUNWAY_CATALOGUE_DB_USER and RUNWAY_CATALOGUE_DB_PASSWORD"
    contract = "the library identity contract, section 5 (docs/contracts)"

    statement_timeout_ms: int | None = Field(default=120_000, ge=0)
    lock_timeout_ms: int | None = Field(default=30_000, ge=0)

    def session_settings(self) -> dict[str, str]:
        """Writable, and a statement sees what was committed while it waited."""
        return {
            "default_transaction_read_only": "off",
            "default_transaction_isolation": "read committed",
        } | super().session_settings()


@contextmanager
def _lock_timeout(connection: Connection[Any], timeout: str) -> Iterator[None]:
    """Set another lock timeout, and restore it before somebody else gets the connection."""
    (before,) = connection.execute("select current_setting('lock_timeout')").fetchone() or ("0",)
    change = "select set_config('lock_timeout', %s, false)"
    connection.execute(change, [timeout])
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute(change, [before])


def _tunnelled(tunnel: str) -> dict[str, Any]:
    """Arguments that make libpq connect to ``tunnel`` and still verify the real host."""
    host, _, port = tunnel.rpartition(":")
    number = as_port(port, "a port", "RUNWAY_DB_TUNNEL")
    try:
        address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][4][0]
    except (OSError, UnicodeError):
        raise ConfigurationError(
            expected="the host in RUNWAY_DB_TUNNEL to have an address", came="none", remedy="correct RUNWAY_DB_TUNNEL"
        ) from None
    return {"hostaddr": str(address), "port": number}
