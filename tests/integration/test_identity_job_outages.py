"""The identity job whose database goes away: for a moment nothing is lost, for good the run says how far it came."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import dagster as dg
import psycopg
import pytest

from runway_pipelines.identity import transactions
from runway_pipelines.local import postgres_server
from runway_pipelines.local.postgres_server import PostgresServer, start_postgres
from runway_pipelines.local.processes import free_port
from runway_pipelines.systems import store_resource
from tests.integration.identity_job_world import (
    COMPILATIONS,
    LIBRARIES,
    WITHOUT_SOURCES,
    assert_written,
    before_statements,
    checks,
    counts,
    ended,
    failure,
    fill,
    foreseen,
    impatient_catalogue,
    point_at,
    run,
)
from tests.integration.identity_world import DATABASE, TestCatalogue, new_catalogue
from tests.integration.lml_control import LmlControl
from tests.integration.world import World
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

ALL = LIBRARIES + COMPILATIONS
# A part of one of the run's statements, and the how-manieth of them it is that meets the trouble.
MOMENTS = {
    "reading a page": ("order by l.id limit", 3),
    "writing sources": ('copy "', 2 * 3),  # each batch copies its mains, then its sources
    "linking tracks": ('."compilation_track_artist" as t set', 2),
    "summarizing": ("count(*) filter", 1),
}


class Server:
    """A Postgres of the tests' own that comes back where it was; the thread that starts it lives as long as it may."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keeper = ThreadPoolExecutor(1)
        self._starting = self._start()

    @property
    def postgres(self) -> PostgresServer:
        return self._starting.result(PATIENCE_SECONDS)

    def _start(self) -> Future[PostgresServer]:
        # What was told to be committed must be there after a crash.
        return self._keeper.submit(start_postgres, self._folder, {"synchronous_commit": "on"})

    def crash(self) -> None:
        """As ``pg_ctl stop -m immediate`` does it."""
        os.kill(self.postgres.child.pid, signal.SIGQUIT)
        self.postgres.child.wait(PATIENCE_SECONDS)

    def come_back(self, after_seconds: float = 0) -> None:
        self._keeper.submit(time.sleep, after_seconds)
        self._starting = self._start()

    def stop(self) -> None:
        self._keeper.submit(self.postgres.stop).result(PATIENCE_SECONDS)
        self._keeper.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres_server, "free_port", lambda: port)
        one = Server(tmp_path_factory.mktemp("outages"))
        yield one
        one.stop()


@pytest.fixture
def tables(server: Server, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestCatalogue]:
    LmlControl(world.stack.lml_url).script()
    with new_catalogue(server.postgres, artist_columns=False) as made:
        fill(made)
        for name, value in {
            "HOST": server.postgres.host, "PORT": str(server.postgres.port), "USER": server.postgres.user,
            "PASSWORD": server.postgres.password,
        }.items():  # fmt: skip
            monkeypatch.setenv(f"RUNWAY_CATALOGUE_DB_{name}", value)
        yield point_at(made, monkeypatch)


def at(moment: str, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Act once, right before the moment's statement is sent, and during no commit: one whose answer is lost is found
    done when it is tried again, and counts as unchanged.
    """
    part, left = MOMENTS[moment]
    lock = Lock()
    usual_end = psycopg.Transaction.__exit__

    def end_outside_the_moment(transaction: psycopg.Transaction, *error: Any) -> bool:
        with lock:
            return usual_end(transaction, *error)

    monkeypatch.setattr(psycopg.Transaction, "__exit__", end_outside_the_moment)

    def before(statement: str, connection: psycopg.Connection[Any]) -> None:
        nonlocal left
        with lock:
            if part in statement:
                left -= 1
                if left == 0:
                    act()

    before_statements(monkeypatch, before)


def reconnected(tables: TestCatalogue, server: Server) -> TestCatalogue:
    tables.connection.close()
    tables.connection = psycopg.connect(server.postgres.dsn(DATABASE), autocommit=True)
    tables.execute("select set_config('search_path', quote_ident(%s), false)", tables.schema)
    return tables


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_database_that_crashes_and_returns_costs_nothing(
    moment: str,
    server: Server,
    tables: TestCatalogue,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crashes = []

    def crash() -> None:
        crashes.append(moment)
        server.crash()
        server.come_back(after_seconds=0.5)

    at(moment, crash, monkeypatch)
    reference, counted = foreseen(tables)
    result = run(instance)
    assert crashes == [moment]
    assert result.success and all(checks(result).values())
    assert ended(counts(result)) == counted
    assert_written(reconnected(tables, server), reference)
    assert counts(run(instance))["scanned"] == 0


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_database_that_stays_away_fails_the_run_which_says_how_far_it_got(
    moment: str,
    server: Server,
    tables: TestCatalogue,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transactions, "ATTEMPTS", 2)
    monkeypatch.setattr(store_resource, "FIRST_WAIT_SECONDS", 0.05)
    reference, _ = foreseen(tables)
    with pytest.MonkeyPatch.context() as patch:
        impatient_catalogue(patch, connect_timeout_seconds=1)
        at(moment, server.crash, patch)
        result = run(instance)
    server.come_back()
    reconnected(tables, server)
    assert not result.success
    assert f"the database {DATABASE} at" in failure(result)
    said = counts(result)
    # What was counted as written is there, and nothing else is.
    assert said["rows_resolved"] == len(tables.rows("library_identity"))
    stamped = [row for row in tables.rows("library") if row["unresolved_attempted_at"] is not None]
    assert len(stamped) == said["rows_unresolved"] + said["rows_resolved_compilation"]
    assert said["source_rows_written"] == len(tables.rows("library_identity_source"))
    assert tables.execute(WITHOUT_SOURCES) == []
    assert checks(result) == {"counts_add_up": True, "answers_believed": True, "unresolved_share": True}
    done = said["rows_resolved"] + len(stamped)
    assert said["scanned"] == done + said["rows_skipped"]["writer_error"]
    assert (done == ALL) is (moment == "summarizing")
    again = run(instance)
    assert again.success and counts(again)["scanned"] == ALL - done
    assert_written(tables, reference)


def test_a_missing_database_fails_the_run_before_anything_is_asked(
    world: World, tables: TestCatalogue, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "ATTEMPTS", 2)
    monkeypatch.setattr(store_resource, "FIRST_WAIT_SECONDS", 0.05)
    monkeypatch.setenv("RUNWAY_CATALOGUE_DB_PORT", "1")
    result = run(instance)
    assert not result.success
    (event,) = (event for event in result.all_events if event.is_step_failure)
    assert event.step_key.endswith("plan_identity_run")
    assert "check that the server is up" in failure(result)
    assert counts(result)["scanned"] == 0
    assert LmlControl(world.stack.lml_url).calls == []
