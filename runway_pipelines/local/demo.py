"""The main jobs on the embedded stack: all rosters, one that is held, a file that is resolved, identity, a rotation."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import orjson
from rich.console import Console
from rich.table import Table

from runway_pipelines.credentials.rotation_sensor import SENSOR_NAME
from runway_pipelines.dagster_events import evaluate_sensor, report_canceled
from runway_pipelines.definitions import defs
from runway_pipelines.identity.assets import COUNTS
from runway_pipelines.identity.automation import library_identity_job
from runway_pipelines.local.hold_demo import HoldResult, print_hold, run_hold
from runway_pipelines.local.key_rotation import rotate_key
from runway_pipelines.local.partners import synthetic_partners
from runway_pipelines.local.student_demo import ResolutionResult, print_resolution, run_resolution
from runway_pipelines.operations.tags import PARTNER_TAG, TRIGGER_TAG
from runway_pipelines.operations.wording import how_many
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.partitions import sync_partitions
from runway_pipelines.partner_tenants.registry import RosterPartner
from runway_pipelines.rosters.automation import partner_rosters_job
from runway_pipelines.rosters.events import CROSS_YEAR_ROSTER
from runway_pipelines.rosters.index import PartnerIndex
from runway_pipelines.rosters.outcome import TenantStatus
from runway_pipelines.rosters.services import RosterServices

ROTATED_PARTNER = "cascade"
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d [\d:]+ \S+ - dagster - (?P<level>[A-Z]+) - (?P<message>.*?)\.?")
_OPERATOR_EVENT = re.compile(r"operator event (?P<type>\w+): (?P<detail>\{.*\})")
_under_way: list[str] = []  # run ids
# The terminal gets the story, the event log the details.
QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}


@dataclass(frozen=True)
class TenantResult:
    """How one tenant ended, and whether the data set means it to."""

    partner_id: str
    tenant_code: str
    status: str
    students: int
    lines: int
    school_years: tuple[int, ...]
    sha256: str | None
    reason: str
    is_expected: bool

    @property
    def published_years(self) -> tuple[int, ...]:
        """The school years with a published roster of this tenant, from this run or an earlier one."""
        return self.school_years if self.sha256 is not None else ()


@dataclass(frozen=True)
class PartnerResult:
    """A partner's run and its tenants."""

    partner_id: str
    run_id: str
    seconds: float
    tenants: tuple[TenantResult, ...]


@dataclass(frozen=True)
class RotationResult:
    """The runs that the sensor requested after one partner's key rotation, and how its tenants ended."""

    partner_id: str
    secret_version: str
    run_keys: tuple[str, ...]
    run_ids: tuple[str, ...]
    statuses: tuple[str, ...]
    seconds: float

    @property
    def is_expected(self) -> bool:
        """One run, for that partner and secret version, left every tenant fresh."""
        is_own = self.run_keys == (f"{self.partner_id}:{self.secret_version}",)
        return is_own and set(self.statuses) <= {TenantStatus.NEW, TenantStatus.UNCHANGED}


def tell_story(services: RosterServices, state_dir: Path, console: Console) -> dict[str, Any]:
    """Run the whole demo, report it on the console, and return `results_document`."""
    results = list(run_demo(services, console))
    print_results(results, console)
    hold = run_hold(services, state_dir, refresh_quietly, console)
    print_hold(hold, console)
    resolution = run_resolution(state_dir, console)
    print_resolution(resolution, console)
    console.print("Resolving the library's identity ...")
    identity = run_identity()
    print_identity(identity, console)
    rotation = run_rotation(services, state_dir, console)
    print_rotation(rotation, console)
    return results_document(results, hold, identity, rotation, resolution)


def run_demo(services: RosterServices, console: Console) -> Iterator[PartnerResult]:
    """Bring the partitions in line with the registry and run `partner_rosters_job` for each partner, in turn."""
    registry = services.registry()
    with dg.DagsterInstance.get() as instance:
        for name, changes in sync_partitions(instance, registry).items():
            console.print(f"Partitions [bold]{name}[/]: {len(changes.add)} added, {len(changes.remove)} removed.")
        for partner in sorted(registry.partners.values(), key=lambda partner: partner.partner_id):
            console.print(
                f"Refreshing {how_many(len(partner.tenant_codes), 'tenant')} of [bold]{partner.partner_id}[/] ..."
            )
            started = time.monotonic()
            run = execute_quietly(instance, partner.partner_id, {PARTNER_TAG: partner.partner_id, TRIGGER_TAG: "demo"})
            seconds = round(time.monotonic() - started, 2)
            yield PartnerResult(partner.partner_id, run.run_id, seconds, tuple(_tenants(services, partner, run.run_id)))


def execute_quietly(
    instance: dg.DagsterInstance, partner_id: str, tags: Mapping[str, str]
) -> dg.ExecuteInProcessResult:
    """`partner_rosters_job` for a partner."""
    job = defs().resolve_job_def(partner_rosters_job.name)
    return _execute(job, instance, tags, partition_key=partner_id)


def refresh_quietly(tenant: PartnerTenant) -> bool:
    """Materialize one tenant's roster; returns whether that succeeded."""
    job = defs().resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.get() as instance:
        selected: dict[str, Any] = {"asset_selection": [CROSS_YEAR_ROSTER], "partition_key": tenant.key}
        return _execute(job, instance, {TRIGGER_TAG: "demo"}, **selected).success


def _execute(
    job: dg.JobDefinition, instance: dg.DagsterInstance, tags: Mapping[str, str], **options: Any
) -> dg.ExecuteInProcessResult:
    """Run a job in this process. Its log goes to the event log, not to the terminal."""
    run_id = str(uuid.uuid4())
    _under_way.append(run_id)
    try:
        return job.execute_in_process(
            instance=instance,
            run_id=run_id,
            run_config={"loggers": QUIET},
            tags=dict(tags),
            raise_on_error=False,
            **options,
        )
    finally:
        _under_way.remove(run_id)


def cancel_runs_under_way() -> None:
    """Record this process's runs as canceled before it ends: otherwise they would look alive for ever."""
    with dg.DagsterInstance.get() as instance:
        for run_id in _under_way:
            if (run := instance.get_run_by_id(run_id)) is not None:
                report_canceled(instance, run)


def _tenants(services: RosterServices, partner: RosterPartner, run_id: str) -> Iterator[TenantResult]:
    expected = expected_trouble()
    index = PartnerIndex.read(services.store, partner)
    for entry in index.tenants:
        # Another run's index says nothing about this one.
        is_of_run = index.run_id == run_id
        is_success = entry.status in {status.value for status in TenantStatus if status.is_success}
        yield TenantResult(
            partner_id=partner.partner_id,
            tenant_code=entry.tenant_code,
            status=entry.status,
            students=entry.students,
            lines=entry.lines,
            school_years=partner.published_years,
            sha256=entry.sha256,
            reason=entry.reason,
            is_expected=is_of_run and is_success is ((partner.partner_id, entry.tenant_code) not in expected),
        )


def expected_trouble() -> frozenset[tuple[str, str]]:
    """(partner, tenant) pairs of the data set that must not get a roster: no secret, or no student."""
    return frozenset(
        (partner.partner_id, tenant.code)
        for partner in synthetic_partners()
        for tenant in partner.tenants
        if not partner.has_secret or tenant.students == 0
    )


def results_document(
    results: Iterable[PartnerResult],
    hold: HoldResult | None = None,
    identity: IdentityResult | None = None,
    rotation: RotationResult | None = None,
    resolution: ResolutionResult | None = None,
) -> dict[str, Any]:
    """The results in machine-readable form."""
    partners = [asdict(result) for result in results]
    tenants = [tenant for partner in partners for tenant in partner["tenants"]]
    others = [result for result in (hold, identity, rotation, resolution) if result is not None]
    return {
        "is_success": all(tenant["is_expected"] for tenant in tenants) and all(each.is_expected for each in others),
        "partners": partners,
        "hold": hold and asdict(hold),
        "identity": identity and asdict(identity),
        "rotation": rotation and asdict(rotation),
        "resolution": resolution and asdict(resolution),
    }


def print_results(results: list[PartnerResult], console: Console) -> None:
    """Print a line for each tenant, then why some have no new roster."""
    table = Table(title="Cross-year rosters", title_justify="left")
    for name in ("partner", "tenant"):
        table.add_column(name)
    for name in ("students", "lines"):
        table.add_column(name, justify="right")
    table.add_column("published for")
    table.add_column("result")
    troubled: list[TenantResult] = []
    for result in results:
        for tenant in result.tenants:
            is_trouble = tenant.status in (TenantStatus.HELD, TenantStatus.FAILED)
            troubled += [tenant] if is_trouble else []
            table.add_row(
                tenant.partner_id,
                tenant.tenant_code,
                f"{tenant.students:,}",
                f"{tenant.lines:,}",
                ", ".join(map(str, tenant.published_years)) or "no year",
                f"[{'red' if is_trouble else 'green'}]{tenant.status}[/]",
            )
        table.add_section()
    console.print(table)
    for tenant in troubled:
        meant = "as the data set means it" if tenant.is_expected else "[red]not expected[/]"
        console.print(f"[bold]{tenant.partner_id}/{tenant.tenant_code}[/] {tenant.status}, {meant}: {tenant.reason}")
    for result in results:
        if kept := [tenant for tenant in result.tenants if tenant.sha256 is not None and not tenant.school_years]:
            console.print(
                f"[bold]{result.partner_id}[/] has no school year to publish to: the rosters of its {len(kept)} "
                "tenants are kept as snapshots, and not published."
            )
    seconds = sum(result.seconds for result in results)
    lines = sum(tenant.lines for result in results for tenant in result.tenants)
    console.print(f"{sum(len(r.tenants) for r in results)} tenants, {lines:,} lines, {seconds:.1f} s.")


@dataclass(frozen=True)
class IdentityResult:
    """The library's identity after the demo: the run's counts, and whether its checks passed."""

    run_id: str
    counts: dict[str, Any]
    seconds: float
    is_expected: bool


def run_identity() -> IdentityResult:
    """`library_identity_job` on the embedded catalogue and LML."""
    started = time.monotonic()
    with dg.DagsterInstance.get() as instance:
        run = _execute(defs().resolve_job_def(library_identity_job.name), instance, {TRIGGER_TAG: "demo"})
    # A run that found nothing due observes the tables, and materializes none.
    told = [
        *(event.materialization.metadata for event in run.get_asset_materialization_events()),
        *(event.asset_observation_data.asset_observation.metadata for event in run.get_asset_observation_events()),
    ]
    counts: dict[str, Any] = {}
    for metadata in told:
        found = metadata.get(COUNTS)
        if isinstance(found, dg.JsonMetadataValue) and isinstance(found.value, Mapping):
            counts = dict(found.value)
    is_expected = run.success and all(check.passed for check in run.get_asset_check_evaluations())
    return IdentityResult(run.run_id, counts, round(time.monotonic() - started, 2), is_expected)


def print_identity(result: IdentityResult, console: Console) -> None:
    """One line, and the counts."""
    if not result.is_expected:
        console.print(f"[red]Not expected[/]: the identity run {result.run_id} failed, or one of its checks did.")
        return
    counts = result.counts
    if not counts["scanned"]:
        console.print(f"[bold]Library identity[/]: nothing was due; an earlier run did it ({result.seconds} s).")
        return
    console.print(
        f"[bold]Library identity[/]: {counts['scanned']:,} libraries asked about in {counts['lml_total_calls']} calls "
        f"of LML: {counts['rows_resolved']:,} resolved, {counts['rows_resolved_compilation']} compilations, "
        f"{counts['rows_unresolved']} unresolved, {sum(counts['rows_skipped'].values())} skipped ({result.seconds} s)."
    )


def run_rotation(services: RosterServices, state_dir: Path, console: Console) -> RotationResult:
    """Rotate one partner's key for real, let the sensor tick, and execute the runs that it requests."""
    (partner,) = (one for one in synthetic_partners() if one.partner_id == ROTATED_PARTNER)
    started = time.monotonic()
    with dg.DagsterInstance.get() as instance:
        with log_told(console):
            before = evaluate_sensor(defs(), SENSOR_NAME, instance, None)
        version = rotate_key(
            state_dir,
            partner,
            secrets_client=boto3.client("secretsmanager"),
            envlabel=services.secrets.envlabel or "",
        )
        console.print(f"Rotated the key of [bold]{ROTATED_PARTNER}[/]: its secret has the new version {version}.")
        with log_told(console):
            requests = evaluate_sensor(defs(), SENSOR_NAME, instance, before.cursor).run_requests or ()
        runs = [execute_quietly(instance, str(request.partition_key), request.tags) for request in requests]
    index = PartnerIndex.read(services.store, services.registry().partner(ROTATED_PARTNER))
    return RotationResult(
        ROTATED_PARTNER,
        version,
        tuple(str(request.run_key) for request in requests),
        tuple(run.run_id for run in runs),
        tuple(entry.status for entry in index.tenants if index.run_id in {run.run_id for run in runs}),
        round(time.monotonic() - started, 2),
    )


@contextmanager
def log_told(console: Console) -> Iterator[None]:
    """Print what Dagster logs to stderr in the block as lines of the story."""
    logged = StringIO()
    try:
        with redirect_stderr(logged):
            yield
    finally:
        for line in logged.getvalue().splitlines():
            console.print(readable_log_line(line), markup=False, highlight=False)


def readable_log_line(line: str) -> str:
    """A line of Dagster's log without its time and level; an operators' event becomes a sentence.

    Any other line is returned unchanged: nothing that was logged is lost.
    """
    found = _LOG_LINE.fullmatch(line)
    if found is None:
        return line
    level, message = found["level"], found["message"]
    if (event := _OPERATOR_EVENT.fullmatch(message)) and (detail := _members(event["detail"])):
        parts = [f"{name.replace('_', ' ')} {value}" for name, value in detail.items()]
        return f"Operators are told of {event['type']}: {'; '.join(parts)}."
    return f"The sensor says: {message}." if level == "INFO" else f"The sensor says ({level}): {message}."


def _members(text: str) -> dict[str, Any]:
    """An event's non-empty members, those of `credentials` included; none if it is not a JSON document."""
    try:
        detail = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    flat = {**detail, **(detail.get("credentials") or {})}
    return {name: value for name, value in flat.items() if value and name not in ("credentials", "occurred_at")}


def print_rotation(result: RotationResult, console: Console) -> None:
    """Print one line: which tenants were refreshed after the rotation."""
    if result.is_expected:
        console.print(
            f"The sensor noticed it and asked for one run, of [bold]{result.partner_id}[/] alone: the new key was "
            f"tried, and with it {how_many(len(result.statuses), 'tenant')} refreshed ({result.seconds} s)."
        )
    else:
        console.print(f"[red]Not expected[/]: the sensor asked for {list(result.run_keys)}, {list(result.statuses)}.")
