"""The data of the local Snowflake: one in-memory duckdb for each account, filled from parquet files.

`<warehouse>/<ACCOUNT>/<DATABASE>/<SCHEMA>/<table>.parquet` is the table <DATABASE>.<SCHEMA>.<TABLE>.
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
from fakesnow.fakes import FakeSnowflakeConnection
from fakesnow.instance import FakeSnow
from fakesnow.transforms.stage import LOCAL_BUCKET_PATH

with suppress(OSError):
    # fakesnow makes a folder for staged files when it is imported, and leaves it behind. Nothing is staged here.
    Path(LOCAL_BUCKET_PATH).rmdir()

_IDENTIFIER = re.compile(r"^[A-Z_][A-Z0-9_$]*$")
_KEPT_RESULTS = 100
_KEPT_RESULT_BYTES = 32 * 1024 * 1024
# Memory for statements, beside the tables'; the rest of a large sort or join is written to the spill folder.
_WORKING_MEGABYTES = 64
# Snowflake has one integer and one float type, and fakesnow knows no narrower ones.
_WIDENED = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT", "UINTEGER"), "BIGINT"),
    "UBIGINT": "HUGEINT",
    "FLOAT": "DOUBLE",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
}


class WarehouseUnreadable(Exception):
    """A parquet file or folder of an account cannot be used; the message names it."""


class RecentResults(dict[str, tuple[Any, ...]]):
    """The newest results, for RESULT_SCAN and queries by id; fakesnow would keep every result for ever."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()  # sessions of one account add at the same time

    def __setitem__(self, query_id: str, result: tuple[Any, ...]) -> None:
        with self._lock:
            super().__setitem__(query_id, result)
            while len(self) > _KEPT_RESULTS or sum(map(_result_bytes, self.values())) > _KEPT_RESULT_BYTES:
                self.pop(next(iter(self)))


def _result_bytes(result: tuple[Any, ...]) -> int:
    return result[0].nbytes if isinstance(result[0], pyarrow.Table) else 0


class Account:
    """One Snowflake account: its databases, and connections to them. Safe for several threads.

    With a ``spill`` folder, its memory is bounded.
    """

    def __init__(self, folder: Path, threads: int, spill: Path | None) -> None:
        self._folder = folder
        self._spill = spill
        self._working_megabytes = _WORKING_MEGABYTES
        # One statement at a time, which has all of that memory; the others wait, as for a busy warehouse.
        self.at_work = threading.Lock()
        self._lock = threading.Lock()
        self._loaded: dict[Path, tuple[int, int]] = {}
        # Not created on connect: an unknown database or schema must fail at query time, as on the real one.
        self._instance = FakeSnow(create_database_on_connect=False, create_schema_on_connect=False)
        self._instance.results_cache = RecentResults()
        self._instance.duck_conn.execute(f"SET GLOBAL threads = {threads:d}")
        if spill is not None:
            self._instance.duck_conn.execute(f"SET GLOBAL temp_directory = '{str(spill / folder.name)!s}'")

    def connect(self, database: str | None, schema: str | None, autocommit: bool) -> FakeSnowflakeConnection:
        """A connection of its own, after loading the tables that are new or changed. Raises WarehouseUnreadable."""
        with self._lock:
            changed = self._changed_files()
            for path, version in changed.items():
                self._load(path)
                self._loaded[path] = version  # not before: a damaged file must stop the next connection as well
            if changed:
                self._bound_memory()
            return self._instance.connect(database, schema, autocommit=autocommit)

    def allow_more_memory(self) -> None:
        """For a statement that could not spill what it needs."""
        with self._lock:
            self._working_megabytes *= 4
            self._bound_memory()

    def _bound_memory(self) -> None:
        if self._spill is None:
            return
        duck = self._instance.duck_conn.cursor()
        try:
            query = "SELECT sum(memory_usage_bytes) FROM duckdb_memory() WHERE tag = 'IN_MEMORY_TABLE'"
            (tables,) = duck.execute(query).fetchone() or (0,)
            megabytes = int(tables or 0) // 1_000_000 + 1 + self._working_megabytes
            duck.execute(f"SET GLOBAL memory_limit = '{megabytes:d}MB'")
        finally:
            duck.close()

    def _changed_files(self) -> dict[Path, tuple[int, int]]:
        """The files that are new or changed, each with its version."""
        stats = {path: path.stat() for path in sorted(self._folder.glob("*/*/*.parquet"))}
        versions = {path: (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}
        return {path: version for path, version in versions.items() if self._loaded.get(path) != version}

    def _load(self, path: Path) -> None:
        database, schema, table = (name.upper() for name in (*path.parts[-3:-1], path.stem))
        if not all(_IDENTIFIER.match(name) for name in (database, schema, table)):
            raise WarehouseUnreadable(f"{path}: folders and file must be plain Snowflake identifiers")
        self._create_schema(database, schema)
        duck = self._instance.duck_conn.cursor()
        try:
            columns = duck.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
            duck.execute(
                f'CREATE OR REPLACE TABLE {database}.{schema}."{table}" AS '
                f"SELECT {', '.join(_upper_cased(name, type_) for name, type_, *_ in columns)} FROM read_parquet(?)",
                [str(path)],
            )
        except duckdb.Error as error:
            raise WarehouseUnreadable(f"{path} cannot be loaded ({type(error).__name__})") from None
        finally:
            duck.close()

    def _create_schema(self, database: str, schema: str) -> None:
        cursor = self._instance.duck_conn.cursor()
        FakeSnowflakeConnection(cursor, {}, database, schema, create_database=True, create_schema=True).close()


def _upper_cased(name: str, type_: str) -> str:
    quoted = name.replace('"', '""')
    value = f'CAST("{quoted}" AS {_WIDENED[type_]})' if type_ in _WIDENED else f'"{quoted}"'
    return f'{value} AS "{quoted.upper()}"'


class Accounts:
    """Every account that has been used, by name."""

    def __init__(self, warehouse: Path, threads: int, spill: Path | None = None) -> None:
        self._warehouse = warehouse
        self._spill = spill
        self._threads = threads
        self._lock = threading.Lock()
        self._accounts: dict[str, Account] = {}

    def get(self, name: str) -> Account:
        """The account of that name (upper case, checked by `account_and_user`), made at first use."""
        with self._lock:
            if name not in self._accounts:
                self._accounts[name] = Account(self._warehouse / name, self._threads, self._spill)
            return self._accounts[name]
