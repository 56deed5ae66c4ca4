"""The contenders of library identity: each runs in a process of its own, pointed at the servers of `identity_world`.

Belongs here: doing the work once, and what it costs. Which of them run when, and what is made of it, is `identity`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import psutil
import psycopg

from benchmarks.identity_peer import write_library
from benchmarks.measure import peak_memory, reset_peak_memory, server_cpu
from runway_pipelines.identity import services
from runway_pipelines.identity.counts import Counts, total
from runway_pipelines.identity.options import MOST_CALLS_IN_FLIGHT, IdentityOptions
from runway_pipelines.identity.resolution import Circuit
from runway_pipelines.identity.selection import Cohort, Selection, pages
from runway_pipelines.identity.services import IdentityServices
from runway_pipelines.identity.writer import write
from runway_pipelines.systems.lml.answers import parse_answer
from runway_pipelines.systems.lml.client import LmlService
from runway_pipelines.systems.lml.verdicts import Library
from runway_pipelines.systems.postgres.databases import CatalogueDatabase

# The tables that a contender may write in, and their orders.
WRITTEN = {
    "library": "id",
    "library_identity": "library_id",
    "library_identity_source": "library_id, source",
    "library_identity_history": "library_id, superseded_reason",
    "compilation_track_artist": "id",
}
_LOG = logging.getLogger("benchmarks")
_CALLS_IN_FLIGHT = IdentityOptions().calls_in_flight


def ours(servers: dict[str, int], options: dict[str, Any], shards: int | None, days_later: int) -> dict[str, Any]:
    """The shards, or the first so many, one after the other, as the job's steps have it, so many days from now.

    Asked again on the same day, an unchanged library is not written at all.
    """
    later = timedelta(days=days_later)

    def write_later(*arguments: Any, now: datetime, **others: Any) -> Counts:
        return write(*arguments, now=now + later, **others)

    with _identity() as identity, patch.object(services, "write", write_later):
        told = IdentityOptions(**options)
        identity.require_ready(told)
        as_of = datetime.now(UTC) + later
        _warm_up(identity, as_of)

        circuit = identity.run_circuit(told)

        def work() -> Counts:
            numbers = range(shards or told.shards)
            return total(
                identity.resolve_shard(told, as_of, shard, circuit, _LOG, has_artist_columns=False) for shard in numbers
            )

        measured, counts = _measured(servers, work)
    if circuit.failure is not None:
        raise circuit.failure
    return measured | {"counts": counts.document()}


def job(servers: dict[str, int]) -> dict[str, Any]:
    """`library_identity_job` in this process, recorded in Dagster's Postgres."""
    import dagster as dg

    from runway_pipelines.definitions import defs

    definition = defs().resolve_job_def("library_identity_job")

    def run(config: Mapping[str, Any]) -> None:
        definition.execute_in_process(
            instance=instance,
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {"library_identity_graph": {"config": config}},
            },
        )

    with dg.DagsterInstance.get() as instance:
        run({"dry_run": True, "limit": 1})
        measured, _ = _measured(servers, lambda: run({}))
    return measured


def asking(servers: dict[str, int], repeats: int) -> dict[str, Any]:
    """The same calls, as many in flight; the answers are decoded and thrown away. The last of several times."""
    with _identity() as identity:
        batches = list(_batches(identity))

        def ask(batch: list[Library]) -> None:
            identity.lml.resolve(batch, include_tracks=True)

        def work() -> None:
            with ThreadPoolExecutor(_CALLS_IN_FLIGHT) as threads:
                for _ in threads.map(ask, batches):
                    pass

        for _ in range(repeats - 1):
            work()
        return _measured(servers, work)[0] | {"libraries": sum(map(len, batches))}


def peer(servers: dict[str, int], shards: int, due: dict[str, int]) -> dict[str, Any]:
    """One batch at a time is asked about, and written a library after the other; the first of so many shards.

    ``due`` are the selection's days.
    """
    with _identity() as identity, identity.catalogue.connection() as connection:
        connection.execute("select set_config('search_path', %s, false)", [identity.catalogue_schema])
        identity.lml.require_configured()
        _warm_up(identity, datetime.now(UTC))

        def work() -> int:
            asked = 0
            for page in _batches(identity, (0, shards), due):
                document = identity.lml.resolve(page, include_tracks=True).document
                answer = parse_answer(document, page)
                for verdict in answer.verdicts:
                    write_library(connection, verdict, answer.tracks_contract_version, datetime.now(UTC))
                asked += len(page)
            return asked

        measured, asked = _measured(servers, work)
    return measured | {"libraries": asked}


def copying(servers: dict[str, int], tables: list[str]) -> dict[str, Any]:
    """What stands in the tables, copied into empty ones with the same indexes and constraints, in one transaction."""
    with _identity() as identity, identity.catalogue.connection() as connection:
        connection.execute("select set_config('search_path', %s, false)", [identity.catalogue_schema])
        columns = {table: ", ".join(names) for table, names in written_columns(connection).items()}
        contents: dict[str, bytes] = {}
        for table in tables:
            with connection.cursor().copy(f"copy {table} ({columns[table]}) to stdout".encode()) as rows:
                contents[table] = b"".join(rows)
            connection.execute(f"create table new_{table} (like {table} including all)".encode())
            for name, key in _foreign_keys(connection, table):
                connection.execute(f"alter table new_{table} add constraint {name} {key}".encode())

        def work() -> None:
            with connection.transaction():
                for table, content in contents.items():
                    into = f"copy new_{table} ({columns[table]}) from stdin"
                    with connection.cursor().copy(into.encode()) as rows:
                        rows.write(content)

        measured, _ = _measured(servers, work)
    return measured | {"bytes": sum(map(len, contents.values()))}


def written_columns(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    """Of each table in `WRITTEN`, the columns that are not generated."""
    found: dict[str, list[str]] = {table: [] for table in WRITTEN}
    for table, column in connection.execute(
        "select table_name, column_name from information_schema.columns where table_schema = current_schema"
        " and is_generated = 'NEVER' order by table_name, ordinal_position"
    ):
        if table in found:
            found[table].append(column)
    return found


def commits(number: int) -> dict[str, Any]:
    """Seconds of a transaction that writes one row, the mean of so many."""
    with _identity() as identity, identity.catalogue.connection() as connection:
        connection.execute("create table committed (number int)")
        started = time.perf_counter()
        for each in range(number):
            connection.execute("insert into committed values (%s)", [each])
        return {"seconds_of_a_commit": (time.perf_counter() - started) / number}


@contextmanager
def _identity() -> Iterator[IdentityServices]:
    """The pipeline's own services; without its definitions, whose imports would be most of the memory."""
    unopened = IdentityServices(
        lml=LmlService(base_url=os.environ["LIBRARY_METADATA_URL"], max_in_flight=MOST_CALLS_IN_FLIGHT),
        catalogue=CatalogueDatabase(
            host=os.environ["RUNWAY_CATALOGUE_DB_HOST"],
            port=int(os.environ["RUNWAY_CATALOGUE_DB_PORT"]),
            database=os.environ["RUNWAY_CATALOGUE_DB_NAME"],
            username=os.environ["RUNWAY_CATALOGUE_DB_USER"],
            password=os.environ["RUNWAY_CATALOGUE_DB_PASSWORD"],
        ),
    )
    with unopened.process_config_and_initialize_cm() as identity:
        yield identity


def _warm_up(identity: IdentityServices, as_of: datetime) -> None:
    """Open connections and import what is imported late: one library of each cohort is asked about, none written."""
    anything = IdentityOptions(dry_run=True, limit=1, shards=1, stale_days=0, unresolved_retry_days=0)
    identity.resolve_shard(anything, as_of, 0, Circuit(anything.most_failed_batches), _LOG, has_artist_columns=False)


def _batches(
    identity: IdentityServices, shard: tuple[int, int] = (0, 1), due: Mapping[str, Any] | None = None
) -> Iterator[list[Library]]:
    """What is due of a shard, in pages of the job's sizes."""
    options = IdentityOptions()
    selection = Selection(as_of=datetime.now(UTC), shard=shard, schema=identity.catalogue_schema, **(due or {}))
    sizes = {Cohort.NON_VA: options.batch_size, Cohort.VA: options.compilation_batch_size}
    return (page for _, page in pages(identity.catalogue.connection, selection, sizes))


def _measured(servers: dict[str, int], work: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """Do the work once: seconds, CPU seconds of this process and of the servers, WAL, and memory before and at most."""
    processes = {name: psutil.Process(pid) for name, pid in servers.items()}
    with _watching() as watching:
        position = _wal_position(watching)
        memory = reset_peak_memory()
        with server_cpu(processes) as spent:
            started, cpu_started = time.perf_counter(), time.process_time()
            result = work()
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        peak = peak_memory()
        wal = _wal_position(watching) - position
    costs = {"seconds": seconds, "cpu_seconds": cpu_seconds, "servers": spent, "wal": wal}
    return costs | {"memory_before": memory, "peak_memory": peak}, result


@contextmanager
def _watching() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(
        host=os.environ["RUNWAY_CATALOGUE_DB_HOST"],
        port=os.environ["RUNWAY_CATALOGUE_DB_PORT"],
        dbname="postgres",
        user=os.environ["RUNWAY_CATALOGUE_DB_USER"],
        password=os.environ["RUNWAY_CATALOGUE_DB_PASSWORD"],
        autocommit=True,
    ) as connection:
        yield connection


def _wal_position(connection: psycopg.Connection[Any]) -> int:
    (position,) = connection.execute("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')").fetchone() or (0,)
    return int(position)


def _foreign_keys(connection: psycopg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select conname, pg_get_constraintdef(oid) from pg_constraint where conrelid = %s::regclass and contype = 'f'",
        [table],
    ).fetchall()
