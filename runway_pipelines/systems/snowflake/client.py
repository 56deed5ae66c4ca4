"""Sessions on a partner's Snowflake, opened through dagster-snowflake.

Heavy imports are inside functions: ``dagster_snowflake`` alone costs eight CPU-seconds (it brings Snowpark), which the
code server, the daemon's sensors and most commands never need.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from runway_pipelines.errors import AuthenticationRefused, QueryFailed, RunwayError, Unavailable
from runway_pipelines.systems.snowflake.connection import EduConnection
from runway_pipelines.systems.snowflake.driver import prepare_driver

if TYPE_CHECKING:
    import pyarrow as pa
    from snowflake.connector import SnowflakeConnection
    from snowflake.connector.errors import Error

# Snowflake's error numbers for a login that trying again does not mend: user, password, key (JWT), disabled user,
# network policy, role or account.
_REFUSED_LOGIN = {390100, 390101, 390102, 390144, 390186, 390189, 390190, 390201, 390422}
# The session or its token has ended: another one can be opened, with the credentials as they are by then.
_SESSION_ENDED = {390111, 390112, 390114, 390195}
_ROLE_OR_OBJECT = {
    2003: "grant the role USAGE and SELECT on the database, the schema and the stg_ef3 tables, or correct the secret",
    2043: "grant the role USAGE and SELECT on the database, the schema and the stg_ef3 tables, or correct the secret",
    3001: "grant the secret's role SELECT on the stg_ef3 tables",
    606: "put a warehouse into the secret, or give the user a default one",
    90105: "correct database and schema in the secret",
    90106: "correct database and schema in the secret",
    904: "compare the columns of the stg_ef3 tables with the contract",
}


@dataclass(frozen=True)
class Selection:
    """A statement's answer: its query id, when it started (UTC), how many rows the server says it has, and those rows
    as Arrow tables, fetched as consumed.

    Whoever consumes them must count: the driver compares the rows of a chunk with what was promised only when it is
    asked for rows one by one, not for Arrow tables.
    """

    query_id: str
    started_at: datetime
    row_count: int
    batches: Iterator[pa.Table]


class EduSession:
    """One session, to be used by one thread at a time; `close` is idempotent."""

    def __init__(self, connection: SnowflakeConnection, resources: ExitStack, secret_version: str) -> None:
        self._connection = connection
        self._resources = resources
        self.secret_version = secret_version

    def select(self, statement: str, parameters: Mapping[str, str], *, query_tag: str) -> Selection:
        """Run a statement with bound parameters; raises `QueryFailed` or `Unavailable`, which quote no data.

        ``query_tag`` takes the session's place for this statement; it travels with it, at no round trip.
        """
        started_at = datetime.now(UTC)
        from snowflake.connector import errors

        cursor = self._connection.cursor()
        try:
            cursor.execute(statement, dict(parameters), _statement_params={"QUERY_TAG": query_tag})
        except errors.Error as error:
            raise mapped_query_error(error) from None
        return Selection(cursor.sfqid or "", started_at, cursor.rowcount or 0, _batches(cursor))

    def close(self) -> None:
        """End the session, from any thread; a server that is gone does not matter any more.

        Snowflake aborts what a closed session runs: a statement in flight fails for its caller. The driver's connection
        is closed first, for dagster-snowflake would commit, which waits for that statement, and for a server that does
        not answer as long as ``network_timeout``.
        """
        from snowflake.connector import errors

        with suppress(errors.Error, OSError):
            self._connection.close()
        with suppress(errors.Error, OSError):
            self._resources.close()


class EduSnowflake(dg.ConfigurableResource):  # type: ignore[type-arg]
    """How to reach Snowflake, for any partner; ``host`` is set only for a local server."""

    host: str | None = None
    port: int = 443
    protocol: str = "https"
    login_timeout: int = 60
    network_timeout: int = 600

    def open_session(self, connection: EduConnection, *, secret_version: str, query_tag: str) -> EduSession:
        """Open a session with the partner's key pair; ``query_tag`` marks its statements in Snowflake's history.

        Raises `AuthenticationRefused` or `Unavailable`.
        """
        from dagster_snowflake import SnowflakeResource
        from snowflake.connector import errors

        # Its INFO lines tell of every request; the driver must not be louder than we are.
        logging.getLogger("snowflake").setLevel(logging.WARNING)
        additional: dict[str, Any] = {"session_parameters": {"QUERY_TAG": query_tag}}
        if self.host:
            additional |= {"host": self.host, "port": self.port, "protocol": self.protocol}
        resource = SnowflakeResource(
            account=connection.account,
            user=connection.username,
            private_key=connection.private_key,
            database=connection.database,
            schema=connection.schema,
            warehouse=connection.warehouse,
            role=connection.role,
            login_timeout=self.login_timeout,
            network_timeout=self.network_timeout,
            additional_snowflake_connection_args=additional,
        )
        resources = ExitStack()
        started = time.monotonic()
        try:
            opened: Any = resources.enter_context(resource.get_connection())
        except errors.Error as error:
            raise mapped_login_error(error, connection, time.monotonic() - started) from None
        return EduSession(opened, resources, secret_version)


def _batches(cursor: Any) -> Iterator[pa.Table]:
    """The result's chunks, downloaded ahead by the driver's own threads and decoded as they are consumed."""
    from snowflake.connector import errors

    prepare_driver()
    try:
        yield from cursor.fetch_arrow_batches()
    except errors.Error as error:
        raise mapped_query_error(error) from None
    finally:
        cursor.close()


def mapped_login_error(error: Error, connection: EduConnection, seconds: float) -> RunwayError:
    """A failure to open a session, made ours; keeps the driver's number and none of its text."""
    number = error.errno or -1
    account = f"a session on account {connection.account} for user {connection.username}"
    # 28000 is the SQLSTATE of every refused login, such as the 3943xx of a key pair.
    if number in _REFUSED_LOGIN or error.sqlstate == "28000":
        return AuthenticationRefused(
            expected=account,
            came=f"a refused login (error {number})",
            remedy="compare the secret's key with the user's RSA_PUBLIC_KEY and RSA_PUBLIC_KEY_2, and see DESC USER",
            code=str(number),
        )
    return Unavailable(
        expected=account,
        came=f"no session after {seconds:.0f} s ({type(error).__name__}, error {number})",
        remedy="check the account's name in the secret, the network's way out, and Snowflake's status page",
        code=str(number),
    )


def mapped_query_error(error: Error) -> RunwayError:
    """A failure of a statement, made ours. The driver's text is dropped: it may quote a value of a student's row."""
    from snowflake.connector import errors

    number = error.errno or -1
    refused = isinstance(
        error, errors.ProgrammingError | errors.NotSupportedError | errors.IntegrityError | errors.DataError
    )
    if refused and number not in _SESSION_ENDED:
        return QueryFailed(
            expected="the statement to run",
            came=f"Snowflake's error {number} (SQLSTATE {error.sqlstate}, query {error.sfqid})",
            remedy=_ROLE_OR_OBJECT.get(number, "look the query id up in Snowflake's query history"),
            code=str(number),
        )
    return Unavailable(
        expected="the statement's answer",
        came=f"{type(error).__name__}, error {number}",
        remedy="try again; if it stays, look at Snowflake's status page",
        code=str(number),
    )
