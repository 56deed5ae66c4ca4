"""One tick of the rotation sensor, for more and more partners, beside listing alone and asking for each secret.

The tick is evaluated as a code server does it: an instance of its own, opened from DAGSTER_HOME's configuration, on the
stack's Postgres. What it requests is counted and not run.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import psycopg

from benchmarks.local_partner import partner_with, stack_with
from benchmarks.measure import Report, in_own_process, median, spread, timed
from runway_pipelines.local.stack import DAGSTER_DATABASE

SIZES = (10, 300, 3_000)
REPEATS = 3
EXECUTIONS = 30  # of each partner's check, and of its job
GRPC_LIMIT_SECONDS = 60
PARTNER = partner_with(())  # a stack has one
LISTING, NAIVE, FIRST, QUIET, CLEARED, ROTATED, FAILING = (
    "floor: listing",
    "naive: each secret",
    "first tick",
    "quiet tick",
    "cursor cleared",
    "all rotated",
    "all failing, due",
)


def run() -> Iterator[Report]:
    """The table."""
    results: dict[int, dict[str, Any]] = {}
    for partners in SIZES:
        with stack_with(PARTNER):
            results[partners] = in_own_process(ticks, partners=partners)
    yield _report(results)


def _report(results: dict[int, dict[str, Any]]) -> Report:
    report = Report(
        "rotation",
        f"rotation: one tick of the sensor; {EXECUTIONS} runs and checks of each partner in Dagster's Postgres",
        (
            "partners",
            "",
            "seconds",
            "CPU s",
            "AWS, storage*",
            "AWS calls",
            "connects",
            "statements",
            "runs",
        ),
        numbers={"executions": EXECUTIONS, "sizes": {str(partners): result for partners, result in results.items()}},
    )
    for partners, result in results.items():
        for name, case in result["cases"].items():
            report.rows.append((f"{partners:,}", name, *_cells(case)))
            expected = partners if name in (FIRST, ROTATED, FAILING) else 0
            if case["requests"] not in (None, expected):
                report.wrong.append(f"{name} of {partners} partners requests {case['requests']} runs, not {expected}")
    report.notes.append(
        "* Of the last repeat's seconds: waiting for the answers of Secrets Manager, and of Postgres with its connects."
    )
    slowest = {
        partners: max(median(case["seconds"]) for name, case in result["cases"].items() if name not in (LISTING, NAIVE))
        for partners, result in results.items()
    }
    report.notes.append(
        f"Dagster ends a tick after {GRPC_LIMIT_SECONDS} s. The slowest takes "
        + ", ".join(f"{seconds:.1f} s for {partners:,} partners" for partners, seconds in slowest.items())
        + "."
    )
    return report


def _cells(case: dict[str, Any]) -> tuple[str, ...]:
    calls = ", ".join(f"{count:,} {action}" for action, count in sorted(case["calls"].items())) or "0"
    return (
        spread(case["seconds"]),
        f"{median(case['cpu_seconds']):.2f}",
        f"{case['aws_seconds']:.2f}, {case['storage_seconds']:.2f}",
        calls,
        f"{case['connects']:,}",
        f"{case['statements']:,}",
        "-" if case["requests"] is None else f"{case['requests']:,}",
    )


def ticks(partners: int) -> dict[str, Any]:
    """All cases for so many partners, each from the cursor that leads to it. Runs in a process of its own."""
    import dagster as dg

    from runway_pipelines.credentials.rotation import LastSeen, cursor_text, parse_cursor
    from runway_pipelines.partner_tenants.partitions import PARTNERS_NAME

    client = boto3.client("secretsmanager")
    names = {partner_id: f"dev-edu-connection-info-{partner_id}" for partner_id in map(_partner_id, range(partners))}
    versions = {
        partner_id: client.create_secret(Name=name, SecretString="1")["VersionId"] for partner_id, name in names.items()
    }
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(PARTNERS_NAME, list(names))
        ref = instance.get_ref()
        cases: dict[str, dict[str, Any]] = {}
        counts = [_Counts()]
        _count(counts)
        tick = _ticker(ref)
        tick(None)  # the warm-up

        def case(name: str, work: Callable[[], Any]) -> Any:
            cases[name], result = _measured(counts, work)
            return result

        case(LISTING, lambda: _list_alone(client))
        case(NAIVE, lambda: [client.describe_secret(SecretId=name)["VersionIdsToStages"] for name in names.values()])
        cursor = case(FIRST, lambda: tick(None)).cursor
        _write_history(instance, versions)
        case(QUIET, lambda: tick(cursor))
        case(CLEARED, lambda: tick(None))
        for name in names.values():
            client.put_secret_value(SecretId=name, SecretString="2")
        cursor = case(ROTATED, lambda: tick(cursor)).cursor
        _let_all_fail()
        due = datetime.now(UTC) - timedelta(seconds=1)
        failing: dict[str, LastSeen] = {
            partner_id: replace(seen, next_try=due) for partner_id, seen in (parse_cursor(cursor) or {}).items()
        }
        case(FAILING, lambda: tick(cursor_text(failing)))
        return {"cases": cases}


def _partner_id(number: int) -> str:
    return f"partner-{number:04d}"


def _ticker(ref: Any) -> Callable[[str | None], Any]:
    """What evaluates a tick from a cursor, as `dagster code-server` does: definitions once, an instance each time."""
    import logging

    import dagster as dg

    from runway_pipelines.credentials.rotation_sensor import SENSOR_NAME
    from runway_pipelines.definitions import defs

    logging.disable(logging.INFO)  # a line for each tick
    repository = defs().get_repository_def()
    sensor = repository.get_sensor_def(SENSOR_NAME)
    resources = {key: (defs().resources or {})[key] for key in sensor.required_resource_keys}

    def tick(cursor: str | None) -> Any:
        with dg.build_sensor_context(
            instance_ref=ref, cursor=cursor, repository_def=repository, resources=resources
        ) as context:
            return sensor.evaluate_tick(context)

    return tick


def _list_alone(client: Any) -> int:
    pages = client.get_paginator("list_secrets").paginate(
        Filters=[{"Key": "name", "Values": ["dev-edu-connection-info-"]}],
        IncludePlannedDeletion=True,
        PaginationConfig={"PageSize": 100},
    )
    return sum(len(page["SecretList"]) for page in pages)


@dataclass
class _Counts:
    """What this process has asked of AWS and of Postgres since the counts were begun, and how long it waited."""

    calls: Counter[str] = field(default_factory=Counter)
    connects: int = 0
    statements: int = 0
    aws_seconds: float = 0.0
    storage_seconds: float = 0.0

    def called(self, request: Any) -> None:
        target = request.headers.get("X-Amz-Target", "")
        self.calls[(target.decode() if isinstance(target, bytes) else target).rpartition(".")[2]] += 1

    def connected(self, *_: Any) -> None:
        self.connects += 1

    def executed(self, *_: Any) -> None:
        self.statements += 1


def _count(counts: list[_Counts]) -> None:
    """From now on, count every request of botocore, and every connect and statement of SQLAlchemy, in the last one."""
    from botocore.httpsession import URLLib3Session
    from sqlalchemy.engine.default import DefaultDialect

    for owner, method, note, clock in (
        (URLLib3Session, "send", _Counts.called, "aws_seconds"),
        (DefaultDialect, "connect", _Counts.connected, "storage_seconds"),
        (DefaultDialect, "do_execute", _Counts.executed, "storage_seconds"),
    ):
        setattr(owner, method, _counting(getattr(owner, method), counts, note, clock))


def _counting(
    call: Callable[..., Any], counts: list[_Counts], note: Callable[..., None], clock: str
) -> Callable[..., Any]:
    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(self, *arguments, **named)
        finally:
            note(counts[-1], *arguments)
            setattr(counts[-1], clock, getattr(counts[-1], clock) + time.perf_counter() - started)

    return counted


def _measured(counts: list[_Counts], work: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
    """The times of all repeats, what the last one asked for, and what it returned."""
    results: list[Any] = []

    def once() -> None:
        counts.append(_Counts())
        results.append(work())

    runs = timed(once, REPEATS, warm_up=False)
    counted = counts.pop()
    requests = len(results[-1].run_requests or ()) if hasattr(results[-1], "run_requests") else None
    return {**runs, **vars(counted), "requests": requests}, results[-1]


def _write_history(instance: Any, versions: Mapping[str, str]) -> None:
    """Thirty runs of each partner with their checks: one is written by Dagster, the others are copies of its rows.

    The first of each partner's runs is its secret version's, the others are the schedule's.
    """
    partner_id = next(iter(versions))
    run_id = _write_one_run(instance, partner_id, versions[partner_id])
    with _postgres() as connection:
        connection.execute("create temporary table copies (run_id text, partner_id text, secret_version text, n int)")
        with connection.cursor().copy("copy copies from stdin") as rows:
            for copied, secret_version in versions.items():
                for n in range(EXECUTIONS):
                    rows.write_row((str(uuid.uuid4()), copied, secret_version, n))
        model = (run_id, partner_id, versions[partner_id])
        for table in ("runs", "run_tags", "event_logs", "asset_check_executions"):
            _copy_rows(connection, table, model)
        connection.execute("delete from runs where run_id = %s", [run_id])
        connection.execute(
            "delete from run_tags using copies where run_tags.run_id = copies.run_id and n > 0 and key = any(%s)",
            [["runway/secret_version", "dagster/run_key"]],
        )
        for table in ("run_tags", "event_logs", "asset_check_executions"):
            connection.execute(f"delete from {table} where run_id = %s", [run_id])
            connection.execute(f"analyze {table}")
        connection.execute("analyze runs")


def _copy_rows(connection: psycopg.Connection[Any], table: str, model: tuple[str, str, str]) -> None:
    """The rows of the model's run, again for each of ``copies``, in whose order they are numbered."""
    columns = connection.execute(
        "select column_name, data_type from information_schema.columns where table_name = %s and column_name <> 'id'",
        [table],
    ).fetchall()
    values = [
        f"replace(replace(replace(t.{name}, %s, c.run_id), %s, c.partner_id), %s, c.secret_version)"
        if kind in ("text", "character varying")
        else f"t.{name}"
        for name, kind in columns
    ]
    texts = sum(kind in ("text", "character varying") for _, kind in columns)
    connection.execute(
        f"insert into {table} ({', '.join(name for name, _ in columns)}) select {', '.join(values)} "
        f"from {table} t, copies c where t.run_id = %s order by n, t.id",
        [*model * texts, model[0]],
    )


def _write_one_run(instance: Any, partner_id: str, secret_version: str) -> str:
    """A run that tried the partner's credentials an hour ago, without success and without running: only its events."""
    import dagster as dg
    from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData

    from runway_pipelines.credentials.connection_asset import CAN_CONNECT, EDU_CONNECTION
    from runway_pipelines.credentials.rotation import Trigger, run_key
    from runway_pipelines.definitions import defs
    from runway_pipelines.operations.tags import SECRET_VERSION_TAG
    from runway_pipelines.partner_tenants.runs import partner_run
    from runway_pipelines.rosters.automation import partner_rosters_job

    key = run_key(partner_id, secret_version, 0)
    request = partner_run(partner_id, key, Trigger.ROTATION.value, {SECRET_VERSION_TAG: secret_version})
    run = instance.create_run_for_job(
        defs().resolve_job_def(partner_rosters_job.name),
        tags={**request.tags, "dagster/run_key": key, "dagster/partition": partner_id},
    )
    events = (
        (
            DagsterEventType.ASSET_MATERIALIZATION,
            StepMaterializationData(dg.AssetMaterialization(EDU_CONNECTION, partition=partner_id)),
        ),
        (
            DagsterEventType.ASSET_CHECK_EVALUATION,
            dg.AssetCheckEvaluation(
                asset_key=EDU_CONNECTION, check_name=CAN_CONNECT.name, passed=True, partition=partner_id
            ),
        ),
    )
    for kind, data in events:
        event = DagsterEvent(kind.value, run.job_name, event_specific_data=data)
        instance.report_dagster_event(event, run.run_id)
    instance.report_run_failed(run)
    return str(run.run_id)


def _let_all_fail() -> None:
    """Each partner's newest try has failed an hour ago."""
    with _postgres() as connection:
        connection.execute("update asset_check_executions set execution_status = 'FAILED'")
        connection.execute("update runs set end_time = extract(epoch from now()) - 3600")


def _postgres() -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=os.environ["DAGSTER_PG_HOST"],
        port=os.environ["DAGSTER_PG_PORT"],
        dbname=DAGSTER_DATABASE,
        user=os.environ["DAGSTER_PG_USERNAME"],
        password=os.environ["DAGSTER_PG_PASSWORD"],
    )
