"""The sync sensor keeps Dagster's partitions in line with a real registry; a wrong read deletes nobody's history."""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from runway_pipelines.errors import Permanent, Unavailable
from runway_pipelines.local.seed import seed_application_database
from runway_pipelines.partner_tenants import partitions
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.partitions import PARTNER_TENANTS_NAME, PARTNERS_NAME, sync_partitions
from runway_pipelines.partner_tenants.registry import has_roster, read_registry
from runway_pipelines.partner_tenants.sync_sensor import build_sync_sensor
from runway_pipelines.systems.postgres.databases import ApplicationDatabase
from tests.integration.world import World


@dataclass
class Sync:
    """A registry of the test's own, the sensor that reads it, and its cursor; `tick` does what the daemon does."""

    instance: dg.DagsterInstance
    dsn: str
    database: ApplicationDatabase
    cursor: str | None = None
    include_switched_off: bool = False
    warnings: list[str] = field(default_factory=list)

    def execute(self, statement: str, *values: object) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement, values)

    def partner(self, partner_id: str, *codes: str, enabled: bool = True) -> None:
        self.execute(
            "insert into partner (id, name, cross_year_matching_enabled) values (%s, '', %s)", partner_id, enabled
        )
        for code in codes:
            self.execute("insert into tenant (code, partner_id) values (%s, %s)", code, partner_id)

    def delete_tenants(self, *codes: str) -> None:
        self.execute("update tenant set deleted_on = now() where code = any(%s)", list(codes))

    def restore_tenants(self) -> None:
        self.execute("update tenant set deleted_on = null")

    def evaluate(self) -> SensorExecutionData:
        sensor = build_sync_sensor(include_switched_off=self.include_switched_off, interval_seconds=60)
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"database": self.database}
        ) as context:
            context.log.addFilter(lambda record: self.warnings.append(record.getMessage()) or True)
            return sensor.evaluate_tick(context)

    def tick(self) -> str:
        """One tick: requests applied, cursor kept; returns what it says."""
        result = self.evaluate()
        assert not result.run_requests
        for request in result.dynamic_partitions_requests or []:
            name, keys = request.partitions_def_name, list(request.partition_keys)
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(name, keys)
            for key in keys if isinstance(request, dg.DeleteDynamicPartitionsRequest) else ():
                self.instance.delete_dynamic_partition(name, key)
        self.cursor = result.cursor
        assert result.skip_message
        return result.skip_message

    @property
    def keys(self) -> tuple[set[str], set[str]]:
        names = (PARTNERS_NAME, PARTNER_TENANTS_NAME)
        partners, tenants = (set(self.instance.get_dynamic_partitions(name)) for name in names)
        return partners, tenants


def asked_for(text: str) -> str:
    found = re.search(r"set this sensor's cursor to (remove-[0-9a-f]{8})\.", text)
    assert found, text
    return found[1]


@pytest.fixture
def sync(world: World, instance: dg.DagsterInstance) -> Iterator[Sync]:
    """Three partners in line: acme with d0 to d5, borealis with e0 to e3, cascade with f0 and f1."""
    postgres, name = world.stack.postgres, f"registry_{uuid.uuid4().hex[:8]}"
    postgres.create_database(name)
    with psycopg.connect(postgres.dsn(name)) as connection:
        seed_application_database(connection, partners=[])
    database = ApplicationDatabase(
        host=postgres.host, port=postgres.port, database=name, username=postgres.user, password=postgres.password
    )
    one = Sync(instance, postgres.dsn(name), database)
    one.partner("acme", *(f"d{n}" for n in range(6)))
    one.partner("borealis", *(f"e{n}" for n in range(4)))
    one.partner("cascade", "f0", "f1")
    one.tick()
    yield one
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


ALL = (
    {"acme", "borealis", "cascade"},
    {f"acme/d{n}" for n in range(6)} | {f"borealis/e{n}" for n in range(4)} | {"cascade/f0", "cascade/f1"},
)


def test_a_first_tick_adds_everybody_and_a_second_changes_nothing(sync: Sync) -> None:
    assert sync.keys == ALL
    assert sync.tick() == "Nothing changed: partners and partner_tenants are in line with the registry."
    assert sync.keys == ALL
    assert sync.cursor is None


def test_a_new_partner_and_a_new_tenant_are_added_without_a_run(sync: Sync) -> None:
    sync.partner("delta", "g0")
    sync.execute("insert into tenant (code, partner_id) values ('d6', 'acme')")
    assert sync.tick() == "partners: 1 added, 0 removed. partner_tenants: 2 added, 0 removed."
    assert sync.keys == (ALL[0] | {"delta"}, ALL[1] | {"delta/g0", "acme/d6"})


def test_a_deleted_tenant_and_a_partner_that_is_switched_off_are_removed(sync: Sync) -> None:
    sync.delete_tenants("d0")
    sync.execute("update partner set cross_year_matching_enabled = false where id = 'cascade'")
    assert sync.tick() == "partners: 0 added, 1 removed. partner_tenants: 0 added, 3 removed."
    assert sync.keys == (ALL[0] - {"cascade"}, ALL[1] - {"acme/d0", "cascade/f0", "cascade/f1"})


def test_partners_that_are_switched_off_stay_where_the_toggle_decides_nothing(sync: Sync) -> None:
    sync.execute("update partner set cross_year_matching_enabled = false")
    sync.include_switched_off = True
    assert sync.tick().startswith("Nothing changed")
    assert sync.keys == ALL


def test_too_many_at_once_are_refused_everywhere_while_additions_are_made(sync: Sync) -> None:
    sync.execute("update partner set deleted_on = now() where id = 'borealis'")
    sync.partner("delta", "g0")
    text = sync.tick()
    assert (
        "partners: 1 added, 0 removed, refused to remove 1 of 3 keys: these wait for those of partner_tenants" in text
    )
    assert "partner_tenants: 1 added, 0 removed, refused to remove 4 of 12 keys: more than a quarter at once" in text
    assert sync.keys == (ALL[0] | {"delta"}, ALL[1] | {"delta/g0"})
    assert (
        "Refused to remove from partner_tenants: 'borealis/e0', 'borealis/e1', 'borealis/e2', 'borealis/e3'"
        in sync.warnings
    )
    assert sync.cursor is None


def test_the_text_in_the_cursor_lets_exactly_the_refused_keys_go_and_is_used_up(sync: Sync) -> None:
    sync.execute("update partner set deleted_on = now() where id = 'borealis'")
    sync.cursor = asked_for(sync.tick())
    assert sync.tick() == ("partners: 0 added, 1 removed. partner_tenants: 0 added, 4 removed. The cursor was cleared.")
    assert sync.keys == (ALL[0] - {"borealis"}, {key for key in ALL[1] if not key.startswith("borealis/")})
    assert sync.cursor is None
    assert sync.tick().startswith("Nothing changed")


@pytest.mark.parametrize("change", ["one more", "another"])
def test_when_the_set_changes_the_text_approves_nothing_and_another_is_asked_for(sync: Sync, change: str) -> None:
    sync.delete_tenants("e0", "e1", "e2", "e3")
    first = sync.cursor = asked_for(sync.tick())
    if change == "one more":
        sync.delete_tenants("d0")
    else:
        sync.execute("update tenant set deleted_on = null where code in ('e0')")
        sync.delete_tenants("d1")
    text = sync.tick()
    assert text.endswith("The cursor was cleared: it did not approve these keys.")
    assert sync.keys == ALL
    assert sync.cursor is None
    sync.cursor = asked_for(text)
    assert sync.cursor != first
    sync.tick()
    assert sync.keys[1] < ALL[1]


def test_an_approval_that_was_not_needed_does_not_let_the_same_keys_go_later(sync: Sync) -> None:
    sync.delete_tenants("e0", "e1", "e2", "e3")
    approval = asked_for(sync.tick())
    sync.restore_tenants()
    sync.cursor = approval
    assert sync.tick().endswith("The cursor was cleared.")
    sync.delete_tenants("e0", "e1", "e2", "e3")
    assert asked_for(sync.tick()) == approval
    assert sync.keys == ALL


def test_an_empty_registry_removes_nothing_whatever_the_cursor_says(sync: Sync) -> None:
    sync.delete_tenants("e0", "e1", "e2", "e3")
    sync.cursor = asked_for(sync.tick())
    sync.execute("update partner set deleted_on = now()")
    text = sync.tick()
    assert "refused to remove 12 of 12 keys: the registry came back empty" in text
    assert "set this sensor's cursor" not in text
    assert sync.keys == ALL


def test_a_registry_that_cannot_be_read_fails_the_tick_and_asks_nothing_of_dagster(sync: Sync) -> None:
    sync.cursor = "remove-1f3a9c2b"
    sync.execute("alter table tenant rename to tenant_hidden")
    with pytest.raises(Permanent, match="UndefinedTable") as failed:
        sync.evaluate()
    assert failed.value.code == "42P01"
    assert sync.keys == ALL


@pytest.mark.slow
def test_a_database_that_is_away_fails_the_tick(sync: Sync) -> None:
    sync.database = ApplicationDatabase(host="127.0.0.1", port=1, database="registry", username="nobody")
    with pytest.raises(Unavailable):
        sync.evaluate()
    assert sync.keys == ALL


def test_applying_the_same_tick_twice_is_the_same_as_once(sync: Sync) -> None:
    # The daemon may die after the requests and before it keeps the cursor.
    sync.delete_tenants("e0", "e1", "e2", "e3")
    approval = sync.cursor = asked_for(sync.tick())
    sync.tick()
    after = sync.keys
    sync.cursor = approval
    assert sync.tick().startswith("Nothing changed")
    assert sync.keys == after
    assert sync.cursor is None


def test_codes_that_cannot_be_keys_are_logged_once_a_tick_and_cost_nobody_else_anything(sync: Sync) -> None:
    sync.execute("insert into tenant (code, partner_id) values ('a*b', 'acme'), (E'x\\n', 'acme'), ('d6', 'acme')")
    sync.warnings.clear()
    assert sync.tick() == "partner_tenants: 1 added, 0 removed."
    (line,) = sync.warnings
    assert "tenant 'a*b' of partner acme" in line
    assert r"tenant 'x\n' of partner acme" in line
    assert line.isprintable()


@pytest.mark.parametrize("include_switched_off", [False, True])
def test_a_run_asks_for_one_tenant_by_the_registrys_rule(sync: Sync, include_switched_off: bool) -> None:
    sync.partner("off", "a", enabled=False)
    sync.partner("gone", "a")
    sync.execute("update partner set deleted_on = now() where id = 'gone'")
    sync.execute("insert into tenant (code, partner_id, is_global) values ('all', 'acme', true)")
    sync.delete_tenants("d0")
    asked = {PartnerTenant.parse(key) for key in ALL[1] | {"off/a", "gone/a", "acme/all", "acme/nobody", "nobody/d1"}}
    with psycopg.connect(sync.dsn, autocommit=True) as connection:
        registry = read_registry(connection, include_switched_off=include_switched_off)
        found = {each for each in asked if has_roster(connection, each, include_switched_off=include_switched_off)}
    assert {each.key for each in found} == registry.tenant_keys
    assert "acme/d0" not in registry.tenant_keys


def test_the_command_lines_way_refuses_and_removes_what_the_sensor_does(sync: Sync) -> None:
    sync.execute("update partner set deleted_on = now() where id = 'borealis'")
    sync.partner("delta", "g0")
    with psycopg.connect(sync.dsn, autocommit=True) as connection:
        registry = read_registry(connection)
    refused = sync_partitions(sync.instance, registry)
    assert {name: len(changes.refused) for name, changes in refused.items()} == {"partners": 1, "partner_tenants": 4}
    assert sync.keys == (ALL[0] | {"delta"}, ALL[1] | {"delta/g0"})
    sync_partitions(sync.instance, registry, allow_mass_removal=True)
    assert sync.keys == (set(registry.partner_keys), set(registry.tenant_keys))
    assert sync.tick().startswith("Nothing changed")


def under_way(sync: Sync, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
    """A run of these partitions that has not ended."""

    @dg.op
    def nothing() -> None: ...

    job = dg.GraphDefinition(name="any", node_defs=[nothing]).to_job()
    return sync.instance.create_run_for_job(
        job, tags={f"dagster/{name}": key for name, key in tags.items()}, status=status
    )


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
@pytest.mark.parametrize(
    "tags",
    [
        {"partition": "cascade"},
        {"partition": "cascade/f1"},
        {"asset_partition_range_start": "borealis/e3", "asset_partition_range_end": "cascade/f1"},
    ],
)
def test_what_a_run_still_needs_is_removed_when_it_has_ended(
    sync: Sync, status: dg.DagsterRunStatus, tags: dict[str, str]
) -> None:
    sync.delete_tenants("d0", "f0", "f1")  # and so the partner cascade
    run = under_way(sync, status, **tags)
    text = sync.tick()
    partners, tenants = sync.keys
    is_single = tags.get("partition") == "cascade/f1"
    is_partner = tags.get("partition") == "cascade"
    assert ("cascade" in partners) is is_partner
    assert tenants == ALL[1] - {"acme/d0"} - ({"cascade/f0"} if is_single else set())
    assert f"{1 if is_single else 2} kept for runs that still need them" in text
    assert any("cascade/f1" in warning and "still need" in warning for warning in sync.warnings)
    sync.instance.report_run_canceled(run)
    sync.tick()
    assert sync.keys == (ALL[0] - {"cascade"}, ALL[1] - {"acme/d0", "cascade/f0", "cascade/f1"})
    assert sync.tick().startswith("Nothing changed")


def test_an_approval_waits_for_the_run_that_still_needs_all_that_it_approves(sync: Sync) -> None:
    sync.partner("delta", *(f"g{number}" for number in range(8)))
    sync.tick()
    before = sync.keys
    sync.execute("update partner set deleted_on = now() where id = 'delta'")
    run = under_way(sync, dg.DagsterRunStatus.STARTED, partition="delta")
    sync.cursor = asked_for(sync.tick())
    for _ in range(2):
        assert "8 kept for runs that still need them" in sync.tick()
        assert sync.keys == before
    sync.instance.report_run_canceled(run)
    sync.tick()
    assert sync.keys == ALL
    assert sync.cursor is None
    assert sync.tick().startswith("Nothing changed")


def test_the_limit_counts_over_a_rolling_day(sync: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    monkeypatch.setattr(partitions, "utc_now", lambda: now)
    sync.delete_tenants("d0", "d1", "d2")
    sync.tick()
    assert len(sync.keys[1]) == 9
    sync.delete_tenants("d3", "e0")
    text = sync.tick()
    assert "refused to remove 2 of 9 keys: more than a quarter within a day (3 were removed before)" in text
    assert len(sync.keys[1]) == 9
    asked_for(text)
    now += timedelta(hours=24, seconds=1)
    sync.tick()
    assert len(sync.keys[1]) == 7
    sync.delete_tenants("e1")
    approval = asked_for(sync.tick())  # 7 of yesterday's 9 are left
    sync.cursor = approval
    sync.tick()
    assert len(sync.keys[1]) == 6
    sync.delete_tenants("e2")  # what was approved counts no more
    sync.tick()
    assert len(sync.keys[1]) == 5
