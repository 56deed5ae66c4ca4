"""A run's options in Dagster: where a wrong one is refused and what is said, and a recheck in slices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from runway_pipelines.identity.options import IdentityOptions
from tests.integration.identity_job_world import COMPILATIONS, LIBRARIES, OPTIONS, counts, failure, run
from tests.integration.identity_world import TestCatalogue
from tests.integration.lml_control import LmlControl
from tests.integration.world import definitions

SAID = "Expected batch_size to be 1 to 1000, limit to be 1 or more; got batch_size 1001, limit 0."
CHECKOUT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120


@pytest.mark.parametrize("job", ["library_identity_job", "library_identity_recheck_job"])
def test_options_outside_their_ranges_are_named_in_the_runs_failure_and_nothing_is_asked(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance, job: str
) -> None:
    config = {"batch_size": 1001, "limit": 0}
    result = run(instance, **config) if job == "library_identity_job" else recheck(instance, **config)
    assert not result.success
    assert failure(result).startswith(SAID)
    assert lml.calls == []


@pytest.mark.parametrize(
    ("option", "value"), [("batch_size", "many"), ("limit", 1.5), ("dry_run", "yes"), ("most_unresolved", "half")]
)
def test_an_option_of_another_type_is_refused_before_the_run(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance, option: str, value: Any
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match=option):
        run(instance, **{option: value})
    assert instance.get_runs_count() == 0 and lml.calls == []


def test_the_launchpad_shows_the_ranges() -> None:
    fields = IdentityOptions.to_fields_dict()
    assert str(fields["batch_size"].description).endswith(": 1 to 1000.")
    assert str(fields["limit"].description).endswith(": 1 or more.")


@pytest.mark.slow
def test_the_command_line_and_the_json_log_name_the_option_its_value_and_its_range(
    tables: TestCatalogue, lml: LmlControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    config = tmp_path / "config.json"  # which is YAML, too
    config.write_text(json.dumps({"ops": {"library_identity_graph": {"config": {"batch_size": 1001, "limit": 0}}}}))
    said = {}
    for log_format in ("text", "json"):
        monkeypatch.setenv("RUNWAY_LOG_FORMAT", log_format)
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "dagster", "job", "execute", "-m", "runway_pipelines.definitions"),
                *("-j", "library_identity_job", "-c", str(config)),
            ],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert ended.returncode != 0
        said[log_format] = ended.stdout, ended.stderr
    assert SAID in said["text"][1]
    lines = [json.loads(line) for line in said["json"][0].splitlines() if line.startswith("{")]
    (failed,) = (line for line in lines if line.get("event") == "STEP_FAILURE")
    assert failed["errors"][0].startswith(f"Failure: {SAID}")
    assert lml.calls == []


# a recheck


def recheck(instance: dg.DagsterInstance, **options: Any) -> Any:
    job = definitions().resolve_job_def("library_identity_recheck_job")
    return job.execute_in_process(instance=instance, run_config=OPTIONS | options, raise_on_error=False)


def asked(lml: LmlControl) -> set[int]:
    """Who was asked about since the last time."""
    ids = {library_id for call in lml.calls for library_id in call["library_ids"]}
    lml.script()
    return ids


@pytest.mark.slow
def test_rechecks_with_a_limit_go_through_all_that_carries_a_stamp_and_nothing_else(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    # Stamped long ago, and resolved then: only the moment of its verification says that it was asked about again.
    tables.execute("update library set unresolved_attempted_at = now() - interval '40 days' where id in (1, 2)")
    assert run(instance).success
    assert {row["library_id"] for row in tables.rows("library_identity")} >= {1, 2}
    stamped = {row["id"] for row in tables.rows("library") if row["unresolved_attempted_at"] is not None}
    singles = {library_id for library_id in stamped if library_id <= LIBRARIES}
    assert len(singles) > 4 and len(stamped - singles) == COMPILATIONS
    asked(lml)
    slices = []
    for _ in range(max(len(singles), COMPILATIONS) // 4 + 1):
        assert recheck(instance, limit=4).success
        slices.append(asked(lml))
    assert len(slices[0]) == len(slices[1]) == 8 and slices[0].isdisjoint(slices[1])
    assert set.union(*slices) == stamped


def test_a_recheck_asks_nothing_that_carries_no_stamp(
    tables: TestCatalogue, lml: LmlControl, instance: dg.DagsterInstance
) -> None:
    assert counts(recheck(instance))["scanned"] == 0
    assert lml.calls == []
