"""The check that names stragglers: after a run, and in the hourly job when no run came."""

from typing import Any

import dagster as dg
import pytest

from runway_pipelines.rosters.freshness_check import TENANTS_FRESH
from runway_pipelines.settings import load_settings
from tests.integration.world import Warehouse, World, definitions, run_partner


@pytest.fixture
def warehouse() -> Warehouse:
    one = Warehouse()
    for tenant in ("north", "south"):
        one.students(tenant, 3)
    return one


def fresh_checks(result: Any) -> dict[str, dg.AssetCheckEvaluation]:
    return {
        str(each.partition): each
        for each in result.get_asset_check_evaluations()
        if each.asset_check_key == TENANTS_FRESH
    }


def judged(instance: dg.DagsterInstance) -> Any:
    """A run of the hourly job, over all partners that the instance knows."""
    job = definitions().resolve_job_def("roster_freshness_job")
    return job.execute_in_process(instance=instance, raise_on_error=False)


@pytest.mark.slow
def test_a_run_says_that_its_tenants_are_fresh_and_names_one_that_was_held(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north", "south", "empty"])
    result = run_partner(instance, partner)
    assert not result.success
    check = fresh_checks(result)[partner.partner_id]
    assert not check.passed and check.severity is dg.AssetCheckSeverity.WARN
    assert check.description == "1 of 3 tenants were not confirmed correct within 30 hours: empty"
    (straggler,) = check.metadata["stragglers"].records  # type: ignore[union-attr]
    assert straggler.data["tenant"] == "empty" and straggler.data["hours"] == "never"


@pytest.mark.slow
def test_the_hourly_job_names_the_tenant_that_no_run_reached(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    stale, live = world.partner(warehouse, ["north", "south"]), world.partner(warehouse, ["north"])
    assert fresh_checks(run_partner(instance, stale))[stale.partner_id].passed
    run_partner(instance, live)
    stale.change_index("south", refreshed_at="2026-01-01T00:00:00+00:00")
    for _ in range(2):  # the same partition's check, evaluated again
        result = judged(instance)
        assert result.success
        checks = fresh_checks(result)
        assert checks[live.partner_id].passed
        assert (
            checks[stale.partner_id].description == "1 of 2 tenants were not confirmed correct within 30 hours: south"
        )
    assert checks[stale.partner_id].target_materialization_data is not None


@pytest.mark.slow
def test_an_index_that_cannot_be_read_hides_no_other_partner(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    partner = world.partner(warehouse, ["north"])
    run_partner(instance, partner)
    monkeypatch.setenv("RUNWAY_BUCKET", "no-such-bucket")
    load_settings.cache_clear()
    result = judged(instance)
    assert not result.success
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert partner.partner_id in str(failure.step_failure_data.user_failure_data.description)
