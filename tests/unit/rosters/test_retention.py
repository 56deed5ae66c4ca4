"""Which snapshots are pruned: never one of use, and all others."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.manifest import index_key, manifest_key, pointer_key, snapshot_key
from runway_pipelines.rosters.retention import LEAST_AGE, Retention, StoredSnapshot, parse_snapshot_key, to_prune
from tests.factories import POLICY

NOW = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
NORTH = PartnerTenant("acme", "north")
NO_MONTHS = Retention(keep_last=2, monthly_days=0)


def stored(at: datetime, name: str = "") -> StoredSnapshot:
    return StoredSnapshot(at, sha256(f"{at} {name}".encode()).hexdigest(), 1000)


def nightly(nights: int, until: datetime = NOW) -> list[StoredSnapshot]:
    """A new snapshot every night, oldest first."""
    return [stored(until - timedelta(days=ago, hours=1)) for ago in reversed(range(nights))]


def left(snapshots: list[StoredSnapshot], retention: Retention, now: datetime = NOW) -> list[StoredSnapshot]:
    pruned = to_prune(snapshots, retention, now)
    return [each for each in snapshots if each not in pruned]


@pytest.mark.parametrize("count", [0, 1, 29, 30])
def test_of_no_more_than_are_kept_nothing_is_pruned(count: int) -> None:
    assert to_prune(nightly(count), POLICY.retention, NOW) == []


def test_of_one_more_the_oldest_is_pruned_unless_it_is_its_months_first() -> None:
    middle_of_a_month = datetime(2026, 5, 31, 12, tzinfo=UTC)
    snapshots = nightly(32, middle_of_a_month)  # April 30 to May 31
    april_30, may_1, *_ = snapshots
    assert to_prune(snapshots[1:], replace(POLICY.retention, monthly_days=0), middle_of_a_month) == [may_1]
    assert to_prune(snapshots, POLICY.retention, middle_of_a_month) == []
    assert to_prune(snapshots, replace(POLICY.retention, monthly_days=0), middle_of_a_month) == [april_30, may_1]


def test_after_two_years_the_newest_stay_and_a_months_first_for_each_of_thirteen_months() -> None:
    snapshots = nightly(730)
    newest = snapshots[-30:]
    stay = left(snapshots, POLICY.retention)
    assert stay[-30:] == newest
    assert [f"{each.stored_at:%Y-%m-%d}" for each in stay[:-30]] == [
        "2025-11-01",
        "2025-12-01",
        *(f"2026-{month:02d}-01" for month in range(1, 11)),
    ]
    assert left(snapshots, replace(POLICY.retention, monthly_days=0)) == newest


def test_pruned_every_night_or_once_after_years_the_same_stay() -> None:
    stay: list[StoredSnapshot] = []
    for snapshot in nightly(730):
        stay = left([*stay, snapshot], POLICY.retention, snapshot.stored_at + timedelta(hours=1))
    assert stay == left(nightly(730), POLICY.retention)


def test_a_months_first_goes_when_its_own_time_is_up_and_no_other_day_takes_its_place() -> None:
    first, second = stored(datetime(2026, 1, 1, tzinfo=UTC)), stored(datetime(2026, 1, 2, tzinfo=UTC))
    newest = nightly(2)
    days = Retention(keep_last=2, monthly_days=100)
    until = first.stored_at + timedelta(days=100)
    assert to_prune([first, second, *newest], days, until - timedelta(seconds=1)) == [second]
    assert to_prune([first, second, *newest], days, until) == [first, second]


def test_a_month_is_one_of_utc() -> None:
    new_york = timezone(timedelta(hours=-5))
    december = stored(datetime(2025, 12, 31, 18, tzinfo=new_york))  # 23:00 UTC
    january = stored(datetime(2025, 12, 31, 20, tzinfo=new_york))  # 01:00 UTC on New Year's Day
    later = stored(datetime(2026, 1, 1, 1, tzinfo=new_york))
    assert to_prune([december, january, later, *nightly(2)], Retention(2, 400), NOW) == [later]


@pytest.mark.parametrize(
    ("age", "is_pruned"),
    [(LEAST_AGE, True), (LEAST_AGE - timedelta(seconds=1), False), (-LEAST_AGE, False)],
    ids=["a day", "younger", "in the future"],
)
def test_what_is_younger_than_a_day_stays_however_much_is_newer(age: timedelta, is_pruned: bool) -> None:
    young = stored(NOW - age)
    newer = [stored(young.stored_at + timedelta(seconds=second)) for second in (1, 2)]
    assert to_prune([young, *newer], NO_MONTHS, NOW) == ([young] if is_pruned else [])


def test_of_two_stored_in_one_second_always_the_same_is_pruned() -> None:
    at = NOW - timedelta(days=5)
    snapshots = [stored(at, name) for name in "abc"]
    assert to_prune(snapshots, NO_MONTHS, NOW) == to_prune(snapshots[::-1], NO_MONTHS, NOW) == [min(snapshots)]


def test_what_is_protected_stays_and_costs_no_other_its_place() -> None:
    snapshots = nightly(10)
    oldest = snapshots[0]
    pruned = to_prune(snapshots, NO_MONTHS, NOW, {oldest.sha256})
    assert pruned == snapshots[1:-2]


# Some months, so that there are several of one month; and "now" before, among and after them.
moments = st.integers(0, 150 * 24).map(lambda hours: datetime(2026, 7, 1, tzinfo=UTC) + timedelta(hours=hours))
snapshot_lists = st.lists(st.builds(stored, moments, st.sampled_from("ab")), max_size=60, unique_by=lambda s: s.sha256)
retentions = st.builds(Retention, st.integers(2, 15), st.sampled_from([0, 1, 31, 60, 400]))


@given(snapshot_lists, retentions, moments, st.data())
def test_nothing_of_use_is_pruned_and_a_second_night_prunes_no_more(
    snapshots: list[StoredSnapshot], retention: Retention, now: datetime, data: st.DataObject
) -> None:
    protected = data.draw(st.sets(st.sampled_from([each.sha256 for each in snapshots]))) if snapshots else set()
    pruned = to_prune(snapshots, retention, now, protected)
    stay = [each for each in snapshots if each not in pruned]

    assert not protected & {each.sha256 for each in pruned}
    assert {*sorted(snapshots)[-retention.keep_last :]} <= {*stay}
    for each in snapshots:
        in_its_month = [s for s in snapshots if (s.stored_at.year, s.stored_at.month) == month_of(each)]
        in_window = now - each.stored_at < timedelta(days=retention.monthly_days)
        if in_window and each == min(in_its_month):
            assert each in stay
    assert all(now - each.stored_at >= LEAST_AGE for each in pruned)
    assert to_prune(stay, retention, now, protected) == []
    assert pruned == [each for each in to_prune(snapshots, retention, now) if each.sha256 not in protected]


@given(snapshot_lists, retentions, moments)
def test_what_stays_without_protection_has_a_reason(
    snapshots: list[StoredSnapshot], retention: Retention, now: datetime
) -> None:
    stay = {*snapshots} - {*to_prune(snapshots, retention, now)}
    newest = {*sorted(snapshots)[-retention.keep_last :]}
    young = {each for each in snapshots if now - each.stored_at < LEAST_AGE}
    months = [month_of(each) for each in stay - newest - young]
    assert len(months) == len(set(months))
    assert all(now - each.stored_at < timedelta(days=retention.monthly_days) for each in stay - newest - young)


def month_of(snapshot: StoredSnapshot) -> tuple[int, int]:
    return snapshot.stored_at.year, snapshot.stored_at.month


def test_only_a_snapshots_key_is_read_as_one() -> None:
    digest = "ab" * 32
    for tenant in (NORTH, PartnerTenant("acme", "index.json"), PartnerTenant("acme", "Académie St. Mary")):
        assert parse_snapshot_key(snapshot_key(tenant, digest)) == (tenant, digest)
        assert parse_snapshot_key(manifest_key(tenant, digest)) is None
        assert parse_snapshot_key(pointer_key(tenant)) is None
    others = [
        index_key("acme"),
        f"__roster_snapshots/.doctor/north/{digest}.jsonl",
        f"__roster_snapshots/acme/no\nrth/{digest}.jsonl",
        f"__roster_snapshots/acme/north/deeper/{digest}.jsonl",
        f"__roster_snapshots/acme/north/{digest.upper()}.jsonl",
        f"__roster_snapshots/acme/north/{digest}.jsonl.part",
        f"__rosters/acme/north/{digest}.jsonl",
        "",
    ]
    assert [parse_snapshot_key(key) for key in others] == [None] * len(others)
