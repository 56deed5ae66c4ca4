"""The demo's second scene: a district loses most of its students, is held, looked at, and released."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import boto3
from rich.console import Console

from runway_pipelines.local.breakage import Practice, mass_loss, mend
from runway_pipelines.local.mishaps import named
from runway_pipelines.local.partners import synthetic_partners
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.comparison import differences
from runway_pipelines.rosters.holds import read_hold
from runway_pipelines.rosters.manifest import snapshot_key
from runway_pipelines.rosters.publication import read_published
from runway_pipelines.rosters.services import RosterServices

HELD_TENANT = PartnerTenant("borealis", "district-12")
Refresh = Callable[[PartnerTenant], bool]  # whether the run succeeded


@dataclass(frozen=True)
class HoldResult:
    """What became of the district: why it was held, whether the good roster stayed published, and how it ended."""

    tenant: str
    guards: tuple[str, ...]
    stayed_published: bool
    was_released: bool
    seconds: float

    @property
    def is_expected(self) -> bool:
        """Whether the loss was held by the guard that is there for it, harmed nothing, and ended by itself."""
        return "students_lost" in self.guards and self.stayed_published and self.was_released


def run_hold(services: RosterServices, state_dir: Path, refresh: Refresh, console: Console) -> HoldResult:
    """Lose most of a district's students, refresh it, look at the hold, mend the data, and refresh again."""
    started = time.monotonic()
    store, tenant, partners = services.store, HELD_TENANT, synthetic_partners()
    practice = Practice(state_dir, boto3.client("secretsmanager"), services.secrets.envlabel or "", partners)
    partner, district = named(partners, tenant.key)
    before = read_published(store, tenant)
    if before is None or district is None:
        return HoldResult(tenant.key, (), stayed_published=False, was_released=False, seconds=0)
    left = mass_loss(practice, partner, district)
    console.print(f"Most students of [bold]{tenant}[/] vanish from the warehouse: {left} are left. Refreshing it ...")
    refresh(tenant)
    hold, during = read_hold(store, tenant), read_published(store, tenant)
    if hold is not None:
        console.print(f"{tenant} is {hold.said_of(tenant)}", soft_wrap=True, highlight=False, markup=False)
        changes = Counter(
            kind.value
            for kind, _ in differences(
                store.lines(snapshot_key(tenant, before.pointer.sha256)), store.lines(snapshot_key(tenant, hold.sha256))
            )
        )
        counted = ", ".join(f"{number:,} {kind}" for kind, number in changes.items())
        console.print(f"What it would change, in students: {counted}. What was published stays published.")
    mend(practice, partner, district)
    is_refreshed = refresh(tenant)
    after = read_published(store, tenant)
    was_released = is_refreshed and hold is not None and read_hold(store, tenant) is None
    return HoldResult(
        tenant.key,
        hold.guards if hold else (),
        stayed_published=during is not None and during.pointer.sha256 == before.pointer.sha256,
        was_released=was_released and after is not None and after.pointer.sha256 == before.pointer.sha256,
        seconds=round(time.monotonic() - started, 2),
    )


def print_hold(result: HoldResult, console: Console) -> None:
    """One line: how it ended."""
    if result.is_expected:
        console.print(f"The data is back, and the next refresh released [bold]{result.tenant}[/] ({result.seconds} s).")
    else:
        console.print(f"[red]Not expected[/]: {result.tenant} was held by {list(result.guards)}, or did not come back.")
