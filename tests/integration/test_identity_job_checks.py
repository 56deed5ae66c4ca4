"""What the identity job tells: its checks, its options, its schedule, what a dry run says, and what nobody may read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from runway_pipelines.identity import transactions
from runway_pipelines.identity.health import IdentityHealth
from runway_pipelines.identity.services import IdentityServices
from runway_pipelines.local.lml_verdicts import resolved
from runway_pipelines.local.stack import EmbeddedStack
from tests.integration.identity_job_world import (
    ALL,
    COMPILATIONS,
    assert_written,
    checks,
    counts,
    fill,
    foreseen,
    impatient_catalogue,
    impatient_lml,
    logged,
    materialized,
    point_at,
    run,
    verified_long_ago,
    without_times,
)
from tests.integration.identity_world import TestCatalogue, new_catalogue
from tests.integration.lml_control import LmlControl
from tests.integration.world import World, definitions
from tests.servers.lml_faults import Rule

KEY, PASSWORD, ARTIST, TITLE, BODY = (f"CANARY-{word}" for word in ("key", "password", "artist", "title", "body"))


# checks


def severities(result: Any) -> set[str]:
    return {e.severity.value for e in result.get_asset_check_evaluations() if not e.passed}


def test_many_unresolved_libraries_are_a_warning(tables: TestCatalogue, instance: dg.DagsterInstance) -> None:
    result = run(instance, most_unresolved=0.1)
    assert result.success and severities(result) == {"WARN"}
    assert [name for name, passed in checks(result).items() if not passed] == ["unresolved_share"]


@pytest.mark.slow
def test_libraries_that_wait_too_long_are_a_warning_until_they_are_verified(
    tables: TestCatalogue, instance: dg.DagsterInstance
) -> None:
    result = run(instance, limit=10)
    assert result.success and severities(result) == {"WARN"}
    assert [name for name, passed in checks(result).items() if not passed] == ["verified_in_time"]
    assert run(instance, limit=10, least_fresh=0.1).success
    assert all(checks(run(instance)).values())
    tables.execute("update library_identity set last_verified_at = now() - interval '8 days'")
    assert not checks(run(instance, limit=1))["verified_in_time"]
    # Those that LML calls unresolved by now are held back by their stamp, and no run can verify them.
    tables.execute("update library set unresolved_attempted_at = now() - interval '1 day'")
    assert checks(run(instance, limit=1))["verified_in_time"]
    tables.execute("update library set unresolved_attempted_at = now() - interval '9 days'")
    assert not checks(run(instance, limit=1))["verified_in_time"]


@pytest.mark.slow
def test_what_was_not_due_when_the_run_began_is_not_late_when_it_ends(
    tables: TestCatalogue, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(instance).success
    soon = "now() - interval '7 days' + interval '5 minutes'"
    tables.execute(f"update library_identity set last_verified_at = {soon}")

    def much_later(self: IdentityServices, fresh_since: datetime) -> IdentityHealth:
        """Ten minutes went by."""
        tables.execute("update library_identity set last_verified_at = last_verified_at - interval '10 minutes'")
        return asked(self, fresh_since - timedelta(minutes=10))

    asked = IdentityServices.health
    monkeypatch.setattr(IdentityServices, "health", much_later)
    result = run(instance)
    assert counts(result)["scanned"] == 0
    assert checks(result)["verified_in_time"]


@pytest.mark.slow
def test_missing_sources_are_a_warning_until_their_library_is_asked_about_again(
    tables: TestCatalogue, instance: dg.DagsterInstance
) -> None:
    assert all(checks(run(instance)).values())
    reference, _ = foreseen(tables)
    [(lost,)] = tables.execute(
        "with gone as (delete from library_identity_source where library_id in (8, 9) returning library_id)"
        " select count(distinct library_id) from gone"
    )
    result = run(instance)
    assert counts(result)["scanned"] == 0
    assert result.success and severities(result) == {"WARN"}
    assert [name for name, passed in checks(result).items() if not passed] == ["sources_complete"]
    [said] = [e.description for e in result.get_asset_check_evaluations() if e.check_name == "sources_complete"]
    assert f"{lost} main rows lack" in said
    assert all(checks(run(instance, stale_days=0)).values())
    assert_written(tables, reference)


# options


def sizes(lml: LmlControl) -> list[int]:
    """How many libraries each call asked about."""
    return sorted(len(call["library_ids"]) for call in lml.calls)


def test_a_run_asks_in_batches_and_shards_of_the_given_sizes(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    result = run(instance, batch_size=7, compilation_batch_size=3, shards=3)
    assert result.success
    # 20 libraries a shard; of the compilations 61 to 70, four and twice three.
    assert sizes(lml) == sorted([7, 7, 6] * 3 + [1, 3, 3, 3])
    assert all(call["include_tracks"] for call in lml.calls)
    assert all(len({library_id % 3 for library_id in call["library_ids"]}) == 1 for call in lml.calls)
    shards = [e.step_key for e in result.all_events if e.is_step_success and "resolve_identity_shard" in e.step_key]
    assert len(shards) == 3


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch_size", 0), ("batch_size", 1001), ("compilation_batch_size", 1001), ("shards", 0), ("limit", 0)],
)
def test_an_invalid_option_is_named_before_anything_is_asked(
    option: str, value: int, tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    result = run(instance, **{option: value})
    (event,) = (event for event in result.all_events if event.is_step_failure)
    assert option in str(event.step_failure_data.error)
    with pytest.raises(dg.DagsterInvalidConfigError, match=f"{option}s"):
        run(instance, **{f"{option}s": 5})
    assert lml.calls == []


def test_a_limit_is_kept_and_the_rest_is_left_for_the_next_run(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    assert counts(run(instance, limit=3))["scanned"] == 6
    assert sorted(library_id for call in lml.calls for library_id in call["library_ids"]) == [1, 2, 4, 61, 62, 64]
    assert counts(run(instance))["scanned"] == ALL - 6


def test_libraries_without_a_canonical_entity_are_included_on_request(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    tables.execute("update library set canonical_entity_id = null where id in (8, 9, 61)")
    assert counts(run(instance))["scanned"] == ALL - 3
    lml.script()
    assert counts(run(instance, include_null_canonical=True))["scanned"] == 3
    assert {library_id for call in lml.calls for library_id in call["library_ids"]} == {8, 9, 61}


@pytest.mark.slow
def test_answered_libraries_are_asked_about_again_on_request(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    said = counts(run(instance))
    mains, unresolved = said["rows_resolved"], said["rows_unresolved"]
    assert counts(run(instance))["scanned"] == 0
    assert counts(run(instance, stale_days=0))["scanned"] == mains
    assert counts(run(instance, recheck=True))["scanned"] == unresolved + COMPILATIONS
    assert counts(run(instance, unresolved_retry_days=0))["scanned"] == unresolved + COMPILATIONS
    assert counts(run(instance, stale_days=0, unresolved_retry_days=0))["scanned"] == ALL


# a dry run


def observed(result: Any) -> dict[str, Any]:
    (event,) = (e for e in result.all_events if e.event_type_value == "ASSET_OBSERVATION")
    return dict(event.event_specific_data.asset_observation.metadata["dry run"].value)


@pytest.mark.slow
def test_a_dry_run_foresees_what_a_run_does_to_filled_tables(
    tables: TestCatalogue, instance: dg.DagsterInstance
) -> None:
    for library_id in range(1, 31):
        verified_long_ago(tables, library_id, method="manual" if library_id % 3 else "llm", wikidata_qid="before")
    assert run(instance, limit=20).success
    tables.execute("alter table library_identity_source add constraint not_60 check (library_id <> 60)")
    try:
        before = tables.tables()
        dry = run(instance, dry_run=True, stale_days=0, unresolved_retry_days=0)
        assert tables.tables() == before
        assert dry.success and materialized(dry) == set() and checks(dry) == {}
        said, real = observed(dry), counts(run(instance, stale_days=0, unresolved_retry_days=0))
    finally:
        tables.execute("alter table library_identity_source drop constraint not_60")
    assert said["would_skip"]["manual_protected"] == real["rows_skipped"]["manual_protected"] > 10
    # Only writing can show what a constraint refuses.
    assert (said["would_resolve"], real["rows_skipped"]["writer_error"]) == (real["rows_resolved"] + 1, 1)
    assert said["scanned"] == real["scanned"] == ALL
    assert said["lml_total_calls"] == real["lml_total_calls"]
    assert said["would_unresolved"] == real["rows_unresolved"]
    assert said["would_resolve_compilation"] == real["rows_resolved_compilation"]
    assert without_times(tables.tables()) != without_times(before)


def test_a_dry_run_that_lml_refuses_says_how_far_it_got_and_fails(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    lml.script(Rule(fault="status", status=401, calls=(3,)))
    before = tables.tables()
    result = run(instance, dry_run=True, calls_in_flight=1)
    assert not result.success and tables.tables() == before
    said = observed(result)
    assert (said["scanned"], said["would_skip"]["lml_error"], said["lml_total_calls"]) == (30, 10, 3)


# the schedule


def test_the_schedule_runs_every_night_unless_somebody_stops_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def schedule() -> dg.ScheduleDefinition:
        repository = definitions().get_repository_def()
        return repository.get_schedule_def("library_identity_daily_schedule")

    nightly = schedule()
    assert (nightly.cron_schedule, nightly.execution_timezone) == ("0 4 * * *", "America/New_York")
    assert nightly.default_status is dg.DefaultScheduleStatus.RUNNING
    assert nightly.job_name == "library_identity_job"
    monkeypatch.setenv("RUNWAY_IDENTITY_CRON", "30 5 * * 1")
    monkeypatch.setenv("RUNWAY_IDENTITY_TIMEZONE", "UTC")
    assert (schedule().cron_schedule, schedule().execution_timezone) == ("30 5 * * 1", "UTC")


@pytest.mark.slow
def test_the_schedules_runs_need_no_config(tables: TestCatalogue, instance: dg.DagsterInstance) -> None:
    built = definitions()
    schedule = built.get_repository_def().get_schedule_def("library_identity_daily_schedule")
    job = built.resolve_job_def(schedule.job_name)
    with dg.build_schedule_context(instance=instance) as context:
        tick = schedule.evaluate_tick(context)
    [request] = tick.run_requests or []
    result = job.execute_in_process(instance=instance, run_config=request.run_config, raise_on_error=False)
    assert result.success and counts(result)["scanned"] == ALL


# what nobody may read


def nothing(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong."""


def a_closed_door(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    lml.script(Rule(fault="status", status=401))


def an_lml_that_is_down(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient_lml(monkeypatch, attempts=2)
    lml.script(Rule(fault="status", status=503))


def a_page_of_something_else(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient_lml(monkeypatch, attempts=2)
    lml.script(Rule(fault="body", value=f"<html>{BODY}</html>"))


def answers_that_are_malformed(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = tuple(range(1, ALL + 1))
    lml.script(Rule(fault="replace", path=("kind",), value=BODY, library_ids=everything))


def inputs_that_lml_refuses(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    lml.script(Rule(fault="status", status=422))


def an_address_that_holds_a_secret(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBRARY_METADATA_URL", f"http://user:{KEY}@127.0.0.1:1/")


def rows_that_are_refused(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.execute("alter table library_identity add constraint neither check (library_id not in (8, 9))")


def a_table_that_is_gone(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.execute("alter table library_identity_source rename to elsewhere")


def a_database_that_is_away(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "ATTEMPTS", 1)
    impatient_catalogue(monkeypatch, connect_timeout_seconds=1)
    monkeypatch.setenv("RUNWAY_CATALOGUE_DB_PORT", "1")
    monkeypatch.setenv("RUNWAY_CATALOGUE_DB_PASSWORD", PASSWORD)


def a_wrong_password(tables: TestCatalogue, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_CATALOGUE_DB_PASSWORD", PASSWORD)


TROUBLES: list[Callable[[TestCatalogue, LmlControl, pytest.MonkeyPatch], None]] = [
    nothing,
    a_closed_door,
    an_lml_that_is_down,
    a_page_of_something_else,
    answers_that_are_malformed,
    inputs_that_lml_refuses,
    an_address_that_holds_a_secret,
    rows_that_are_refused,
    a_table_that_is_gone,
    a_database_that_is_away,
    a_wrong_password,
]


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_run_reveals_the_key_the_password_or_the_catalogues_content(
    trouble: Callable[[TestCatalogue, LmlControl, pytest.MonkeyPatch], None],
    world: World,
    stack: EmbeddedStack,
    lml: LmlControl,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with new_catalogue(stack.postgres, artist_columns=False) as own:
        fill(own, 20, 4)
        own.execute(
            "update library set album_title = %s || id, artist_name = case when id < 20 then %s || id else artist_name"
            " end",
            *(TITLE, ARTIST),
        )
        point_at(own, monkeypatch)
        monkeypatch.setenv("LML_API_KEY", KEY)
        caplog.set_level(logging.DEBUG)
        trouble(own, lml, monkeypatch)
        result = run(instance, shards=1, batch_size=20, most_failed_batches=1)
    assert result.success is (trouble in (nothing, rows_that_are_refused))
    output = capfd.readouterr()
    left = {
        "event log": logged(instance, result),
        "output": output.out + output.err,
        "logging": "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records),
    }
    assert "library_identity_job" in left["event log"]
    found_by_lml = resolved(8, f"{ARTIST}8", f"{TITLE}8", include_tracks=False)["provenance"]
    ids = [each["external_id"] for each in found_by_lml if len(each["external_id"] or "") > 5]
    assert ids
    secrets = [KEY, PASSWORD, stack.postgres.password, ARTIST, TITLE, BODY, *ids]
    found = {(place, word) for place, text in left.items() for word in secrets if word in text}
    assert found == set()
