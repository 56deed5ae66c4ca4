"""Since when a tenant fails, and what changed last, in its partner's index."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from runway_pipelines.partner_tenants.registry import RosterPartner
from runway_pipelines.rosters.holds import Hold, HoldReason
from runway_pipelines.rosters.index import IndexEntry, PartnerIndex, failing_since, forget_tenant, record_outcomes
from runway_pipelines.rosters.manifest import index_key
from runway_pipelines.rosters.outcome import TenantOutcome, TenantStatus
from tests.factories import TENANT, manifest
from tests.memory_store import MemoryS3, memory_store

PARTNER = RosterPartner(TENANT.partner_id, TENANT.partner_id, (TENANT.tenant_code,), (2026,))
FIRST_NIGHT = datetime(2026, 11, 20, 2, tzinfo=UTC)
NIGHTS = [(FIRST_NIGHT + timedelta(days=n)).isoformat() for n in range(4)]

FAILED = TenantOutcome(TENANT, TenantStatus.FAILED, "no table", 0.1)
REFUSED = TenantOutcome(TENANT, TenantStatus.HELD, "no student", 0.1)
GOOD = TenantOutcome(TENANT, TenantStatus.UNCHANGED, "", 0.1, manifest(), NIGHTS[0])
HELD = TenantOutcome(
    TENANT,
    TenantStatus.HELD,
    "640 are gone",
    0.1,
    hold=Hold(
        sha256="a" * 64,
        since=NIGHTS[0],
        run_id="run",
        reasons=(HoldReason("students_lost", "640"),),
        published_sha256="b" * 64,
        students=9,
        seen_at=NIGHTS[0],
        query_started_at=NIGHTS[0],
        secret_version_id="v1",
    ),
)


def recorded(*outcomes: TenantOutcome) -> IndexEntry:
    """The tenant's entry after these were recorded, one each minute from 03:00 on."""
    store = memory_store(MemoryS3())
    for minute, outcome in enumerate(outcomes):
        index = record_outcomes(store, PARTNER, [outcome], "run", FIRST_NIGHT + timedelta(minutes=60 + minute))
    (entry,) = index.tenants
    return entry


@pytest.mark.parametrize("of_the_run", [replace(GOOD, status=TenantStatus.NEW), FAILED, HELD])
@pytest.mark.parametrize("decided", [replace(GOOD, status=TenantStatus.PINNED, pinned_at=NIGHTS[0]), GOOD, HELD])
def test_a_run_that_ends_later_does_not_undo_what_was_decided_meanwhile(
    of_the_run: TenantOutcome, decided: TenantOutcome
) -> None:
    early, late = FIRST_NIGHT, FIRST_NIGHT + timedelta(minutes=30)
    first, second = replace(of_the_run, known_at=early), replace(decided, known_at=late)
    assert recorded(second, first) == recorded(second)
    assert recorded(first, second).as_of == recorded(second).as_of == late.isoformat()
    assert recorded(second, of_the_run).status == of_the_run.status, "one without a time is of now"
    fast = replace(decided, known_at=late + timedelta(days=1))
    assert recorded(fast, first).status == first.status, "a fast clock does not have the last word"


@pytest.mark.parametrize("damaged", [b"", b"[]", b"{", b'{"tenants": [{}]}'])
def test_a_damaged_index_forgets_a_tenant_without_ado(damaged: bytes) -> None:
    s3 = MemoryS3()
    s3.objects[index_key(TENANT.partner_id)] = (damaged, {})
    forget_tenant(memory_store(s3), TENANT)
    assert s3.objects[index_key(TENANT.partner_id)] == (damaged, {})


@pytest.mark.parametrize(
    ("outcomes", "since"),
    [
        ([FAILED], NIGHTS[0]),
        ([FAILED, FAILED, FAILED], NIGHTS[0]),
        ([GOOD, FAILED, REFUSED], NIGHTS[1]),  # refused by a check, which no person can approve, is a failure too
        ([FAILED, GOOD], None),
        ([FAILED, GOOD, FAILED], NIGHTS[2]),
        ([FAILED, HELD], None),  # a person's turn, since the hold
        ([FAILED, HELD, FAILED], NIGHTS[2]),
    ],
)
def test_a_tenant_fails_since_the_first_failure_after_its_last_good_refresh(
    outcomes: list[TenantOutcome], since: str | None
) -> None:
    store = memory_store(MemoryS3())
    for night, outcome in enumerate(outcomes):
        record_outcomes(store, PARTNER, [outcome], "run", FIRST_NIGHT + timedelta(days=night))
    assert failing_since(store, PARTNER).get(TENANT.tenant_code) == since


def test_what_the_newest_roster_brought_stays_until_another_comes() -> None:
    store = memory_store(MemoryS3())
    new = replace(GOOD, status=TenantStatus.NEW, manifest=manifest(students_added=3, students_removed=2))
    index = None
    for night, outcome in enumerate([new, GOOD, FAILED]):
        index = record_outcomes(store, PARTNER, [outcome], "run", FIRST_NIGHT + timedelta(days=night))
    assert index is not None
    (entry,) = PartnerIndex.read(store, PARTNER).tenants
    assert (entry,) == index.tenants
    assert (entry.changed_at, entry.students_added, entry.students_removed) == (NIGHTS[0], 3, 2)
