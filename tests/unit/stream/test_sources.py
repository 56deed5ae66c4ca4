"""Where a pull is served from, and which snapshots may not serve."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.manifest import Pointer
from runway_pipelines.stream.sources import MOST_REMEMBERED, DamagedSnapshots, Source, choose

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
DAY = timedelta(hours=24)
POINTER = Pointer("abc", (NOW - timedelta(hours=1)).isoformat(), NOW.isoformat(), "v1", "run")


def verified(ago: timedelta) -> Pointer:
    return replace(POINTER, verified_at=(NOW - ago).isoformat())


@pytest.mark.parametrize(
    ("requested", "published", "version", "is_snapshot"),
    [
        (Source.AUTO, POINTER, "v1", True),
        (Source.AUTO, verified(DAY), "v1", True),
        (Source.AUTO, verified(DAY + timedelta(seconds=1)), "v1", False),
        (Source.AUTO, verified(-timedelta(minutes=5)), "v1", True),
        (Source.AUTO, verified(-timedelta(minutes=5, seconds=1)), "v1", False),
        (Source.AUTO, verified(-365 * DAY), "v1", False),
        (Source.AUTO, replace(POINTER, verified_at="nonsense"), "v1", False),
        (Source.AUTO, replace(POINTER, verified_at="2026-05-04T11:00:00"), "v1", False),
        (Source.AUTO, POINTER, "v2", False),
        (Source.AUTO, POINTER, None, False),
        (Source.AUTO, None, "v1", False),
        (Source.SNAPSHOT, verified(DAY * 30), None, True),
        (Source.SNAPSHOT, None, "v1", False),
        (Source.WAREHOUSE, POINTER, "v1", False),
    ],
)
def test_where_a_pull_is_served_from(
    requested: Source, published: Pointer | None, version: str | None, is_snapshot: bool
) -> None:
    choice = choose(requested, published, version, now=NOW, fresh_for=DAY)
    assert choice.snapshot == (published if is_snapshot else None)
    assert choice.reason


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
