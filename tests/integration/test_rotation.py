"""A key that rotates: noticed by list calls alone, tried before it is used, refreshed once, and nobody else with it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import dagster as dg
import pytest
import sqlalchemy

from runway_pipelines.credentials import rotation_sensor
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.dagster_events import evaluate_sensor, newest_checks
from tests.integration.event_bus import make_bus
from tests.integration.fault_proxy import FaultProxy, fault_proxy
from tests.integration.world import (
    TestPartner,
    Warehouse,
    World,
    definitions,
    everything_logged,
    materialized,
    reexecute,
    run_partner,
)

CONNECTION = dg.AssetKey(["credentials", "edu_connection"])
INDEX = dg.AssetKey(["rosters", "partner_roster_index"])
CAN_CONNECT = dg.AssetCheckKey(CONNECTION, "can_connect")
THROTTLED = (400, b'{"__type": "ThrottlingException", "message": "Rate exceeded"}')


@dataclass
class Sensor:
    """The rotation sensor as the daemon runs it: a cursor, run keys that are used once, runs that are executed."""

    instance: dg.DagsterInstance
    cursor: str | None = None
    results: dict[str, dg.ExecuteInProcessResult] = field(default_factory=dict)

    def tick(self, *, keep_cursor: bool = True, execute: bool = True) -> Any:
        """One evaluation; what it asks for is done, unless it was before."""
        tick = evaluate_sensor(definitions(), "edu_credentials_rotated_sensor", self.instance, self.cursor)
        for event in tick.asset_events:
            self.instance.report_runless_asset_event(event)
        for request in tick.run_requests or ():
            if execute and request.run_key not in self.results:
                self.results[request.run_key] = run(self.instance, request)
        if keep_cursor:
            self.cursor = tick.cursor
        return tick

    def keys(self) -> list[str]:
        return list(self.results)

    def seen(self, partner: TestPartner) -> dict[str, Any]:
        entry: dict[str, Any] = json.loads(self.cursor or "{}")[partner.partner_id]
        return entry


def run(instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """A requested run, with the tags that the daemon gives it."""
    job = definitions().resolve_job_def("partner_rosters_job")
    return job.execute_in_process(
        instance=instance,
        partition_key=request.partition_key,
        tags={**request.tags, "dagster/run_key": str(request.run_key)},
        raise_on_error=False,
    )


def can_connect(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (found,) = (e for e in result.get_asset_check_evaluations() if e.check_name == "can_connect")
    return found


@pytest.fixture
def partners(world: World, instance: dg.DagsterInstance) -> tuple[TestPartner, TestPartner]:
    """Two partners with a district each, known to Dagster."""
    made = []
    for _ in range(2):
        warehouse = Warehouse()
        warehouse.students("north", 5)
        made.append(world.partner(warehouse, ["north"]))
    instance.add_dynamic_partitions("partners", [partner.partner_id for partner in made])
    return made[0], made[1]


@pytest.fixture
def sensor(instance: dg.DagsterInstance) -> Sensor:
    return Sensor(instance)


@pytest.fixture
def proxy(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with fault_proxy(world.stack.aws_endpoint_url) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


class Clock(datetime):
    """The sensor's, which a test puts ahead."""

    ahead = timedelta(0)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    """Failing credentials are tried again after ten minutes, then after twenty, by this clock."""
    monkeypatch.setenv("RUNWAY_CREDENTIALS_RETRY_SECONDS", "600")
    monkeypatch.setenv("RUNWAY_CREDENTIALS_RETRY_MOST_SECONDS", "1200")
    monkeypatch.setattr(rotation_sensor, "datetime", Clock)
    monkeypatch.setattr(Clock, "ahead", timedelta(0))
    return Clock


def test_first_sight_refreshes_each_and_a_rotation_its_partner_alone_and_once(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor
) -> None:
    first, second = partners
    sensor.tick()
    assert len(sensor.keys()) == 2 and all(result.success for result in sensor.results.values())
    assert {result.dagster_run.tags["runway/trigger"] for result in sensor.results.values()} == {
        "credential_first_sight"
    }
    assert not sensor.tick().run_requests

    before, version = second.pointer("north"), first.rotate()
    (request,) = sensor.tick().run_requests
    assert (request.run_key, request.partition_key) == (f"{first.partner_id}:{version}", first.partner_id)
    assert {name: request.tags[name] for name in request.tags if name.startswith("runway/")} == {
        "runway/partner": first.partner_id,
        "runway/trigger": "credential_rotation",
        "runway/secret_version": version,
    }
    result = sensor.results[request.run_key]
    assert materialized(result, "published_roster") == [first.tenant("north").key]
    pointer = first.pointer("north")
    assert pointer is not None and pointer.secret_version_id == version
    assert second.pointer("north") == before
    for _ in range(3):
        tick = sensor.tick()
        assert not tick.run_requests and "2 partners, 0 to try" in tick.skip_message


@pytest.mark.slow
def test_the_connection_is_materialized_with_its_version_and_without_its_key(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, instance: dg.DagsterInstance
) -> None:
    first, _ = partners
    version = first.rotate(role="READER", warehouse="WH")
    sensor.tick()
    result = sensor.results[f"{first.partner_id}:{version}"]
    (event,) = (e for e in result.all_events if e.is_step_materialization and e.asset_key == CONNECTION)
    data = event.step_materialization_data.materialization
    assert data.partition == first.partner_id
    assert data.tags is not None and data.tags["dagster/data_version"] == version
    shown = {name: value.value for name, value in data.metadata.items()}
    assert (shown["account"], shown["user"], shown["role"], shown["warehouse"]) == (
        first.account, "ROSTER", "READER", "WH",
    )  # fmt: skip
    assert shown["secret version id"] == version
    assert str(shown["key fingerprint"]).startswith("SHA256:")
    assert shown["key fingerprint"] != shown["previous key fingerprint"]
    assert (shown["key age days"], shown["last rotation"]) == (0, "0 days ago")
    secret = json.loads(first.world.secrets.get_secret_value(SecretId=first.secret_name)["SecretString"])
    assert secret["privateKey"][:60] not in everything_logged(instance, result)


@pytest.mark.slow
def test_a_tick_lists_a_hundred_secrets_a_call_and_never_reads_a_value(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, world: World, proxy: FaultProxy
) -> None:
    first, _ = partners
    for number in range(120):
        world.secrets.create_secret(Name=f"dev-edu-connection-info-crowd-{first.partner_id}-{number}", SecretString="x")
    proxy.actions.clear()
    sensor.tick(execute=False)
    assert set(proxy.actions) == {"ListSecrets"}
    assert 2 <= len(proxy.actions) <= 3 + len(sensor.keys()) // 100 + 4  # other tests' secrets are listed too


def test_a_requests_tags_are_those_that_dagster_gives_a_run_of_a_partition(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor
) -> None:
    first, _ = partners
    request = next(r for r in sensor.tick(execute=False).run_requests if r.partition_key == first.partner_id)
    assert {name: value for name, value in request.tags.items() if name.startswith("dagster/")} == {
        "dagster/partition": first.partner_id,
        "dagster/partition_set": "partner_rosters_job_partition_set",
        "dagster/sensor_name": "edu_credentials_rotated_sensor",
    }


class TestStatements:
    @pytest.fixture
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """On disk: in memory, Dagster asks in other ways."""
        with dg.instance_for_test() as one:
            yield one

    @pytest.mark.slow
    @pytest.mark.usefixtures("partners")
    def test_a_tick_asks_dagsters_storage_no_more_often_for_more_partners(
        self, sensor: Sensor, world: World, instance: dg.DagsterInstance, clock: type[Clock]
    ) -> None:
        sensor.tick()
        few = {"new": statements(lambda: Sensor(instance).tick(execute=False)), "quiet": statements(sensor.tick)}
        crowd = [f"crowd-{uuid.uuid4().hex[:8]}" for _ in range(10)]
        for partner_id in crowd:
            world.secrets.create_secret(Name=f"dev-edu-connection-info-{partner_id}", SecretString="no connection info")
        instance.add_dynamic_partitions("partners", crowd)
        assert statements(lambda: Sensor(instance).tick(execute=False)) == few["new"]
        sensor.tick()
        clock.ahead += timedelta(minutes=11)
        failing = sensor.tick(execute=False, keep_cursor=False)
        assert sorted(request.partition_key for request in failing.run_requests) == sorted(crowd)
        # All ten fail: one more question, for the runs that they failed in.
        assert statements(lambda: sensor.tick(execute=False)) <= few["quiet"] + 5


def statements(work: Callable[[], Any]) -> int:
    """How many SQL statements the work executes in this process."""
    executed: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        executed.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)
    return len(executed)


def test_a_bad_key_changes_nothing_and_says_that_the_old_one_still_works_and_a_good_one_heals(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor
) -> None:
    first, _ = partners
    sensor.tick()
    before = first.etag("north"), first.pointer("north")
    version = first.rotate(register_key=False)
    sensor.tick()
    result = sensor.results[f"{first.partner_id}:{version}"]
    check = can_connect(result)
    assert not result.success and not check.passed
    assert check.metadata["code"].value == "390144"
    assert check.metadata["secret version id"].value == version
    assert "still works" in str(check.metadata["previous key"].value)
    assert check.description is not None and "RSA_PUBLIC_KEY" in check.description
    assert (first.etag("north"), first.pointer("north")) == before
    assert not sensor.tick().run_requests

    good = first.rotate()
    sensor.tick()
    healed = sensor.results[f"{first.partner_id}:{good}"]
    assert healed.success and can_connect(healed).passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "code", "previous"),
    [
        (lambda p: p.put_secret("{not json"), "SecretMalformed", "still works"),
        (lambda p: p.rotate(schema="NOWHERE"), "90106", "does not work either"),  # its key was replaced at the account
        (lambda p: p.rotate(database="NOWHERE"), "90105", "does not work either"),
    ],
    ids=["malformed", "schema", "database"],
)
def test_every_kind_of_credentials_that_do_not_work_is_found_before_anything_is_refreshed(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, spoil: Any, code: str, previous: str
) -> None:
    first, _ = partners
    sensor.tick()
    before = first.etag("north"), first.pointer("north")
    spoil(first)
    sensor.tick()
    check = can_connect(sensor.results[sensor.keys()[-1]])
    assert not check.passed
    assert check.metadata["code"].value == code
    assert previous in str(check.metadata["previous key"].value)
    assert (first.etag("north"), first.pointer("north")) == before


@pytest.mark.slow
def test_a_key_that_changes_under_a_running_job_is_picked_up_by_its_next_session(
    partners: tuple[TestPartner, TestPartner], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = partners
    versions: list[str] = []
    prove = PartnerSessions.prove

    def prove_then_rotate(self: PartnerSessions, statement: str) -> None:
        prove(self, statement)
        self._pool.dispose()  # the first session ends; whoever comes next opens another, with the old key
        versions.append(first.rotate())

    monkeypatch.setattr(PartnerSessions, "prove", prove_then_rotate)
    assert run_partner(instance, first).success
    pointer = first.pointer("north")
    assert pointer is not None and [pointer.secret_version_id] == versions


@pytest.mark.slow
def test_a_key_that_is_put_right_on_the_snowflake_side_heals_without_anybody_touching_the_secret(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, clock: type[Clock]
) -> None:
    first, _ = partners
    sensor.tick()
    registered = first.registered_keys()
    version = first.rotate()
    replacement = first.registered_keys()
    first.register_keys(registered)
    sensor.tick()
    assert not sensor.results[f"{first.partner_id}:{version}"].success
    assert not sensor.tick().run_requests  # not at once
    clock.ahead += timedelta(minutes=11)
    (request,) = sensor.tick().run_requests
    assert request.run_key == f"{first.partner_id}:{version}:1"
    assert request.tags["runway/trigger"] == "credential_healing"
    assert sensor.seen(first)["attempt"] == 1

    first.register_keys(replacement)
    clock.ahead += timedelta(minutes=21)
    (request,) = sensor.tick().run_requests
    assert request.run_key == f"{first.partner_id}:{version}:2"
    assert sensor.results[request.run_key].success
    assert not sensor.tick().run_requests
    assert sensor.seen(first) == {"version": version, "attempt": 2, "next_try": None}


@pytest.mark.slow
def test_a_failure_that_a_scheduled_run_finds_is_healed_too(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, instance: dg.DagsterInstance, clock: type[Clock]
) -> None:
    first, _ = partners
    sensor.tick()
    sensor.tick()
    registered = first.registered_keys()
    first.register_keys([])
    nightly = dg.RunRequest(run_key="daily", partition_key=first.partner_id, tags={"runway/partner": first.partner_id})
    assert not run(instance, nightly).success
    first.register_keys(registered)
    assert not sensor.tick().run_requests
    clock.ahead += timedelta(minutes=11)
    (request,) = sensor.tick().run_requests
    assert request.tags["runway/trigger"] == "credential_healing"
    assert sensor.results[request.run_key].success


@pytest.mark.slow
@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED])
def test_a_requested_run_that_died_before_it_tried_is_made_up_for(
    partners: tuple[TestPartner, TestPartner],
    sensor: Sensor,
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus,
    clock: type[Clock],
) -> None:
    first, _ = partners
    sensor.tick()
    first.rotate()
    (request,) = sensor.tick(execute=False).run_requests
    job = definitions().resolve_job_def("partner_rosters_job")
    died = instance.create_run_for_job(
        job,
        tags={**request.tags, "dagster/run_key": str(request.run_key), "dagster/partition": first.partner_id},
        status=status,
    )
    sensor.results[str(request.run_key)] = None  # type: ignore[assignment]
    clock.ahead += timedelta(minutes=11)
    if status is dg.DagsterRunStatus.STARTED:
        assert not sensor.tick().run_requests  # it is still under way
        instance.report_run_failed(died)
        clock.ahead += timedelta(minutes=11)
    (again,) = sensor.tick().run_requests
    assert again.run_key == f"{request.run_key}:1"


@pytest.mark.slow
def test_a_listing_that_goes_back_and_forth_starts_one_refresh(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, proxy: FaultProxy
) -> None:
    first, _ = partners
    sensor.tick()
    stale = listing(proxy)
    version = first.rotate()
    sensor.tick()
    assert sensor.keys()[-1] == f"{first.partner_id}:{version}"
    requested = sensor.keys()
    for answer in (stale, None, stale, None):
        proxy.fault = lambda method, path, answer=answer: answer if proxy.actions[-1] == "ListSecrets" else None
        assert not sensor.tick().run_requests
        assert sensor.seen(first)["version"] == version
    assert sensor.keys() == requested


def listing(proxy: FaultProxy) -> tuple[int, bytes]:
    """The secrets as they are listed now, whole, to be answered with later."""
    pages = [json.loads(a) for a, action in zip(proxy.answers, proxy.actions, strict=True) if action == "ListSecrets"]
    return 200, json.dumps({"SecretList": [entry for page in pages for entry in page["SecretList"]]}).encode()


@pytest.mark.slow
def test_a_version_that_really_comes_back_is_refreshed_again(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor
) -> None:
    first, _ = partners
    old = current_version(first)
    sensor.tick()
    registered = first.registered_keys()
    new = first.rotate()
    first.register_keys(registered + first.registered_keys())
    sensor.tick()
    for stage_to, stage_from, n in ((old, new, 1), (new, old, 2), (old, new, 3)):
        move_stage(first, to=stage_to, away_from=stage_from)
        (request,) = sensor.tick().run_requests
        assert request.run_key == f"{first.partner_id}:{stage_to}:{n}"
        assert sensor.results[request.run_key].success
        assert not sensor.tick().run_requests


def move_stage(partner: TestPartner, *, to: str, away_from: str) -> None:
    """Make another version the current one."""
    partner.world.secrets.update_secret_version_stage(
        SecretId=partner.secret_name, VersionStage="AWSCURRENT", MoveToVersionId=to, RemoveFromVersionId=away_from
    )


def current_version(partner: TestPartner) -> str:
    return str(partner.world.secrets.get_secret_value(SecretId=partner.secret_name)["VersionId"])


@pytest.mark.slow
def test_a_cleared_cursor_and_a_tick_that_lost_its_cursor_start_nothing_twice(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor
) -> None:
    first, _ = partners
    sensor.tick()
    version = first.rotate()
    sensor.tick(keep_cursor=False)
    assert sensor.keys()[-1] == f"{first.partner_id}:{version}"
    requested = sensor.keys()
    assert not sensor.tick().run_requests
    sensor.cursor = None
    assert not sensor.tick().run_requests
    assert sensor.keys() == requested
    assert sensor.seen(first)["version"] == version


@pytest.mark.slow
def test_a_secret_that_is_deleted_takes_the_partner_out_of_the_schedule_and_restoring_it_refreshes(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor
) -> None:
    first, second = partners
    version = current_version(first)
    sensor.tick()
    assert scheduled(*partners) == {first.partner_id, second.partner_id}
    first.world.secrets.delete_secret(SecretId=first.secret_name, RecoveryWindowInDays=7)
    tick = sensor.tick()
    assert "1 without a secret" in tick.skip_message
    on_connection, on_index, check = tick.asset_events
    assert [on_connection.asset_key, on_index.asset_key] == [CONNECTION, INDEX]
    assert (check.asset_check_key.name, check.passed, check.severity.value) == ("can_connect", False, "ERROR")
    for said in tick.asset_events:
        assert said.partition == first.partner_id
        assert "pending deletion" in said.description
    assert not sensor.tick().asset_events  # said once
    assert sensor.seen(first)["version"] is None
    assert scheduled(*partners) == {second.partner_id}

    first.world.secrets.restore_secret(SecretId=first.secret_name)
    (request,) = sensor.tick().run_requests
    assert request.run_key == f"{first.partner_id}:{version}:1"
    assert sensor.results[request.run_key].success
    assert scheduled(*partners) == {first.partner_id, second.partner_id}


def scheduled(*partners: TestPartner) -> set[str]:
    """Those of the partners that tonight's tick asks for. A schedule's context needs an instance on disk."""
    built = definitions()
    schedule = built.resolve_schedule_def("partner_rosters_daily_schedule")
    with (
        dg.instance_for_test() as instance,
        dg.build_schedule_context(
            instance,
            scheduled_execution_time=datetime.now(UTC),
            repository_def=built.get_repository_def(),
            resources=dict(built.resources or {}),
        ) as context,
    ):
        instance.add_dynamic_partitions("partners", [partner.partner_id for partner in partners])
        return {str(request.partition_key) for request in schedule.evaluate_tick(context).run_requests or ()}


@pytest.mark.slow
def test_a_listing_without_a_secret_that_exists_is_not_believed(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, proxy: FaultProxy
) -> None:
    first, second = partners
    sensor.tick()
    empty = (200, b'{"SecretList": []}')
    proxy.fault = lambda method, path: empty if proxy.actions[-1] == "ListSecrets" else None
    before = sensor.cursor
    assert not sensor.tick().run_requests
    assert json.loads(sensor.cursor or "").keys() == json.loads(before or "").keys()
    assert sensor.seen(first)["version"] == current_version(first)
    assert scheduled(*partners) == {first.partner_id, second.partner_id}


@pytest.mark.slow
def test_a_page_that_cannot_be_read_keeps_what_was_seen_and_the_others_go_on(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, proxy: FaultProxy
) -> None:
    first, second = partners
    sensor.tick()
    kept = sensor.seen(second)
    entries = json.loads(listing(proxy)[1])["SecretList"]
    version = first.rotate()
    mine = [
        e | {"SecretVersionsToStages": {version: ["AWSCURRENT"]}} for e in entries if e["Name"] == first.secret_name
    ]
    first_page = (200, json.dumps({"SecretList": mine, "NextToken": "more"}).encode())

    def fault(method: str, path: str) -> tuple[int, bytes] | None:
        if proxy.actions[-1] != "ListSecrets":
            return None
        return THROTTLED if b"NextToken" in proxy.bodies[-1] else first_page

    proxy.fault = fault
    (request,) = sensor.tick().run_requests
    assert request.partition_key == first.partner_id
    assert sensor.seen(second) == kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages",
    [{"a": ["AWSPREVIOUS"]}, {"a": ["AWSCURRENT"], "b": ["AWSCURRENT"]}],
    ids=["none current", "two current"],
)
def test_an_entry_that_does_not_say_its_version_keeps_what_was_seen(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, proxy: FaultProxy, stages: dict[str, Any]
) -> None:
    first, second = partners
    sensor.tick()
    kept = sensor.seen(first)
    entries = json.loads(listing(proxy)[1])["SecretList"]
    for entry in entries:
        if entry["Name"] == first.secret_name:
            entry["SecretVersionsToStages"] = stages
    answer = (200, json.dumps({"SecretList": entries}).encode())
    proxy.fault = lambda method, path: answer if proxy.actions[-1] == "ListSecrets" else None
    tick = sensor.tick()
    assert f"1 not readable this time: {first.partner_id}" in tick.skip_message
    assert sensor.seen(first)["version"] == kept["version"]
    assert sensor.seen(second)["version"] == current_version(second)


@pytest.mark.slow
def test_a_secret_that_has_no_value_yet_is_no_secret_and_its_first_value_is_first_sight(
    world: World, instance: dg.DagsterInstance, sensor: Sensor
) -> None:
    warehouse = Warehouse()
    warehouse.students("north", 2)
    partner = world.partner(warehouse, ["north"])
    text = world.secrets.get_secret_value(SecretId=partner.secret_name)["SecretString"]
    partner.delete_secret()
    world.secrets.create_secret(Name=partner.secret_name)
    instance.add_dynamic_partitions("partners", [partner.partner_id])
    tick = sensor.tick()
    assert not tick.run_requests
    assert "1 without a secret" in tick.skip_message
    version = partner.put_secret(text)
    (request,) = sensor.tick().run_requests
    assert request.run_key == f"{partner.partner_id}:{version}"


@pytest.mark.slow
def test_a_departure_that_cannot_be_told_is_recorded_all_the_same_and_a_restored_secret_refreshed(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = partners
    monkeypatch.setenv("RUNWAY_EVENT_BUS", "there-is-no-such-bus")
    sensor.tick()
    first.world.secrets.delete_secret(SecretId=first.secret_name, RecoveryWindowInDays=7)
    assert sensor.tick().asset_events
    first.world.secrets.restore_secret(SecretId=first.secret_name)
    (request,) = sensor.tick().run_requests
    assert sensor.results[request.run_key].success


@pytest.mark.slow
def test_a_secret_that_is_gone_again_stops_nobody_elses_rotation(
    partners: tuple[TestPartner, TestPartner], postgres_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's table takes one evaluation of a partner's check without a run, and refuses a second one."""
    first, second = partners
    bus = make_bus(f"gone-again-{uuid.uuid4().hex[:8]}")
    monkeypatch.setenv("RUNWAY_EVENT_BUS", bus.name)
    postgres_instance.add_dynamic_partitions("partners", [first.partner_id, second.partner_id])
    sensor = Sensor(postgres_instance)
    sensor.tick(execute=False)
    for _ in range(2):
        first.world.secrets.delete_secret(SecretId=first.secret_name, RecoveryWindowInDays=7)
        assert len(sensor.tick(execute=False).asset_events) == 3
        assert bus.types() == ["credentials_failing"]
        first.world.secrets.restore_secret(SecretId=first.secret_name)
        sensor.tick(execute=False)
    first.world.secrets.delete_secret(SecretId=first.secret_name, RecoveryWindowInDays=7)
    version = second.rotate()
    (request,) = sensor.tick(execute=False).run_requests
    assert request.run_key == f"{second.partner_id}:{version}"
    sensor.cursor = None  # an operator clears it while a partner has no secret
    assert sensor.tick(execute=False).asset_events
    assert not newest_checks(postgres_instance, CAN_CONNECT, [first.partner_id])[first.partner_id].has_passed


@pytest.mark.slow
def test_a_re_execution_is_no_request_and_hides_no_rotation(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, instance: dg.DagsterInstance
) -> None:
    first, _ = partners
    old = current_version(first)
    sensor.tick()
    registered = first.registered_keys()
    new = first.rotate(register_key=False)
    (bad,) = sensor.tick().run_requests
    move_stage(first, to=old, away_from=new)
    sensor.tick()
    parent = sensor.results[bad.run_key]
    assert not parent.success
    with reexecute(instance, parent.run_id, from_failure=False, copy_tags=True) as again:
        assert again.success  # with the old key
    first.register_keys(registered)
    move_stage(first, to=new, away_from=old)
    (request,) = sensor.tick().run_requests
    assert request.run_key.startswith(f"{first.partner_id}:{new}:")


@pytest.mark.slow
@pytest.mark.parametrize("answer", [THROTTLED, 500, "cut"], ids=["throttled", "broken", "unreachable"])
@pytest.mark.usefixtures("partners")
def test_nothing_readable_at_all_fails_the_tick(sensor: Sensor, proxy: FaultProxy, answer: Any) -> None:
    sensor.tick()
    before = sensor.cursor
    proxy.fault = lambda method, path: answer
    with pytest.raises(Exception, match="the current version of at least one of 2 partners' secrets"):
        sensor.tick()
    assert sensor.cursor == before


@pytest.mark.slow
def test_throttling_that_passes_is_not_even_noticed(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, proxy: FaultProxy
) -> None:
    throttled = iter([THROTTLED])
    proxy.fault = lambda method, path: next(throttled, None) if proxy.actions[-1] == "ListSecrets" else None
    sensor.tick()
    assert len(sensor.keys()) == 2


@pytest.mark.slow
def test_a_partner_without_a_partition_is_nobodys_business(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, instance: dg.DagsterInstance
) -> None:
    first, second = partners
    sensor.tick()
    instance.delete_dynamic_partition("partners", first.partner_id)
    first.rotate()
    assert not sensor.tick().run_requests
    assert json.loads(sensor.cursor or "").keys() == {second.partner_id}

    instance.add_dynamic_partitions("partners", [first.partner_id])
    (request,) = sensor.tick().run_requests
    assert request.partition_key == first.partner_id


@pytest.mark.slow
def test_a_partner_that_is_back_with_its_old_secret_is_refreshed(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, instance: dg.DagsterInstance
) -> None:
    first, _ = partners
    sensor.tick()
    instance.delete_dynamic_partition("partners", first.partner_id)
    sensor.tick()
    instance.add_dynamic_partitions("partners", [first.partner_id])
    (request,) = sensor.tick().run_requests
    assert request.run_key == f"{first.partner_id}:{current_version(first)}:1"
    assert sensor.results[request.run_key].success


@pytest.mark.slow
def test_the_cursor_holds_version_attempt_and_time_and_nothing_more(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor
) -> None:
    sensor.tick()
    for entry in json.loads(sensor.cursor or "").values():
        assert entry.keys() == {"version", "attempt", "next_try"}


@pytest.mark.slow
def test_a_departure_is_told_once(
    partners: tuple[TestPartner, TestPartner], sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = partners
    name = f"departures-{first.partner_id}"
    monkeypatch.setenv("RUNWAY_EVENT_BUS", name)
    bus = make_bus(name)
    sensor.tick()
    first.delete_secret()
    assert sensor.tick().asset_events
    assert not sensor.tick().asset_events
    (told,) = bus.received()
    assert told["detail-type"] == "credentials_failing"
    assert told["detail"]["partner"] == first.partner_id
    assert "there is no such secret" in told["detail"]["credentials"]["reason"]


def test_three_hundred_partners_that_rotate_at_once_are_all_asked_for_by_three_list_calls(
    world: World, instance: dg.DagsterInstance, sensor: Sensor, proxy: FaultProxy
) -> None:
    prefix = f"r{time.monotonic_ns()}"
    names = {f"{prefix}-{number}" for number in range(300)}
    instance.add_dynamic_partitions("partners", sorted(names))
    entries = [{"Name": f"dev-edu-connection-info-{name}", "SecretVersionsToStages": {}} for name in sorted(names)]
    version = ["v1"]

    def page(method: str, path: str) -> tuple[int, bytes]:
        assert proxy.actions[-1] == "ListSecrets"
        asked = json.loads(proxy.bodies[-1])
        start = int(asked.get("NextToken", 0))
        listed = [
            entry | {"SecretVersionsToStages": {f"{entry['Name']}-{version[0]}": ["AWSCURRENT"]}}
            for entry in entries[start : start + asked["MaxResults"]]
        ]
        more = {"NextToken": str(start + len(listed))} if start + len(listed) < len(entries) else {}
        return 200, json.dumps({"SecretList": listed, **more}).encode()

    proxy.fault = page
    for version[0] in ("v1", "v2"):
        proxy.actions.clear()
        requests = sensor.tick(execute=False).run_requests
        assert {request.partition_key for request in requests} == names
        assert len(proxy.actions) == 3
