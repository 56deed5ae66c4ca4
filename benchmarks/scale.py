"""A night of many partners through all that production has: schedule, sensors, queue, code server, run processes.

Snowflake is the local server with a few students a tenant: what is measured is the pipeline and Dagster, not the
warehouse. Sizes: SCALE_PARTNERS, SCALE_TENANTS (of each partner).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psutil
import psycopg

from benchmarks.local_partner import partner_with, roster_services, stack_with
from benchmarks.measure import Report, cpu_seconds_of, server_processes
from runway_pipelines.local.dagster_services import start_code_server, start_daemon
from runway_pipelines.local.partners import Tenant
from runway_pipelines.local.processes import Child
from runway_pipelines.local.seed import write_warehouse
from runway_pipelines.local.stack import DAGSTER_DATABASE, EmbeddedStack
from runway_pipelines.settings import load_settings

PARTNERS = int(os.environ.get("SCALE_PARTNERS", "30"))
TENANTS = int(os.environ.get("SCALE_TENANTS", "100"))
STUDENTS_OF_EACH = 5
PATIENCE_SECONDS = 3600.0
SECONDS_OF_A_CONNECT = 20
FIRST, NIGHT = "first sight of every partner", "a night without a change"
_TABLES = ("event_logs", "asset_check_executions", "runs", "run_tags", "job_ticks", "asset_event_tags")
_PARTNERS = tuple(
    partner_with(tuple(Tenant(f"district-{n:03d}", STUDENTS_OF_EACH) for n in range(TENANTS)), f"partner-{number:03d}")
    for number in range(PARTNERS)
)


def run() -> Iterator[Report]:
    """The table, and what a night adds to Dagster's storage."""
    with stack_with(*_PARTNERS) as stack:
        write_warehouse(stack.warehouse_dir, partners=_PARTNERS)
        os.environ["RUNWAY_SENSOR_INTERVAL_SECONDS"] = "30"
        # Far away, while the sensors find all partners for themselves.
        os.environ["RUNWAY_ROSTERS_CRON"] = _cron(datetime.now(UTC) - timedelta(hours=2))
        os.environ["RUNWAY_ROSTERS_TIMEZONE"] = "UTC"
        phases = {FIRST: _phase(stack, "credential_first_sight")}
        os.environ["RUNWAY_ROSTERS_CRON"] = _cron(datetime.now(UTC) + timedelta(seconds=90))
        phases[NIGHT] = _phase(stack, "schedule")
        yield _report(phases)


def _cron(moment: datetime) -> str:
    return f"{moment.minute} {moment.hour} * * *"


def _phase(stack: EmbeddedStack, trigger: str) -> dict[str, Any]:
    """Dagster's processes from their start until every partner's run with this trigger has ended."""
    import dagster as dg

    from runway_pipelines.operations.tags import TRIGGER_TAG

    servers = server_processes(stack.state_dir)
    with dg.DagsterInstance.get() as instance, ExitStack() as undo:
        before, rows = {name: cpu_seconds_of(each) for name, each in servers.items()}, _storage()
        started = time.time()
        children = {
            "code server and runs": start_code_server(stack.state_dir, undo),
            "daemon": start_daemon(stack.state_dir, undo),
        }

        def ended() -> list[dg.RunRecord]:
            wanted = dg.RunsFilter(tags={TRIGGER_TAG: trigger}, created_after=datetime.fromtimestamp(started, UTC))
            found = instance.get_run_records(wanted)
            return list(found) if len([run for run in found if run.dagster_run.is_finished]) >= PARTNERS else []

        records = _eventually(ended, children)
        spent = {name: cpu_seconds_of(psutil.Process(child.pid)) for name, child in children.items()}
        spent |= {name: cpu_seconds_of(each) - before[name] for name, each in servers.items()}
        after = _storage()
        return {
            "runs": len(records),
            "failed": len([run for run in records if not run.dagster_run.is_success]),
            "seconds": max(run.end_time or 0 for run in records) - min(_created(run) for run in records),
            "run_seconds": sorted((run.end_time or 0) - (run.start_time or 0) for run in records),
            "queued_seconds": max((run.start_time or 0) - _created(run) for run in records),
            "cpu_seconds": spent,
            "rows": {table: after[table][0] - rows.get(table, (0, 0))[0] for table in after},
            "bytes": {table: after[table][1] - rows.get(table, (0, 0))[1] for table in after},
            "ticks": _ticks(instance, started),
            "published": _published(),
        }


def _created(run: Any) -> float:
    return float(run.create_timestamp.timestamp())


def _eventually(probe: Callable[[], list[Any]], children: dict[str, Child]) -> list[Any]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := probe()):
        dead = [child for child in children.values() if not child.is_running()]
        if dead or time.monotonic() > deadline:
            raise RuntimeError("\n".join(child.log_tail() for child in dead) or "the runs do not end")
        time.sleep(2)
    return found


def _ticks(instance: Any, since: float) -> dict[str, float]:
    """The longest tick of each sensor and schedule."""
    return {
        state.instigator_name: round(max(tick.end_timestamp - tick.timestamp for tick in ticks), 1)
        for state in instance.all_instigator_state()
        if (
            ticks := [
                tick
                for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, after=since)
                if tick.end_timestamp
            ]
        )
    }


def _published() -> int:
    load_settings.cache_clear()  # of the environment before the stack
    with roster_services() as services:
        return sum(1 for key in services.store.list_keys("__rosters/") if key.endswith(".jsonl"))


def _storage() -> dict[str, tuple[int, int]]:
    """(rows, bytes with indexes) of the tables of Dagster's storage that grow."""
    with _connection() as connection:
        connection.execute("analyze")
        return {
            table: connection.execute(
                f"select (select count(*) from {table}), pg_total_relation_size('{table}')".encode()
            ).fetchone()
            or (0, 0)
            for table in _TABLES
            if connection.execute("select to_regclass(%s) is not null", [table]).fetchone() == (True,)
        }


@contextmanager
def _connection() -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(
        host=os.environ["DAGSTER_PG_HOST"],
        port=os.environ["DAGSTER_PG_PORT"],
        dbname=DAGSTER_DATABASE,
        user=os.environ["DAGSTER_PG_USERNAME"],
        password=os.environ["DAGSTER_PG_PASSWORD"],
        autocommit=True,
    ) as connection:
        yield connection


def _cpu_seconds(name: str, phase: dict[str, Any]) -> str:
    return f"{phase['cpu_seconds'][name]:.0f}"


def _stored(table: str, phase: dict[str, Any]) -> str:
    return f"{phase['rows'].get(table, 0):,} ({phase['bytes'].get(table, 0) / 1e6:.1f})"


def _report(phases: dict[str, dict[str, Any]]) -> Report:
    tenants = PARTNERS * TENANTS
    report = Report(
        "scale",
        f"scale: {PARTNERS} partners with {TENANTS} tenants each, 8 runs at a time, on one machine",
        ("", *phases),
        numbers={"partners": PARTNERS, "tenants": tenants, "phases": phases},
    )
    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        "runs (failed)": lambda phase: f"{phase['runs']} ({phase['failed']})",
        "seconds from the first request to the last end": lambda phase: f"{phase['seconds']:.0f}",
        "a run's seconds, median (longest)": lambda phase: (
            f"{phase['run_seconds'][len(phase['run_seconds']) // 2]:.0f} ({phase['run_seconds'][-1]:.0f})"
        ),
        "longest in the queue, seconds": lambda phase: f"{phase['queued_seconds']:.0f}",
        **{f"CPU s: {name}": partial(_cpu_seconds, name) for name in phases[NIGHT]["cpu_seconds"]},
        **{f"rows (MB): {table}": partial(_stored, table) for table in phases[NIGHT]["rows"]},
        "longest ticks, seconds": lambda phase: ", ".join(f"{k} {v}" for k, v in sorted(phase["ticks"].items())),
    }
    report.rows += [(name, *(cell(phase) for phase in phases.values())) for name, cell in lines.items()]
    night = phases[NIGHT]
    report.notes.append(
        f"Of a night, for each tenant: {sum(night['rows'].values()) / tenants:.1f} rows and "
        f"{sum(night['bytes'].values()) / tenants / 1000:.1f} kB in Dagster's Postgres, "
        f"{night['cpu_seconds']['code server and runs'] / tenants:.2f} CPU seconds of runs."
    )
    for name, phase in phases.items():
        if phase["runs"] != PARTNERS or phase["failed"] or phase["published"] != tenants:
            report.wrong.append(
                f"{name}: {phase['runs']} runs, {phase['failed']} failed, {phase['published']} of {tenants} published"
            )
    return report
