"""A decision that is made in Dagster: it takes effect, and every page that it concerns shows it at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from runway_pipelines.dagster_events import newest_materializations
from runway_pipelines.rosters.events import CROSS_YEAR_ROSTER, PARTNER_ROSTER_INDEX, PUBLISHED_ROSTER
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services
from tests.integration.guarded_world import WHY, Guarded, guarded_tenant
from tests.integration.world import World, definitions


@pytest.fixture
def services(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[RosterServices]:
    monkeypatch.setenv("RUNWAY_GUARD_STUDENTS_LOST_LEAST", "5")
    load_settings.cache_clear()
    with build_services(load_settings()).process_config_and_initialize_cm() as running:
        yield running


@pytest.fixture
def held(world: World, services: RosterServices, instance: dg.DagsterInstance) -> Guarded:
    """Half of its students are gone, and the run was stored."""
    guarded = guarded_tenant(world, services, instance)
    guarded.has((0, 30))
    assert not guarded.run().success
    return guarded


def decide(held: Guarded, decision: str, *, partition: str | None = None, **config: str) -> dg.ExecuteInProcessResult:
    given = {"decision": decision, "decided_by": "Ann", "reason": WHY, **config}
    return (
        definitions()
        .resolve_job_def("roster_decision_job")
        .execute_in_process(
            instance=held.instance,
            partition_key=partition,
            run_config={"ops": {"decide_on_roster": {"config": given}}},
            raise_on_error=False,
        )
    )


def metadata_of(held: Guarded, key: dg.AssetKey, partition: str) -> dict[str, Any]:
    """What the newest materialization of a partition says."""
    event = newest_materializations(held.instance, key)[partition].asset_materialization
    assert event is not None
    return {name: value.value for name, value in event.metadata.items()}


def test_what_was_approved_is_on_the_pages_of_the_district_and_of_its_partner(held: Guarded) -> None:
    north, partner_id = held.partner.tenant("north").key, held.partner.partner_id
    assert metadata_of(held, PARTNER_ROSTER_INDEX, partner_id)["tenants that need a look"] == 1
    candidate = held.held().sha256
    result = decide(held, "APPROVE", partition=north, sha256=candidate[:12])
    assert result.success
    for key in (CROSS_YEAR_ROSTER, PUBLISHED_ROSTER):
        shown = metadata_of(held, key, north)
        assert (shown["sha256"], shown["decided by"], shown["why"]) == (candidate, "Ann", WHY)
    assert metadata_of(held, CROSS_YEAR_ROSTER, north)["students"] == 30
    shown = metadata_of(held, PARTNER_ROSTER_INDEX, partner_id)
    assert shown["tenants that need a look"] == 0 and "problems" not in shown
    (check,) = (each for each in result.get_asset_check_evaluations() if each.check_name == "tenants_published")
    assert check.passed


def test_what_was_rejected_says_so_where_the_approval_was_offered(held: Guarded) -> None:
    north = held.partner.tenant("north").key
    result = decide(held, "REJECT", partition=north, sha256=held.held().sha256[:12])
    assert result.success
    told = {
        event.asset_observation_data.asset_observation.asset_key: event.asset_observation_data.asset_observation
        for event in result.get_asset_observation_events()
    }
    state = told[CROSS_YEAR_ROSTER].metadata
    assert "was rejected by Ann" in str(state["reason"].value)
    assert "approve" not in str(state["next step"].value) and "then" not in state
    assert PUBLISHED_ROSTER in told


def test_a_launch_without_a_district_says_what_to_choose(held: Guarded) -> None:
    result = decide(held, "UNPIN")
    assert not result.success
    (failure,) = (event.step_failure_data for event in result.all_node_events if event.is_step_failure)
    assert "choose the partition" in str(failure.user_failure_data.description)  # type: ignore[union-attr]
