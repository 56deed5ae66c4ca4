"""Connections to Postgres as in RDS: what one costs, how many tokens 1,000 checkouts take, and what a checkout costs.

The server is local, behind a front that speaks TLS and verifies each token as RDS does. The peer is psycopg's own pool
over the same front, given a token for each connection, with and without looking whether a connection still answers.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psycopg
from moto.server import ThreadedMotoServer
from psycopg_pool import ConnectionPool

from benchmarks.measure import Report, in_own_process, median
from runway_pipelines.local.postgres_server import PostgresServer, start_postgres
from runway_pipelines.systems.aws.lookups import StoreLookups
from runway_pipelines.systems.postgres.databases import PostgresResource
from tests.servers.rds import LocalRds, local_rds

CHECKOUTS = 1_000
CONNECTIONS = 50
THREADS = (1, 8)
REPEATS = 3
SERVICE, USER, REGION = "benchmark", "benchmark_app", "us-west-2"
BARE, BARE_CHECKED, OURS = "psycopg_pool", "psycopg_pool, checked", "PostgresResource"
PASSWORD, TOKEN, SIGNING = "password, no TLS", "token, verified TLS", "of it: signing the token"

Checkout = Callable[[], AbstractContextManager[psycopg.Connection[Any]]]


@dataclass(frozen=True)
class Place:
    """The server, and the same behind its front."""

    server: PostgresServer
    rds: LocalRds


def run() -> Iterator[Report]:
    """Both tables."""
    yield _connections_report(in_own_process(connections))
    yield _checkouts_report(in_own_process(checkouts))


def connections() -> dict[str, Any]:
    """Milliseconds for each new connection, by kind."""
    with _place() as place:
        lookups = StoreLookups(REGION)
        plain = place.server.dsn(SERVICE)
        token = lookups.database_token("localhost", place.rds.front.port, USER)  # the client is made at first use
        works: dict[str, Callable[[], object]] = {
            PASSWORD: lambda: psycopg.connect(plain).close(),
            TOKEN: lambda: psycopg.connect(**_arguments(place, lookups)).close(),
            SIGNING: lambda: lookups.database_token("localhost", place.rds.front.port, USER),
        }
        return {"token_bytes": len(token), "milliseconds": {name: _each(work) for name, work in works.items()}}


def checkouts() -> dict[str, Any]:
    """Seconds, tokens and connections for the checkouts, by contender and number of threads."""
    results: dict[str, Any] = {}
    with _place() as place:
        lookups = StoreLookups(REGION)
        lookups.database_token("localhost", place.rds.front.port, USER)
        for threads in THREADS:
            rounds: dict[str, list[dict[str, float]]] = {BARE: [], BARE_CHECKED: [], OURS: []}
            for _ in range(REPEATS):
                for name, results_of in rounds.items():
                    with _contender(name, place, lookups) as checkout:
                        results_of.append(_round(place, checkout, threads))
            results[str(threads)] = rounds
    return {"by_threads": results}


def _round(place: Place, checkout: Checkout, threads: int) -> dict[str, float]:
    """One thread's share after the other, or at once; the first checkout, which opens the pool, is not in the time."""
    tokens, before = len(place.rds.tokens), place.rds.front.connections

    def work(count: int) -> None:
        for _ in range(count):
            with checkout():
                pass

    work(1)
    started, cpu_started = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [(CHECKOUTS - 1) // threads] * threads))
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "tokens": len(place.rds.tokens) - tokens,
        "connections": place.rds.front.connections - before,
    }


@contextmanager
def _contender(name: str, place: Place, lookups: StoreLookups) -> Iterator[Checkout]:
    if name == OURS:
        resource = PostgresResource(env="prod", service=SERVICE, region=REGION, ca_file=str(place.rds.ca_file))
        yield resource.connection
        resource.close()
        return
    check = ConnectionPool.check_connection if name == BARE_CHECKED else None
    with ConnectionPool(
        kwargs=lambda: _arguments(place, lookups) | {"autocommit": True}, min_size=0, max_size=10, check=check
    ) as pool:
        yield pool.connection


def _arguments(place: Place, lookups: StoreLookups) -> dict[str, Any]:
    front = place.rds.front
    return {
        "host": "localhost",
        "port": front.port,
        "dbname": SERVICE,
        "user": USER,
        "password": lookups.database_token("localhost", front.port, USER),
        "sslmode": "verify-full",
        "sslrootcert": str(place.rds.ca_file),
    }


def _each(work: Callable[[], object]) -> list[float]:
    work()
    spent = []
    for _ in range(CONNECTIONS):
        started = time.perf_counter()
        work()
        spent.append((time.perf_counter() - started) * 1000)
    return spent


@contextmanager
def _place() -> Iterator[Place]:
    """A server, its front, and the parameters that lead there."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        state.mkdir()
        for each in (Path(folder), state):
            each.chmod(0o711)  # as root, Postgres runs as another user
        server = start_postgres(state)
        aws = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        try:
            aws.start()
            host, port = aws.get_host_and_port()
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://{host}:{port}",
                "AWS_ACCESS_KEY_ID": "local",
                "AWS_SECRET_ACCESS_KEY": "local",
            }
            server.create_database(SERVICE)
            with local_rds(
                server, state / "postgres", state / "tls", users=[USER], region=REGION, secret_key="local"
            ) as rds:
                ssm = boto3.client("ssm", region_name=REGION)
                for part, value in (("endpoint", "localhost"), ("port", str(rds.front.port))):
                    ssm.put_parameter(Name=f"/prod/postgres-rds/{part}", Value=value, Type="String")
                yield Place(server, rds)
        finally:
            aws.stop()
            server.stop()


def _connections_report(result: dict[str, Any]) -> Report:
    report = Report(
        "postgres_connections",
        f"postgres_pool: a new connection, {CONNECTIONS} of each kind",
        ("", "ms", "least", "most"),
        numbers=result,
    )
    for name, spent in result["milliseconds"].items():
        report.rows.append((name, f"{median(spent):.2f}", f"{min(spent):.2f}", f"{max(spent):.2f}"))
    return report


def _checkouts_report(result: dict[str, Any]) -> Report:
    report = Report(
        "postgres_checkouts",
        f"postgres_pool: {CHECKOUTS:,} checkouts of at most 10 connections",
        ("threads", "", "µs each", "times bare", "CPU µs each", "connections", "tokens"),
        numbers=result,
    )
    for threads, rounds in result["by_threads"].items():
        bare = median([each["seconds"] for each in rounds[BARE]])
        for name, each_round in rounds.items():
            seconds = median([each["seconds"] for each in each_round])
            cpu = median([each["cpu_seconds"] for each in each_round])
            last = each_round[-1]
            report.rows.append(
                (
                    threads,
                    name,
                    f"{seconds / CHECKOUTS * 1e6:.0f}",
                    f"{seconds / bare:.2f}",
                    f"{cpu / CHECKOUTS * 1e6:.0f}",
                    f"{last['connections']:.0f}",
                    f"{last['tokens']:.0f}",
                )
            )
            for each in each_round:
                if each["tokens"] != each["connections"]:
                    report.wrong.append(
                        f"{name}: {each['tokens']:.0f} tokens for {each['connections']:.0f} connections"
                    )
    report.notes.append(
        "Checked: one round trip to the server, so that a connection that broke while idle fails nobody."
    )
    report.notes.append("The front, in the same process, takes its part of the time and of the CPU.")
    return report
