"""The main job on the embedded stack: every partner's rosters, and what came of it as a table and as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg
from rich.console import Console
from rich.table import Table

from runway_pipelines.definitions import defs
from runway_pipelines.local.partners import Partner, synthetic_partners
from runway_pipelines.partner_tenants.partitions import sync_partitions
from runway_pipelines.partner_tenants.registry import RosterPartner
from runway_pipelines.partner_tenants.runs import PARTNER_TAG, TRIGGER_TAG
from runway_pipelines.rosters.automation import partner_rosters_job
from runway_pipelines.rosters.index import PartnerIndex
from runway_pipelines.rosters.refresh import Status
from runway_pipelines.rosters.services import RosterServices


@dataclass(frozen=True)
class TenantResult:
    """How one tenant ended, and whether that was to be expected of the data set."""

    partner_id: str
    tenant_code: str
    status: str
    students: int
    lines: int
    school_years: tuple[int, ...]
    sha256: str | None
    reason: str
    is_expected: bool


@dataclass(frozen=True)
class PartnerResult:
    """A partner's run and its tenants."""

    partner_id: str
    run_id: str
    seconds: float
    tenants: tuple[TenantResult, ...]


def run_demo(services: RosterServices, console: Console) -> Iterator[PartnerResult]:
    """Bring the partitions in line with the registry and run `partner_rosters_job` for each partner, in turn."""
    registry = services.registry()
    job = defs.resolve_job_def(partner_rosters_job.name)
    with dg.DagsterInstance.get() as instance:
        for name, changes in sync_partitions(instance, registry).items():
            console.print(f"Partitions [bold]{name}[/]: {len(changes.add)} added, {len(changes.remove)} removed.")
        for partner in sorted(registry.partners.values(), key=lambda partner: partner.partner_id):
            console.print(f"Refreshing {len(partner.tenant_codes)} tenants of [bold]{partner.partner_id}[/] ...")
            started = time.monotonic()
            run = job.execute_in_process(
                instance=instance,
                partition_key=partner.partner_id,
                # The demo tells the story; the event log has every word of it.
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                tags={PARTNER_TAG: partner.partner_id, TRIGGER_TAG: "demo"},
                raise_on_error=False,
            )
            seconds = round(time.monotonic() - started, 2)
            yield PartnerResult(partner.partner_id, run.run_id, seconds, tuple(_tenants(services, partner, run.run_id)))


def _tenants(services: RosterServices, partner: RosterPartner, run_id: str) -> Iterator[TenantResult]:
    expected = expected_trouble()
    index = PartnerIndex.read(services.store, partner)
    for entry in index.tenants:
        # An index of another run says nothing of this one.
        is_of_run = index.run_id == run_id
        is_success = entry.status in {status.value for status in Status if status.is_success}
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


def expected_trouble(partners: Iterable[Partner] | None = None) -> frozenset[tuple[str, str]]:
    """(partner, tenant) pairs of the data set that must not get a roster: no secret, or no student."""
    return frozenset(
        (partner.partner_id, tenant.code)
        for partner in (synthetic_partners() if partners is None else partners)
        for tenant in partner.tenants
        if not partner.has_secret or tenant.students == 0
    )


def results_document(results: Iterable[PartnerResult]) -> dict[str, Any]:
    """The results for machines."""
    partners = [asdict(result) for result in results]
    tenants = [tenant for partner in partners for tenant in partner["tenants"]]
    return {"is_success": all(tenant["is_expected"] for tenant in tenants), "partners": partners}


def print_results(results: list[PartnerResult], console: Console) -> None:
    """A line for each tenant, and the reasons of those that have no new roster."""
    table = Table(title="Cross-year rosters", title_justify="left")
    for name in ("partner", "tenant"):
        table.add_column(name)
    for name in ("students", "rows"):
        table.add_column(name, justify="right")
    table.add_column("school years")
    table.add_column("result")
    troubled: list[TenantResult] = []
    for result in results:
        for tenant in result.tenants:
            is_trouble = tenant.status in (Status.HELD, Status.FAILED)
            troubled += [tenant] if is_trouble else []
            table.add_row(
                tenant.partner_id,
                tenant.tenant_code,
                f"{tenant.students:,}",
                f"{tenant.lines:,}",
                ", ".join(map(str, tenant.school_years)) or "none",
                f"[{'red' if is_trouble else 'green'}]{tenant.status}[/]",
            )
        table.add_section()
    console.print(table)
    for tenant in troubled:
        meant = "as the data set means it" if tenant.is_expected else "[red]not expected[/]"
        console.print(f"[bold]{tenant.partner_id}/{tenant.tenant_code}[/] {tenant.status}, {meant}: {tenant.reason}")
    seconds = sum(result.seconds for result in results)
    lines = sum(tenant.lines for result in results for tenant in result.tenants)
    console.print(f"{sum(len(r.tenants) for r in results)} tenants, {lines:,} rows, {seconds:.1f} s.")
