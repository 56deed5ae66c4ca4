"""What a roster's page says of it, beside its numbers."""

import pytest

from runway_pipelines.rosters.events import changes_table, warehouse_seconds
from runway_pipelines.rosters.manifest import Manifest
from runway_pipelines.rosters.outcome import TenantOutcome, TenantStatus
from tests.factories import TENANT, manifest


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (manifest(previous_sha256=None), "the first snapshot"),
        (manifest(previous_sha256="p", students_added=None), "not compared: the previous snapshot could not be read"),
    ],
)
def test_a_first_snapshot_and_one_that_could_not_be_compared_are_told_apart(of: Manifest, said: str) -> None:
    assert str(changes_table(of).value).startswith(said)


def refreshed(start: str, seconds: float, status: TenantStatus = TenantStatus.NEW) -> TenantOutcome:
    of = manifest(query_started_at=f"2026-01-15T02:{start}+00:00", query_seconds=seconds)
    return TenantOutcome(TENANT, status, "", 0.1, of)


@pytest.mark.parametrize(
    ("outcomes", "seconds"),
    [
        ([refreshed("00:00", 5)], 5),
        ([refreshed("00:02", 5), refreshed("00:00", 5)], 7),  # two sessions at once
        ([refreshed("00:00", 9), refreshed("00:01", 2), refreshed("01:00", 1.5)], 10.5),
        ([refreshed("00:00", 5), refreshed("02:00", 5, TenantStatus.SUPERSEDED)], 5),  # another run's
    ],
)
def test_warehouse_seconds_are_those_in_which_a_statement_was_at_work(
    outcomes: list[TenantOutcome], seconds: float
) -> None:
    assert warehouse_seconds(outcomes) == {"warehouse seconds": seconds}


def test_without_a_refreshed_tenant_nothing_is_said_of_the_warehouse() -> None:
    assert warehouse_seconds([TenantOutcome(TENANT, TenantStatus.FAILED, "", 0.1)]) == {}
