"""The sensors as a whole: what Dagster's own daemon notices, asks for and tells, with a code server and Postgres.

The daemon sets the pace: it looks at its sensors, and at its queue, every five seconds.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar
from uuid import uuid4

import dagster as dg
import psycopg
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from dagster._core.events import DagsterEvent
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from runway_pipelines.credentials.rotation_sensor import SECRET_VERSION_TAG, SENSOR_NAME
from runway_pipelines.dagster_events import keep_storage_connections
from runway_pipelines.local.dagster_services import start_code_server, start_daemon
from runway_pipelines.local.processes import Child
from runway_pipelines.local.seed import seed_application_database
from runway_pipelines.local.session import CHECKOUT
from runway_pipelines.local.stack import APP_DATABASE, EmbeddedStack
from runway_pipelines.operations.tags import PARTITION_TAG, TRIGGER_TAG
from tests.integration.event_bus import Bus, make_bus
from tests.integration.world import TestPartner, Warehouse, World, world_of
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

SYNC_SENSOR = "partner_tenants_sync_sensor"
OUTCOME_SENSOR = "run_outcome_event_sensor"
LOG_LINES = 60
WAITING = (None, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED)
Found = TypeVar("Found")


@dataclass
class Daemon:
    """The processes, and what they left in Dagster's storage."""

    world: World
    instance: dg.DagsterInstance
    bus: Bus
    code_server: Child
    processes: list[Child] = field(default_factory=list)
    undo: ExitStack = field(default_factory=ExitStack)
    undo_last: ExitStack = field(default_factory=ExitStack)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def port(self) -> int:
        """The code server's: in production its address stays, whichever task is behind it."""
        workspace = self.world.stack.state_dir / "dagster_home" / "workspace.yaml"
        return int(re.search(r"port: (\d+)", workspace.read_text())[1])  # type: ignore[index]

    def start(self) -> None:
        self.processes.append(start_daemon(self.world.stack.state_dir, self.undo))

    def kill(self) -> None:
        """As the kernel does it when memory runs out: nothing is tidied up."""
        os.kill(self.processes[-1].pid, signal.SIGKILL)
        self.undo.close()
        assert not self.processes[-1].is_running()

    def runs(self, partner: TestPartner, version: str | None = None) -> list[dg.RunRecord]:
        """The partner's runs (of a version of its secret), oldest first."""
        tags = {"dagster/partition": partner.partner_id} | ({SECRET_VERSION_TAG: version} if version else {})
        return list(self.instance.get_run_records(dg.RunsFilter(tags=tags), ascending=True))

    def ticks(self, sensor: str, since: float) -> list[InstigatorTick]:
        """The sensor's ticks that began after a time, oldest first."""
        states = self.instance.all_instigator_state()
        found = [state for state in states if state.instigator_name == sensor]
        ticks = [
            tick
            for state in found
            for tick in self.instance.get_ticks(state.instigator_origin_id, state.selector_id, after=since)
        ]
        return sorted(ticks, key=lambda tick: tick.timestamp)

    def told(self, partner: TestPartner) -> list[dict[str, Any]]:
        """What operators were told of the partner so far."""
        self.events += self.bus.received()
        return [event for event in self.events if event["detail"]["partner"] == partner.partner_id]

    def eventually(self, what: str, probe: Callable[[], Found], pause: float = 0.3) -> Found:
        """The first true answer; when there is none in time, a failure that shows the runs and the logs."""

        def found() -> Found:
            ended = [child.name for child in (self.code_server, self.processes[-1]) if not child.is_running()]
            assert not ended, f"{what}: {', '.join(ended)} ended\n{self.report()}"
            return probe()

        return wait_until(found, lambda: f"{what}: not in time\n{self.report()}", pause)

    def ended_run(self, partner: TestPartner, run_key: str) -> dg.RunRecord:
        """The one run of this key, when it has ended."""

        def ended() -> list[dg.RunRecord]:
            tags = {"dagster/run_key": run_key, "dagster/partition": partner.partner_id}
            found = self.instance.get_run_records(dg.RunsFilter(tags=tags))
            return [record for record in found if record.dagster_run.is_finished and record.end_time]

        (record,) = self.eventually(f"the end of the run {run_key}", ended)
        return record

    def settled(self, partner: TestPartner) -> None:
        """Wait until the partner has rosters, and no run is under way that would refresh them."""

        def newest() -> list[dg.RunRecord]:
            return [record for record in self.runs(partner)[-1:] if record.dagster_run.is_success]

        self.eventually(f"rosters of {partner.partner_id}", newest)

    def pass_ticks(self, sensor: str, count: int, since: float | None = None) -> list[InstigatorTick]:
        """Wait until the sensor ticked that often from a time on (from now on); returns all of its ticks since then."""
        start = time.time() if since is None else since

        def passed() -> list[InstigatorTick]:
            ticks = [tick for tick in self.ticks(sensor, start) if tick.status is not TickStatus.STARTED]
            return ticks if len(ticks) >= count else []

        return self.eventually(f"{count} ticks of {sensor}", passed)

    def report(self) -> str:
        """The newest runs, and the ends of the logs."""
        runs = [
            f"  {record.dagster_run.status.value} {record.dagster_run.tags.get('dagster/run_key')} "
            f"created {record.create_timestamp:%T} started {record.start_time} ended {record.end_time}"
            for record in self.instance.get_run_records(limit=20)
        ]
        return "\n".join(["The newest runs:", *runs, log_end(self.processes[-1]), log_end(self.code_server)])


def current_version(partner: TestPartner) -> str:
    return str(partner.world.secrets.get_secret_value(SecretId=partner.secret_name)["VersionId"])


def public_key(partner: TestPartner) -> str:
    """The public half of the key in the secret, which its owner registers with the account."""
    secret = json.loads(partner.world.secrets.get_secret_value(SecretId=partner.secret_name)["SecretString"])
    private = load_pem_private_key(base64.b64decode(secret["privateKey"]), password=None)
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@contextmanager
def roster_lock(partner: TestPartner, code: str) -> Iterator[None]:
    """Hold what a run needs in order to publish the tenant's roster: the run waits until it is let go."""
    with partner.world.connect() as connection:
        name = f"runway_pipelines/roster/{partner.tenant(code)}"
        connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [name])
        yield


def log_end(child: Child) -> str:
    lines = child.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return "\n".join([f"End of {child.log}:", *(f"  {line}" for line in lines)])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A stack of our own: the sensors look at every partner of its registry. No schedule ticks meanwhile."""
    half_a_year_away = datetime.now(UTC) + timedelta(days=180)
    with (
        EmbeddedStack(tmp_path_factory.mktemp("daemon") / "state") as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        with psycopg.connect(stack.postgres.dsn(APP_DATABASE)) as connection:
            seed_application_database(connection, partners=[])
        home = stack.state_dir / "dagster_home"
        home.mkdir()
        # As it is, but for the wait: five minutes is longer than a deploy, and than any test.
        as_it_is = (CHECKOUT / "dagster.yaml").read_text()
        (home / "dagster.yaml").write_text(re.sub(r"(user_code_failure_retry_delay:) \d+", r"\1 3", as_it_is))
        settings = {
            "DAGSTER_HOME": str(home),
            "RUNWAY_SENSOR_INTERVAL_SECONDS": "2",
            "RUNWAY_CREDENTIALS_RETRY_SECONDS": "2",
            "RUNWAY_CREDENTIALS_RETRY_MOST_SECONDS": "4",
            "RUNWAY_EVENT_BUS": "operators",
            "RUNWAY_ROSTERS_CRON": f"{half_a_year_away:0 0 %-d %-m *}",
        }
        with world_of(stack, patch, **settings) as world:
            yield world


@pytest.fixture(scope="module")
def bus(environment: World) -> Bus:
    return make_bus("operators")


@pytest.fixture(scope="module")
def running(environment: World, bus: Bus) -> Iterator[Daemon]:
    """The daemon, which has looked at an empty registry."""
    with dg.DagsterInstance.get() as instance, ExitStack() as undo:
        keep_storage_connections(instance)
        daemon = Daemon(environment, instance, bus, start_code_server(environment.stack.state_dir, undo))
        undo.callback(lambda: daemon.undo_last.close())
        undo.callback(lambda: daemon.undo.close())
        daemon.start()
        daemon.eventually(
            "the sensors' first ticks",
            lambda: all(
                any(tick.status is not TickStatus.STARTED for tick in daemon.ticks(sensor, 0.0))
                for sensor in (SYNC_SENSOR, SENSOR_NAME, OUTCOME_SENSOR)
            ),
        )
        yield daemon


@pytest.fixture
def daemon(running: Daemon) -> Iterator[Daemon]:
    """The same, with the ends of the logs shown beside a test that fails."""
    yield running
    sys.stdout.write(running.report())  # pytest shows it only then


@pytest.fixture(scope="module")
def partners(running: Daemon) -> dict[str, TestPartner]:
    """Two that things happen to, and one that nothing does, all inserted while the daemon runs."""
    made = {}
    for name in ("first", "second", "bystander"):
        warehouse = Warehouse()
        warehouse.students("north", 5)
        made[name] = running.world.partner(warehouse, ["north"])
    return made


def key_of(partner: TestPartner, version: str) -> str:
    return f"{partner.partner_id}:{version}"


def test_partners_that_appear_in_the_database_become_partitions_and_get_their_first_rosters_at_once(
    daemon: Daemon, partners: dict[str, TestPartner]
) -> None:
    for partner in partners.values():
        daemon.settled(partner)
    assert set(daemon.instance.get_dynamic_partitions("partners")) == {p.partner_id for p in partners.values()}
    assert set(daemon.instance.get_dynamic_partitions("partner_tenants")) == {
        partner.tenant("north").key for partner in partners.values()
    }
    bystander = partners["bystander"]
    (first,) = daemon.runs(bystander)
    assert first.dagster_run.tags[TRIGGER_TAG] == "credential_first_sight"
    reference = bystander.warehouse.reference("north")
    assert bystander.published("north") == b"".join(reference.lines)


def test_a_rotated_key_refreshes_its_partner_alone_once_and_within_two_ticks(
    daemon: Daemon, partners: dict[str, TestPartner]
) -> None:
    partner, bystander = partners["first"], partners["bystander"]
    for each in (partner, bystander):
        daemon.settled(each)
    before = daemon.runs(partner), daemon.runs(bystander)
    version = partner.rotate()
    rotated_at = time.time()
    refreshed = daemon.ended_run(partner, key_of(partner, version))
    assert refreshed.dagster_run.is_success, daemon.report()
    pointer = partner.pointer("north")
    assert pointer is not None and pointer.secret_version_id == version

    # A tick that had begun when the key was rotated may have seen it already.
    ticks = daemon.pass_ticks(SENSOR_NAME, 5, since=rotated_at)
    assert refreshed.dagster_run.tags["dagster/tick"] not in [str(tick.tick_id) for tick in ticks[2:]]
    assert {tick.status for tick in ticks[2:]} == {TickStatus.SKIPPED}
    assert [record.dagster_run.run_id for record in daemon.runs(partner)[len(before[0]) :]] == [
        refreshed.dagster_run.run_id
    ]
    assert daemon.runs(bystander) == before[1]


def test_a_wrong_key_publishes_nothing_is_told_once_and_heals_when_the_right_one_is_registered(
    daemon: Daemon, partners: dict[str, TestPartner]
) -> None:
    partner = partners["second"]
    daemon.settled(partner)
    published = partner.etag("north"), partner.pointer("north")
    version = partner.rotate(register_key=False)
    failed = daemon.ended_run(partner, key_of(partner, version))
    assert failed.dagster_run.status is dg.DagsterRunStatus.FAILURE
    (check,) = checks_of(daemon.instance, failed, "can_connect")
    assert not check.passed and check.metadata["code"].value == "390144"
    assert check.metadata["secret version id"].value == version

    assert (partner.etag("north"), partner.pointer("north")) == published
    partner.register_keys([public_key(partner)])

    def healed() -> list[dg.RunRecord]:
        return [record for record in daemon.runs(partner, version) if record.dagster_run.is_success]

    (healing,) = daemon.eventually("a healing run that succeeds", healed)
    assert healing == daemon.runs(partner, version)[-1]
    attempts = [record.dagster_run.tags["dagster/run_key"] for record in daemon.runs(partner, version)]
    assert attempts == [key_of(partner, version), *(f"{key_of(partner, version)}:{n}" for n in range(1, len(attempts)))]
    assert healing.dagster_run.tags[TRIGGER_TAG] == "credential_healing"
    pointer = partner.pointer("north")
    assert pointer is not None and pointer.secret_version_id == version

    daemon.eventually("the recovery to be told", lambda: len(daemon.told(partner)) > 1)
    daemon.pass_ticks(OUTCOME_SENSOR, 1)
    failing, recovered = daemon.told(partner)
    assert (failing["detail-type"], recovered["detail-type"]) == ("credentials_failing", "roster_refresh_recovered")
    assert (failing["detail"]["run_id"], recovered["detail"]["run_id"]) == (
        failed.dagster_run.run_id,
        healing.dagster_run.run_id,
    )
    assert len(daemon.runs(partner, version)) == len(attempts)


def checks_of(instance: dg.DagsterInstance, record: dg.RunRecord, name: str) -> list[dg.AssetCheckEvaluation]:
    events = instance.get_records_for_run(
        record.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    evaluations = [event.event_log_entry.asset_check_evaluation for event in events]
    return [evaluation for evaluation in evaluations if evaluation is not None and evaluation.check_name == name]


def launched_by_hand(daemon: Daemon, like: dg.DagsterRun) -> str:
    """Put the same into the queue as the UI does, which knows none of our tags."""
    run_id = str(uuid4())
    tags = {PARTITION_TAG: like.tags[PARTITION_TAG]}
    daemon.instance.add_run(like._replace(run_id=run_id, tags=tags, status=dg.DagsterRunStatus.QUEUED))
    return run_id


def ended(daemon: Daemon, run_id: str) -> bool:
    run = daemon.instance.get_run_by_id(run_id)
    return run is not None and run.is_finished


def test_runs_of_one_partner_do_not_run_at_the_same_time_whoever_started_them_and_hold_nobody_else_up(
    daemon: Daemon, partners: dict[str, TestPartner]
) -> None:
    partner, other = partners["first"], partners["second"]
    for each in (partner, other):
        daemon.settled(each)

    def status_of(each: TestPartner, version: str) -> dg.DagsterRunStatus | None:
        found = daemon.runs(each, version)
        return found[0].dagster_run.status if found else None

    with roster_lock(partner, "north"):
        first = partner.rotate()
        daemon.eventually(
            "the first run to be under way", lambda: status_of(partner, first) is dg.DagsterRunStatus.STARTED
        )
        second = partner.rotate()
        daemon.eventually(
            "the second run in the queue", lambda: status_of(partner, second) is dg.DagsterRunStatus.QUEUED
        )
        by_hand = launched_by_hand(daemon, daemon.runs(partner, first)[0].dagster_run)
        overtaking = other.rotate()
        daemon.eventually("another partner's run to overtake it", lambda: status_of(other, overtaking) not in WAITING)
        assert [record.dagster_run.status for record in daemon.runs(partner)[-3:]] == [
            dg.DagsterRunStatus.STARTED,
            dg.DagsterRunStatus.QUEUED,
            dg.DagsterRunStatus.QUEUED,
        ]
    for version in (first, second):
        daemon.ended_run(partner, key_of(partner, version))
    daemon.eventually("the end of the run by hand", lambda: ended(daemon, by_hand))
    runs = daemon.runs(partner)[-3:]
    assert all(record.dagster_run.is_success for record in runs), daemon.report()
    for earlier, later in pairwise(sorted(runs, key=lambda record: record.start_time or 0.0)):
        assert earlier.end_time is not None and later.start_time is not None and earlier.end_time <= later.start_time
    pointer = partner.pointer("north")
    assert pointer is not None and pointer.secret_version_id == second
    assert daemon.ended_run(other, key_of(other, overtaking)).dagster_run.is_success, daemon.report()


def test_a_daemon_that_is_killed_before_and_after_it_asks_still_refreshes_a_rotation_once(
    daemon: Daemon, partners: dict[str, TestPartner]
) -> None:
    partner, bystander = partners["first"], partners["bystander"]
    for each in (partner, bystander):
        daemon.settled(each)
    before = daemon.runs(bystander)
    version = partner.rotate()
    daemon.kill()
    daemon.start()
    daemon.eventually("the run to be created", lambda: daemon.runs(partner, version), pause=0.01)
    daemon.kill()
    daemon.start()
    refreshed = daemon.ended_run(partner, key_of(partner, version))
    assert refreshed.dagster_run.is_success, daemon.report()
    daemon.pass_ticks(SENSOR_NAME, 2)
    assert len(daemon.runs(partner, version)) == 1
    assert daemon.runs(bystander) == before
    assert daemon.told(partner) == []


def test_runs_that_are_dequeued_while_the_code_server_is_away_run_when_it_is_back(
    daemon: Daemon, partners: dict[str, TestPartner]
) -> None:
    for each in partners.values():
        daemon.settled(each)
    likes = [daemon.runs(partner)[-1].dagster_run for partner in partners.values()]
    code_server = daemon.code_server
    os.kill(code_server.pid, signal.SIGKILL)
    wait_until(lambda: not code_server.is_running())
    run_ids = [launched_by_hand(daemon, like) for like in likes]
    for run_id in run_ids:
        run = daemon.instance.get_run_by_id(run_id)
        assert run is not None
        daemon.instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id)

    def messages() -> list[str]:
        return [
            record.event_log_entry.get_dagster_event().message or ""
            for run_id in run_ids
            for record in daemon.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records
        ]

    # It was tried, at least once, and nobody was there.
    wait_until(lambda: any("dequeu" in message for message in messages()), daemon.report)
    daemon.code_server = start_code_server(daemon.world.stack.state_dir, daemon.undo_last, port=daemon.port)
    daemon.eventually("the runs to end", lambda: all(ended(daemon, run_id) for run_id in run_ids))
    runs = [daemon.instance.get_run_by_id(run_id) for run_id in run_ids]
    assert all(run is not None and run.is_success for run in runs), daemon.report()
    assert any("re-submitting" in message for message in messages())
