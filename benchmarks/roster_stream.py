"""The live roster stream: first byte and rows a second with 1, 5 and 20 clients, from the snapshot and the warehouse.

Beside it the way Runway's application does it: a Node.js server that has the driver give it row by row, over the same
statement, the same local Snowflake and a pool of as many sessions. Each server is a process of its own; the clients
share one, on the same cores. Size: ROSTER_STREAM_STUDENTS.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import psutil

from benchmarks.end_to_end import node_environment, node_modules, write_warehouse
from benchmarks.local_partner import SCHOOL_YEAR, key_file, partner_with, roster_services, stack_with
from benchmarks.measure import MEGABYTE, ContenderFailed, Report, cpu_seconds_of, in_own_process, median
from benchmarks.peers import statement_with_binds
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.local.partners import Tenant
from runway_pipelines.local.stack import EmbeddedStack
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.manifest import stable_key
from runway_pipelines.rosters.outcome import RefreshContext
from runway_pipelines.rosters.refresh import refresh_tenant
from runway_pipelines.settings import load_settings
from runway_pipelines.stream.tokens import TokenRules

STUDENTS = int(os.environ.get("ROSTER_STREAM_STUDENTS", "100000"))
CLIENTS = (1, 5, 20)
REPEATS = 3
PARTNER = partner_with((Tenant("big", STUDENTS),))
TENANT = PartnerTenant(PARTNER.partner_id, "big")
RUN = 1  # of the partner's only tenant
POOL_SIZE = 20
_KEY = "a key of the benchmark alone, 32 bytes and more"
SNAPSHOT, SNAPSHOT_GZIP, WAREHOUSE, WAREHOUSE_GZIP, NODE = (
    "snapshot",
    "snapshot, gzip",
    "warehouse",
    "warehouse, gzip",
    "Runway's way, Node.js",
)
_SOURCES = {SNAPSHOT: "snapshot", SNAPSHOT_GZIP: "snapshot", WAREHOUSE: "warehouse", WAREHOUSE_GZIP: "warehouse"}


@dataclass
class Served:
    """A server, and how a client asks it."""

    process: psutil.Process
    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)

    def ask_for(self, source: str, *, is_gzip: bool) -> None:
        """What the next pulls want, of our server."""
        self.path = f"/earthbeam/jobs/{RUN}/roster?source={source}"
        self.headers["Accept-Encoding"] = "gzip" if is_gzip else "identity"


@dataclass(frozen=True)
class Fetched:
    """One client's pull."""

    first_byte: float
    seconds: float
    sha256: str
    size: int


def run() -> Iterator[Report]:
    """The table."""
    with stack_with(PARTNER) as stack:
        write_warehouse(stack, PARTNER, TENANT, STUDENTS)
        published = in_own_process(publish)
        results: dict[str, dict[int, dict[str, Any]]] = {}
        with our_server(stack) as server:
            warm_up(server)
            for name, source in _SOURCES.items():
                server.ask_for(source, is_gzip="gzip" in name)
                results[name] = {clients: _measure(server, clients) for clients in CLIENTS}
        try:
            with _node_server(stack) as server:
                results[NODE] = {clients: _measure(server, clients) for clients in CLIENTS}
        except ContenderFailed as failure:
            results[NODE] = {clients: {"failure": str(failure)} for clients in CLIENTS}
    yield _report(results, published["lines"], published["sha256"])


def _report(results: dict[str, dict[int, dict[str, Any]]], lines: int, sha256: str) -> Report:
    report = Report(
        "roster_stream",
        f"roster_stream: {STUDENTS:,} students, {lines:,} rows, to each client",
        ("", "clients", "first byte s", "slowest", "all done s", "rows/s", "server's CPU s", "its peak MB"),
        numbers={
            "students": STUDENTS,
            "rows": lines,
            "contenders": {name: {str(clients): each for clients, each in of.items()} for name, of in results.items()},
        },
    )
    for name, of_clients in results.items():
        for clients, result in of_clients.items():
            if "failure" in result:
                report.rows.append((name, str(clients), *["-"] * 6))
                report.notes.append(f"{name}: {result['failure']}")
                continue
            if "gzip" not in name and result["sha256"] != [sha256]:
                report.wrong.append(f"{name} with {clients} clients gave other bytes than the published file")
            seconds = median(result["seconds"])
            report.rows.append(
                (
                    name,
                    str(clients),
                    f"{median(result['first_byte']):.3f}",
                    f"{max(result['first_byte']):.3f}",
                    f"{seconds:.2f}",
                    f"{lines * clients / seconds:,.0f}",
                    f"{median(result['cpu_seconds']):.2f}",
                    f"{result['peak_memory'] / MEGABYTE:.0f}",
                )
            )
    report.notes.append(
        f"First byte: median and worst of all clients in {REPEATS} rounds, after one that is not counted, over open "
        "sessions. The local Snowflake shares the cores, and gives each answer in one piece, which its client holds."
    )
    _compare(report, results)
    return report


def _compare(report: Report, results: dict[str, dict[int, dict[str, Any]]]) -> None:
    for clients, peer in results[NODE].items():
        if "failure" in peer:
            return
        ours = results[WAREHOUSE][clients]
        times = median(peer["seconds"]) / median(ours["seconds"])
        cpu = median(peer["cpu_seconds"]) / median(ours["cpu_seconds"])
        report.notes.append(
            f"{clients} clients: Runway's way takes {times:.1f} times as long as ours from the warehouse, and "
            f"{cpu:.1f} times the CPU."
        )


def _measure(server: Served, clients: int) -> dict[str, Any]:
    """Rounds of that many clients that begin together; the first round is no result."""
    rounds: list[tuple[float, float, list[Fetched]]] = []
    for _ in range(REPEATS + 1):
        cpu, started = cpu_seconds_of(server.process), time.perf_counter()
        together = Barrier(clients)
        with ThreadPoolExecutor(clients) as executor:
            fetched = list(executor.map(_fetch, [server] * clients, [together] * clients))
        rounds.append((time.perf_counter() - started, cpu_seconds_of(server.process) - cpu, fetched))
    pulls = [pull for _, _, fetched in rounds[1:] for pull in fetched]
    return {
        "seconds": [seconds for seconds, _, _ in rounds[1:]],
        "cpu_seconds": [cpu for _, cpu, _ in rounds[1:]],
        "first_byte": [pull.first_byte for pull in pulls],
        "bytes": pulls[0].size,
        "sha256": sorted({pull.sha256 for pull in pulls}),
        "peak_memory": peak_memory_of(server.process),
    }


def _fetch(server: Served, together: Barrier) -> Fetched:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    digest, size = hashlib.sha256(), 0
    together.wait()
    started = time.perf_counter()
    with closing(connection):
        connection.request("GET", server.path, headers=server.headers)
        answer = connection.getresponse()
        first_byte = 0.0
        while chunk := answer.read(1 << 18):
            first_byte = first_byte or time.perf_counter() - started
            digest.update(chunk)
            size += len(chunk)
    if answer.status != 200:
        raise ContenderFailed(f"status {answer.status}")
    return Fetched(first_byte, time.perf_counter() - started, digest.hexdigest(), size)


def publish() -> dict[str, Any]:
    """The snapshot, as a run publishes it; its lines and digest. In a process of its own: settings are read once."""
    with roster_services() as services:
        context = RefreshContext(
            store=services.store,
            database=services.database,
            run_id="benchmark",
            thresholds=services.policy.thresholds,
            guards=services.policy.guards.guards,
            lock_wait_seconds=60,
            log=logging.getLogger("benchmarks"),
        )
        sessions = PartnerSessions(
            PARTNER.partner_id, services.secrets, services.snowflake, size=1, query_tag="benchmark"
        )
        with closing(sessions):
            outcome = refresh_tenant(context, sessions, TENANT, (SCHOOL_YEAR,))
        if outcome.manifest is None or services.store.stat(stable_key(TENANT, SCHOOL_YEAR)) is None:
            raise ValueError(f"nothing was published: {outcome.reason}")
        return {"lines": outcome.manifest.lines, "sha256": outcome.manifest.sha256}


def warm_up(server: Served) -> None:
    """The server imports the driver while it answers the first pulls: a second of CPU for each, and 100 MB."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)) as connection:
        connection.request("HEAD", f"/earthbeam/jobs/{RUN}/roster?source=warehouse", headers=server.headers)
        connection.getresponse().read()


@contextmanager
def our_server(stack: EmbeddedStack, **variables: str) -> Iterator[Served]:
    """Ours, with these variables in its environment."""
    environment = os.environ | {"RUNWAY_STREAM_TOKEN_KEY": _KEY} | variables
    command = [sys.executable, "-m", "runway_pipelines.cli", "serve", "--port", "0"]
    settings = load_settings()
    rules = TokenRules(settings.stream.token_audience, settings.stream.token_run_claim)
    token = rules.mint(RUN, _KEY.encode(), valid_for=timedelta(hours=6))
    with _server(command, stack.state_dir / "stream.log", environment) as (process, port):
        yield Served(process, port, "", {"Authorization": f"Bearer {token}"})


@contextmanager
def _node_server(stack: EmbeddedStack) -> Iterator[Served]:
    options = {
        "modules": str(node_modules()),
        "url": f"http://{stack.snowflake_host}:{stack.snowflake_port}",
        "account": PARTNER.account,
        "user": PARTNER.user,
        "database": PARTNER.database,
        "schema": PARTNER.schema,
        "keyFile": str(key_file(stack, PARTNER)),
        **statement_with_binds(TENANT.tenant_code),
        "poolSize": POOL_SIZE,
    }
    script = Path(__file__).with_name("runway_way.cjs")
    command = ["node", "--max-old-space-size=8192", str(script), json.dumps(options)]
    with _server(command, stack.state_dir / "node.log", node_environment(), cwd=stack.state_dir) as (process, port):
        yield Served(process, port, "/")


@contextmanager
def _server(
    command: list[str], log: Path, environment: dict[str, str], cwd: Path | None = None
) -> Iterator[tuple[psutil.Process, int]]:
    """A server that says READY and its port; ended at the end."""
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=cwd) as process,
    ):
        try:
            assert process.stdout is not None
            ready = process.stdout.readline().split()
            if not ready or ready[0] != b"READY":
                raise ContenderFailed(log.read_text()[-500:])
            yield psutil.Process(process.pid), int(ready[1])
        finally:
            process.terminate()


def peak_memory_of(process: psutil.Process) -> int:
    """The most that it has had in memory; where the system does not say, what it has now."""
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)
