"""Sessions on a partner's Snowflake, opened through dagster-snowflake.

The driver is imported inside functions: the code server, the daemon's sensors and most commands never need it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from runway_pipelines.systems.snowflake.connection import EduConnection, Place
from runway_pipelines.systems.snowflake.driver import prepare_driver
from runway_pipelines.systems.snowflake.errors import snowflake_errors, snowflake_login_errors
from runway_pipelines.systems.snowflake.resource import snowflake_resource

if TYPE_CHECKING:
    import pyarrow as pa
    from snowflake.connector import SnowflakeConnection


# Parameters that an account or a user may have set otherwise, which would shorten or change an answer, or let a
# statement run for days. A user's ROWS_PER_RESULTSET cuts every answer silently.
SESSION_PARAMETERS: dict[str, Any] = {
    "ROWS_PER_RESULTSET": 0,  # no limit
    "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "ARROW",
    "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
    "TIMEZONE": "Etc/UTC",
    "STATEMENT_TIMEOUT_IN_SECONDS": 3600,  # Snowflake's default is two days
    "ABORT_DETACHED_QUERY": True,  # a statement whose client was killed costs no more than five minutes
}


@dataclass(frozen=True)
class Selection:
    """A statement's answer: query id, start (UTC), and the rows as Arrow tables, fetched as consumed.

    The consumer must prove that it is whole: for Arrow tables the driver does not check a chunk against the promised
    count, and a limit that the partner set cuts the server's count together with the rows.
    """

    query_id: str
    started_at: datetime
    batches: Iterator[pa.Table]


class EduSession:
    """A session, for one thread at a time; `close` is idempotent."""

    def __init__(
        self, connection: SnowflakeConnection, resources: ExitStack, secret_version: str, place: Place
    ) -> None:
        self._connection = connection
        self._resources = resources
        self.secret_version = secret_version
        self.place = place

    def select(self, statement: str, parameters: Mapping[str, str | int], *, query_tag: str) -> Selection:
        """Run a statement with bound parameters; raises `QueryFailed` or `Unavailable`, which quote no data.

        ``query_tag`` replaces the session's for this statement, and travels with it, so it costs no round trip.
        """
        started_at = datetime.now(UTC)
        cursor = self._connection.cursor()
        with snowflake_errors():
            cursor.execute(statement, dict(parameters), _statement_params={"QUERY_TAG": query_tag})
        return Selection(cursor.sfqid or "", started_at, _batches(cursor))

    def close(self) -> None:
        """End the session, from any thread, even if the server is gone.

        Snowflake aborts a closed session's statement, which fails for its caller. The driver's connection is closed
        first: dagster-snowflake would commit, which waits for that statement, and up to ``network_timeout`` for a
        server that does not answer.
        """
        from snowflake.connector import errors

        with suppress(errors.Error, OSError):
            self._connection.close()
        with suppress(errors.Error, OSError):
            self._resources.close()


class EduSnowflake(dg.ConfigurableResource):  # type: ignore[type-arg]
    """How to reach any partner's Snowflake; ``host`` is set only for a local server."""

    host: str | None = None
    port: int = 443
    protocol: str = "https"
    login_timeout: int = 60
    network_timeout: int = 600

    def open_session(self, connection: EduConnection, *, secret_version: str, query_tag: str) -> EduSession:
        """Open a session with the partner's key pair; ``query_tag`` marks its statements in Snowflake's history.

        Raises `AuthenticationRefused` or `Unavailable`.
        """
        # The driver logs every request at INFO.
        logging.getLogger("snowflake").setLevel(logging.WARNING)
        additional: dict[str, Any] = {"session_parameters": SESSION_PARAMETERS | {"QUERY_TAG": query_tag}}
        if self.host:
            additional |= {"host": self.host, "port": self.port, "protocol": self.protocol}
        resource = snowflake_resource()(
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
        with snowflake_login_errors(connection):
            opened: Any = resources.enter_context(resource.get_connection())
        return EduSession(opened, resources, secret_version, connection.place)


def _batches(cursor: Any) -> Iterator[pa.Table]:
    """The result's chunks, downloaded ahead by the driver's own threads and decoded as they are consumed."""
    prepare_driver()
    try:
        with snowflake_errors():
            yield from cursor.fetch_arrow_batches()
    finally:
        cursor.close()
