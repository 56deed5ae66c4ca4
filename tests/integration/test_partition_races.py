"""A partition that is deleted while its run is under way is that tenant's outcome, and no error of Dagster's."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from runway_pipelines.partner_tenants.partitions import PARTNER_TENANTS_NAME, PARTNERS_NAME
from runway_pipelines.rosters import assets
from tests.integration.world import Warehouse, World, bring_in_line, materialized, run_partner, run_tenants


@pytest.fixture
def warehouse() -> Warehouse:
    one = Warehouse()
    for tenant in ("east", "north", "south"):
        one.students(tenant, 3)
    return one


def delete_at_the_start(patch: pytest.MonkeyPatch, name: str, key: str) -> None:
    """As the sync sensor does it, once the run has begun."""

    def delete(instance: dg.DagsterInstance) -> None:
        instance.delete_dynamic_partition(name, key)

    patch.setattr(assets, "keep_storage_connections", delete)


def leave(world: World, partner_id: str, code: str) -> None:
    with world.connect() as connection:
        connection.execute(
            "update tenant set deleted_on = now() where partner_id = %s and code = %s", [partner_id, code]
        )


def failure_of(result: Any) -> str:
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    return str(failure.step_failure_data.user_failure_data.description)


@pytest.mark.slow
@pytest.mark.parametrize("codes", [("east", "south"), ("east",)])
def test_a_tenant_that_leaves_during_its_run_is_its_own_outcome(
    world: World,
    instance: dg.DagsterInstance,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    codes: tuple[str, ...],
) -> None:
    partner = world.partner(warehouse, ["east", "north", "south"])
    delete_at_the_start(monkeypatch, PARTNER_TENANTS_NAME, partner.tenant("east").key)
    bring_in_line(instance)
    leave(world, partner.partner_id, "east")
    result = run_tenants(instance, partner, *codes, bring_partitions_in_line=False)
    assert not result.success
    text = failure_of(result)
    assert text.startswith(f"1 of {3 if len(codes) == 2 else 1} tenants is not published: {partner.tenant('east').key}")
    assert "not in the application's database" in text
    others = [partner.tenant(code).key for code in ("north", "south")] if len(codes) == 2 else []
    assert materialized(result, "published_roster") == others


@pytest.mark.slow
def test_a_partner_that_leaves_during_its_run_keeps_what_the_run_published(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    partner = world.partner(warehouse, ["east", "north", "south"])
    delete_at_the_start(monkeypatch, PARTNERS_NAME, partner.partner_id)
    result = run_partner(instance, partner)
    assert result.success
    assert materialized(result, "partner_roster_index") == [partner.partner_id]
    assert len(materialized(result, "published_roster")) == 3
    said = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("no longer a partition" in message for message in said)
