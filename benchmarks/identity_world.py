"""What library identity is measured against: a Postgres of its own, catalogues in it, the local LML, what was written.

Belongs here: making, copying and comparing catalogues. Who writes into them is `identity_ways`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg import sql

from benchmarks.identity_ways import WRITTEN, written_columns
from runway_pipelines.local.catalogue import SCHEMA, seed_catalogue
from runway_pipelines.local.postgres_server import PostgresServer, start_postgres
from runway_pipelines.local.processes import Child, start_child

_CHECKOUT = Path(__file__).parents[1]
SEEDED = "seeded"  # the database that others are copies of
MANY = "many"
WRITTEN_IN = "run"  # the database that a contender writes in
_DAGSTER = "dagster"
# A commit is one when the WAL is written, as by default; no checkpoint falls into a run.
_SETTINGS = {"synchronous_commit": "on", "max_wal_size": "4GB"}
# What two runs may differ in.
_MOMENTS = {"unresolved_attempted_at", "last_verified_at", "superseded_at"}
_ORDER_OF_WRITING = "history_id"
# What of a copied row grows with each copy, and by how many times the originals: tracks have twenty ids a library.
_COPIES = {
    "library": {"id": 1},
    "library_identity": {"library_id": 1},
    "library_identity_source": {"library_id": 1},
    "compilation_track_artist": {"id": 20, "library_id": 1},
}

Tables = dict[str, list[bytes]]


@dataclass
class World:
    """The servers; ``lml`` knows so many libraries, and all others by these."""

    folder: Path
    libraries: int
    lml: Child
    lml_url: str
    postgres: PostgresServer

    @property
    def servers(self) -> dict[str, int]:
        """Their process ids, for a contender to read their CPU seconds."""
        return {"postgres": self.postgres.child.pid, "lml": self.lml.pid}

    def fsync(self, is_on: bool) -> None:
        """Start Postgres anew, safe from power cuts or not; the databases stay."""
        self.postgres.stop()
        self.postgres = _start(self.folder, is_on)
        self._point_at_it()

    def latency(self, milliseconds: int) -> None:
        """How long LML takes for each answer from now on."""
        httpx.put(f"{self.lml_url}/_latency", json=milliseconds / 1000, trust_env=False).raise_for_status()

    def begin(self, template: str = SEEDED) -> None:
        """A catalogue as it was before anybody wrote in it, for the next contender."""
        with self.connect("postgres") as connection:
            for statement in ("drop database if exists {new} with (force)", "create database {new} template {old}"):
                connection.execute(
                    sql.SQL(statement).format(new=sql.Identifier(WRITTEN_IN), old=sql.Identifier(template))
                )
        self.settle()

    def settle(self, *, vacuum: bool = False) -> None:
        """Write everything to disk, so that nobody pays for another's pages; vacuumed, as it would be by tomorrow."""
        with self.connect(WRITTEN_IN) as connection:
            if vacuum:
                connection.execute("vacuum analyze")
            connection.execute("checkpoint")

    def change(self, percent: int) -> int:
        """Make so many of a hundred resolved libraries differ from what LML says of them; returns how many."""
        mains, sources = (sql.Identifier(SCHEMA, table) for table in ("library_identity", "library_identity_source"))
        with self.connect(WRITTEN_IN) as connection:
            changed = connection.execute(
                sql.SQL(
                    "update {} set confidence = 0.123"
                    " where method <> 'manual' and notes is not null and library_id %% 100 < %s returning library_id"
                ).format(mains),
                [percent],
            ).fetchall()
            connection.execute(
                sql.SQL(
                    "update {} set external_id = 'earlier' where notes is not null and library_id = any(%s)"
                ).format(sources),
                [[library_id for (library_id,) in changed]],
            )
        return len(changed)

    def multiply(self, times: int) -> None:
        """The database `MANY`, with copies of each library, and of its tracks, under ids of their own."""
        with self.connect("postgres") as connection:
            connection.execute(f"create database {MANY} template {SEEDED}")
        with self.connect(MANY) as connection:
            connection.execute("select set_config('search_path', %s, false)", [SCHEMA])
            for table, steps in _COPIES.items():
                columns = written_columns(connection)[table]
                values = ", ".join(
                    f"{each} + copy * {self.libraries * steps[each]}" if each in steps else each for each in columns
                )
                connection.execute(
                    f"insert into {table} ({', '.join(columns)}) select {values}"
                    f" from {table}, generate_series(1, {times - 1}) as copy".encode()
                )
            connection.execute("analyze")

    def tables(self) -> Tables:
        """The lines of each table that is written, without the moments: that rows were stamped, but not when."""
        with self.connect(WRITTEN_IN) as connection:
            connection.execute("select set_config('search_path', %s, false)", [SCHEMA])
            return {table: _lines(connection, table, columns) for table, columns in written_columns(connection).items()}

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.postgres.dsn(database), autocommit=True)

    def _point_at_it(self) -> None:
        """The environment of this process and its children: the pipeline's settings, and those of Dagster's storage."""
        postgres = self.postgres
        os.environ.update(
            {
                "ENVLABEL": "dev",
                "RUNWAY_ENV": "development",
                "RUNWAY_CATALOGUE_DB_HOST": postgres.host,
                "RUNWAY_CATALOGUE_DB_PORT": str(postgres.port),
                "RUNWAY_CATALOGUE_DB_NAME": WRITTEN_IN,
                "RUNWAY_CATALOGUE_DB_USER": postgres.user,
                "RUNWAY_CATALOGUE_DB_PASSWORD": postgres.password,
                "LIBRARY_METADATA_URL": self.lml_url,
                "DAGSTER_HOME": str(self.folder / "dagster_home"),
                "DAGSTER_PG_HOST": postgres.host,
                "DAGSTER_PG_PORT": str(postgres.port),
                "DAGSTER_PG_DB": _DAGSTER,
                "DAGSTER_PG_USERNAME": postgres.user,
                "DAGSTER_PG_PASSWORD": postgres.password,
            }
        )


@contextmanager
def world_with(libraries: int) -> Iterator[World]:
    """The servers, with a seeded catalogue, and this process and its children pointed at them."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root, Postgres runs as another user
        (folder / "dagster_home").mkdir()
        shutil.copyfile(_CHECKOUT / "dagster.yaml", folder / "dagster_home" / "dagster.yaml")
        world: World | None = None
        lml = start_child(
            "lml", [sys.executable, "-m", "benchmarks.identity_lml", "--originals", str(libraries)], folder
        )
        try:
            url = f"http://127.0.0.1:{lml.wait_for_ready_line(60)}"
            world = World(folder, libraries, lml, url, _start(folder, is_on=False))
            for database in (SEEDED, _DAGSTER):
                world.postgres.create_database(database)
            with world.connect(SEEDED) as connection:
                # Without the change feed, whose triggers are the catalogue's own cost: all contenders would pay it,
                # and the ceiling not.
                seed_catalogue(connection, SCHEMA, libraries=libraries, change_feed=False)
            world._point_at_it()
            yield world
        finally:
            if world is not None:
                world.postgres.stop()
            lml.stop()
            os.environ.clear()
            os.environ.update(before)


def differences(expected: Tables, came: Tables) -> dict[str, int]:
    """How many rows of each table are in one alone."""
    found = {}
    for table, lines in expected.items():
        if lines != came[table]:
            ones, others = Counter(lines), Counter(came[table])
            found[table] = (ones - others).total() + (others - ones).total()
    return found


def _start(folder: Path, is_on: bool) -> PostgresServer:
    """What a production server has, or what a development database has: what a power cut could tear is no matter."""
    return start_postgres(folder, _SETTINGS | dict.fromkeys(("fsync", "full_page_writes"), "on" if is_on else "off"))


def _lines(connection: psycopg.Connection[Any], table: str, columns: list[str]) -> list[bytes]:
    values = ", ".join(
        f"{column} is not null" if column in _MOMENTS else column for column in columns if column != _ORDER_OF_WRITING
    )
    with connection.cursor().copy(
        f"copy (select {values} from {table} order by {WRITTEN[table]}) to stdout".encode()
    ) as copy:
        return b"".join(copy).split(b"\n")
