"""Operators hear of what they should, once, through EventBridge; and runs go on when they cannot be told."""

from __future__ import annotations

import json
import logging
import re
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._utils.error import SerializableErrorInfo

from runway_pipelines.errors import Permanent
from runway_pipelines.operations import outcome_sensor as sensor_module
from runway_pipelines.operations.events import OperatorEvents
from runway_pipelines.operations.outcome_sensor import Watched, build_run_outcome_sensor
from runway_pipelines.operations.outcomes import OperatorEvent
from runway_pipelines.operations.run_cursor import OVERLAP_SECONDS
from runway_pipelines.operations.run_report import RUN_REPORT, CredentialsFailure, Problem, RunReport
from runway_pipelines.partner_tenants.registry import RosterPartner
from runway_pipelines.rosters import assets, extraction, gate
from runway_pipelines.rosters.events import PARTNER_ROSTER_INDEX
from runway_pipelines.rosters.freshness_check import TENANTS_FRESH
from runway_pipelines.rosters.index import PartnerIndex
from runway_pipelines.systems.aws import event_bus as events_module
from runway_pipelines.systems.aws.object_store import ObjectStore
from tests.integration.event_bus import Bus, make_bus
from tests.integration.world import TestPartner, Warehouse, World, bring_in_line, definitions, reexecute, run_partner

CAN_CONNECT = dg.AssetCheckKey(dg.AssetKey(["credentials", "edu_connection"]), "can_connect")
JOB = "partner_rosters_job"
IDENTITY_JOB = "library_identity_job"
FRESHNESS_JOB = "roster_freshness_job"
SENSOR = build_run_outcome_sensor(
    Watched(
        JOB, FRESHNESS_JOB, frozenset([IDENTITY_JOB]), CAN_CONNECT, TENANTS_FRESH, partner_index=PARTNER_ROSTER_INDEX
    ),
    interval_seconds=60,
)
CANARY = "CANARY-student-7731"
EVENT = OperatorEvent("roster_refresh_failed", {"partner": "acme", "run_id": "run-1", "reasons": {"acme/a": CANARY}})
LOG = logging.getLogger("operators")


@pytest.fixture
def bus(world: World) -> Bus:
    return make_bus(f"operators-{uuid.uuid4().hex[:8]}")


def operators_of(event_bus: str, envlabel: str = "dev") -> OperatorEvents:
    return OperatorEvents(
        event_bus=event_bus, envlabel=envlabel, region_name="us-west-2", dagster_url="https://dagster.example.org"
    )


@pytest.fixture
def operators(bus: Bus) -> OperatorEvents:
    return operators_of(bus.name)


@pytest.fixture
def gone(world: World) -> OperatorEvents:
    """A bus that nobody made."""
    return operators_of("nobody-made-it")


class Ticks:
    """The sensor over an instance, tick after tick, started now."""

    def __init__(self, instance: dg.DagsterInstance, operators: OperatorEvents) -> None:
        self.instance = instance
        self.operators = operators
        self.cursor: str | None = None
        self.tick()

    def tick(self, operators: OperatorEvents | None = None) -> str:
        """One tick as the daemon would make it; returns what it says."""
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"operators": operators or self.operators}
        )
        result = SENSOR.evaluate_tick(context)
        assert not result.run_requests
        self.cursor = result.cursor
        return str(result.skip_message)


@pytest.fixture
def ticks(instance: dg.DagsterInstance, operators: OperatorEvents) -> Ticks:
    return Ticks(instance, operators)


@pytest.fixture
def partner(world: World) -> TestPartner:
    """A partner with one tenant whose roster is held: it has no students."""
    return world.partner(Warehouse(), ["north"])


def mend(partner: TestPartner) -> None:
    partner.warehouse.students("north", 3)
    partner.write_tables()


def spoil(partner: TestPartner) -> None:
    partner.warehouse.associations.clear()
    partner.write_tables()
    partner.rotate()  # the server loads the tables at a login of a new key


def ended_run(
    instance: dg.DagsterInstance, how: str, partner_id: str = "acme", at: datetime | None = None, job: str = JOB
) -> str:
    """A run that ended without doing anything: ``SUCCESS``, ``FAILURE`` or ``CANCELED``."""

    @dg.job(name=job)
    def nothing() -> None: ...

    tags = {"dagster/partition": partner_id} if job not in (FRESHNESS_JOB, IDENTITY_JOB) else {}
    run = instance.create_run_for_job(nothing, tags=tags)
    event = dg.DagsterEvent(event_type_value=f"PIPELINE_{how}", job_name=job)
    instance.run_storage.handle_run_event(run.run_id, event, at)
    return run.run_id


def run_without_login(
    instance: dg.DagsterInstance, partner_id: str, code: str | None, version: str | None = "v1", passed: bool = False
) -> None:
    """A run of the job whose credentials check says so, and that fails when it did not pass."""

    @dg.op
    def connect() -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
        failure = CredentialsFailure(code, version, "the account refuses the key")
        yield dg.AssetCheckEvaluation(
            asset_key=CAN_CONNECT.asset_key,
            check_name=CAN_CONNECT.name,
            passed=passed,
            metadata={RUN_REPORT: RunReport(credentials_failure=failure).document()},
        )
        if not passed:
            raise dg.Failure(f"no login with {CANARY}", allow_retries=False)
        yield dg.Output(None)

    @dg.job(name=JOB)
    def job() -> None:
        connect()

    job.execute_in_process(
        instance=instance, tags={"dagster/partition": partner_id, "runway/trigger": "rotation"}, raise_on_error=False
    )


def test_an_event_arrives_with_its_source_its_type_and_its_detail(bus: Bus, operators: OperatorEvents) -> None:
    assert operators.emit(EVENT, LOG)
    (arrived,) = bus.received()
    assert (arrived["source"], arrived["detail-type"], arrived["detail"]) == (
        "runway.dev",
        "roster_refresh_failed",
        EVENT.detail,
    )


def test_another_environments_events_go_by_a_source_of_their_own(bus: Bus) -> None:
    assert operators_of(bus.name, "prod").emit(EVENT, LOG)
    assert bus.received() == []


@pytest.mark.parametrize(
    ("to", "event", "said"),
    [
        # moto refuses the whole call for a bus that it does not know; the other is an answer with FailedEntryCount 1.
        ("gone", EVENT, "the refusal ResourceNotFoundException (HTTP 400)"),
        ("operators", OperatorEvent("", EVENT.detail), "the refusal InvalidArgument (HTTP 200)"),
    ],
)
def test_a_refused_event_is_a_warning_that_names_it_and_the_code(
    to: str, event: OperatorEvent, said: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    assert not request.getfixturevalue(to).emit(event, LOG)
    (record,) = [record for record in caplog.records if record.name == LOG.name]
    assert record.levelname == "WARNING"
    assert "(partner acme, run run-1) was not sent" in record.message
    assert said in record.message
    assert CANARY not in record.message


def test_a_service_that_is_gone_is_a_warning(
    operators: OperatorEvents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert not operators.emit(EVENT, LOG)
    assert "got EndpointConnectionError" in caplog.text


@pytest.mark.slow
def test_a_service_that_never_answers_is_waited_for_twice_and_no_longer(
    operators: OperatorEvents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events_module, "READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert not operators.emit(EVENT, LOG)
        attempts = [silent.accept() for _ in range(events_module.ATTEMPTS)]
        with pytest.raises(BlockingIOError):
            silent.accept()
        for connection, _ in attempts:
            connection.close()
    assert "got ReadTimeoutError" in caplog.text


def by_the_button(instance: dg.DagsterInstance, partner_id: str, *keys: dg.AssetKey) -> dg.ExecuteInProcessResult:
    """What the assets' own button launches: Dagster's job of all assets, with these chosen."""
    every = definitions().resolve_implicit_global_asset_job_def()
    return every.execute_in_process(
        instance=instance, partition_key=partner_id, asset_selection=list(keys), raise_on_error=False
    )


def test_a_partner_that_somebody_refreshes_by_the_assets_button_is_told_of_like_any_other(
    partner: TestPartner, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    bring_in_line(instance)
    by_hand = by_the_button(instance, partner.partner_id, PARTNER_ROSTER_INDEX)
    assert not by_hand.success
    assert ticks.tick() == "1 run looked at, 1 event emitted, 0 runs left for the next tick"
    (failed,) = bus.received()
    assert (failed["detail-type"], failed["detail"]["job"]) == ("roster_refresh_failed", JOB)
    run_partner(instance, partner)
    ticks.tick()
    assert bus.types() == []  # the same reason: the run by hand was the one before it
    mend(partner)
    assert by_the_button(instance, partner.partner_id, PARTNER_ROSTER_INDEX).success
    ticks.tick()
    assert bus.types() == ["roster_refresh_recovered"]


def test_runs_of_other_jobs_on_the_same_partition_hide_no_earlier_failure(
    partner: TestPartner, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    run_partner(instance, partner)
    ticks.tick()
    assert bus.types() == ["roster_refresh_failed"]
    for _ in range(11):
        ended_run(instance, "SUCCESS", partner.partner_id, job="some_other_job")
    mend(partner)
    assert run_partner(instance, partner).success
    ticks.tick()
    assert bus.types() == ["roster_refresh_recovered"]


def test_operators_hear_of_each_failure_and_of_the_recovery_and_of_nothing_else(
    partner: TestPartner, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    first = run_partner(instance, partner)
    assert ticks.tick() == "1 run looked at, 1 event emitted, 0 runs left for the next tick"
    (failed,) = bus.received()
    assert failed["detail-type"] == "roster_refresh_failed"
    detail = failed["detail"]
    assert (detail["partner"], detail["run_id"], detail["job"], detail["trigger"]) == (
        partner.partner_id,
        first.run_id,
        JOB,
        "manual",
    )
    assert detail["run_url"] == f"https://dagster.example.org/runs/{first.run_id}"
    assert detail["counts"]["held"] == 1
    assert detail["reasons"][partner.tenant("north").key].startswith("refused by not_empty, ")
    ended = instance.get_run_record_by_id(first.run_id).end_time  # type: ignore[union-attr]
    assert datetime.fromisoformat(detail["occurred_at"]).timestamp() == pytest.approx(ended)

    run_partner(instance, partner)
    ticks.tick()
    assert bus.types() == []  # for the same reason, on the same day

    mend(partner)
    with reexecute(instance, first.run_id) as again:
        assert again.success
    ticks.tick()
    assert bus.types() == ["roster_refresh_recovered"]

    assert run_partner(instance, partner).success
    assert ticks.tick() == "1 run looked at, 0 events emitted, 0 runs left for the next tick"
    assert ticks.tick() == "0 runs looked at, 0 events emitted, 0 runs left for the next tick"
    assert bus.types() == []


@pytest.mark.slow
def test_a_failure_in_the_end_is_told_after_a_partners_good_nights(
    partner: TestPartner, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    mend(partner)
    assert run_partner(instance, partner).success
    spoil(partner)
    assert not run_partner(instance, partner).success
    ticks.tick()
    assert bus.types() == ["roster_refresh_failed"]


def test_a_first_start_tells_nothing_of_the_past(
    instance: dg.DagsterInstance, bus: Bus, operators: OperatorEvents
) -> None:
    ended_run(instance, "FAILURE")
    ticks = Ticks(instance, operators)
    assert ticks.tick().startswith("0 runs looked at")
    ended_run(instance, "FAILURE", "borealis")
    assert ticks.tick().startswith("1 run looked at")
    assert bus.types() == ["roster_refresh_failed"]


def test_a_damaged_cursor_is_a_start_anew(instance: dg.DagsterInstance, bus: Bus, ticks: Ticks) -> None:
    ended_run(instance, "FAILURE")
    ticks.cursor = "damaged"
    assert ticks.tick() == "looks at runs that end from now on"
    assert bus.types() == []


def test_a_canceled_run_is_neither_told_nor_counted_as_the_previous_one(
    instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    ended_run(instance, "FAILURE")
    ended_run(instance, "CANCELED")
    assert ticks.tick().startswith("1 run looked at, 1 event ")
    ended_run(instance, "CANCELED")
    ended_run(instance, "SUCCESS")
    ticks.tick()
    assert bus.types() == ["roster_refresh_failed", "roster_refresh_recovered"]


def test_another_partners_runs_are_not_the_previous_one(instance: dg.DagsterInstance, bus: Bus, ticks: Ticks) -> None:
    ended_run(instance, "FAILURE", "acme")
    ended_run(instance, "SUCCESS", "birch")
    ticks.tick()
    assert [event["detail"]["partner"] for event in bus.received()] == ["acme"]


@pytest.mark.slow
def test_failing_credentials_are_told_once_for_a_version_and_a_code(
    instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    for code, version in [("JWT", "v1"), ("JWT", "v1"), ("JWT", "v2"), ("390144", "v2"), (None, None), (None, None)]:
        run_without_login(instance, "acme", code, version)
        ticks.tick()
    run_without_login(instance, "acme", None, "v3", passed=True)
    ticks.tick()
    told = bus.received()
    assert [(e["detail-type"], (e["detail"]["credentials"] or {}).get("secret_version")) for e in told] == [
        ("credentials_failing", "v1"),
        ("credentials_failing", "v2"),
        ("credentials_failing", "v2"),
        ("credentials_failing", None),
        ("roster_refresh_recovered", None),
    ]
    first = told[0]["detail"]
    assert (first["partner"], first["trigger"]) == ("acme", "rotation")
    assert first["credentials"] == {"code": "JWT", "secret_version": "v1", "reason": "the account refuses the key"}
    assert CANARY not in json.dumps(told)


def test_counts_are_what_the_run_counted_and_reasons_those_of_the_partners_tenants(
    instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    @dg.op
    def fails() -> None:
        report = RunReport({"new": 3, "held": 1}, {"acme/a": Problem("empty", "held")}).document()
        raise dg.Failure("1 of 4", metadata={RUN_REPORT: report, "note": CANARY, "birch/a": f"failed: {CANARY}"})

    @dg.op
    def succeeds() -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
        report = RunReport({"new": 4}).document()
        yield dg.AssetMaterialization(["rosters", "partner_roster_index"], metadata={RUN_REPORT: report})
        yield dg.Output(None)

    for op in (fails, succeeds):
        job = dg.GraphDefinition(name=JOB, node_defs=[op]).to_job()
        job.execute_in_process(instance=instance, tags={"dagster/partition": "acme"}, raise_on_error=False)
    ticks.tick()
    assert [(event["detail"]["counts"], event["detail"]["reasons"]) for event in bus.received()] == [
        ({"new": 3, "held": 1}, {"acme/a": "held: empty"}),
        ({"new": 4}, {}),
    ]


def test_a_run_with_the_metadata_of_an_earlier_version_is_told_without_counts_and_reasons(
    instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    @dg.op
    def fails() -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
        yield dg.AssetCheckEvaluation(
            asset_key=CAN_CONNECT.asset_key, check_name=CAN_CONNECT.name, passed=False, metadata={"code": "JWT"}
        )
        raise dg.Failure("1 of 4", metadata={"acme/a": "held: empty", "outcomes": {"held": 1}})

    job = dg.GraphDefinition(name=JOB, node_defs=[fails]).to_job()
    job.execute_in_process(instance=instance, tags={"dagster/partition": "acme"}, raise_on_error=False)
    ticks.tick()
    (event,) = bus.received()
    assert event["detail-type"] == "roster_refresh_failed"
    assert (event["detail"]["counts"], event["detail"]["reasons"]) == ({}, {})


@pytest.mark.slow
def test_a_partner_that_cannot_log_in_is_told_once_and_its_recovery_once(
    partner: TestPartner, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    mend(partner)
    version = partner.rotate(register_key=False)
    for _ in range(2):
        run_partner(instance, partner)
        ticks.tick()
    partner.rotate()
    assert run_partner(instance, partner).success
    ticks.tick()
    failing, recovered = bus.received()
    assert (failing["detail-type"], recovered["detail-type"]) == ("credentials_failing", "roster_refresh_recovered")
    assert failing["detail"]["credentials"]["secret_version"] == version
    assert recovered["detail"]["counts"] == {"new": 1}


def test_a_failed_identity_run_is_told_and_a_good_one_and_other_jobs_are_not(
    instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    ended_run(instance, "SUCCESS", job=IDENTITY_JOB)
    ended_run(instance, "FAILURE", job=IDENTITY_JOB)
    ended_run(instance, "FAILURE", job="some_other_job")
    assert ticks.tick().startswith("2 runs looked at, 1 event ")
    assert bus.types() == ["identity_run_failed"]


def judge(instance: dg.DagsterInstance, *, succeeds: bool = True) -> None:
    """A run of the hourly job."""
    job = definitions().resolve_job_def(FRESHNESS_JOB)
    result = job.execute_in_process(instance=instance, tags={"runway/trigger": "schedule"}, raise_on_error=False)
    assert result.success is succeeds


@pytest.mark.slow
def test_a_roster_that_no_run_reached_is_told_once_and_that_all_are_fresh_again(
    world: World, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    warehouse = Warehouse()
    for code in ("north", "south"):
        warehouse.students(code, 3)
    partner, other = world.partner(warehouse, ["north", "south"]), world.partner(warehouse, ["north"])
    for each in (partner, other):
        assert run_partner(instance, each).success
    judge(instance)
    ticks.tick()
    assert bus.types() == []

    told = []
    for stale in ("south", "south", "north"):
        partner.change_index(stale, refreshed_at="2026-01-01T00:00:00+00:00")
        judge(instance)
        ticks.tick()
        told.append(bus.received())
    (first,), nothing, (second,) = told
    assert nothing == []
    south, north = (partner.tenant(code).key for code in ("south", "north"))
    assert (first["detail-type"], first["detail"]["partner"]) == ("rosters_stale", partner.partner_id)
    assert (first["detail"]["counts"], first["detail"]["trigger"]) == ({"stale": 1}, "schedule")
    assert re.match(r"\d+ hours old; last try: new, published to 1", first["detail"]["reasons"][south])
    assert set(second["detail"]["reasons"]) == {north, south}

    assert run_partner(instance, partner).success
    judge(instance)
    judge(instance)
    ticks.tick()
    (fresh,) = bus.received()
    assert (fresh["detail-type"], fresh["detail"]["partner"]) == ("rosters_fresh_again", partner.partner_id)
    assert (fresh["detail"]["counts"], fresh["detail"]["reasons"]) == ({"stale": 0}, {})


@pytest.mark.slow
def test_a_tenant_that_never_had_a_roster_is_not_told_as_stale(
    partner: TestPartner, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    run_partner(instance, partner)
    ticks.tick()
    assert bus.types() == ["roster_refresh_failed"]
    judge(instance)
    assert ticks.tick() == "1 run looked at, 0 events emitted, 0 runs left for the next tick"


@pytest.mark.slow
def test_an_index_that_cannot_be_read_hides_no_other_partners_stale_roster(
    world: World, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse()
    warehouse.students("north", 3)
    stale, unread = world.partner(warehouse, ["north"]), world.partner(warehouse, ["north"])
    for each in (stale, unread):
        assert run_partner(instance, each).success
    judge(instance)
    ticks.tick()
    stale.change_index("north", refreshed_at="2026-01-01T00:00:00+00:00")

    def read(store: ObjectStore, partner: RosterPartner) -> PartnerIndex:
        if partner.partner_id == unread.partner_id:
            raise Permanent(expected="to read it", came="AccessDenied", remedy="grant it")
        return whole(store, partner)

    whole = PartnerIndex.read
    with monkeypatch.context() as patch:
        patch.setattr(PartnerIndex, "read", read)
        for told in (["rosters_stale"], []):
            judge(instance, succeeds=False)
            ticks.tick()
            assert bus.types() == told
    unread.change_index("north", refreshed_at="2026-01-01T00:00:00+00:00")
    judge(instance)
    ticks.tick()
    (told_late,) = bus.received()
    assert told_late["detail"]["partner"] == unread.partner_id


def judged_run(instance: dg.DagsterInstance, *, is_held: bool) -> None:
    """A run of the job that judged one tenant."""
    problems = {"acme/x": Problem("held since 2026-01-01 00:00 UTC: 40% are gone", "held", "1a2b3c students_lost")}
    report = RunReport(counts={"held" if is_held else "unchanged": 1}, problems=problems if is_held else {})
    metadata = {RUN_REPORT: dg.MetadataValue.json(report.document())}

    @dg.op
    def refresh() -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
        if is_held:
            raise dg.Failure("held", metadata=metadata, allow_retries=False)
        yield dg.AssetMaterialization(PARTNER_ROSTER_INDEX, partition="acme", metadata=metadata)
        yield dg.Output(None)

    @dg.job(name=JOB)
    def job() -> None:
        refresh()

    job.execute_in_process(instance=instance, raise_on_error=False, tags={"dagster/partition": "acme"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_held", "told"),
    [(True, ["roster_refresh_recovered"]), (False, ["roster_refresh_recovered", "roster_released"])],
)
def test_a_hold_is_known_after_however_many_nights_without_a_login(
    instance: dg.DagsterInstance, bus: Bus, ticks: Ticks, is_held: bool, told: list[str]
) -> None:
    judged_run(instance, is_held=True)
    ticks.tick()
    assert bus.types() == ["roster_held"]
    for _ in range(11):
        run_without_login(instance, "acme", "390144")
    ticks.tick()
    assert set(bus.types()) == {"credentials_failing"}
    judged_run(instance, is_held=is_held)
    ticks.tick()
    assert sorted(bus.types()) == told


@pytest.mark.slow
def test_a_stale_roster_that_cannot_be_told_is_told_when_the_bus_is_back(
    world: World, instance: dg.DagsterInstance, bus: Bus, gone: OperatorEvents, ticks: Ticks
) -> None:
    warehouse = Warehouse()
    warehouse.students("north", 3)
    partner = world.partner(warehouse, ["north"])
    assert run_partner(instance, partner).success
    ticks.tick()
    partner.change_index("north", refreshed_at="2026-01-01T00:00:00+00:00")
    judge(instance)
    assert ticks.tick(gone) == "0 runs looked at, 0 events emitted, 1 run left for the next tick"
    judge(instance)
    ticks.tick()
    assert bus.types() == ["rosters_stale"]


def test_a_run_that_vanished_is_told_without_reasons(
    world: World, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    run = instance.create_run_for_job(
        definitions().resolve_job_def(JOB), tags={"dagster/partition": "acme", "runway/trigger": "schedule"}
    )
    instance.report_run_failed(run, f"the worker vanished while it read {CANARY}")
    ticks.tick()
    (told,) = bus.received()
    assert told["detail-type"] == "roster_refresh_failed"
    assert (told["detail"]["reasons"], told["detail"]["trigger"]) == ({}, "schedule")
    assert CANARY not in json.dumps(told)


def test_a_run_that_the_engine_dropped_is_told_with_the_engines_message(
    world: World, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    def engine_error(message: str) -> None:
        error = SerializableErrorInfo(CANARY, [], "RuntimeError")
        instance.report_engine_event(message, run, EngineEventData.engine_error(error))

    for began in (False, True):
        run = instance.create_run_for_job(definitions().resolve_job_def(JOB), tags={"dagster/partition": "acme"})
        engine_error(f"Run dequeue failed after 2 attempts, failing run\n{CANARY}")
        if began:
            event = DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, run.job_name)
            instance.report_dagster_event(event, run.run_id)
        instance.report_run_failed(run, f"the worker vanished while it read {CANARY}")
    ticks.tick()
    told = bus.received()
    assert [event["detail"]["reasons"] for event in told] == [
        {"run": "Dagster: Run dequeue failed after 2 attempts, failing run"},
        {},  # it began after all, and something else ended it
    ]
    assert CANARY not in json.dumps(told)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["a tenant", "the run", "rows", "login"])
def test_no_event_names_a_student_or_shows_a_key(
    trouble: str,
    world: World,
    instance: dg.DagsterInstance,
    bus: Bus,
    ticks: Ticks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError(CANARY)

    warehouse = Warehouse()
    warehouse.student("north", CANARY, ("Local", CANARY))
    partner = world.partner(warehouse, ["north"])
    if trouble == "the run":
        monkeypatch.setattr(assets, "record_outcomes", fail)
    if trouble == "a tenant":
        monkeypatch.setattr(gate, "keep_snapshot", fail)
    if trouble == "rows":
        failing = extraction.ROSTER_SQL.replace(
            "max(api_year) as api_year\n", "max(cast(student_unique_id as int)) as api_year\n"
        )
        monkeypatch.setattr(extraction, "ROSTER_SQL", failing)
    if trouble == "login":
        partner.rotate(register_key=False)
    assert not run_partner(instance, partner).success
    ticks.tick()
    told = bus.received()
    assert len(told) == 1
    secret = world.secrets.get_secret_value(SecretId=partner.secret_name)["SecretString"]
    assert CANARY not in json.dumps(told)
    assert json.loads(secret)["privateKey"][:40] not in json.dumps(told)


def test_what_cannot_be_sent_is_sent_when_the_bus_is_back_and_in_order(
    instance: dg.DagsterInstance, bus: Bus, gone: OperatorEvents, ticks: Ticks
) -> None:
    ended_run(instance, "FAILURE")
    ended_run(instance, "SUCCESS")
    for _ in range(2):
        assert ticks.tick(gone) == "0 runs looked at, 0 events emitted, 2 runs left for the next tick"
    ticks.tick()
    assert bus.types() == ["roster_refresh_failed", "roster_refresh_recovered"]


def test_what_could_not_be_sent_for_a_day_is_given_up(
    instance: dg.DagsterInstance, gone: OperatorEvents, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensor_module, "GIVE_UP_SECONDS", -1.0)
    ended_run(instance, "FAILURE")
    assert ticks.tick(gone) == "1 run looked at, 0 events emitted, 0 runs left for the next tick"


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "value"), [("MOST_RUNS", 2), ("MOST_TICK_SECONDS", -1.0)])
def test_what_is_too_much_for_a_tick_is_told_at_the_next(
    limit: str, value: float, instance: dg.DagsterInstance, bus: Bus, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensor_module, limit, value)
    runs = [ended_run(instance, "FAILURE", f"partner-{number}") for number in range(5)]
    for _ in range(5):
        ticks.tick()
    assert [event["detail"]["run_id"] for event in bus.received()] == runs


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["instance", "postgres_instance"])
def test_no_run_is_lost_or_told_twice_that_ends_at_one_instant_late_or_is_touched_afterwards(
    storage: str, bus: Bus, operators: OperatorEvents, request: pytest.FixtureRequest
) -> None:
    instance: dg.DagsterInstance = request.getfixturevalue(storage)
    old = ended_run(instance, "FAILURE")
    ticks = Ticks(instance, operators)
    now = datetime.now(UTC)
    told = [ended_run(instance, "FAILURE", f"partner-{number}", at=now) for number in range(2)]
    ticks.tick()
    # One more of the same instant, and one of before it, come into sight when the tick has passed.
    told += [ended_run(instance, "FAILURE", "partner-2", at=now)]
    before = datetime.fromtimestamp(json.loads(str(ticks.cursor))["floor"] + 0.001, UTC)
    told += [ended_run(instance, "FAILURE", "partner-3", at=before)]
    for run_id in [old, *told]:
        instance.add_run_tags(run_id, {"touched": "yes"})
    ticks.tick()
    ticks.tick()
    assert sorted(event["detail"]["run_id"] for event in bus.received()) == sorted(told)


def test_a_run_that_is_touched_when_it_is_forgotten_is_not_told_again(
    instance: dg.DagsterInstance, bus: Bus, ticks: Ticks
) -> None:
    run_id = ended_run(instance, "FAILURE")
    ticks.tick()
    cursor = json.loads(str(ticks.cursor))
    ticks.cursor = json.dumps({"floor": cursor["floor"] + OVERLAP_SECONDS, "seen": {}})
    instance.add_run_tags(run_id, {"touched": "yes"})
    ticks.tick()
    assert len(bus.received()) == 1


def test_the_sensor_is_on_by_itself_and_asks_as_often_as_it_is_told() -> None:
    assert SENSOR.name == "run_outcome_event_sensor"
    assert SENSOR.default_status is dg.DefaultSensorStatus.RUNNING
    assert SENSOR.minimum_interval_seconds == 60
    assert SENSOR.required_resource_keys == {"operators"}
