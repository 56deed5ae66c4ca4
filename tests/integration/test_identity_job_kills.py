"""Runs that are killed, interrupted, or at work at the same time: nothing half, nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from tests.integration.identity_job_world import (
    OPTIONS,
    as_reference,
    assert_written,
    content_by_library,
    counts,
    ended,
    fill,
    foreseen,
    run,
    verified_long_ago,
)
from tests.integration.identity_run_process import CHECKOUT, RunProcess
from tests.integration.identity_world import TestCatalogue
from tests.integration.lml_control import LmlControl
from tests.reference_identity import ReferenceCatalogue
from tests.servers.lml_faults import Rule
from tests.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.slow

LIBRARIES, COMPILATIONS = 150, 30
ALL = LIBRARIES + COMPILATIONS
SMALL = {"batch_size": 5, "compilation_batch_size": 5}
OURS = "from pg_stat_activity where datname = current_database() and application_name = 'runway_pipelines'"
KEY = 4711


@pytest.fixture
def tables(own_tables: TestCatalogue) -> TestCatalogue:
    """A catalogue of which a third was verified long ago, with another verdict, so that there is a history to keep."""
    fill(own_tables, LIBRARIES, COMPILATIONS)
    for library_id in range(3, LIBRARIES + 1, 3):
        verified_long_ago(own_tables, library_id, wikidata_qid="before", notes="before")
    return own_tables


def left_behind(tables: TestCatalogue) -> None:
    """Wait until the server has noticed that who was killed is gone."""
    wait_until(lambda: tables.execute(f"select 1 {OURS}") == [])


def done(tables: TestCatalogue, old: ReferenceCatalogue, new: ReferenceCatalogue) -> set[int]:
    """The libraries that were written; each must be as it was, or as it shall be: with all of its rows."""
    before, after, now = (content_by_library(each) for each in (old, new, as_reference(tables)))
    half = {library_id for library_id, rows in now.items() if rows not in (before[library_id], after[library_id])}
    assert half == set()
    return {library_id for library_id, rows in now.items() if rows == after[library_id] != before[library_id]}


def assert_takes_up_the_rest(
    instance: dg.DagsterInstance, tables: TestCatalogue, new: ReferenceCatalogue, due: set[int]
) -> None:
    """A run without trouble asks about these, counts them, and leaves the tables as one run alone would have."""
    mains = {row["library_id"] for row in new.identity.values()}
    unresolved = {library_id for library_id in range(1, LIBRARIES + 1) if new.stamps[library_id] is not None}
    result = run(instance)
    assert result.success
    said = ended(counts(result))
    assert said["scanned"] == len(due)
    assert said["rows_unresolved"] == len(due & unresolved)
    assert said["rows_resolved"] == len(due & mains - unresolved)
    assert_written(tables, new)


# killed


def test_a_run_killed_at_any_moment_leaves_every_library_whole(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    chance = random.Random(20_261_121)
    old, (new, _) = as_reference(tables), foreseen(tables)
    killed, written = 0, set()
    for is_after_a_write in (False, True) * 4:
        # Four answers, then none: no run can write all, however long this test is kept from killing it.
        lml.script(
            Rule(fault="slow", seconds=0.02), Rule(fault="slow", seconds=PATIENCE_SECONDS, calls=tuple(range(5, ALL)))
        )
        before = tables.tables()
        process = RunProcess(**SMALL, calls_in_flight=4)
        calls, pause = chance.randrange(1, 4), chance.uniform(0, 0.05)
        wait_until(lambda calls=calls: len(lml.calls) >= calls)
        if is_after_a_write:
            wait_until(lambda before=before: tables.tables() != before)
        time.sleep(pause)
        killed += process.kill()
        left_behind(tables)
        now = done(tables, old, new)
        assert now >= written, "what one run wrote stays"
        asked = {library_id for call in lml.calls for library_id in call["library_ids"]}
        assert asked.isdisjoint(written), "what was written is not asked about again"
        written = now
        if len(written) > ALL // 2:
            break  # something is left for the run that is let be
    assert killed >= 3 and 0 < len(written) < ALL
    lml.script()
    assert_takes_up_the_rest(instance, tables, new, set(new.stamps) - written)


@contextmanager
def held(tables: TestCatalogue) -> Iterator[None]:
    """The lock that a trigger of ours waits for."""
    info = tables.connection.info
    with psycopg.connect(info.dsn, password=info.password, autocommit=True) as other:
        other.execute("select pg_advisory_lock(%s)", [KEY])
        yield


def stop_at(tables: TestCatalogue, trigger: str) -> None:
    """Whoever writes the rows of library 8 waits there while the lock is held."""
    tables.execute(
        "create or replace function wait() returns trigger language plpgsql as $$ begin"
        f" if new.library_id = 8 then perform pg_advisory_xact_lock({KEY}); end if; return new; end $$"
    )
    tables.execute(f"create {trigger} for each row execute function wait()")


@pytest.mark.parametrize(
    ("trigger", "is_written"),
    [
        ("trigger halt before insert on library_identity_source", False),
        ("trigger halt after insert on library_identity", False),
        # The server is told to commit, and does so, whoever is there to hear of it.
        ("constraint trigger halt after insert on library_identity deferrable initially deferred", True),
    ],
    ids=["before its sources", "after its main row", "at the commit"],
)
def test_a_run_killed_in_the_middle_of_a_batch_has_written_all_of_it_or_nothing(
    trigger: str, is_written: bool, tables: TestCatalogue, instance: dg.DagsterInstance
) -> None:
    stop_at(tables, trigger)
    old, (new, _) = as_reference(tables), foreseen(tables)
    with held(tables):
        process = RunProcess(**SMALL, calls_in_flight=1, writers=1)
        wait_until(lambda: tables.execute(f"select 1 {OURS} and wait_event = 'advisory'"))
        assert process.kill()
    left_behind(tables)
    written = done(tables, old, new)
    # With two shards and batches of five, 8 comes with 2, 4, 6 and 10.
    assert written == ({2, 4, 6, 8, 10} if is_written else set())
    assert_takes_up_the_rest(instance, tables, new, set(new.stamps) - written)


def test_a_run_killed_while_it_asks_has_written_nothing_and_holds_nothing(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    old, (new, _) = as_reference(tables), foreseen(tables)
    lml.script(Rule(fault="slow", seconds=3600))
    process = RunProcess(**SMALL)
    wait_until(lambda: len(lml.calls) == OPTIONS["calls_in_flight"])
    assert tables.execute(f"select state {OURS} and state <> 'idle'") == []
    assert process.kill()
    left_behind(tables)
    assert done(tables, old, new) == set()
    lml.script()
    assert_takes_up_the_rest(instance, tables, new, set(new.stamps))


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_terminated_run_ends_soon_and_asks_nothing_more(
    by: signal.Signals, tables: TestCatalogue, lml: LmlControl
) -> None:
    lml.script(Rule(fault="status", status=503, retry_after="120"))
    process = RunProcess(**SMALL)
    wait_until(lambda: len(lml.calls) == OPTIONS["calls_in_flight"])
    time.sleep(0.2)  # the answers are read, and the minute begins
    process.tell(by)
    process.wait()
    assert len(lml.calls) == OPTIONS["calls_in_flight"]
    assert tables.rows("library_identity_source") == []


def test_the_last_log_of_a_killed_job_is_true(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    old, (new, _) = as_reference(tables), foreseen(tables)
    lml.script(Rule(fault="slow", seconds=3600, library_ids=(11,)))
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"ops": {"library_identity_graph": {"config": OPTIONS | SMALL}}}))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dagster", "job", "execute", "-m", "runway_pipelines.definitions"),
            *("-j", "library_identity_job", "-c", str(config)),
        ],
        cwd=CHECKOUT,
        env=os.environ | {"DAGSTER_HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # The second shard has begun, whose third batch is not answered.
    wait_until(lambda: any(11 in call["library_ids"] for call in lml.calls))
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_SECONDS)
    left_behind(tables)
    written = done(tables, old, new)
    with dg.DagsterInstance.from_config(str(tmp_path)) as theirs:
        [killed] = theirs.get_runs()
        said = [entry.user_message for entry in theirs.all_logs(killed.run_id)]
        materializations = theirs.get_records_for_run(killed.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    assert killed.status is dg.DagsterRunStatus.STARTED and materializations.records == []
    [first] = [json.loads(found[1]) for line in said if (found := re.fullmatch(r"shard 0: (\{.*\})", line))]
    even = {library_id for library_id in written if library_id % 2 == 0}
    assert first["scanned"] == len(even) == ALL // 2
    assert first["rows_resolved"] == len([n for n in even & set(new.identity) if new.stamps[n] is None])
    lml.script()
    assert_takes_up_the_rest(instance, tables, new, set(new.stamps) - written)


# at the same time


def test_two_concurrent_runs_write_what_one_would_and_archive_every_old_row_once(
    tables: TestCatalogue, lml: LmlControl
) -> None:
    new, _ = foreseen(tables)
    [(deadlocks,)] = tables.execute("select deadlocks from pg_stat_database where datname = current_database()")
    # Both have the same libraries in hand, in batches that overlap, before either has written one.
    with tables.connection.transaction():
        tables.execute("lock table library_identity in share mode")
        processes = [
            RunProcess(batch_size=size, compilation_batch_size=size, shards=1, calls_in_flight=8, writers=4)
            for size in (40, 11)
        ]
        wait_until(lambda: Counter(len(call["library_ids"]) for call in lml.calls) >= Counter({40: 3, 11: 8}))
    runs = [process.ended() for process in processes]
    assert [one["success"] for one in runs] == [True, True]
    assert all(one["checks"]["counts_add_up"] for one in runs)
    said = [ended(one["counts"]) for one in runs]
    assert sum(one["scanned"] for one in said) > ALL, "they met"
    assert all(one["writer_error"] == one["lml_error"] == 0 for one in said)
    assert_written(tables, new)
    assert len(new.history) > LIBRARIES // 4
    # Each source row was written by one of them.
    assert sum(one["source_rows_written"] for one in said) == len(new.sources)
    left_behind(tables)
    after = tables.execute("select deadlocks from pg_stat_database where datname = current_database()")
    assert after == [(deadlocks,)]
