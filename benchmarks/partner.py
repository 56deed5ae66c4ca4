"""A partner's 40 tenants: one run of the partner's job beside a run for each tenant.

What differs is how often a Snowflake session is opened and how often Dagster makes a run; the tenants' work is the
same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg

from benchmarks.local_partner import forget_rosters, partner_with, roster_services, stack_with
from benchmarks.measure import Report, in_own_process, median, server_cpu, server_processes, spread, timed
from runway_pipelines.local.partners import Tenant
from runway_pipelines.local.seed import write_warehouse
from runway_pipelines.local.stack import APP_DATABASE, DAGSTER_DATABASE
from runway_pipelines.systems.snowflake.client import EduSession, EduSnowflake

TENANTS = 40
STUDENTS_OF_EACH = 1_000
REPEATS = 2
# Measured on the real Snowflake; the local one takes milliseconds.
SECONDS_OF_A_CONNECT = 20
PARTNER = partner_with(tuple(Tenant(f"district-{number:02d}", STUDENTS_OF_EACH) for number in range(1, TENANTS + 1)))
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
FLOOR, ONE_RUN, ONE_RUN_UNCHANGED, RUN_EACH, PROCESS_EACH = (
    "floor: the tenants, no Dagster",
    "ours: one run, first snapshots",
    "ours: one run, no change",
    f"{TENANTS} runs, one process",
    f"{TENANTS} runs, a process each**",
)


def run() -> Iterator[Report]:
    """The table, and the projection."""
    with stack_with(PARTNER) as stack:
        write_warehouse(stack.warehouse_dir, partners=[PARTNER])
        servers = {name: process.pid for name, process in server_processes(stack.state_dir).items()}
        results: dict[str, dict[str, Any]] = {FLOOR: in_own_process(tenants_alone, servers=servers)}
        results |= in_own_process(partner_runs, servers=servers)["runs"]
        results[RUN_EACH] = in_own_process(tenant_runs, servers=servers)
        results[PROCESS_EACH] = _projected_process(in_own_process(tenant_process, servers=servers))
    yield _report(results)
    yield _projection(results)


def _projected_process(one: dict[str, Any]) -> dict[str, Any]:
    """Forty times what one process with a run of one tenant has cost."""
    return {
        "measured": one,
        "seconds": [one["process_seconds"] * TENANTS],
        "cpu_seconds": [one["process_cpu_seconds"] * TENANTS],
        "servers": {name: seconds * TENANTS for name, seconds in one["servers"].items()},
        **{counted: one[counted] * TENANTS for counted in ("connects", "events", "postgres_sessions")},
        "published": one["published"] * TENANTS,
        "expected": one["expected"] * TENANTS,
    }


def _report(results: dict[str, dict[str, Any]]) -> Report:
    report = Report(
        "partner",
        f"partner: {TENANTS} tenants of {STUDENTS_OF_EACH:,} students",
        (
            "",
            "seconds",
            "CPU s",
            "servers' CPU s*",
            "Snowflake connects",
            "Postgres connects",
            "events",
            "times ours",
        ),
    )
    ours = median(results[ONE_RUN]["seconds"])
    for name, result in results.items():
        servers = result["servers"]
        report.rows.append(
            (
                name,
                spread(result["seconds"]),
                f"{median(result['cpu_seconds']):.1f}",
                f"{servers['postgres']:.1f}, {servers['aws']:.1f}, {servers['snowflake']:.1f}",
                str(result["connects"]),
                f"{result['postgres_sessions']:,}",
                f"{result['events']:,}",
                f"{median(result['seconds']) / ours:.1f}",
            )
        )
        if result["published"] != result["expected"]:
            report.wrong.append(f"{name} published {result['published']} rosters, not {result['expected']}")
    in_one_run = median(results[ONE_RUN]["cpu_seconds"])
    in_runs = median(results[RUN_EACH]["cpu_seconds"])
    in_processes = median(results[PROCESS_EACH]["cpu_seconds"])
    report.notes.append("* Of Postgres, S3 and Snowflake, each a process of its own. Postgres connects: Dagster's.")
    report.notes.append(f"** One such process measured (imports, instance, run), times {TENANTS}.")
    report.notes.append(
        f"CPU for a tenant: {in_one_run / TENANTS:.2f} s in one run, {in_runs / TENANTS:.2f} s in runs of one process, "
        f"{in_processes / TENANTS:.1f} s in a process each ({in_processes / in_one_run:.0f} times that of one run)."
    )
    report.numbers = {"tenants": TENANTS, "students_of_each": STUDENTS_OF_EACH, "contenders": results}
    return report


def _projection(results: dict[str, dict[str, Any]]) -> Report:
    """The same with what a connect costs on the real Snowflake; runs of one partner wait for each other."""
    report = Report(
        "partner_projection",
        f"partner, projected: with {SECONDS_OF_A_CONNECT} s for each connect",
        ("", "connects", "of them one after the other", "seconds", "times ours"),
        notes=["A run opens its sessions at the same time; runs of one partner go one after the other (dagster.yaml)."],
    )
    seconds = {}
    for name, waits in ((ONE_RUN, 1), (RUN_EACH, TENANTS), (PROCESS_EACH, TENANTS)):
        seconds[name] = median(results[name]["seconds"]) + waits * SECONDS_OF_A_CONNECT
        report.rows.append(
            (
                name,
                str(results[name]["connects"]),
                str(waits),
                f"{seconds[name]:.0f}",
                f"{seconds[name] / seconds[ONE_RUN]:.1f}",
            )
        )
    report.numbers = {"seconds_of_a_connect": SECONDS_OF_A_CONNECT, "seconds": seconds}
    return report


def tenants_alone(servers: dict[str, int]) -> dict[str, Any]:
    """`refresh_tenants` over the same sessions without a run around it. In a process of its own, as all below."""
    import logging

    from runway_pipelines.credentials.sessions import PartnerSessions
    from runway_pipelines.partner_tenants.keys import PartnerTenant
    from runway_pipelines.rosters.outcome import RefreshContext
    from runway_pipelines.rosters.refresh import refresh_tenants

    with roster_services() as services:
        policy = services.policy
        context = RefreshContext(
            store=services.store,
            database=services.database,
            run_id="benchmark",
            thresholds=policy.thresholds,
            guards=policy.guards.guards,
            lock_wait_seconds=60,
            log=logging.getLogger("benchmarks"),
        )
        tenants = [PartnerTenant(PARTNER.partner_id, tenant.code) for tenant in PARTNER.tenants]
        years = services.registry().partner(PARTNER.partner_id).published_years

        def work() -> None:
            sessions = PartnerSessions(
                PARTNER.partner_id,
                services.secrets,
                services.snowflake,
                size=policy.sessions_per_partner,
                query_tag="bench",
            )
            outcomes = list(refresh_tenants(context, sessions, tenants, years, threads=policy.sessions_per_partner))
            sessions.close()
            if not all(outcome.status.is_success for outcome in outcomes):
                raise ValueError([outcome.reason for outcome in outcomes if not outcome.status.is_success])

        work()
        runs = []
        for _ in range(REPEATS):
            forget_rosters(services)
            runs.append(_measured(servers, work) | _published(TENANTS))
        return _together(runs)


def partner_runs(servers: dict[str, int]) -> dict[str, Any]:
    """Runs of `partner_rosters_job`, as the demo makes them: first snapshots and runs without a change, in turn."""
    from runway_pipelines.definitions import defs
    from runway_pipelines.operations.tags import PARTNER_TAG
    from runway_pipelines.rosters.automation import partner_rosters_job

    job = defs().resolve_job_def(partner_rosters_job.name)
    with _instance() as instance, roster_services() as services:

        def work() -> None:
            job.execute_in_process(
                instance=instance,
                partition_key=PARTNER.partner_id,
                run_config=QUIET,
                tags={PARTNER_TAG: PARTNER.partner_id},
            )

        work()
        runs: dict[str, list[dict[str, Any]]] = {ONE_RUN: [], ONE_RUN_UNCHANGED: []}
        for _ in range(REPEATS):
            forget_rosters(services)
            for of_kind in runs.values():
                of_kind.append(_measured(servers, work) | _published(TENANTS))
    return {"runs": {name: _together(of_kind) for name, of_kind in runs.items()}}


def tenant_runs(servers: dict[str, int]) -> dict[str, Any]:
    """A run for each tenant, one after the other."""
    with _instance() as instance, roster_services() as services:
        refresh = _run_of_a_tenant(instance)
        refresh(PARTNER.tenants[0])  # the warm-up
        forget_rosters(services)

        def work() -> None:
            for tenant in PARTNER.tenants:
                refresh(tenant)

        return _measured(servers, work) | _published(TENANTS)


def tenant_process(servers: dict[str, int]) -> dict[str, Any]:
    """A run of one tenant, the only one of its process: what is counted is the process, imports and all."""
    with _instance() as instance, roster_services() as services:
        forget_rosters(services)
        refresh = _run_of_a_tenant(instance)
        return _measured(servers, lambda: refresh(PARTNER.tenants[0])) | _published(1)


def _run_of_a_tenant(instance: Any) -> Callable[[Tenant], None]:
    from runway_pipelines.definitions import defs
    from runway_pipelines.partner_tenants.keys import PartnerTenant
    from runway_pipelines.rosters.events import CROSS_YEAR_ROSTER

    job = defs().resolve_implicit_global_asset_job_def()

    def refresh(tenant: Tenant) -> None:
        job.execute_in_process(
            instance=instance,
            asset_selection=[CROSS_YEAR_ROSTER],
            partition_key=PartnerTenant(PARTNER.partner_id, tenant.code).key,
            run_config=QUIET,
        )

    return refresh


@contextmanager
def _instance() -> Iterator[Any]:
    """The instance on the stack's Postgres, with the partner's partitions."""
    import dagster as dg

    from runway_pipelines.partner_tenants.partitions import sync_partitions

    with dg.DagsterInstance.get() as instance, roster_services() as services:
        sync_partitions(instance, services.registry())
        yield instance


def _measured(servers: dict[str, int], work: Callable[[], None]) -> dict[str, Any]:
    """Run the work once: seconds, CPU seconds of this process and of the servers, sessions opened, events written."""
    processes = {name: psutil.Process(pid) for name, pid in servers.items()}
    connects = _count_connects()
    connected, events, sessions = next(connects), _dagster_events(), _postgres_sessions()
    with server_cpu(processes) as spent:
        runs = timed(work, 1, warm_up=False)
    return {
        **runs,
        "servers": spent,
        "connects": next(connects) - connected,
        "postgres_sessions": _postgres_sessions() - sessions,
        "events": _dagster_events() - events,
    }


def _together(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The seconds of all runs, and whatever else the last one has counted."""
    return runs[-1] | {key: [value for each in runs for value in each[key]] for key in ("seconds", "cpu_seconds")}


def _published(expected: int) -> dict[str, int]:
    with roster_services() as services:
        keys = [key for key in services.store.list_keys("__rosters/") if key.endswith(".jsonl")]
    return {"published": len(keys), "expected": expected}


def _count_connects() -> Iterator[int]:
    """How many sessions this process has opened since the first ``next``."""
    opened: list[EduSession] = []
    open_session = EduSnowflake.open_session

    def counted(self: EduSnowflake, *arguments: Any, **named: Any) -> EduSession:
        opened.append(open_session(self, *arguments, **named))
        return opened[-1]

    EduSnowflake.open_session = counted  # type: ignore[method-assign]
    while True:
        yield len(opened)


def _dagster_events() -> int:
    with _postgres(DAGSTER_DATABASE) as connection:
        if connection.execute("select to_regclass('event_logs')").fetchone() == (None,):
            return 0
        (count,) = connection.execute("select count(*) from event_logs").fetchone() or (0,)
    return int(count)


def _postgres_sessions() -> int:
    """How many connections have been made to Dagster's database; asked over another one, which does not count."""
    time.sleep(0.5)  # a session is counted when it ends
    with _postgres(APP_DATABASE) as connection:
        counted = connection.execute("select sessions from pg_stat_database where datname = %s", [DAGSTER_DATABASE])
        (count,) = counted.fetchone() or (0,)
    return int(count)


def _postgres(database: str) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=os.environ["DAGSTER_PG_HOST"],
        port=os.environ["DAGSTER_PG_PORT"],
        dbname=database,
        user=os.environ["DAGSTER_PG_USERNAME"],
        password=os.environ["DAGSTER_PG_PASSWORD"],
    )
