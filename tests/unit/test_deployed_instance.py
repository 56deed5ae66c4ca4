"""deploy/ecs/dagster.yaml and workspace.yaml: Dagster takes them, and they agree with the checkout's dagster.yaml."""

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.workspace.load_target import WorkspaceFileTarget

from tests.templates import ECS, named_variables

ROOT = ECS.parents[1]
LOCAL = yaml.safe_load((ROOT / "dagster.yaml").read_text())
DEPLOYED = yaml.safe_load((ECS / "dagster.yaml").read_text())
# What one machine and production have to have alike: how runs are queued, retried and watched, and what is kept.
ALIKE = ("concurrency", "run_queue", "sensors", "schedules", "run_retries", "retention", "telemetry", "nux")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables that dagster.yaml and workspace.yaml name."""
    values = {"DAGSTER_PG_PORT": "5432", "AWS_REGION": "us-west-2"}
    for name in named_variables("dagster.yaml") | named_variables("workspace.yaml"):
        monkeypatch.setenv(name, values.get(name, "127.0.0.1"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it would keep these keys for the tests after this one
    monkeypatch.delenv("DAGSTER_PG_PASSWORD", raising=False)
    return monkeypatch


@pytest.mark.parametrize("section", ALIKE)
def test_production_is_as_one_machine_where_that_matters(section: str) -> None:
    assert DEPLOYED[section] == LOCAL[section]


def test_a_lost_run_is_failed_and_run_again_and_never_resumed_in_place() -> None:
    monitoring = DEPLOYED["run_monitoring"]
    assert monitoring["enabled"]
    assert monitoring["max_resume_run_attempts"] == 0
    assert monitoring["max_runtime_seconds"] == LOCAL["run_monitoring"]["max_runtime_seconds"]
    assert DEPLOYED["run_retries"] == {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False}


def test_dagster_takes_the_deployed_instance(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((ECS / "dagster.yaml").read_text())
    reference = InstanceRef.from_dir(str(tmp_path))
    assert reference.run_launcher_data is not None
    assert reference.run_launcher_data.class_name == "EcsRunLauncher"
    assert reference.compute_logs_data.class_name == "S3ComputeLogManager"
    assert reference.compute_log_manager is not None  # made, with its config checked
    assert reference.settings is not None
    assert reference.settings["run_monitoring"]["enabled"]


def test_runs_wait_for_a_code_server_that_is_away_longer_than_a_deploy_takes() -> None:
    queue = LOCAL["run_queue"]
    deploy_seconds = 240  # a code server's new task on Fargate: capacity, image, import, health checks
    assert queue["user_code_failure_retry_delay"] > deploy_seconds
    assert queue["user_code_failure_retry_delay"] * queue["max_user_code_failure_retries"] >= 3600


def test_dagster_takes_the_deployed_workspace(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RUNWAY_CODE_SERVER_HOST", "code-server.internal")
    (origin,) = WorkspaceFileTarget([str(ECS / "workspace.yaml")]).create_origins()
    assert (origin.host, origin.port, origin.location_name) == ("code-server.internal", 4000, "runway_pipelines")


class TokenTaker:
    """A Postgres that asks for a password in clear text, keeps it, and refuses it."""

    def __init__(self) -> None:
        self.passwords: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                (length,) = struct.unpack("!i", stream.read(4))
                stream.read(length - 4)  # the startup message: user and database
                connection.sendall(b"R" + struct.pack("!ii", 8, 3))  # AuthenticationCleartextPassword
                kind, size = struct.unpack("!ci", stream.read(5))
                assert kind == b"p"
                self.passwords.append(stream.read(size - 4).rstrip(b"\0").decode())
                refusal = b"SFATAL\0C28P01\0Mno\0\0"
                connection.sendall(b"E" + struct.pack("!i", len(refusal) + 4) + refusal)


@pytest.fixture
def token_taker() -> Iterator[TokenTaker]:
    taker = TokenTaker()
    yield taker
    taker.listener.close()


@pytest.mark.slow
def test_dagsters_storage_logs_in_with_a_token_for_that_host_port_and_user(
    environment: pytest.MonkeyPatch, tmp_path: Path, token_taker: TokenTaker
) -> None:
    environment.setenv("DAGSTER_PG_PORT", str(token_taker.port))
    environment.setenv("DAGSTER_PG_USERNAME", "dagster")
    environment.setenv("PGSSLMODE", "disable")
    (tmp_path / "dagster.yaml").write_text((ECS / "dagster.yaml").read_text())
    with pytest.raises(Exception, match="too many retries"):
        _ = InstanceRef.from_dir(str(tmp_path)).storage
    token = token_taker.passwords[0]
    assert token.startswith(f"127.0.0.1:{token_taker.port}/?Action=connect&DBUser=dagster&")
    assert "X-Amz-Signature=" in token
