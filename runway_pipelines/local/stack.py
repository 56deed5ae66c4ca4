"""The embedded stack: Postgres, the AWS API, Snowflake's protocol and LML on loopback, all state in one folder.

    <state>/postgres/           data          <state>/warehouse/ACCOUNT/DATABASE/SCHEMA/table.parquet
    <state>/postgres.password                 <state>/public_keys.json   {"ACCOUNT.USER": ["PEM", ...]}
    <state>/aws/                saved S3 objects and secrets             <state>/user_parameters.json (optional)
    <state>/logs/  <state>/spill/                                        {"ACCOUNT.USER": {"TIMEZONE": ...}}

It starts empty: databases and a bucket, but no data in them. What fills it is in `dataset` and `seed`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import boto3
from botocore.config import Config

from runway_pipelines.local.partners import RESOLVED_PARTNER
from runway_pipelines.local.postgres_server import PostgresServer, start_postgres
from runway_pipelines.local.processes import (
    Child,
    LocalServerError,
    OnReady,
    StateLock,
    start_child,
    stop_stale,
    tell_nobody,
)
from runway_pipelines.systems.disk import machine_trouble

DEFAULT_STATE_DIR = Path(".runway")
REGION = "us-west-2"
BUCKET = "runway-local"
APP_DATABASE = "runway"
DAGSTER_DATABASE = "dagster"
CATALOGUE_DATABASE = "wxyc"
_HOST = "127.0.0.1"
_DUMMY_KEY = "local"  # moto accepts any; boto3 refuses to sign without one
_READY_SECONDS = 60.0
_SAVE_GRACE_SECONDS = 60.0


class EmbeddedStack:
    """The servers of one state folder, as a context manager; `start` and `stop` do the same without `with`.

    Start it in a thread that lives as long as the stack should (the main thread): on Linux the servers end with it, so
    that not even a killed owner leaves one behind. Wrap the owner's main function in `processes.exit_on_termination`,
    so that SIGTERM stops the servers in order.
    """

    def __init__(
        self,
        state_dir: Path = DEFAULT_STATE_DIR,
        lml_options: Sequence[str] = (),
        on_ready: OnReady = tell_nobody,
    ) -> None:
        self._on_ready = on_ready
        self.state_dir = state_dir.resolve()
        self._lml_options = list(lml_options)
        self.warehouse_dir = self.state_dir / "warehouse"
        self.public_keys_file = self.state_dir / "public_keys.json"
        self.user_parameters_file = self.state_dir / "user_parameters.json"
        self.logs_dir = self.state_dir / "logs"
        self._running: contextlib.ExitStack | None = None
        self._postgres: PostgresServer | None = None
        self._aws_port = 0
        self._snowflake_port = 0
        self._lml_port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all servers, concurrently, and wait for them: about 3 s, at first use 4.

        Raises StackAlreadyRunning when another process has this folder, LocalServerError (with the end of the server's
        log) when a server does not start; then nothing is left running. A disk that is full or read-only is named.
        """
        if self._running is not None:
            return
        try:
            self._start()
        except OSError as error:
            trouble = machine_trouble(error, self.state_dir)
            if trouble is None:
                raise
            raise LocalServerError(str(trouble)) from None
        except LocalServerError as error:
            # A server's own words are in its log, where there was room for them.
            for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE):
                if os.strerror(number) in str(error):
                    trouble = machine_trouble(OSError(number, ""), self.state_dir)
                    raise LocalServerError(f"{trouble}\n{error}") from None
            raise

    def _start(self) -> None:
        with contextlib.ExitStack() as undo:
            self._prepare_folder()
            lock = StateLock(self.state_dir)
            lock.acquire()
            undo.callback(lock.release)
            aws = self._start_module("aws_server", ["--state", str(self.state_dir / "aws")], undo)
            snowflake = self._start_module(
                "snowflake_server",
                [
                    *("--warehouse", str(self.warehouse_dir), "--public-keys", str(self.public_keys_file)),
                    *("--user-parameters", str(self.user_parameters_file)),
                    *("--spill", str(self.state_dir / "spill")),
                ],
                undo,
            )
            lml = self._start_module("lml_server", self._lml_options, undo)
            self._postgres = start_postgres(self.state_dir)  # while the others import what they need
            undo.callback(self._postgres.stop)
            self._postgres.create_database(APP_DATABASE)
            self._postgres.create_database(DAGSTER_DATABASE)
            self._postgres.create_database(CATALOGUE_DATABASE)
            self._on_ready("Postgres", f"listens on {self._postgres.host}:{self._postgres.port}")
            self._aws_port = aws.wait_for_ready_line(_READY_SECONDS)
            self._create_bucket()
            self._on_ready("AWS (S3, secrets)", f"listens on {_HOST}:{self._aws_port}")
            self._lml_port = lml.wait_for_ready_line(_READY_SECONDS)
            self._on_ready("LML", f"listens on {_HOST}:{self._lml_port}")
            self._snowflake_port = snowflake.wait_for_ready_line(_READY_SECONDS)
            self._on_ready("Snowflake", f"listens on {_HOST}:{self._snowflake_port}")
            self._running = undo.pop_all()

    def stop(self) -> None:
        """Stop the servers in reverse order, each even if another's stop fails. Does nothing when they are stopped."""
        running, self._running = self._running, None
        if running is not None:
            running.close()

    @property
    def postgres(self) -> PostgresServer:
        if self._running is None or self._postgres is None:
            raise LocalServerError("The embedded stack is not running.")
        return self._postgres

    @property
    def aws_endpoint_url(self) -> str:
        return f"http://{_HOST}:{self._aws_port}"

    @property
    def snowflake_host(self) -> str:
        return _HOST

    @property
    def snowflake_port(self) -> int:
        return self._snowflake_port

    @property
    def lml_url(self) -> str:
        """LML's base URL; it wants no key."""
        return f"http://{_HOST}:{self._lml_port}"

    def environment(self) -> dict[str, str]:
        """The settings that point the pipeline and Dagster at this stack. They hold the local Postgres password."""
        postgres = self.postgres
        return {
            **_without_proxy(),
            "AWS_ENDPOINT_URL": self.aws_endpoint_url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": _DUMMY_KEY,
            "AWS_SECRET_ACCESS_KEY": _DUMMY_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
            "RUNWAY_ENV": "development",
            "ENVLABEL": "dev",
            "RUNWAY_BUCKET": BUCKET,
            "RUNWAY_APP_DB_HOST": postgres.host,
            "RUNWAY_APP_DB_PORT": str(postgres.port),
            "RUNWAY_APP_DB_NAME": APP_DATABASE,
            "RUNWAY_APP_DB_USER": postgres.user,
            "RUNWAY_APP_DB_PASSWORD": postgres.password,
            "RUNWAY_CATALOGUE_DB_HOST": postgres.host,
            "RUNWAY_CATALOGUE_DB_PORT": str(postgres.port),
            "RUNWAY_CATALOGUE_DB_NAME": CATALOGUE_DATABASE,
            "RUNWAY_CATALOGUE_DB_USER": postgres.user,
            "RUNWAY_CATALOGUE_DB_PASSWORD": postgres.password,
            "RUNWAY_SNOWFLAKE_HOST": self.snowflake_host,
            "RUNWAY_SNOWFLAKE_PORT": str(self.snowflake_port),
            "RUNWAY_SNOWFLAKE_PROTOCOL": "http",
            "RUNWAY_STUDENT_RESOLUTION": RESOLVED_PARTNER,
            "LIBRARY_METADATA_URL": self.lml_url,
            "DAGSTER_PG_HOST": postgres.host,
            "DAGSTER_PG_PORT": str(postgres.port),
            "DAGSTER_PG_DB": DAGSTER_DATABASE,
            "DAGSTER_PG_USERNAME": postgres.user,
            "DAGSTER_PG_PASSWORD": postgres.password,
        }

    def _prepare_folder(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True)
        # As root, Postgres runs as another user, who must be able to pass through.
        self.state_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
        for folder in (self.warehouse_dir, self.logs_dir):
            folder.mkdir(mode=0o700, exist_ok=True)
        if not self.public_keys_file.exists():
            self.public_keys_file.write_text("{}\n")

    def _start_module(self, name: str, arguments: list[str], undo: contextlib.ExitStack) -> Child:
        stop_stale(name, self.state_dir)
        command = [sys.executable, "-m", f"runway_pipelines.local.{name}", "--port", "0", *arguments]
        child = start_child(name, command, self.state_dir)
        undo.callback(child.stop, _SAVE_GRACE_SECONDS)
        return child

    def _create_bucket(self) -> None:
        s3 = boto3.client(
            "s3",
            endpoint_url=self.aws_endpoint_url,
            region_name=REGION,
            aws_access_key_id=_DUMMY_KEY,
            aws_secret_access_key=_DUMMY_KEY,
            config=Config(proxies={}),
        )
        if BUCKET not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
            s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        # A browser has no credentials. The data are synthetic, and nobody reaches loopback but this machine's users.
        anybody = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{BUCKET}/*",
        }
        s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [anybody]}))


def _without_proxy() -> dict[str, str]:
    """The servers of the stack are reached directly, also where the environment names a proxy for everything."""
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    hosts = ",".join(dict.fromkeys(filter(None, [*others.split(","), _HOST, "localhost"])))
    return {"NO_PROXY": hosts, "no_proxy": hosts}
