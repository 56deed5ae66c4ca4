"""The embedded stack refuses what the real servers refuse, survives a restart, and never leaves a process behind."""

import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
import pytest

from runway_pipelines.local.processes import ChildEnded, LocalServerError, StackAlreadyRunning, start_child
from runway_pipelines.local.stack import BUCKET, EmbeddedStack
from runway_pipelines.systems.lml.client import LmlService
from runway_pipelines.systems.lml.verdicts import Library
from tests.integration.lml_control import plain
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow


def aws(stack: EmbeddedStack, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=stack.aws_endpoint_url,
        region_name="us-west-2",
        aws_access_key_id="any",
        aws_secret_access_key="any",
    )


# Postgres


def test_a_wrong_postgres_password_is_refused(stack):
    server = stack.postgres
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(host=server.host, port=server.port, user=server.user, password="wrong", dbname="runway")


def test_the_environment_reaches_both_databases(stack):
    environment = stack.environment()
    for prefix, database, user in (("RUNWAY_APP_DB", "NAME", "USER"), ("DAGSTER_PG", "DB", "USERNAME")):
        options = {"host": environment[f"{prefix}_HOST"], "port": environment[f"{prefix}_PORT"]}
        options |= {"user": environment[f"{prefix}_{user}"], "password": environment[f"{prefix}_PASSWORD"]}
        with psycopg.connect(dbname=environment[f"{prefix}_{database}"], **options) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize(("others", "kept"), [(None, ""), ("", ""), ("example.org", "example.org,"), ("*", "*,")])
def test_the_stack_is_reached_without_the_environments_proxy(stack, monkeypatch, others, kept):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", others) if others is not None else monkeypatch.delenv("NO_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name, value in stack.environment().items():
            monkeypatch.setenv(name, value)
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == f"{kept}127.0.0.1,localhost"
        service = LmlService(base_url=os.environ["LIBRARY_METADATA_URL"], attempts=1)
        service.resolve([Library(1, None, "Can", "Tago Mago")], include_tracks=False)
        service.close()
        assert boto3.client("secretsmanager").list_secrets()["SecretList"] is not None
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody came
            proxy.accept()


def test_creating_a_database_twice_is_fine(stack):
    stack.postgres.create_database("twice")
    stack.postgres.create_database("twice")


# LML


def test_the_environment_reaches_an_lml_that_wants_no_key(stack):
    environment = stack.environment()
    assert environment["LIBRARY_METADATA_URL"] == stack.lml_url
    assert "LML_API_KEY" not in environment
    service = LmlService(base_url=environment["LIBRARY_METADATA_URL"])
    reply = service.resolve([Library(1, None, "Can", "Tago Mago")], include_tracks=False)
    assert [result["library_id"] for result in plain(reply.document)["results"]] == [1]
    service.close()


# the stack's life


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_objects_secret_versions_and_rows_survive_a_restart(state_dir):
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    owner = EmbeddedStack(state_dir)
    with owner:
        aws(owner, "s3").put_object(Bucket=BUCKET, Key="a/b", Body=b"body", Metadata={"m": "1"}, ContentType="text/x")
        aws(owner, "s3").put_object(Bucket=BUCKET, Key="a/b/c//..", Body=b"odd")
        etag = aws(owner, "s3").head_object(Bucket=BUCKET, Key="a/b")["ETag"]
        secrets = aws(owner, "secretsmanager")
        arn = secrets.create_secret(Name="s", SecretString="one", ClientRequestToken=first)["ARN"]
        secrets.put_secret_value(SecretId="s", SecretString="two", ClientRequestToken=second)
        with psycopg.connect(owner.postgres.dsn("runway")) as connection:
            connection.execute("create table kept as select 7 as seven")
    with owner:
        kept = aws(owner, "s3").get_object(Bucket=BUCKET, Key="a/b")
        assert (kept["Body"].read(), kept["Metadata"], kept["ETag"]) == (b"body", {"m": "1"}, etag)
        assert kept["ContentType"] == "text/x"
        assert aws(owner, "s3").get_object(Bucket=BUCKET, Key="a/b/c//..")["Body"].read() == b"odd"
        secrets = aws(owner, "secretsmanager")
        versions = {
            stage: secrets.get_secret_value(SecretId=arn, VersionStage=stage) for stage in ("AWSCURRENT", "AWSPREVIOUS")
        }
        assert {stage: (v["SecretString"], v["VersionId"]) for stage, v in versions.items()} == {
            "AWSCURRENT": ("two", second),
            "AWSPREVIOUS": ("one", first),
        }
        with psycopg.connect(owner.postgres.dsn("runway")) as connection:
            assert connection.execute("select seven from kept").fetchone() == (7,)


def test_a_damaged_save_does_not_stop_the_start(state_dir):
    owner = EmbeddedStack(state_dir)
    with owner:
        for key in ("whole", "cut"):
            aws(owner, "s3").put_object(Bucket=BUCKET, Key=key, Body=b"body")
    saved = state_dir / "aws"
    assert {path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()} == {0o600}
    (saved / "s3" / BUCKET / "cut").write_bytes(b"bo")
    (saved / "secrets.json").write_text("[{")
    with owner:
        listed = aws(owner, "s3").list_objects_v2(Bucket=BUCKET)["Contents"]
        assert [entry["Key"] for entry in listed] == ["whole"]
        assert "restore: " in (owner.logs_dir / "aws_server.log").read_text()


OWNER = """
import sys, time
from pathlib import Path
from runway_pipelines.local.signals import exit_on_termination
from runway_pipelines.local.stack import EmbeddedStack

with exit_on_termination(), EmbeddedStack(Path(sys.argv[1])) as stack:
    print(stack.postgres.port, flush=True)
    time.sleep(3600)
"""


def start_owner(state_dir: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A process that owns a stack, and everything that it started."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(state_dir)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout as said:
        assert said.readline().strip().isdigit()
    return owner, psutil.Process(owner.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_owner_that_ends_leaves_no_process_and_a_state_that_starts_again(state_dir, number):
    if number == signal.SIGKILL and not sys.platform.startswith("linux"):
        pytest.skip("only Linux ends the children of a killed process")
    owner, children = start_owner(state_dir)
    assert len(children) >= 4
    owner.send_signal(number)
    owner.wait(PATIENCE_SECONDS)
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_SECONDS)
    assert alive == []
    with EmbeddedStack(state_dir) as again:
        assert aws(again, "s3").list_buckets()["Buckets"][0]["Name"] == BUCKET


def test_servers_that_a_killed_owner_left_are_stopped_by_the_next_start(state_dir):
    state_dir.mkdir()
    # as where the kernel does not end them: a process with our state folder in its command line, and its record
    command = [sys.executable, "-c", "import time; time.sleep(3600)", str(state_dir / "aws")]
    left = subprocess.Popen(command, start_new_session=True)
    try:
        (state_dir / "aws_server.pid").write_text(f"{left.pid}\n")
        (state_dir / "snowflake_server.pid").write_text(f"{os.getpid()}\n")  # not provably ours: left alone
        with EmbeddedStack(state_dir):
            left.wait(PATIENCE_SECONDS)
    finally:
        left.kill()


def test_two_stacks_run_side_by_side_but_not_on_one_folder(stack, tmp_path):
    with EmbeddedStack(tmp_path / "other") as other:
        assert other.postgres.port != stack.postgres.port
        with pytest.raises(StackAlreadyRunning, match=str(os.getpid())):
            EmbeddedStack(other.state_dir).start()
        with psycopg.connect(other.postgres.dsn("runway")) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_stopping_twice_is_fine_and_a_stopped_stack_says_so(state_dir):
    owner = EmbeddedStack(state_dir)
    owner.start()
    owner.stop()
    owner.stop()
    with pytest.raises(LocalServerError, match="not running"):
        owner.environment()


def test_a_child_that_ends_early_shows_the_end_of_its_log(tmp_path):
    child = start_child("broken", [sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"], tmp_path)
    with pytest.raises(ChildEnded, match=r"exit code 3.*(?s:.*)what went wrong"):
        child.wait_for_ready_line(timeout=PATIENCE_SECONDS)
