"""What `dagster_events` takes from Dagster's internals does what we rely on, on the storage that production uses."""

import dagster as dg
import psycopg
import pytest
from dagster_postgres import PostgresEventLogStorage

from runway_pipelines.local.stack import DAGSTER_DATABASE
from runway_pipelines.operations.tags import PARTITION_TAG, PARTNER_TAG
from runway_pipelines.rosters.events import CHECK_SPECS
from tests.integration.world import (
    TestPartner,
    Warehouse,
    World,
    bring_in_line,
    materialized,
    reexecute,
    run_partner,
    run_tenants,
)

ROSTER = dg.AssetKey(["rosters", "cross_year_roster"])
PUBLISHED = dg.AssetKey(["rosters", "published_roster"])
TENANTS = dg.DynamicPartitionsDefinition(name="partner_tenants")


def statuses(instance: dg.DagsterInstance, asset: dg.AssetKey, partner: TestPartner) -> dict[str, str]:
    keys = [partner.tenant(code).key for code in partner.tenant_codes]
    found = instance.get_status_by_partition(asset, keys, TENANTS) or {}
    return {key.split("/")[1]: status.name for key, status in found.items() if status is not None}


@pytest.mark.slow
def test_planned_tenants_without_a_materialization_show_as_failed_and_the_rest_as_done(
    world: World, postgres_instance: dg.DagsterInstance
) -> None:
    warehouse = Warehouse()
    warehouse.students("full", 3)
    partner = world.partner(warehouse, ["full", "empty"])
    result = run_partner(postgres_instance, partner)
    expected = {"full": "MATERIALIZED", "empty": "FAILED"}
    assert statuses(postgres_instance, ROSTER, partner) == expected
    assert statuses(postgres_instance, PUBLISHED, partner) == expected

    warehouse.students("empty", 3)
    partner.write_tables()
    with reexecute(postgres_instance, result.run_id) as again:
        assert materialized(again, "cross_year_roster") == [partner.tenant("empty").key]
    assert set(statuses(postgres_instance, PUBLISHED, partner).values()) == {"MATERIALIZED"}


@pytest.mark.slow
def test_a_direct_run_marks_the_asset_that_was_not_selected_too(
    world: World, postgres_instance: dg.DagsterInstance
) -> None:
    warehouse = Warehouse()
    warehouse.students("a", 3)
    partner = world.partner(warehouse, ["a", "b"])
    run_tenants(postgres_instance, partner, "a", "b")
    assert statuses(postgres_instance, PUBLISHED, partner) == {"a": "MATERIALIZED", "b": "FAILED"}
    assert statuses(postgres_instance, ROSTER, partner) == {"a": "MATERIALIZED", "b": "FAILED"}


@pytest.mark.slow
def test_checks_are_tied_to_the_materialization_that_they_judged(
    world: World, postgres_instance: dg.DagsterInstance
) -> None:
    warehouse = Warehouse()
    warehouse.students("a", 3)
    partner = world.partner(warehouse, ["a"])
    for _ in range(2):
        result = run_partner(postgres_instance, partner)
        newest = postgres_instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=ROSTER, asset_partitions=[partner.tenant("a").key]), limit=1
        ).records[0]
        assert newest.run_id == result.run_id
        evaluations = [e for e in result.get_asset_check_evaluations() if e.asset_key == ROSTER]
        targets = {e.target_materialization_data.storage_id for e in evaluations}
        assert targets == {newest.storage_id}


@pytest.mark.slow
def test_a_run_keeps_its_connections_to_dagsters_storage(world: World, postgres_instance: dg.DagsterInstance) -> None:
    warehouse = Warehouse()
    codes = [f"t{number}" for number in range(8)]
    for code in codes:
        warehouse.students(code, 2)
    partner = world.partner(warehouse, codes)
    bring_in_line(postgres_instance)  # other tests' partners go, with a connection each
    before = sessions_so_far(world)
    assert run_partner(postgres_instance, partner, bring_partitions_in_line=False).success
    assert sessions_so_far(world) - before < 80  # 294 without


def sessions_so_far(world: World) -> int:
    """How many connections to Dagster's database there have been."""
    with psycopg.connect(world.stack.postgres.dsn(DAGSTER_DATABASE), autocommit=True) as connection:
        connection.execute("select pg_stat_force_next_flush()")
        row = connection.execute("select sessions from pg_stat_database where datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def test_a_run_does_not_ask_for_each_checks_event_whether_the_table_of_checks_is_there(
    world: World, postgres_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster does, and before the run's first step nobody keeps it from that."""
    asked: list[str] = []
    real = PostgresEventLogStorage.has_table

    def counted(self: PostgresEventLogStorage, table_name: str) -> bool:
        asked.append(table_name)
        return real(self, table_name)

    monkeypatch.setattr(PostgresEventLogStorage, "has_table", counted)
    warehouse = Warehouse()
    warehouse.students("north", 3)
    assert run_partner(postgres_instance, world.partner(warehouse, ["north"])).success
    assert asked.count("asset_check_executions") < len(CHECK_SPECS)


def test_the_queue_runs_one_run_at_a_time_for_each_partner(postgres_instance: dg.DagsterInstance) -> None:
    limits = postgres_instance.get_concurrency_config().run_queue_config
    assert limits is not None
    for tag in (PARTNER_TAG, PARTITION_TAG):
        one_at_a_time = {"key": tag, "value": {"applyLimitPerUniqueValue": True}, "limit": 1}
        assert one_at_a_time in limits.tag_concurrency_limits
    assert postgres_instance.run_monitoring_enabled
