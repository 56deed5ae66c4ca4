"""Processes as production starts them: the deployed templates and dagster.yaml, Dagster's launcher, ECS by moto.

Each is run with what its task definition gives it and nothing else: a run publishes rosters, and every line of its log
is JSON; the code server evaluates its sensors and schedules; the stream answers a pull. Dagster's storage is the local
Postgres; for its token see test_deployed_instance.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import httpx
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher import LaunchRunContext

from runway_pipelines.local.session import CHECKOUT
from runway_pipelines.partner_tenants.runs import LargeRuns, partner_run
from runway_pipelines.rosters.freshness_check import roster_freshness_job
from runway_pipelines.settings import load_settings
from runway_pipelines.stream.tokens import TokenRules
from tests.cloudformation import Stack, granted
from tests.filter_patterns import matches
from tests.integration.api_calls import ApiCalls, listening
from tests.integration.stream_server import add_run, publish
from tests.integration.world import Warehouse, World, bring_in_line
from tests.templates import ALARMS, CLUSTER, ECS, PERMISSIONS, container, deploy, variables
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

LIMIT_OF_OVERRIDES = 8192  # characters, by the ECS API
LARGE = LargeRuns(frozenset({"large"}), cpu=4096, memory=16384)
STUDENT = "S00000"


@dataclass
class Ecs:
    """ECS with both stacks in it, and Dagster's instance as the daemon's task has it."""

    instance: dg.DagsterInstance
    outputs: dict[str, str]
    client: Any

    def launch(self, partner_id: str) -> tuple[dg.DagsterRun, dict[str, Any]]:
        """Launch the partner's nightly run; the run, and its task as ECS describes it."""
        request = partner_run(partner_id, f"daily:2026-11-21:{uuid.uuid4()}", "schedule", large_runs=LARGE)
        repository = ReconstructableRepository.for_module("runway_pipelines.definitions", "defs")
        job = repository.get_reconstructable_job("partner_rosters_job")
        run = self.instance.create_run_for_job(
            job.get_definition(),
            tags={**request.tags, "dagster/partition": partner_id},
            job_code_origin=job.get_python_origin(),
            status=dg.DagsterRunStatus.STARTING,
        )
        self.instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
        tags = self.instance.get_run_by_id(run.run_id).tags  # type: ignore[union-attr]
        (task,) = self.client.describe_tasks(cluster=CLUSTER, tasks=[tags["ecs/task_arn"]], include=["TAGS"])["tasks"]
        return run, task


@pytest.fixture
def api_calls() -> Iterator[ApiCalls]:
    """The calls of AWS that a task's process makes."""
    with listening() as calls:
        yield calls


def actions_of(role: str) -> set[str]:
    """What a role of permissions.yaml may do, on whatever."""
    return {action for action, _ in granted(Stack("permissions.yaml", **PERMISSIONS).statements(role))}


@pytest.fixture
def ecs(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ecs]:
    outputs = deploy(boto3.client)
    client = boto3.client("ecs")
    daemon = client.run_task(
        cluster=CLUSTER,
        taskDefinition=outputs["DaemonTask"],
        launchType="FARGATE",
        networkConfiguration={
            "awsvpcConfiguration": {
                "subnets": [outputs["Subnet"]],
                "securityGroups": [outputs["DaemonSecurityGroupId"]],
                "assignPublicIp": "DISABLED",
            }
        },
    )["tasks"][0]
    logs_bucket = f"run-logs-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=logs_bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    monkeypatch.setenv("RUNWAY_LOGS_BUCKET", logs_bucket)
    monkeypatch.setenv("RUNWAY_RUN_TASK_DEFINITION", outputs["RunTask"])
    monkeypatch.setenv("DAGSTER_HOME", str(home(tmp_path)))
    load_settings.cache_clear()
    with metadata_endpoint(daemon["taskArn"]) as url:
        monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", url)
        with dg.DagsterInstance.get() as instance:
            yield Ecs(instance, outputs, client)
    for task in client.list_tasks(cluster=CLUSTER)["taskArns"]:
        client.stop_task(cluster=CLUSTER, task=task)
    for stack in ("alarms", "stream", "services", "permissions"):
        boto3.client("cloudformation").delete_stack(StackName=stack)


def home(folder: Path) -> Path:
    """The deployed instance with another storage, and this test's folder for a task's own disk."""
    text = (ECS / "dagster.yaml").read_text()
    deployed = yaml.safe_load(text.replace("/var/lib/dagster", str(folder / "disk")))
    deployed["storage"] = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())["storage"]
    (folder / "home").mkdir()
    (folder / "home" / "dagster.yaml").write_text(yaml.safe_dump(deployed))
    return folder / "home"


class metadata_endpoint:  # a context manager reads as a function
    """What ECS tells a container of itself."""

    def __init__(self, task_arn: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(
                    {"Cluster": CLUSTER, "TaskARN": task_arn} if self.path == "/task" else {"Name": "daemon"}
                )
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def environment_of(task: str) -> dict[str, str]:
    """The variables that the task definition has, with this machine's values, and the way to its servers."""
    machine = {"PATH", "HOME", "TMPDIR", "LANG", "VIRTUAL_ENV", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"}
    machine |= {"AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"}
    machine |= {"DAGSTER_PG_PASSWORD"} if "DAGSTER_PG_HOST" in variables(task) else set()  # in place of a token
    machine |= {name for name in os.environ if name.startswith(("RUNWAY_SNOWFLAKE_", "SSL_", "COV"))}
    kept = {name: value for name, value in os.environ.items() if name in machine | variables(task)}
    # Set by the image, not by the task definition.
    kept["DAGSTER_HOME"] = os.environ["DAGSTER_HOME"]
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return kept


def as_the_task(task: str, command: list[str], api_calls: ApiCalls) -> subprocess.CompletedProcess[str]:
    """Run the command with what the task definition gives it."""
    environment = environment_of(task) | api_calls.environment()
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, cwd=CHECKOUT
    )


def test_a_partners_run_becomes_a_task_of_the_deployed_definition_next_to_the_daemon(ecs: Ecs) -> None:
    run, task = ecs.launch("acme")
    (container,) = task["overrides"]["containerOverrides"]
    assert task["taskDefinitionArn"] == ecs.outputs["RunTask"]
    assert container["name"] == "run"
    assert container["command"][:3] == ["dagster", "api", "execute_run"]
    assert run.run_id in container["command"][3]
    assert (task["overrides"]["cpu"], task["overrides"]["memory"]) == ("1024", "4096")
    assert len(json.dumps(task["overrides"])) < LIMIT_OF_OVERRIDES
    tags = {tag["key"]: tag["value"] for tag in task["tags"]}
    assert (tags["runway/partner"], tags["runway/trigger"]) == ("acme", "schedule")
    details = {detail["name"]: detail["value"] for detail in task["attachments"][0]["details"]}
    assert details["subnetId"] == ecs.outputs["Subnet"]
    interface = boto3.resource("ec2").NetworkInterface(details["networkInterfaceId"])
    assert [group["GroupId"] for group in interface.groups] == [ecs.outputs["DaemonSecurityGroupId"]]


def test_a_large_partners_task_is_larger(ecs: Ecs) -> None:
    _, task = ecs.launch("large")
    (container,) = task["overrides"]["containerOverrides"]
    assert (task["overrides"]["cpu"], task["overrides"]["memory"]) == ("4096", "16384")
    assert (container["cpu"], container["memory"]) == (4096, 16384)


@pytest.fixture
def finished(
    ecs: Ecs, world: World, api_calls: ApiCalls
) -> tuple[dg.DagsterRun, Any, subprocess.CompletedProcess[str]]:
    """A launched run whose command was run, of a partner with one tenant that is published and one that is held."""
    warehouse = Warehouse()
    warehouse.students("north", 30)
    partner = world.partner(warehouse, ["north", "empty"])
    bring_in_line(ecs.instance)
    run, task = ecs.launch(partner.partner_id)
    (container,) = task["overrides"]["containerOverrides"]
    return run, partner, as_the_task("RunTask", container["command"], api_calls)


def test_what_ecs_is_told_to_run_publishes_the_rosters_with_what_its_definition_gives_it(
    ecs: Ecs, finished: tuple[dg.DagsterRun, Any, subprocess.CompletedProcess[str]], api_calls: ApiCalls
) -> None:
    run, partner, process = finished
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert partner.published("north").count(b"\n") == 30
    assert partner.published("empty") is None
    assert {"secretsmanager:GetSecretValue", "s3:PutObject"} <= api_calls.actions() <= actions_of("RunRole")
    assert ecs.instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.FAILURE  # type: ignore[union-attr]
    kept = boto3.client("s3").list_objects_v2(
        Bucket=os.environ["RUNWAY_LOGS_BUCKET"], Prefix=f"dagster/storage/{run.run_id}/"
    )["Contents"]
    assert any(entry["Key"].endswith(".out") and entry["Size"] for entry in kept)

    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert all({"timestamp", "level", "logger", "message"} <= line.keys() for line in lines)
    of_run = [line for line in lines if line.get("run_id") == run.run_id]
    assert len(of_run) > 20
    assert {line["partner"] for line in of_run} == {partner.partner_id}
    assert {line["job"] for line in of_run} == {"partner_rosters_job"}
    of_tenant: Callable[[str], list[dict[str, Any]]] = lambda code: [  # noqa: E731
        line for line in of_run if line.get("tenant") == f"{partner.partner_id}/{code}"
    ]
    assert any(line["level"] == "INFO" and "30 lines" in line["message"] for line in of_tenant("north"))
    assert any(line.get("event") == "ASSET_MATERIALIZATION" for line in of_tenant("north"))
    assert any(line["level"] == "ERROR" for line in of_tenant("empty"))
    (failure,) = [line for line in of_run if line.get("event") == "STEP_FAILURE"]
    assert any("empty" in error for error in failure["errors"])
    # What the alarms see of it: a roster was refreshed. That the run failed, operators are told.
    counted = {name for name, one in of_run_filters().items() if any(matches(one, line) for line in lines)}
    assert counted == {"RosterRefreshed"}
    assert process.stderr == ""
    assert STUDENT not in process.stdout
    assert os.environ["RUNWAY_APP_DB_PASSWORD"] not in process.stdout


def of_run_filters() -> dict[str, str]:
    """The patterns that the lines of runs are counted by."""
    filters = Stack("alarms.yaml", **ALARMS).resources("AWS::Logs::MetricFilter")
    return {name: one["FilterPattern"] for name, one in filters.items() if one["LogGroupName"].endswith("/run")}


def test_the_hourly_run_is_seen_to_end_well(ecs: Ecs, world: World, api_calls: ApiCalls) -> None:
    hourly = [sys.executable, "-m", "dagster", "job", "execute", "-m", "runway_pipelines.definitions"]
    process = as_the_task("RunTask", [*hourly, "-j", roster_freshness_job.name], api_calls)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    assert sum(matches(of_run_filters()["HourlyRunSucceeded"], line) for line in lines) == 1
    assert not any(matches(of_run_filters()["OtherRunFailed"], line) for line in lines)


def test_the_code_server_ticks_without_the_secrets_of_the_runs(ecs: Ecs, world: World, api_calls: ApiCalls) -> None:
    warehouse = Warehouse()
    warehouse.students("north", 1)
    partner = world.partner(warehouse, ["north"])
    bring_in_line(ecs.instance)
    names = environment_of("CodeServerTask").keys()
    assert not {"LML_API_KEY", "LIBRARY_METADATA_URL", "RUNWAY_CATALOGUE_DB_PASSWORD"} & names
    process = as_the_task("CodeServerTask", [sys.executable, "-m", "tests.integration.code_server_process"], api_calls)
    assert process.returncode == 0, process.stderr[-3000:]
    answers = {answer["name"]: answer for answer in map(json.loads, process.stdout.splitlines())}
    assert [answer["error"] for answer in answers.values()] == [None] * 9
    for asking in ("edu_credentials_rotated_sensor", "partner_rosters_daily_schedule"):
        assert partner.partner_id in answers[asking]["partners"]
    assert {"secretsmanager:ListSecrets"} <= api_calls.actions() <= actions_of("CodeServerRole")


TOKEN_KEY = base64.b64encode(b"k" * 40).decode()  # as the application keeps its key


@pytest.fixture
def stream(ecs: Ecs, api_calls: ApiCalls, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The stream's own command as its task runs it, but on a free port: where it is, and its health check."""
    secret = f"stream-key-{uuid.uuid4().hex}"
    boto3.client("secretsmanager").create_secret(Name=secret, SecretString=TOKEN_KEY)
    monkeypatch.setenv("RUNWAY_STREAM_TOKEN_SECRET", secret)
    monkeypatch.setenv("RUNWAY_STREAM_GRACE_SECONDS", "1")
    definition = container("StreamTask")
    command = [{"0.0.0.0": "127.0.0.1", "8080": "0"}.get(word, word) for word in definition["Command"]]
    environment = environment_of("StreamTask") | api_calls.environment()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready, port = (process.stdout.readline().split() or ["", ""])[:2]
        assert ready == "READY", process.communicate(timeout=PATIENCE_SECONDS)[1][-3000:]
        check = [sys.executable if word == "python" else word for word in definition["HealthCheck"]["Command"][1:]]
        yield f"http://127.0.0.1:{port}", [word.replace(":8080/", f":{port}/") for word in check]
    finally:
        process.terminate()
        log = process.communicate(timeout=PATIENCE_SECONDS)[1]
    assert process.returncode == -signal.SIGTERM  # uvicorn's way to end, when it has finished
    assert all({"timestamp", "level", "message"} <= json.loads(line).keys() for line in log.splitlines())
    assert STUDENT not in log


def test_the_stream_answers_with_what_its_definition_gives_it_and_opens_no_storage_of_dagsters(
    stream: tuple[str, list[str]], world: World, api_calls: ApiCalls
) -> None:
    assert not any(name.startswith(("DAGSTER_PG", "RUNWAY_RUN_TASK")) for name in environment_of("StreamTask"))
    url, check = stream
    assert subprocess.run(check, timeout=PATIENCE_SECONDS, check=False, capture_output=True).returncode == 0
    warehouse = Warehouse()
    warehouse.students("north", 30)
    partner = world.partner(warehouse, ["north"])
    run = add_run(world, partner, "north")
    token = TokenRules("", "runId").mint(run, base64.b64decode(TOKEN_KEY), valid_for=timedelta(minutes=5))
    with httpx.Client(
        base_url=url, timeout=PATIENCE_SECONDS, trust_env=False, headers={"Authorization": f"Bearer {token}"}
    ) as client:
        assert client.get("/readyz").json() == {"database": "ok", "bucket": "ok"}
        from_the_warehouse = client.get(f"/earthbeam/jobs/{run}/roster")
        published = publish(partner, "north")
        from_the_snapshot = client.get(f"/earthbeam/jobs/{run}/roster")
    assert from_the_warehouse.content == from_the_snapshot.content == published
    assert from_the_snapshot.headers["X-Roster-Source"] == "snapshot"
    assert api_calls.actions() == actions_of("RosterStreamRole")
