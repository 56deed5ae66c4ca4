"""What is remembered of damaged snapshots: one for each tenant, while its pointer stays, and not without end."""

from __future__ import annotations

from dataclasses import replace

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.manifest import Pointer
from runway_pipelines.stream.damaged import MOST_REMEMBERED, DamagedSnapshots

NORTH, SOUTH = PartnerTenant("acme", "north"), PartnerTenant("acme", "south")
POINTER = Pointer("abc", "2026-05-04T11:00:00+00:00", "2026-05-04T11:00:00+00:00", "v1", "run")


def test_it_is_known_until_something_is_published_or_verified() -> None:
    damaged = DamagedSnapshots()
    assert not damaged.is_known(NORTH, POINTER)
    damaged.remember(NORTH, POINTER)
    assert damaged.is_known(NORTH, POINTER)
    assert not damaged.is_known(SOUTH, POINTER)
    assert not damaged.is_known(NORTH, replace(POINTER, sha256="def"))
    assert not damaged.is_known(NORTH, replace(POINTER, verified_at="2026-05-05T11:00:00+00:00"))


def test_the_one_that_was_found_first_is_forgotten_first() -> None:
    damaged = DamagedSnapshots()
    tenants = [PartnerTenant("acme", f"t-{number}") for number in range(MOST_REMEMBERED)]
    for tenant in tenants:
        damaged.remember(tenant, POINTER)
    damaged.remember(tenants[0], POINTER)  # found again
    damaged.remember(NORTH, POINTER)
    assert [tenant for tenant in (NORTH, *tenants) if not damaged.is_known(tenant, POINTER)] == [tenants[1]]
