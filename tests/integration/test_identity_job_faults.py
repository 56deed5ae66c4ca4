"""The identity job while LML or single rows make trouble: what is lost is counted, the rest is as without trouble."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import psycopg
import pytest

from tests.integration.identity_job_world import (
    ALL,
    LONG_AGO,
    WITHOUT_SOURCES,
    assert_written,
    checks,
    counts,
    ended,
    failure,
    fill,
    foreseen,
    impatient_catalogue,
    impatient_lml,
    logged,
    run,
    verified_long_ago,
)
from tests.integration.identity_world import TestCatalogue
from tests.integration.lml_control import LmlControl
from tests.servers.lml_faults import Rule
from tests.waiting import PATIENCE_SECONDS

# With two shards and batches of ten, the libraries that are asked about together with number 8.
BATCH = set(range(2, 21, 2))
UUID = "0f3e8d9c-1111-4222-8333-944445555666"


def assert_sound(result: Any, tables: TestCatalogue) -> None:
    """What holds of every run that comes to its end, whatever happened to it."""
    said = counts(result)
    ended_well = said["rows_resolved"] + said["rows_resolved_compilation"] + said["rows_unresolved"]
    assert said["scanned"] == ended_well + sum(said["rows_skipped"].values())
    assert checks(result)["counts_add_up"] and checks(result)["sources_complete"]
    assert tables.execute(WITHOUT_SOURCES) == []


def assert_rerun_takes_up_the_rest(
    instance: dg.DagsterInstance, tables: TestCatalogue, lml: LmlControl, due: int
) -> None:
    """Without faults, a run asks about what is due and nothing else; then the tables are as if nothing had happened."""
    lml.script()
    reference, _ = foreseen(tables)
    result = run(instance)
    assert result.success
    assert counts(result)["scanned"] == due == sum(len(call["library_ids"]) for call in lml.calls)
    assert_written(tables, reference)
    assert_sound(result, tables)


def test_a_run_without_trouble_writes_and_counts_as_the_reference_does(
    tables: TestCatalogue, instance: dg.DagsterInstance
) -> None:
    fill(tables, 150, 50)
    tables.execute("update library set artist_name = null where id in (3, 151)")
    reference, counted = foreseen(tables)
    # Of everything that LML says of a library there is some.
    assert min(counted[name] for name in (
        "rows_resolved", "rows_unresolved", "rows_resolved_compilation", "compilation", "source_rows_out_of_band",
        "source_rows_skipped_null_confidence",
    )) > 0  # fmt: skip
    result = run(instance)
    assert result.success and all(checks(result).values())
    assert ended(counts(result)) == counted
    assert_written(tables, reference)
    assert_sound(result, tables)


# LML


def timeout_of(fault: Rule) -> float:
    """Long enough for the answers that are to come; what never comes costs it at each attempt."""
    return 3.0 if fault.fault in ("slow", "trickle") else PATIENCE_SECONDS


@pytest.mark.parametrize(
    "fault",
    [
        Rule(fault="cut"),
        pytest.param(Rule(fault="trickle", seconds=60), marks=pytest.mark.slow),
        pytest.param(Rule(fault="slow", seconds=60), marks=pytest.mark.slow),
        Rule(fault="status", status=500),
        Rule(fault="status", status=503, retry_after="0"),
        Rule(fault="status", status=429, retry_after="0"),
        Rule(fault="body", value="<html>a proxy's page</html>"),
    ],
    ids=lambda rule: f"{rule.fault} {rule.status if rule.fault == 'status' else ''}".strip(),
)
def test_a_transient_failure_costs_only_calls(
    fault: Rule,
    tables: TestCatalogue,
    lml: LmlControl,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient_lml(monkeypatch, timeout_seconds=timeout_of(fault))
    lml.script(fault.model_copy(update={"library_ids": (8,), "times": 2}))
    reference, counted = foreseen(tables)
    result = run(instance)
    assert result.success and all(checks(result).values())
    assert (counts(result)["lml_total_calls"], counts(result)["lml_retries"]) == (10, 2)
    assert ended(counts(result)) == counted
    assert_written(tables, reference)


@pytest.mark.parametrize(
    ("fault", "calls"),
    [
        pytest.param(Rule(fault="slow", seconds=60), 3, marks=pytest.mark.slow),
        pytest.param(Rule(fault="trickle", seconds=60), 3, marks=pytest.mark.slow),
        (Rule(fault="cut"), 3),
        (Rule(fault="status", status=502), 3),
        (Rule(fault="status", status=409), 1),
        (Rule(fault="body", value='{"verdicts": []}'), 1),
    ],
    ids=["slow", "trickle", "cut", "502", "409", "another's answer"],
)
def test_a_lasting_failure_costs_its_batch_which_the_next_run_takes_up(
    fault: Rule,
    calls: int,
    tables: TestCatalogue,
    lml: LmlControl,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient_lml(monkeypatch, timeout_seconds=timeout_of(fault), attempts=3)
    lml.script(fault.model_copy(update={"library_ids": (8,)}))
    reference, counted = foreseen(tables, but=BATCH)
    result = run(instance)
    # An answer to another question is one that is not believed, for a seventh of the libraries here.
    is_believed = fault.fault != "body"
    assert (result.success, checks(result)["answers_believed"]) == (is_believed, is_believed)
    assert is_believed or "10 of 70 answers (14.3%) are not believed: no array of results 10" in failure(result)
    said = counts(result)
    assert ended(said) == counted + Counter(scanned=len(BATCH), lml_error=len(BATCH))
    assert (said["lml_total_calls"], said["lml_retries"]) == (7 + calls, calls - 1)
    assert_written(tables, reference)
    assert_sound(result, tables)
    assert_rerun_takes_up_the_rest(instance, tables, lml, len(BATCH))


def test_a_slow_lml_within_the_timeout_is_waited_for(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    lml.script(Rule(fault="slow", seconds=0.15))
    reference, _ = foreseen(tables)
    result = run(instance, calls_in_flight=6)
    assert result.success
    assert counts(result)["lml_retries"] == 0
    assert counts(result)["lml_total_latency_ms"] >= 8 * 150
    assert_written(tables, reference)


@pytest.mark.parametrize(
    ("fault", "skipped", "dropped"),
    [
        ("long", {}, 1),
        ("swapped", {}, 0),
        ("repeated_source", {}, 0),
        ("duplicate", {"lml_untrusted_library_id": 1}, 1),
        ("foreign", {"lml_untrusted_library_id": 1}, 1),
        ("short", {"lml_cardinality_mismatch": 1}, 0),
    ],
)
def test_mixed_up_results_are_matched_by_their_ids(
    fault: Any,
    skipped: dict[str, int],
    dropped: int,
    tables: TestCatalogue,
    lml: LmlControl,
    instance: dg.DagsterInstance,
) -> None:
    lml.script(Rule(fault=fault, library_ids=(8,)))
    reference, counted = foreseen(tables, but=[8] if skipped else [])
    counted += Counter(skipped) + Counter(scanned=sum(skipped.values()))
    result = run(instance)
    assert result.success
    assert ended(counts(result)) == counted
    assert counts(result)["lml_results_dropped"] == dropped
    assert_written(tables, reference)
    assert_sound(result, tables)
    assert_rerun_takes_up_the_rest(instance, tables, lml, sum(skipped.values()))


def test_an_lml_that_takes_fewer_inputs_is_asked_in_smaller_parts(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    lml.script(Rule(fault="status", status=413, more_than=4))
    reference, counted = foreseen(tables)
    result = run(instance)
    assert result.success
    assert ended(counts(result)) == counted
    # Six batches of ten in fives, and these and two of compilations in twos and threes.
    assert counts(result)["lml_total_calls"] == len(lml.calls) == 6 * 7 + 2 * 3
    assert counts(result)["lml_retries"] == 0
    assert_written(tables, reference)


@pytest.mark.slow
def test_an_lml_that_refuses_the_key_midway_stops_the_run_which_keeps_what_it_has(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    lml.script(Rule(fault="status", status=403, calls=tuple(range(4, 100))))
    result = run(instance, calls_in_flight=2)
    assert not result.success and "LML_API_KEY" in failure(result)
    said = counts(result)
    refused = [call for call in lml.calls if call["status"] == 403]
    assert 1 <= len(refused) <= 2, "who was in flight, and nobody after"
    assert said["scanned"] == sum(len(call["library_ids"]) for call in lml.calls)
    assert said["rows_skipped"]["lml_error"] == sum(len(call["library_ids"]) for call in refused)
    assert said["rows_resolved"] == len(tables.rows("library_identity")) > 0
    assert checks(result)["counts_add_up"]
    assert tables.execute(WITHOUT_SOURCES) == []
    assert_rerun_takes_up_the_rest(instance, tables, lml, ALL - 30)


# the database, about single rows


def test_a_constraint_that_refuses_one_library_costs_that_one_and_quotes_no_row(
    own_tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    own_tables.execute("alter table library_identity_source add constraint not_8 check (library_id <> 8)")
    reference, counted = foreseen(own_tables, but=[8])
    result = run(instance)
    assert result.success
    assert ended(counts(result)) == counted + Counter(scanned=1, writer_error=1)
    said = logged(instance, result)
    assert "library 8 is quarantined because the database refuses it: CheckViolation (23514) by not_8" in said
    assert "Artist 8" not in said and "Album 8" not in said and "Failing row" not in said
    assert_written(own_tables, reference)
    assert_sound(result, own_tables)
    own_tables.execute("alter table library_identity_source drop constraint not_8")
    assert_rerun_takes_up_the_rest(instance, own_tables, lml, 1)


@pytest.mark.slow
@pytest.mark.parametrize("sqlstate", ["P0001", "23514", "WX001", "45000"])
def test_a_trigger_that_refuses_one_library_costs_that_one_whatever_its_error_code(
    sqlstate: str, own_tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    own_tables.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin"
        f" raise exception 'no %, please', new.library_id using errcode = '{sqlstate}'; end $$"
    )
    own_tables.execute(
        "create trigger refuse before insert or update on library_identity for each row"
        " when (new.library_id = 8) execute function refuse()"
    )
    reference, counted = foreseen(own_tables, but=[8])
    result = run(instance)
    assert result.success
    assert ended(counts(result)) == counted + Counter(scanned=1, writer_error=1)
    assert f"({sqlstate})" in logged(instance, result) and "please" not in logged(instance, result)
    assert_written(own_tables, reference)
    own_tables.execute("drop trigger refuse on library_identity")
    assert_rerun_takes_up_the_rest(instance, own_tables, lml, 1)


@contextmanager
def librarian(tables: TestCatalogue, statement: str) -> Iterator[None]:
    """Somebody who does not commit until the end."""
    info = tables.connection.info
    with psycopg.connect(info.dsn, password=info.password) as connection:
        connection.execute("select set_config('search_path', quote_ident(%s), false)", [tables.schema])
        connection.execute(statement.encode())
        yield
        connection.rollback()


@pytest.mark.slow
def test_a_locked_row_costs_its_batch_and_not_the_run(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient_catalogue(monkeypatch, lock_timeout_ms=1500)
    verified_long_ago(tables, 8)
    reference, counted = foreseen(tables, but=BATCH)
    with librarian(tables, "update library_identity set notes = 'mine' where library_id = 8"):
        result = run(instance)
        assert result.success
        assert ended(counts(result)) == counted + Counter(scanned=len(BATCH), writer_error=len(BATCH))
        assert "10 libraries are not written" in logged(instance, result)
        assert_written(tables, reference)
    assert checks(result)["counts_add_up"]
    # Its old row, which is somebody else's, has no sources; the new one will.
    assert tables.execute(WITHOUT_SOURCES) == [(8,)]
    assert_rerun_takes_up_the_rest(instance, tables, lml, len(BATCH))


@pytest.mark.slow
def test_a_locked_table_stops_the_run(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient_catalogue(monkeypatch, lock_timeout_ms=100)
    with librarian(tables, "lock table library_identity in share mode"):
        result = run(instance, calls_in_flight=1, most_failed_batches=3)
    assert not result.success
    assert "3 failed batches in a row" in failure(result)
    assert counts(result)["scanned"] == counts(result)["rows_skipped"]["writer_error"] == 30
    assert tables.rows("library_identity") == []
    assert_rerun_takes_up_the_rest(instance, tables, lml, ALL)


# what is not LML's to change


def test_other_peoples_rows_survive_two_runs(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    releases = {
        "discogs_master_id": 1, "discogs_release_id": 2, "musicbrainz_release_group_mbid": UUID,
        "musicbrainz_release_mbid": UUID, "musicbrainz_recording_mbid": UUID,
    }  # fmt: skip
    of_the_old = {"agreement_sources": "discogs,spotify"}
    for library_id in range(1, 21):
        by_hand = {"method": "manual", "confidence": 1.0, "notes": "by hand"} if library_id % 2 else {}
        verified_long_ago(tables, library_id, **releases, **of_the_old, spotify_id=f"s{library_id}", **by_hand)
    linked = tables.execute(
        "update compilation_track_artist set track_artist_link_method = 'librarian', track_artist_id = 7,"
        " track_artist_link_confidence = 0.25 where id % 3 = 0 returning id"
    )
    assert len(linked) > 10
    before = {row["library_id"]: row for row in tables.rows("library_identity")}
    for options in {}, {"stale_days": 0, "unresolved_retry_days": 0}:
        reference, _ = foreseen(tables)
        result = run(instance, **options)
        assert result.success
        assert counts(result)["rows_skipped"]["manual_protected"] > 5
        assert_written(tables, reference)
        after = {row["library_id"]: row for row in tables.rows("library_identity")}
        for library_id, old in before.items():
            new = after[library_id]
            assert {name: new[name] for name in releases} == releases
            assert new["spotify_id"] is not None
            if old["method"] == "manual":
                moved = new["last_verified_at"] > LONG_AGO
                assert {**new, "last_verified_at": LONG_AGO} == old
                assert moved is (library_id not in unresolved(tables))
    by_librarians = tables.execute(
        "select distinct track_artist_id, track_artist_link_confidence from compilation_track_artist"
        " where track_artist_link_method = 'librarian'"
    )
    assert by_librarians == [(7, 0.25)]
    kept = tables.execute("select library_id, count(*) from library_identity_history group by 1")
    assert kept and all(library_id % 2 == 0 and times == 1 for library_id, times in kept)


def unresolved(tables: TestCatalogue) -> set[int]:
    return {row["id"] for row in tables.rows("library") if row["unresolved_attempted_at"] is not None}
