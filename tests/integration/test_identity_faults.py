"""Killed writers, concurrent writers, a librarian, a server that goes away: nothing half, nothing twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import psycopg
import pytest

from runway_pipelines.errors import Unavailable
from runway_pipelines.identity import transactions
from runway_pipelines.identity.counts import Counts, Skip, skipped
from runway_pipelines.identity.transactions import Connections
from runway_pipelines.identity.writer import NotWritten, write
from runway_pipelines.local.postgres_server import start_postgres
from runway_pipelines.systems.lml.verdicts import Verdict
from tests.integration.identity_world import (
    DATABASE,
    NOW,
    TestCatalogue,
    answer,
    compilation,
    found,
    librarian,
    new_catalogue,
    single,
    track,
    unresolved,
)
from tests.integration.identity_writer_process import LIBRARIES
from tests.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
# Main rows whose sources are not there, or not those of the same answer.
HALF_WRITTEN = (
    "select m.library_id from library_identity m left join library_identity_source s"
    " on s.library_id = m.library_id and s.external_id = m.wikidata_qid"
    " group by m.library_id having count(s.source) <> 3"
)


def generation(library_id: int, number: int) -> Verdict:
    return single(
        library_id,
        *(found(source, f"g{number}") for source in ("discogs", "spotify", "wikidata")),
        wikidata_qid=f"g{number}",
    )


def fill(catalogue: TestCatalogue, libraries: int = LIBRARIES) -> None:
    catalogue.execute("insert into library select n, 'x', 'y', 'e', n from generate_series(1, %s) n", libraries)


def put(
    catalogue: TestCatalogue, *verdicts: Verdict, second: int = 0, connections: Connections | None = None
) -> Counts:
    counts = write(
        connections or catalogue.database.connection,
        answer(*verdicts),
        schema=catalogue.schema,
        has_artist_columns=True,
        now=NOW + timedelta(seconds=second),
    )
    assert counts.scanned == counts.accounted_for == len(verdicts)
    return counts


def test_a_writer_killed_at_any_moment_leaves_no_main_row_without_sources(catalogue: TestCatalogue) -> None:
    fill(catalogue)
    info = catalogue.database
    done, chance = 0, random.Random(20_261_120)
    for _ in range(10):
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.integration.identity_writer_process", info.host, str(info.port)),
                *(info.database, info.username, info.password or "", catalogue.schema, str(done + 1)),
            ],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        done = int(process.stdout.readline())
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        done = int((["0", *process.stdout.read().split()])[-1]) or done
        process.wait()
        wait_until(lambda: not catalogue.execute(f"select 1 {OTHERS} and state <> 'idle'"))
        assert catalogue.execute(HALF_WRITTEN) == []
        # Every change left exactly one row of history: what was written is what is counted.
        [(kept, wrong)] = catalogue.execute(
            "select count(*), count(*) filter (where wikidata_qid is null) from library_identity_history"
        )
        [(changes,)] = catalogue.execute(
            "select count(distinct (library_id, wikidata_qid)) from library_identity_history"
        )
        assert (kept, wrong) == (changes, 0)
    assert done > 10


OTHERS = "from pg_stat_activity where datname = current_database() and application_name = 'runway_pipelines'"


@contextmanager
def noted(connections: Connections, failures: list[Exception]) -> Iterator[Any]:
    try:
        with connections() as connection:
            yield connection
    except Exception as error:
        failures.append(error)
        raise


def test_two_writers_of_the_same_libraries_never_deadlock_or_archive_a_row_twice(catalogue: TestCatalogue) -> None:
    catalogue.insert("artists", {"id": 1, "artist_name": "Wren"})
    catalogue.insert("artists", {"id": 2, "artist_name": "Quartz"})
    fill(catalogue, 120)
    for library_id in range(101, 121):
        for number in range(5):
            catalogue.track(library_id * 10 + number, library_id, "A", f"Song {number}")
    failures: list[Exception] = []
    barrier = Barrier(4)

    def connections() -> Any:
        return noted(catalogue.database.connection, failures)

    def one_writer(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(1, 13):
            name = ("Wren", "Quartz")[number % 2]
            verdicts = [generation(n, number) for n in range(1, 91)]
            verdicts += [unresolved(n) for n in range(91, 101)]
            songs = [track("A", f"Song {s}", name) for s in range(5)]
            verdicts += [compilation(n, *chance.sample(songs, 5)) for n in range(101, 121)]
            chance.shuffle(verdicts)
            barrier.wait()
            # Half of them in one batch and half in two that overlap: all of them contend.
            for part in (verdicts,) if seed % 2 else (verdicts[:80], verdicts[40:]):
                put(catalogue, *part, second=number, connections=connections)

    with ThreadPoolExecutor(4) as pool:
        for writer in [pool.submit(one_writer, seed) for seed in range(4)]:
            writer.result()
    assert failures == []
    assert catalogue.execute(HALF_WRITTEN) == []
    kept = catalogue.execute("select library_id, wikidata_qid, count(*) from library_identity_history group by 1, 2")
    assert {(library_id, qid) for library_id, qid, _ in kept} == {
        (library_id, f"g{number}") for library_id in range(1, 91) for number in range(1, 12)
    }
    assert {times for _, _, times in kept} == {1}
    assert catalogue.execute("select distinct track_artist_id from compilation_track_artist") == [(1,)]


def meet(catalogue: TestCatalogue, statement: str, *verdicts: Verdict, commit: bool = True) -> Counts:
    """Write while a librarian is at work; who decides when the writer stands and waits."""
    with librarian(catalogue, statement) as other, ThreadPoolExecutor(1) as pool:
        writing: Future[Counts] = pool.submit(put, catalogue, *verdicts)
        wait_until(lambda: catalogue.execute(f"select 1 {OTHERS} and wait_event_type = 'Lock'"))
        other.commit() if commit else other.rollback()
        return writing.result(PATIENCE_SECONDS)


INSERT_MANUAL = (
    "insert into library_identity (library_id, wikidata_qid, method, confidence, last_verified_at)"
    " values (2, 'by hand', 'manual', 1, now())"
)


def test_a_row_that_becomes_manual_while_the_writer_waits_is_protected(catalogue: TestCatalogue) -> None:
    fill(catalogue, 3)
    put(catalogue, *(generation(n, 1) for n in (1, 2, 3)))
    counts = meet(
        catalogue,
        "update library_identity set method = 'manual', wikidata_qid = 'by hand', notes = 'by hand'"
        " where library_id = 2",
        *(generation(n, 2) for n in (1, 2, 3)),
    )
    assert (counts.rows_resolved, counts.rows_skipped[Skip.MANUAL_PROTECTED]) == (2, 1)
    assert (catalogue.main(2)["wikidata_qid"], catalogue.main(2)["method"]) == ("by hand", "manual")
    assert [row["library_id"] for row in catalogue.rows("library_identity_history")] == [1, 3]


def test_a_manual_row_that_is_inserted_while_the_writer_inserts_is_protected(catalogue: TestCatalogue) -> None:
    fill(catalogue, 3)
    counts = meet(catalogue, INSERT_MANUAL, *(generation(n, 1) for n in (1, 2, 3)))
    assert (counts.rows_resolved, counts.rows_skipped[Skip.MANUAL_PROTECTED]) == (2, 1)
    assert (catalogue.main(2)["wikidata_qid"], catalogue.main(2)["last_verified_at"]) == ("by hand", NOW)
    assert len(catalogue.rows("library_identity_source")) == 9


def test_a_rolled_back_insert_does_not_matter(catalogue: TestCatalogue) -> None:
    fill(catalogue, 3)
    counts = meet(catalogue, INSERT_MANUAL, *(generation(n, 1) for n in (1, 2, 3)), commit=False)
    assert counts.rows_resolved == 3 and catalogue.main(2)["wikidata_qid"] == "g1"


def test_a_row_changed_while_the_writer_waits_is_archived_as_changed(
    catalogue: TestCatalogue,
) -> None:
    fill(catalogue, 2)
    put(catalogue, generation(1, 1), generation(2, 1))
    meet(catalogue, "update library_identity set wikidata_qid = 'newer' where library_id = 2", generation(2, 2))
    assert [row["wikidata_qid"] for row in catalogue.rows("library_identity_history")] == ["newer"]


def test_a_row_deleted_while_the_writer_waits_is_written_again(catalogue: TestCatalogue) -> None:
    fill(catalogue, 2)
    put(catalogue, generation(1, 1), generation(2, 1))
    counts = meet(catalogue, "delete from library_identity where library_id = 2", generation(1, 2), generation(2, 2))
    assert counts.rows_resolved == 2 and catalogue.main(2)["wikidata_qid"] == "g2"
    assert [row["library_id"] for row in catalogue.rows("library_identity_history")] == [1]


def test_a_track_linked_by_a_librarian_while_the_writer_waits_is_protected(catalogue: TestCatalogue) -> None:
    for artist_id, name in ((1, "Wren"), (2, "Quartz")):
        catalogue.insert("artists", {"id": artist_id, "artist_name": name})
    catalogue.library(1, letters="Z")
    for track_id in (1, 2):
        catalogue.track(track_id, 1, "A", f"Song {track_id}")
    counts = meet(
        catalogue,
        "update compilation_track_artist set track_artist_id = 2, track_artist_link_method = 'librarian' where id = 2",
        compilation(1, track("A", "Song 1", "Wren"), track("A", "Song 2", "Wren")),
    )
    assert counts.others == {
        "compilation_track_rows_offered": 2,
        "compilation_track_rows_linked": 1,
        "compilation_track_rows_librarian": 1,
    }
    links = [
        (row["track_artist_id"], row["track_artist_link_method"]) for row in catalogue.rows("compilation_track_artist")
    ]
    assert links == [(1, "lml_backfill"), (2, "librarian")]


def test_the_writer_does_not_wait_for_rows_that_refer_to_a_library(catalogue: TestCatalogue) -> None:
    catalogue.execute("create table flowsheet (library_id int references library (id))")
    fill(catalogue, 3)
    with librarian(catalogue, "insert into flowsheet values (1), (2), (3)"):
        counts = put(catalogue, generation(1, 1), unresolved(2), compilation(3))
    assert counts.rows_resolved == 1


def test_a_deadlock_retries_the_whole_transaction(catalogue: TestCatalogue) -> None:
    """Somebody else takes the rows in another order."""
    fill(catalogue, 2)
    put(catalogue, generation(1, 1), generation(2, 1))
    catalogue.connection.execute(b"set deadlock_timeout = '10s'")
    update = "update library_identity set notes = 'x' where library_id = {}"
    failures: list[Exception] = []
    with librarian(catalogue, "set deadlock_timeout = '60s'") as other, ThreadPoolExecutor(1) as pool:
        other.execute(update.format(2).encode())
        writing = pool.submit(
            put,
            catalogue,
            generation(1, 2),
            generation(2, 2),
            connections=lambda: noted(catalogue.database.connection, failures),
        )
        wait_until(lambda: catalogue.execute(f"select 1 {OTHERS} and wait_event_type = 'Lock'"))
        # The writer has row 1 and waits for 2; now we wait for 1: the writer notices first, and is the victim.
        other.execute(update.format(1).encode())
        other.commit()
        counts = writing.result(PATIENCE_SECONDS)
    assert [error.code for error in failures if isinstance(error, Unavailable)] == ["40P01"]
    assert counts.rows_resolved == 2 and counts.rows_skipped[Skip.WRITER_ERROR] == 0
    assert len(catalogue.rows("library_identity_history")) == 2


def test_a_server_that_stays_away_ends_the_writing(catalogue: TestCatalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "ATTEMPTS", 3)
    monkeypatch.setattr(transactions, "_LONGEST_WAIT_SECONDS", 0.01)
    away = catalogue.database.model_copy(update={"port": 1})
    with pytest.raises(NotWritten) as ended:
        put(catalogue, single(1), unresolved(2), connections=away.connection)
    assert isinstance(ended.value.reason, Unavailable)
    assert ended.value.counts.document() == skipped(2, Skip.WRITER_ERROR).document()


def test_a_server_that_crashes_and_recovers_costs_nothing(tmp_path: Path) -> None:
    server = start_postgres(tmp_path)
    try:
        with new_catalogue(server) as catalogue:
            # The local server's default is off: what it told the writer just before the crash would be gone.
            catalogue.execute(f"alter database {DATABASE} set synchronous_commit = on")
            fill(catalogue, 400)
            with ThreadPoolExecutor(1) as pool:
                writing = pool.submit(write_generations, catalogue, range(1, 401), 12)
                for _ in range(3):
                    time.sleep(0.5)
                    kill_a_backend(server.dsn(DATABASE))
                writing.result(PATIENCE_SECONDS)
            catalogue.connection = psycopg.connect(server.dsn(DATABASE), autocommit=True)
            catalogue.execute("select set_config('search_path', quote_ident(%s), false)", catalogue.schema)
            assert catalogue.execute(HALF_WRITTEN) == []
            assert catalogue.execute("select distinct wikidata_qid from library_identity") == [("g12",)]
            [(kept, distinct)] = catalogue.execute(
                "select count(*), count(distinct (library_id, wikidata_qid)) from library_identity_history"
            )
            assert kept == distinct == 400 * 11
    finally:
        server.stop()


def write_generations(catalogue: TestCatalogue, libraries: range, generations: int) -> None:
    for number in range(1, generations + 1):
        for first in libraries[::50]:
            put(catalogue, *(generation(n, number) for n in range(first, first + 50)), second=number)
            time.sleep(0.02)


def kill_a_backend(dsn: str) -> None:
    """SIGKILL of one backend: the server ends all connections, and comes up again by way of its recovery."""
    with psycopg.connect(dsn) as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
