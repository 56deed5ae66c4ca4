"""The roster stream, in a thread or as a process of its own, and a client's view of it."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import httpx
import psutil
import pyarrow as pa
import pytest
import uvicorn

from benchmarks.big_tenant import big_tenant_tables
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.local import child_exec
from runway_pipelines.local.dataset import ASSOCIATIONS, IDENTIFICATION_CODES, SCHEMAS
from runway_pipelines.local.stack import BUCKET
from runway_pipelines.operations.logs import JsonLines
from runway_pipelines.rosters.manifest import pointer_key
from runway_pipelines.rosters.outcome import RefreshContext, TenantOutcome
from runway_pipelines.rosters.refresh import refresh_tenant
from runway_pipelines.settings import load_settings
from runway_pipelines.stream import server as server_module
from runway_pipelines.stream.tokens import TokenRules
from runway_pipelines.wiring import build_services
from tests.integration.world import TestPartner, Warehouse, World, write_parquet
from tests.waiting import PATIENCE_SECONDS, join, wait_until

KEY = "k" * 16 + "0123456789abcdef" * 2
_RUN_IDS = itertools.count(1001)  # the stack is this test session's own
RULES = TokenRules("", "runId")
WAREHOUSE = "roster?source=warehouse"
IN_USE = 'roster_stream_snowflake_sessions{state="in_use"}'
IDLE = 'roster_stream_snowflake_sessions{state="idle"}'
IN_FLIGHT = "roster_stream_pulls_in_flight"


class StreamServer:
    """A running server."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    def client(self, **options: Any) -> httpx.Client:
        """A client that asks for nothing by itself, on connections of its own."""
        headers = {"Accept-Encoding": "identity"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False, **options)

    def get(self, path: str, run: int | None = None, method: str = "GET", **headers: str) -> httpx.Response:
        """One request; with a token where there is a run."""
        with self.client() as client:
            return client.request(method, path, headers=headers | (bearer(run) if run is not None else {}))

    def pull(self, run: int, query: str = "", **headers: str) -> httpx.Response:
        return self.get(f"/earthbeam/jobs/{run}/roster{query}", run, **headers)

    def metric(self, name: str) -> float:
        """A metric's value, 0 where nothing was counted yet."""
        lines = self.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), 0.0)

    def log(self) -> str:
        return self._log.read_text()


class StreamProcess(StreamServer):
    """One that runs as in production."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        super().__init__(port, log)
        self.process = process

    def memory(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def settled_memory(self) -> int:
        """Its memory, once nothing is on the way any more that would add to it."""
        seen = [self.memory()]

        def is_settled() -> bool:
            time.sleep(1)
            seen.append(self.memory())
            return abs(seen[-1] - seen[-2]) < 100_000

        wait_until(is_settled)
        return seen[-1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


def bearer(run: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {RULES.mint(run, KEY.encode(), valid_for=timedelta(hours=1))}"}


@contextmanager
def stream_server(log: Path, **settings: str) -> Iterator[StreamServer]:
    """The server of the environment as it is, with these settings, in a thread: a new process costs seconds."""
    with pytest.MonkeyPatch.context() as patch, _logged_to(log):
        for name, value in ({"RUNWAY_STREAM_TOKEN_KEY": KEY} | settings).items():
            patch.setenv(name, value)
        load_settings.cache_clear()
        running: list[uvicorn.Server] = []
        ports: Queue[int] = Queue()

        class Stoppable(server_module._Server):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                running.append(self)

        patch.setattr(server_module, "_Server", Stoppable)
        with build_services(load_settings()).process_config_and_initialize_cm() as services:
            thread = Thread(
                target=server_module.serve,
                args=(load_settings(), services),
                kwargs={"host": "127.0.0.1", "port": 0, "on_ready": ports.put},
                name="stream",
                daemon=True,
            )
            thread.start()
            try:
                yield StreamServer(ports.get(timeout=PATIENCE_SECONDS), log)
            finally:
                for each in running:
                    each.should_exit = True
                join(thread)
    load_settings.cache_clear()


@contextmanager
def _logged_to(log: Path) -> Iterator[None]:
    """The lines that a process would write to stderr."""
    handler = logging.FileHandler(log)
    handler.setFormatter(JsonLines())
    ours = [logging.getLogger(name) for name in ("runway_pipelines", "uvicorn")]
    levels = [logger.level for logger in ours]
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
        handler.close()
        for logger, level in zip(ours, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def stream_process(log: Path, **settings: str) -> Iterator[StreamProcess]:
    """The same in a process of its own; SIGKILL ends it if nothing else did."""
    environment = os.environ | {"RUNWAY_STREAM_TOKEN_KEY": KEY} | settings
    # A test session that is killed must leave no server behind: the kernel ends it with us.
    owned = [sys.executable, "-I", "-S", child_exec.__file__, str(os.getpid()), str(int(signal.SIGKILL)), "-1", "-1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*owned, "--", sys.executable, "-m", "runway_pipelines.cli", "serve", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=output,
            env=environment,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        assert line and line[0] == b"READY", log.read_text()
        yield StreamProcess(process, int(line[1]), log)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def add_run(world: World, partner: TestPartner, code: str, run: int | None = None) -> int:
    """A job of the tenant, and a run of it; returns the run's id."""
    run = next(_RUN_IDS) if run is None else run
    with world.connect() as connection:
        connection.execute(
            "insert into job (id, partner_id, tenant_code) values (%s, %s, %s)", [run, partner.partner_id, code]
        )
        connection.execute("insert into run (id, job_id) values (%s, %s)", [run, run])
    return run


@dataclass(frozen=True)
class Big:
    """A published roster that is more than any buffer on the way to a client holds."""

    run: int
    content: bytes


def published_big(world: World, students: int = 40_000) -> Big:
    """A partner of its own with that tenant (13 MB)."""
    partner = big_partner(world, students)
    return Big(add_run(world, partner, "big"), publish(partner, "big"))


def big_partner(world: World, students: int) -> TestPartner:
    """A partner with one tenant of that many students."""
    partner = world.partner(Warehouse(), ["big"])
    batches = list(big_tenant_tables(students, tenant_code="big"))
    folder = world.stack.warehouse_dir / partner.account / "EDU" / "PROD"
    for position, name in enumerate((ASSOCIATIONS, IDENTIFICATION_CODES)):
        table = pa.Table.from_batches([batch[position] for batch in batches], schema=SCHEMAS[name])
        write_parquet(folder / f"{name}.parquet", table)
    return partner


def is_connected(server: StreamServer, run: int) -> bool:
    """Wait until the warehouse can be asked: importing its driver takes seconds, once for a process."""
    wait_until(lambda: server.get(f"/earthbeam/jobs/{run}/{WAREHOUSE}", run, "HEAD").status_code == 200)
    return True


def pulls(source: str, ended: str) -> str:
    """The metric that counts them."""
    return f'roster_stream_pulls_total{{ended="{ended}",source="{source}"}}'


def request_bytes(run: int, path: str = "roster", version: str = "1.1", **headers: str) -> bytes:
    """A request as it is on the wire."""
    lines = [f"GET /earthbeam/jobs/{run}/{path} HTTP/{version}", "Host: stream"]
    lines += [f"{name}: {value}" for name, value in (bearer(run) | headers).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@contextmanager
def raw_client(server: StreamServer, request: bytes, *, buffer: int | None = None) -> Iterator[socket.socket]:
    """A socket that has sent the request; with a small receive buffer it is a slow reader's."""
    with socket.socket() as client:
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(PATIENCE_SECONDS)
        client.connect(("127.0.0.1", server.port))
        client.sendall(request)
        yield client


def read_all(client: socket.socket) -> bytes:
    """Until the other side ends the connection."""
    received = b""
    while chunk := client.recv(1 << 16):
        received += chunk
    return received


def in_background(work: Any, *arguments: Any) -> Thread:
    thread = Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def publish(partner: TestPartner, code: str) -> bytes:
    """Take and publish the tenant's roster as a run does; returns its bytes."""
    outcome = refresh(partner, code)
    assert outcome.status.is_success, outcome.reason
    published = partner.published(code)
    assert published is not None
    return published


def refresh(partner: TestPartner, code: str) -> TenantOutcome:
    """Take the tenant's roster as a run does, and publish it if nothing keeps it back."""
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        context = RefreshContext(
            store=services.store,
            database=services.database,
            run_id="test",
            thresholds=services.policy.thresholds,
            guards=services.policy.guards.guards,
            lock_wait_seconds=int(PATIENCE_SECONDS),
            log=logging.getLogger("test"),
        )
        sessions = PartnerSessions(partner.partner_id, services.secrets, services.snowflake, size=1, query_tag="test")
        with closing(sessions):
            return refresh_tenant(context, sessions, partner.tenant(code), (2026,))


def change_pointer(partner: TestPartner, code: str, **members: str) -> None:
    """Rewrite the tenant's pointer with other values of these members."""
    key = pointer_key(partner.tenant(code))
    s3 = partner.world.s3
    document = json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(document | members).encode())


def unchunked(body: bytes) -> bytes:
    """The content of a chunked body, as far as it goes."""
    content = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        content += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return content
