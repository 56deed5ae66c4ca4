"""The identity job in Dagster, with a real LML server, real Postgres, and LML's faults."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from runway_pipelines.cli.app import main
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.credentials.connection_asset import CAN_CONNECT
from runway_pipelines.identity.options import IdentityOptions
from runway_pipelines.operations.run_log import RunLog
from runway_pipelines.rosters.freshness_check import TENANTS_FRESH
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_identity
from tests.integration.identity_job_world import (
    COMPILATIONS,
    LIBRARIES,
    OPTIONS,
    checks,
    counts,
    failure,
    impatient_lml,
    logged,
    materialized,
    run,
    without_times,
)
from tests.integration.identity_world import TestCatalogue
from tests.integration.lml_control import LmlControl
from tests.integration.world import definitions
from tests.servers.lml_faults import Rule


def asked_about(lml: LmlControl) -> set[int]:
    return {library_id for call in lml.calls for library_id in call["library_ids"]}


@pytest.fixture
def tables(own_tables: TestCatalogue) -> TestCatalogue:
    return own_tables


def test_every_library_is_resolved_counted_and_checked(tables: TestCatalogue, instance: dg.DagsterInstance) -> None:
    result = run(instance)
    assert result.success
    assert materialized(result) == {"library_identity", "library_identity_source", "compilation_track_artist"}
    assert all(checks(result).values()) and set(checks(result)) == {
        "counts_add_up", "answers_believed", "unresolved_share", "verified_in_time", "sources_complete",
    }  # fmt: skip
    said = counts(result)
    assert said["scanned"] == LIBRARIES + COMPILATIONS
    ended = said["rows_resolved"] + said["rows_resolved_compilation"] + said["rows_unresolved"]
    assert ended + sum(said["rows_skipped"].values()) == said["scanned"]
    assert said["rows_resolved"] == len(tables.rows("library_identity")) > LIBRARIES // 2
    assert said["source_rows_written"] == len(tables.rows("library_identity_source"))
    steps = [event.step_key for event in result.all_events if event.is_step_success]
    assert [step.split(".")[1] for step in steps] == [
        "plan_identity_run", "resolve_identity_shard[shard_0]", "resolve_identity_shard[shard_1]",
        "summarize_identity_run",
    ]  # fmt: skip


@pytest.mark.parametrize("table", ["library_identity", "library_identity_source", "compilation_track_artist"])
def test_one_table_may_be_asked_for_and_all_are_written(
    table: str, tables: TestCatalogue, instance: dg.DagsterInstance
) -> None:
    whole = definitions().resolve_implicit_global_asset_job_def()
    job = whole.get_subset(asset_selection={dg.AssetKey(["identity", table])})
    result = job.execute_in_process(
        instance=instance, run_config={"ops": {"library_identity_graph": {"config": OPTIONS}}}
    )
    assert materialized(result) == {table}
    assert bool(checks(result)) is (table == "library_identity")
    assert tables.rows("library_identity") and tables.rows("library_identity_source")
    assert any(row["track_artist_id"] for row in tables.rows("compilation_track_artist"))
    said = logged(instance, result)
    assert "did not yield" not in said and "not selected" not in said


@pytest.mark.parametrize("options", [{}, {"dry_run": True}])
def test_a_runs_log_has_no_word_about_outputs_that_are_missing(
    options: dict[str, Any], tables: TestCatalogue, instance: dg.DagsterInstance
) -> None:
    result = run(instance, **options)
    assert result.success
    assert "did not yield" not in logged(instance, result)


def test_a_few_answers_that_are_not_believed_leave_the_run_green_and_many_do_not(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    few, many = (1, 3, 5), (11, 22, 33, 44)  # of 70
    lml.script(Rule(fault="replace", path=("kind",), value="duo", library_ids=few))
    result = run(instance)
    assert result.success and all(checks(result).values())
    assert "3 of 10 libraries" in logged(instance, result) and "kind.unknown_value" in logged(instance, result)
    tables.execute("truncate library_identity, library_identity_source")
    tables.execute("update library set unresolved_attempted_at = null")
    lml.script(*(Rule(fault="replace", path=("kind",), value="duo", library_ids=(each,)) for each in many))
    result = run(instance)
    assert not result.success
    assert "4 of 70 answers (5.7%) are not believed: kind.unknown_value 4" in failure(result)
    assert [name for name, passed in checks(result).items() if not passed] == ["answers_believed"]
    assert len(tables.rows("library_identity")) > LIBRARIES // 2, "what is believed is written"


def test_a_rerun_asks_nothing_and_a_forced_one_changes_only_times(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    assert run(instance).success
    before = tables.tables()
    lml.script()
    again = run(instance)
    assert counts(again)["scanned"] == 0
    assert lml.calls == []
    assert again.success and materialized(again) == set(), "the tables' pages keep the last real run's numbers"
    assert all(checks(again).values())
    assert tables.tables() == before
    forced = counts(run(instance, stale_days=0))
    assert forced["rows_unchanged"] == forced["rows_resolved"] > 0
    assert without_times(tables.tables()) == without_times(before)


def test_a_dry_run_asks_and_writes_nothing(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    before = tables.tables()
    result = run(instance, dry_run=True)
    assert result.success and materialized(result) == set()
    assert tables.tables() == before
    (observation,) = (e for e in result.all_events if e.event_type_value == "ASSET_OBSERVATION")
    said = observation.event_specific_data.asset_observation.metadata["dry run"].value
    assert said.keys() == {
        "scanned", "lml_total_calls", "lml_total_latency_ms", "would_resolve", "would_resolve_compilation",
        "would_unresolved", "would_skip", "source_rows_skipped_null_confidence",
    }  # fmt: skip
    assert said["scanned"] == LIBRARIES + COMPILATIONS
    real = counts(run(instance))
    assert (said["would_resolve"], said["would_unresolved"]) == (real["rows_resolved"], real["rows_unresolved"])


def test_an_lml_that_is_down_stops_the_run_and_the_next_run_resumes(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient_lml(monkeypatch)
    lml.script(Rule(fault="status", status=503))
    result = run(instance, calls_in_flight=1, most_failed_batches=2)
    assert not result.success
    assert "2 failed batches in a row" in failure(result)
    said = counts(result)
    assert said["scanned"] == said["rows_skipped"]["lml_error"] == len(asked_about(lml)) < LIBRARIES
    assert tables.rows("library_identity") == []
    assert checks(result)["counts_add_up"]
    lml.script()
    assert counts(run(instance))["scanned"] == LIBRARIES + COMPILATIONS


def test_an_lml_that_answers_nonsense_stops_the_run(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    everything = tuple(range(1, LIBRARIES + COMPILATIONS + 1))
    lml.script(Rule(fault="replace", path=("kind",), value="duo", library_ids=everything))
    result = run(instance, calls_in_flight=1, most_failed_batches=2)
    assert not result.success
    assert "at least one usable verdict" in failure(result)
    assert "kind.unknown_value 10" in failure(result)
    assert counts(result)["lml_results_malformed"] == counts(result)["scanned"] == len(asked_about(lml)) < LIBRARIES
    assert not checks(result)["answers_believed"]
    assert tables.rows("library_identity") == []


def test_an_lml_that_refuses_every_input_is_not_asked_about_each(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    lml.script(Rule(fault="status", status=422))
    result = run(instance, calls_in_flight=1, most_failed_batches=2, batch_size=30, shards=1)
    assert not result.success
    assert len(lml.calls) < 60  # of 59 calls a batch that halving to the end would cost
    assert checks(result)["counts_add_up"]


def test_a_catalogue_that_cannot_be_written_stops_the_run_with_its_counts(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    tables.execute("update compilation_track_artist set library_id = 1")  # no compilations: their tracks can be written
    tables.execute("update library set artist_name = null where code_volume_letters is not null")
    tables.execute("alter table library_identity_source rename column external_id to elsewhere")
    result = run(instance, calls_in_flight=1)
    assert not result.success
    assert "library identity contract, section 5" in failure(result)
    assert counts(result)["rows_skipped"]["writer_error"] == counts(result)["scanned"] == 10
    assert checks(result) == {"counts_add_up": True, "answers_believed": True, "unresolved_share": True}


def test_operators_hear_how_far_a_failed_run_got_and_why(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    lml.script(Rule(fault="status", status=401, calls=(3,)))
    result = run(instance, calls_in_flight=1)
    assert not result.success
    record = instance.get_run_record_by_id(result.run_id)
    assert record is not None
    outcome = RunLog(instance, CAN_CONNECT, TENANTS_FRESH).outcome_of(record)
    assert outcome.partner_id is None
    assert outcome.counts["scanned"] == len(asked_about(lml)) == 30 and outcome.counts["lml_error"] == 10
    assert list(outcome.reasons) == ["identity/library_identity"]
    assert "LML_API_KEY" in outcome.reasons["identity/library_identity"]


def test_a_key_that_lml_refuses_stops_the_run_at_the_first_call(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    lml.script(Rule(fault="status", status=401))
    result = run(instance, calls_in_flight=1)
    assert not result.success
    assert "LML_API_KEY" in failure(result)
    assert len(lml.calls) == counts(result)["lml_total_calls"] == 1


def test_an_lml_that_flaps_loses_nothing(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient_lml(monkeypatch)
    lml.script(
        Rule(fault="status", status=503, calls=(1, 3)), Rule(fault="status", status=429, retry_after="0", calls=(2, 4))
    )
    result = run(instance)
    assert result.success
    assert counts(result)["lml_retries"] == 4
    assert counts(result)["rows_skipped"]["lml_error"] == 0


def test_mixed_up_results_cost_only_their_own_libraries(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    lml.script(Rule(fault="foreign", library_ids=[7]), Rule(fault="short", library_ids=[9]))
    result = run(instance)
    assert result.success
    skipped = counts(result)["rows_skipped"]
    assert (skipped["lml_untrusted_library_id"], skipped["lml_cardinality_mismatch"]) == (1, 1)
    assert checks(result)["counts_add_up"]
    assert {row["library_id"] for row in tables.rows("library_identity")}.isdisjoint({7, 9})


def test_one_refused_input_is_skipped_alone(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    lml.script(Rule(fault="status", status=422, library_ids=[13]))
    result = run(instance)
    assert result.success
    assert counts(result)["rows_skipped"]["invalid_input"] == 1


def test_without_lmls_address_the_run_stops_before_anything_is_read(
    tables: TestCatalogue, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIBRARY_METADATA_URL")
    result = run(instance)
    assert not result.success
    assert "LIBRARY_METADATA_URL" in failure(result)
    assert counts(result)["scanned"] == 0


@pytest.mark.slow
def test_artist_level_ids_need_their_columns_and_the_command_adds_them(
    tables: TestCatalogue, instance: dg.DagsterInstance
) -> None:
    refused = run(instance, artist_level_ids=True)
    assert not refused.success
    assert "runway-pipelines identity migrate --apply" in failure(refused)
    assert CliRunner().invoke(main, ["identity", "migrate", "--check"]).exit_code == ExitCode.NOT_WELL
    assert CliRunner().invoke(main, ["identity", "migrate", "--apply"]).exit_code == 0
    assert CliRunner().invoke(main, ["identity", "migrate", "--check"]).exit_code == 0
    assert run(instance, artist_level_ids=True).success
    written = {row["library_id"]: row["discogs_artist_id"] for row in tables.rows("library_identity")}
    assert any(written.values())
    # A row's ids are one artist's, also when a later run, which does not ask for the columns, finds another artist.
    tables.execute("update library_identity set discogs_artist_id = 1, last_verified_at = now() - interval '8 days'")
    assert run(instance).success
    assert {row["library_id"]: row["discogs_artist_id"] for row in tables.rows("library_identity")} == {
        library_id: artist or 1 for library_id, artist in written.items()
    }
    kept = [row["discogs_artist_id"] for row in tables.rows("library_identity_history")]
    assert kept and set(kept) == {1}


@pytest.mark.slow
def test_the_recheck_job_asks_about_everything_that_carries_a_stamp_again(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    assert run(instance).success
    assert counts(run(instance))["scanned"] == 0
    stamped = sum(row["unresolved_attempted_at"] is not None for row in tables.rows("library"))
    assert stamped > COMPILATIONS
    recheck = definitions().resolve_job_def("library_identity_recheck_job")
    # Options that somebody gives in the launchpad do not make it another job.
    for options, scanned in (({}, stamped), ({"limit": 3, "shards": 2}, 3 + 3)):  # of each cohort
        result = recheck.execute_in_process(instance=instance, run_config=options)
        assert counts(result)["scanned"] == scanned
    with pytest.raises(dg.DagsterInvalidConfigError, match="recheck"):
        recheck.execute_in_process(instance=instance, run_config={"recheck": False})


def test_a_limit_applies_to_the_run_and_not_to_each_shard(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    assert counts(run(instance, limit=5, shards=2))["scanned"] == 5 + 5  # of each cohort
    assert counts(run(instance, limit=1, shards=2))["scanned"] == 1 + 1


def test_every_option_is_described() -> None:
    assert all(field.description for field in IdentityOptions.model_fields.values())


def test_no_key_reaches_the_event_log(
    tables: TestCatalogue, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LML_API_KEY", "canary-key")
    result = run(instance)
    assert result.success
    said = "\n".join(dg.serialize_value(entry) for entry in instance.all_logs(result.run_id))
    assert "canary-key" not in said
    assert "canary-key" not in repr(build_identity(load_settings()))
