"""Runs one statement of the Snowflake protocol on fakesnow and answers as Snowflake does: rows, or an error.

Upstream's own route answers a failure it does not know with HTTP 500, which the connector retries for ever, and logs
bind values. Here every failure is an answer, and nothing is logged.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import snowflake.connector.errors
from fakesnow.converter import from_binding
from fakesnow.cursor import FakeSnowflakeCursor
from fakesnow.dialect import parse_one
from fakesnow.fakes import FakeSnowflakeConnection
from fakesnow.rowtype import describe_as_rowtype
from fakesnow.statement_type import DML_TYPE_IDS, statement_type_id

from runway_pipelines.local.snowflake_accounts import Account
from runway_pipelines.local.snowflake_chunks import Chunks

UNSUPPORTED = "261000"
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\d{3,}")


@dataclass
class Session:
    """A logged-in session. Its statements run one at a time: two threads on one duckdb connection mix their rows.

    ``rows_in_json``: the client reads no arrow, as the Node.js driver, or its user was given JSON. ``most_rows``: an
    answer is cut there silently (ROWS_PER_RESULTSET); 0 is no limit.
    """

    token: str
    connection: FakeSnowflakeConnection
    chunks: Chunks
    account: Account
    rows_in_json: bool = False
    most_rows: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    last_used: float = field(default_factory=time.monotonic)

    def close(self) -> None:
        """End it; a statement that it runs is aborted, as Snowflake does when a session is closed."""
        self.connection._duck_conn.interrupt()
        with self.lock:
            self.connection.close()
        self.chunks.forget(self.token)


def answer_statement(session: Session, request: Mapping[str, Any], base_url: str) -> dict[str, Any]:
    """The answer to a query request's body, as a JSON-able dict. Never raises for what the statement does.

    ``base_url`` is the server's as the client knows it: where it fetches chunks.
    """
    with session.lock:
        session.last_used = time.monotonic()
        try:
            with session.account.at_work:
                try:
                    result = _run(session, request, base_url)
                except duckdb.OutOfMemoryException:
                    session.account.allow_more_memory()
                    result = _run(session, request, base_url)
                return _success(session.connection, result)
        except snowflake.connector.errors.Error as error:
            return failure(_code(error), _message(error), sql_state=error.sqlstate)
        except duckdb.InterruptException:
            return failure("000604", "SQL execution canceled", sql_state="57014")
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must get an answer that it does not retry
            # A limit or a bug of the emulation, or data that a function cannot take. The text may quote values.
            text = f"{type(error).__name__}: {_QUOTED.sub('…', _first_line(str(error)))}"
            return failure(UNSUPPORTED, f"The local Snowflake cannot run this statement: {text}")


def failure(code: str, message: str, sql_state: str | None = None) -> dict[str, Any]:
    """An error in Snowflake's form: HTTP 200 with success false, which the connector raises and does not retry."""
    return {
        "data": {"errorCode": code, "sqlState": sql_state or "42000"},
        "code": code,
        "message": message,
        "success": False,
    }


def _code(error: snowflake.connector.errors.Error) -> str:
    return f"{error.errno:06d}" if isinstance(error.errno, int) and error.errno > 0 else UNSUPPORTED


def _message(error: snowflake.connector.errors.Error) -> str:
    line = _first_line(error.raw_msg)
    is_about_a_value = isinstance(error.errno, int) and error.errno >= 100000
    return _QUOTED.sub("…", line) if is_about_a_value else line


def _first_line(message: str | None) -> str:
    # further lines quote the statement, in which the connector's pyformat binding has written the values
    return (message or "").strip().split("\n")[0]


def _run(session: Session, request: Mapping[str, Any], base_url: str) -> dict[str, Any]:
    text = request["sqlText"]
    expression = parse_one(text)
    type_id = statement_type_id(expression)
    cursor = session.connection.cursor()
    if request.get("describeOnly") and (described := cursor._describe_only(text)) is not None:
        ids = {"queryId": cursor.sfqid, "statementTypeId": type_id}
        rowtype = describe_as_rowtype(described)
        return {"rowtype": rowtype, "total": 0, "returned": 0, **ids, **_rows(session, None, rowtype, base_url)}
    rows_of_binds = _binds(request.get("bindings") or {})
    affected = 0
    for binds in rows_of_binds:
        cursor.execute(text, binding_params=binds, server=True)
        affected += cursor.rowcount or 0
    if cursor._last_transformed is not None and cursor._last_transformed.args.get("put_stage_data"):
        raise NotImplementedError("PUT")
    return _result(session, cursor, type_id, affected if len(rows_of_binds) > 1 else None, base_url)


def _result(
    session: Session, cursor: FakeSnowflakeCursor, type_id: int, batch_rows: int | None, base_url: str
) -> dict[str, Any]:
    rowtype = describe_as_rowtype(cursor._describe_last_sql())
    table = cursor._arrow_table
    if table is not None and session.most_rows and type_id not in DML_TYPE_IDS:
        table = table.slice(0, session.most_rows)
    if type_id in DML_TYPE_IDS and table is not None:
        # DML answers in JSON: clients read the numbers of affected rows from it
        rows = _row_set(table) if batch_rows is None else [[str(batch_rows)]]
        result: dict[str, Any] = {"queryResultFormat": "json", "rowset": rows}
    else:
        result = _rows(session, table, rowtype, base_url)
    total = table.num_rows if table is not None else 0
    ids = {"queryId": cursor.sfqid, "statementTypeId": type_id}
    return {"rowtype": rowtype, "total": total, "returned": total, **ids, **result}


def _rows(session: Session, table: pa.Table | None, rowtype: Any, base_url: str) -> dict[str, Any]:
    if session.rows_in_json:
        return {"queryResultFormat": "json", "rowset": _row_set(table) if table else []}
    return {"queryResultFormat": "arrow", **session.chunks.answer(session.token, table, rowtype, base_url)}


def _row_set(table: pa.Table) -> list[list[str | None]]:
    """The rows of a JSON answer, in which every value is a text or null."""
    return [list(row) for row in zip(*map(_cells, table.columns), strict=True)]


def _cells(column: pa.ChunkedArray) -> list[str | None]:
    """A column as Snowflake writes it into JSON: booleans as 0 and 1, dates as days, times and timestamps as seconds.

    Whatever else there is (numbers, texts, variants) is the text that arrow makes of it; bytes are hexadecimal.
    """
    kind = column.type
    if pa.types.is_binary(kind):
        return [None if value is None else value.hex().upper() for value in column.to_pylist()]
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif pa.types.is_date(kind):
        column = column.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        # 1440: the offset of UTC, which Snowflake shifts by a day so that it is never negative
        zone = " 1440" if pa.types.is_timestamp(kind) and kind.tz else ""
        in_micros = pa.time64("us") if pa.types.is_time(kind) else pa.timestamp("us", kind.tz)
        micros = column.cast(in_micros).cast(pa.int64()).to_pylist()
        return [None if value is None else f"{Decimal(value).scaleb(-6):.9f}{zone}" for value in micros]
    cells: list[str | None] = column.cast(pa.string()).to_pylist()
    return cells


def _binds(bindings: Mapping[str, Any]) -> list[Any]:
    """The binds of each execution: one, unless the client sent an array for each placeholder (executemany)."""
    if not bindings:
        return [None]
    if not all(name.isdigit() for name in bindings):
        return [{name: from_binding(bind) for name, bind in bindings.items()}]
    ordered = [bindings[str(position)] for position in range(1, len(bindings) + 1)]
    if not any(isinstance(bind["value"], list) for bind in ordered):
        return [tuple(_python_value(bind) for bind in ordered)]
    columns = [[_python_value({**bind, "value": value}) for value in bind["value"]] for bind in ordered]
    return list(zip(*columns, strict=True))


def _python_value(bind: Mapping[str, Any]) -> Any:
    return None if bind["value"] is None else from_binding(dict(bind))


def _success(connection: FakeSnowflakeConnection, result: dict[str, Any]) -> dict[str, Any]:
    names = {"finalDatabaseName": connection.database, "finalSchemaName": connection.schema}
    return {"data": {"parameters": [{"name": "TIMEZONE", "value": "Etc/UTC"}], **names, **result}, "success": True}
