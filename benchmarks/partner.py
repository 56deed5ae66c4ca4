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

import psycopg

from benchmarks.local_partner import forget_rosters, partner_with, roster_services, stack_with
from benchmarks.measure import Report, in_own_process, median, server_cpu, server_processes, spread, timed
from runway_pipelines.local.partners import Tenant
from runway_pipelines.local.seed import write_warehouse
from runway_pipelines.local.stack import DAGSTER_DATABASE

TENANTS = 40
STUDENTS_OF_EACH = 1_000
REPEATS = 3
# Measured on the real Snowflake; the local one takes milliseconds.
SECONDS_OF_A_CONNECT = 20
PARTNER = partner_with(tuple(Tenant(f"district-{number:02d}", STUDENTS_OF_EACH) for number in range(1, TENANTS + 1)))
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
FLOOR, ONE_RUN, ONE_RUN_UNCHANGED, RUN_EACH, PROCESS_EACH = (
    "floor: the tenants alone, without Dagster",
    "ours: one run of the partner's job, first snapshots",
    "ours: one run of the partner's job, no change",
    f"{TENANTS} runs of one tenant, all in one process",
    f"{TENANTS} runs of one tenant, a process each (one measured, times {TENANTS})",
)


def run() -> Iterator[Report]:
    """The table, and the projection."""
    with stack_with(PARTNER) as stack:
        write_warehouse(stack.warehouse_dir, partners=[PARTNER])
        servers = server_processes(stack.state_dir)
        results: dict[str, dict[str, Any]] = {}
        for name, work, arguments in (
            (FLOOR, tenants_alone, {}),
            (ONE_RUN, partner_runs, {"unchanged": False}),
            (ONE_RUN_UNCHANGED, partner_runs, {"unchanged": True}),
            (RUN_EACH, tenant_runs, {}),
            (PROCESS_EACH, tenant_process, {}),
        ):
            with server_cpu(servers) as spent:
                results[name] = in_own_process(
                    work, servers={name: each.pid for name, each in servers.items()}, **arguments
                )
            results[name]["servers_with_warm_up"] = spent
    process = results[PROCESS_EACH]
    process["connects"] *= TENANTS
    process["measured"] = {key: process[key] for key in ("process_seconds", "process_cpu_seconds", "events")}
    process["seconds"] = [process["process_seconds"] * TENANTS]
    process["cpu_seconds"] = [process["process_cpu_seconds"] * TENANTS]
    process["events"] *= TENANTS
    process["servers"] = {name: seconds * TENANTS for name, seconds in process["servers"].items()}
    yield _report(results)
    yield _projection(results)


def _report(results: dict[str, dict[str, Any]]) -> Report:
    report = Report(
        "partner",
        f"partner: {TENANTS} tenants of {STUDENTS_OF_EACH:,} students",
        ("", "seconds", "CPU s", "servers' CPU s: Postgres, S3, Snowflake", "connects", "rows in event log", "x ours"),
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
                f"{result['events']:,}",
                f"{median(result['seconds']) / ours:.1f}",
            )
        )
        if result["published"] != result["expected"]:
            report.wrong.append(f"{name} published {result['published']} rosters, not {result['expected']}")
    in_one_run = median(results[ONE_RUN]["cpu_seconds"])
    in_runs = median(results[RUN_EACH]["cpu_seconds"])
    in_processes = median(results[PROCESS_EACH]["cpu_seconds"])
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
    from runway_pipelines.rosters.refresh import RefreshContext, refresh_tenants

    with roster_services() as services:
        policy = services.policy
        context = RefreshContext(
            store=services.store,
            database=services.database,
            run_id="benchmark",
            thresholds=policy.thresholds,
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

        return _measured(servers, work, REPEATS, before=lambda: forget_rosters(services)) | _published(TENANTS)


def partner_runs(servers: dict[str, int], *, unchanged: bool) -> dict[str, Any]:
    """Runs of `partner_rosters_job`, as the demo makes them."""
    from runway_pipelines.definitions import defs
    from runway_pipelines.rosters.automation import PARTNER_TAG, partner_rosters_job

    job = defs.resolve_job_def(partner_rosters_job.name)
    with _instance() as instance, roster_services() as services:
        forget_rosters(services)

        def work() -> None:
            job.execute_in_process(
                instance=instance,
                partition_key=PARTNER.partner_id,
                run_config=QUIET,
                tags={PARTNER_TAG: PARTNER.partner_id},
            )

        before = None if unchanged else lambda: forget_rosters(services)
        return _measured(servers, work, REPEATS, before=before) | _published(TENANTS)


def tenant_runs(servers: dict[str, int]) -> dict[str, Any]:
    """A run for each tenant, one after the other."""
    with _instance() as instance, roster_services() as services:
        refresh = _run_of_a_tenant(instance)
        refresh(PARTNER.tenants[0])  # the warm-up
        forget_rosters(services)

        def work() -> None:
            for tenant in PARTNER.tenants:
                refresh(tenant)

        return _measured(servers, work, 1, warm_up=False) | _published(TENANTS)


def tenant_process(servers: dict[str, int]) -> dict[str, Any]:
    """A run of one tenant, the only one of its process: what is counted is the process, imports and all."""
    with _instance() as instance, roster_services() as services:
        forget_rosters(services)
        refresh = _run_of_a_tenant(instance)
        return _measured(servers, lambda: refresh(PARTNER.tenants[0]), 1, warm_up=False) | _published(1)


def _run_of_a_tenant(instance: Any) -> Callable[[Tenant], None]:
    from runway_pipelines.definitions import defs
    from runway_pipelines.partner_tenants.keys import PartnerTenant
    from runway_pipelines.rosters.events import CROSS_YEAR_ROSTER

    job = defs.resolve_implicit_global_asset_job_def()

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


def _measured(
    servers: dict[str, int],
    work: Callable[[], None],
    repeats: int,
    *,
    before: Callable[[], None] | None = None,
    warm_up: bool = True,
) -> dict[str, Any]:
    """Time the work; connects, servers' CPU and rows in Dagster's event log are those of the last run."""
    import psutil

    connects = _count_connects()
    processes = {name: psutil.Process(pid) for name, pid in servers.items()}
    last: dict[str, Any] = {}

    def counted() -> None:
        events, connected = _event_log_rows(), len(connects)
        with server_cpu(processes) as spent:
            started, cpu_started = time.perf_counter(), time.process_time()
            work()
            last.update(seconds=time.perf_counter() - started, cpu=time.process_time() - cpu_started)
        last.update(servers=spent, events=_event_log_rows() - events, connects=len(connects) - connected)

    runs: dict[str, list[float]] = {"seconds": [], "cpu_seconds": []}
    timed(
        lambda: (counted(), runs["seconds"].append(last["seconds"]), runs["cpu_seconds"].append(last["cpu"])),
        repeats,
        before=before,
        warm_up=warm_up,
    )
    kept = {key: values[warm_up:] for key, values in runs.items()}
    return {**kept, "servers": last["servers"], "events": last["events"], "connects": last["connects"]}


def _published(expected: int) -> dict[str, int]:
    with roster_services() as services:
        keys = [key for key in services.store.list_keys("__rosters/") if key.endswith(".jsonl")]
    return {"published": len(keys), "expected": expected}


def _count_connects() -> list[None]:
    """Have every session that is opened add to the list that is returned."""
    from runway_pipelines.resources.snowflake import EduSnowflake

    connects: list[None] = []
    open_session = EduSnowflake.open_session

    def counted(self: EduSnowflake, *arguments: Any, **named: Any) -> Any:
        connects.append(None)
        return open_session(self, *arguments, **named)

    EduSnowflake.open_session = counted  # type: ignore[method-assign]
    return connects


def _event_log_rows() -> int:
    with psycopg.connect(
        host=os.environ["DAGSTER_PG_HOST"],
        port=os.environ["DAGSTER_PG_PORT"],
        dbname=DAGSTER_DATABASE,
        user=os.environ["DAGSTER_PG_USERNAME"],
        password=os.environ["DAGSTER_PG_PASSWORD"],
    ) as connection:
        row = connection.execute("select to_regclass('event_logs') is not null").fetchone()
        if row is None or not row[0]:
            return 0
        counted = connection.execute("select count(*) from event_logs").fetchone()
        return int(counted[0]) if counted else 0
