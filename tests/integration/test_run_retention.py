"""Old runs go, with all their rows; what the assets' pages say stays. On the storage that production uses."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import psycopg
import pytest

from runway_pipelines.local.stack import DAGSTER_DATABASE
from runway_pipelines.operations.tags import PARTNER_TAG, SECRET_VERSION_TAG
from tests.integration.world import TestPartner, Warehouse, World, definitions, run_partner

ROSTER = dg.AssetKey(["rosters", "cross_year_roster"])
TENANTS = dg.DynamicPartitionsDefinition(name="partner_tenants")


class Storage:
    """Dagster's tables, as a stranger sees them."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def rows_of(self, run_id: str) -> dict[str, int]:
        tables = ("runs", "event_logs", "asset_check_executions", "run_tags")
        counted = {}
        for table in tables:
            query = f"select count(*) from {table} where run_id = %s"
            [(counted[table],)] = self.connection.execute(query.encode(), [run_id]).fetchall()
        return counted

    def make_old(self, *run_ids: str) -> None:
        self.connection.execute(
            "update runs set update_timestamp = now() - interval '91 days' where run_id = any(%s)", [list(run_ids)]
        )


@pytest.fixture
def storage(world: World) -> Iterator[Storage]:
    with psycopg.connect(world.stack.postgres.dsn(DAGSTER_DATABASE), autocommit=True) as connection:
        yield Storage(connection)


def statuses(instance: dg.DagsterInstance, partner: TestPartner) -> dict[str, str]:
    keys = [partner.tenant(code).key for code in partner.tenant_codes]
    found = instance.get_status_by_partition(ROSTER, keys, TENANTS) or {}
    return {key.split("/")[1]: status.name for key, status in found.items() if status is not None}


def tidied(instance: dg.DagsterInstance) -> Any:
    return definitions().resolve_job_def("run_retention_job").execute_in_process(instance=instance)


@pytest.mark.slow
def test_a_run_that_no_page_rests_on_goes_with_all_its_rows_and_the_others_stay(
    world: World, postgres_instance: dg.DagsterInstance, storage: Storage
) -> None:
    warehouse = Warehouse()
    warehouse.students("north", 3)
    warehouse.students("south", 3)
    partner = world.partner(warehouse, ["north", "south"])
    newest_of_south = run_partner(postgres_instance, partner)
    warehouse.associations = [row for row in warehouse.associations if row["tenant_code"] != "south"]
    partner.write_tables()
    newest_of_nobody = run_partner(postgres_instance, partner)
    newest_of_north = run_partner(postgres_instance, partner)
    before = statuses(postgres_instance, partner)
    assert before == {"north": "MATERIALIZED", "south": "FAILED"}

    tidied(postgres_instance)
    assert storage.rows_of(newest_of_nobody.run_id)["runs"] == 1, "a recent run stays"
    storage.make_old(newest_of_south.run_id, newest_of_nobody.run_id, newest_of_north.run_id)
    assert min(storage.rows_of(newest_of_nobody.run_id).values()) > 0
    assert tidied(postgres_instance).success

    assert set(storage.rows_of(newest_of_nobody.run_id).values()) == {0}
    for kept in (newest_of_south, newest_of_north):
        assert min(storage.rows_of(kept.run_id).values()) > 0
    assert statuses(postgres_instance, partner) == before


def test_a_run_that_has_not_ended_stays(postgres_instance: dg.DagsterInstance, storage: Storage) -> None:
    run = postgres_instance.create_run_for_job(
        definitions().resolve_job_def("roster_freshness_job"), status=dg.DagsterRunStatus.STARTED
    )
    storage.make_old(run.run_id)
    tidied(postgres_instance)
    assert storage.rows_of(run.run_id)["runs"] == 1
    postgres_instance.delete_run(run.run_id)


@pytest.mark.slow
def test_the_rotation_sensor_keeps_its_memory(postgres_instance: dg.DagsterInstance, storage: Storage) -> None:
    job = definitions().resolve_job_def("roster_freshness_job")

    def ended(version: str, parent: dg.DagsterRun | None = None) -> dg.DagsterRun:
        return postgres_instance.create_run_for_job(
            job,
            status=dg.DagsterRunStatus.SUCCESS,
            tags={PARTNER_TAG: "retained", SECRET_VERSION_TAG: version},
            parent_run_id=parent.run_id if parent else None,
            root_run_id=parent.run_id if parent else None,
        )

    of_first, of_second = ended("v1"), [ended("v2"), ended("v2")]
    again = ended("v1", parent=of_first)
    runs = [of_first, *of_second, again]
    storage.make_old(*(run.run_id for run in runs))
    assert tidied(postgres_instance).success
    assert [storage.rows_of(run.run_id)["runs"] for run in runs] == [1, 0, 1, 0]
    for run in runs:
        postgres_instance.delete_run(run.run_id)
