"""A run as production starts it: the deployed templates and dagster.yaml, Dagster's launcher, the ECS API by moto.

The command that ECS is told to run is then run, with what its task definition gives it: rosters are published, and
every line of the log is JSON. Dagster's storage is the local Postgres; for its token see test_deployed_instance.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.launcher import LaunchRunContext

from runway_pipelines.local.session import CHECKOUT
from runway_pipelines.partner_tenants.runs import LargeRuns, partner_run
from runway_pipelines.settings import load_settings
from tests.integration.world import Warehouse, World, bring_in_line
from tests.templates import CLUSTER, ECS, deploy, variables

pytestmark = pytest.mark.xdist_group("ecs")

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
    for stack in ("services", "permissions"):
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


def as_the_task(task: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the command with the variables that the task definition has, and with the way to this machine's servers."""
    machine = {"PATH", "HOME", "TMPDIR", "LANG", "VIRTUAL_ENV", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"}
    machine |= {"AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED", "DAGSTER_PG_PASSWORD"}
    machine |= {name for name in os.environ if name.startswith(("RUNWAY_SNOWFLAKE_", "SSL_", "COV"))}
    kept = {name: value for name, value in os.environ.items() if name in machine | variables(task)}
    # Set by the image, not by the task definition.
    kept["DAGSTER_HOME"] = os.environ["DAGSTER_HOME"]
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return subprocess.run(command, env=kept, capture_output=True, text=True, timeout=240, check=False)


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
def finished(ecs: Ecs, world: World) -> tuple[dg.DagsterRun, Any, subprocess.CompletedProcess[str]]:
    """A launched run whose command was run, of a partner with one tenant that is published and one that is held."""
    warehouse = Warehouse()
    warehouse.students("north", 30)
    partner = world.partner(warehouse, ["north", "empty"])
    bring_in_line(ecs.instance)
    run, task = ecs.launch(partner.partner_id)
    (container,) = task["overrides"]["containerOverrides"]
    return run, partner, as_the_task("RunTask", container["command"])


def test_what_ecs_is_told_to_run_publishes_the_rosters_with_what_its_definition_gives_it(
    ecs: Ecs, finished: tuple[dg.DagsterRun, Any, subprocess.CompletedProcess[str]]
) -> None:
    run, partner, process = finished
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert partner.published("north").count(b"\n") == 30
    assert partner.published("empty") is None
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
    assert process.stderr == ""
    assert STUDENT not in process.stdout
    assert os.environ["RUNWAY_APP_DB_PASSWORD"] not in process.stdout
