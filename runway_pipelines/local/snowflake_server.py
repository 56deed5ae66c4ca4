"""A server for Snowflake's own protocol on loopback: the routes, the sessions and the process.

    python -m runway_pipelines.local.snowflake_server --port N --warehouse DIR --public-keys FILE

SQL is fakesnow's (on duckdb) and so are its limits. What it must share with the real one: logins by key pair are
verified, an unknown database or schema fails when it is queried, accounts know nothing of each other, and a failed
statement is an error.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import secrets
import shutil
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from fakesnow.expr import normalise_ident
from fakesnow.fakes import FakeSnowflakeConnection
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from runway_pipelines.local.processes import announce_ready, listen_on_loopback
from runway_pipelines.local.snowflake_accounts import Accounts, WarehouseUnreadable
from runway_pipelines.local.snowflake_chunks import KEY_HEADER, Chunks
from runway_pipelines.local.snowflake_login import LoginRefused, account_and_user, user_parameters, verify_login
from runway_pipelines.local.snowflake_statements import Session, answer_statement, failure

_SERVER_VERSION = "9.0.0"
_IDLE_SECONDS = 4 * 3600  # Snowflake's own limit for a session without heartbeat
_NODE_DRIVER = "JavaScript"  # how Runway's own driver calls itself at login
_SWEEP_SECONDS = 5
_OCTETS = "application/octet-stream"
_AUTHORIZATION_PREFIX = 'Snowflake Token="'
_SESSION_GONE = failure("390111", "Session no longer exists. New login required to access the service.")


class SnowflakeServer:
    """The protocol's routes over a set of accounts."""

    def __init__(self, accounts: Accounts, public_keys: Path, parameters_of_users: Path) -> None:
        self._accounts = accounts
        self._public_keys = public_keys
        self._parameters_of_users = parameters_of_users
        self._sessions: dict[str, Session] = {}
        self._session_ids = itertools.count(1)
        self._chunks = Chunks()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/session/v1/login-request", self._login, methods=["POST"]),
                Route("/session", self._session, methods=["POST"]),
                Route("/session/heartbeat", self._session, methods=["POST"]),
                Route("/queries/v1/query-request", self._query, methods=["POST"]),
                Route("/chunks/{name}", self._chunk, methods=["GET"]),
                Route("/queries/v1/abort-request", self._acknowledge, methods=["POST"]),
                Route("/telemetry/send", self._acknowledge, methods=["POST"]),
            ]
        )

    async def _login(self, request: Request) -> Response:
        data = (await _body(request))["data"]
        names = (request.query_params.get("databaseName"), request.query_params.get("schemaName"))
        return _answer(await run_in_threadpool(self._open_session, data, *names))

    def _open_session(self, data: dict[str, Any], database: str | None, schema: str | None) -> dict[str, Any]:
        try:
            verify_login(data, self._public_keys)
            account, _ = account_and_user(data)
            # What the session sets wins over what its user was given.
            parameters = user_parameters(data, self._parameters_of_users) | _upper(data.get("SESSION_PARAMETERS"))
            autocommit = bool(parameters.get("AUTOCOMMIT", True))
            names = (database and normalise_ident(database), schema and normalise_ident(schema))
            its_account = self._accounts.get(account)
            connection = its_account.connect(*names, autocommit=autocommit)
        except LoginRefused as refusal:
            return failure(refusal.code, refusal.message, sql_state="08001")
        except WarehouseUnreadable as error:
            print(error, file=sys.stderr)
            return failure("390189", "The local Snowflake cannot load this account's tables; its log says which.")
        self._forget_idle_sessions()
        token = secrets.token_urlsafe(32)
        in_json = str(parameters.get("PYTHON_CONNECTOR_QUERY_RESULT_FORMAT", "ARROW")).upper() == "JSON"
        self._sessions[token] = Session(
            token,
            connection,
            self._chunks,
            its_account,
            rows_in_json=in_json or data.get("CLIENT_APP_ID") == _NODE_DRIVER,
            most_rows=int(parameters.get("ROWS_PER_RESULTSET", 0)),
        )
        return {"data": self._login_answer(token, autocommit, connection), "success": True}

    def _login_answer(self, token: str, autocommit: bool, connection: FakeSnowflakeConnection) -> dict[str, Any]:
        # a database or schema that does not exist is no error yet: the session simply has none
        database = connection.database if connection.database_set else None
        schema = connection.schema if connection.schema_set else None
        return {
            "token": token,
            "masterToken": token,  # newer connectors insist on it, the two lifetimes and the id
            "validityInSeconds": 3600,
            "masterValidityInSeconds": 14400,
            "sessionId": next(self._session_ids),
            "serverVersion": _SERVER_VERSION,
            "parameters": [
                {"name": "AUTOCOMMIT", "value": autocommit},
                {"name": "CLIENT_TELEMETRY_ENABLED", "value": False},
                {"name": "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY", "value": 3600},
                # 0: array binds come in the request, there is no stage to put them on
                {"name": "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD", "value": 0},
            ],
            "sessionInfo": {"databaseName": database, "schemaName": schema},
        }

    async def _query(self, request: Request) -> Response:
        session = self._sessions.get(_token(request))
        if session is None:
            return _answer(_SESSION_GONE)
        body = await _body(request)
        base_url = str(request.base_url).rstrip("/")
        return await run_in_threadpool(lambda: _answer(answer_statement(session, body, base_url)))

    async def _chunk(self, request: Request) -> Response:
        """A part of an answer. The client has only its URL and key; an expired URL is refused as S3 does."""
        signature = request.query_params.get("Signature", "")
        chunk = self._chunks.find(request.path_params["name"], signature, request.headers.get(KEY_HEADER, ""))
        if chunk is None:
            return Response(status_code=403)

        async def pieces() -> AsyncIterator[bytes]:
            for piece in chunk.pieces():
                yield piece
            self._chunks.fetched(chunk)

        return StreamingResponse(
            pieces(), headers={"Content-Encoding": "gzip", "Content-Length": str(chunk.size)}, media_type=_OCTETS
        )

    def sweep(self) -> None:
        """Drop expired chunks, now and then: nobody may ask for one any more."""
        while True:
            time.sleep(_SWEEP_SECONDS)
            self._chunks.sweep()

    async def _session(self, request: Request) -> Response:
        """A heartbeat, or with `?delete=true` the end of a session."""
        token = _token(request)
        if token not in self._sessions:
            return _answer(_SESSION_GONE)
        self._sessions[token].last_used = time.monotonic()
        if request.query_params.get("delete"):
            await run_in_threadpool(self._sessions.pop(token).close)
        return _answer({"data": None, "code": None, "message": None, "success": True})

    async def _acknowledge(self, request: Request) -> Response:
        return _answer({"success": True})

    def _forget_idle_sessions(self) -> None:
        """Forget idle sessions: a client that was killed never closes its own."""
        oldest = time.monotonic() - _IDLE_SECONDS
        for token in [token for token, session in list(self._sessions.items()) if session.last_used < oldest]:
            self._sessions.pop(token).close()


def _upper(parameters: dict[str, Any] | None) -> dict[str, Any]:
    return {name.upper(): value for name, value in (parameters or {}).items()}


async def _body(request: Request) -> dict[str, Any]:
    body = await request.body()
    body = gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body
    return dict(orjson.loads(body))


def _token(request: Request) -> str:
    return request.headers.get("Authorization", "").removeprefix(_AUTHORIZATION_PREFIX).removesuffix('"')


def _answer(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


class _AnnouncingServer(uvicorn.Server):
    """Says that it is ready once it takes connections."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            announce_ready(sockets[0].getsockname()[1])


def main(arguments: list[str] | None = None) -> None:
    """Run the server with the command line's options until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, which the readiness line names")
    parser.add_argument("--warehouse", type=Path, required=True, help="folder of ACCOUNT/DATABASE/SCHEMA/table.parquet")
    parser.add_argument("--public-keys", type=Path, required=True, help='JSON {"ACCOUNT.USER": ["PEM", ...]}')
    parser.add_argument("--user-parameters", type=Path, default=Path(os.devnull), help='JSON {"ACCOUNT.USER": {...}}')
    parser.add_argument(
        "--spill", type=Path, help="folder for what a statement cannot hold in memory; bounds the memory"
    )
    parser.add_argument("--threads", type=int, default=2, help="duckdb threads of each account")
    options = parser.parse_args(arguments)
    # duckdb's advice to its direct users; upstream's call, not ours
    warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")
    listener = listen_on_loopback(options.port)
    if options.spill is not None:
        shutil.rmtree(options.spill, ignore_errors=True)  # of a server that was killed
        options.spill.mkdir(mode=0o700, parents=True)
    accounts = Accounts(options.warehouse, options.threads, options.spill)
    server = SnowflakeServer(accounts, options.public_keys, options.user_parameters)
    threading.Thread(target=server.sweep, name="sweep", daemon=True).start()
    config = uvicorn.Config(server.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    _AnnouncingServer(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
