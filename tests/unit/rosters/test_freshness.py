"""Which tenants are named as stragglers, and that one live tenant does not hide the others."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.operations.run_report import RunReport
from runway_pipelines.partner_tenants.registry import RosterPartner
from runway_pipelines.rosters.freshness import ahead_of, freshness_of
from runway_pipelines.rosters.index import DEPARTED, NEVER, IndexEntry, PartnerIndex
from runway_pipelines.systems.aws.object_store import StoredDocument

NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def entry(code: str, age: timedelta | None, status: str = "unchanged", reason: str = "") -> IndexEntry:
    refreshed_at = None if age is None else (NOW - age).isoformat(timespec="seconds")
    return IndexEntry(code, status, reason, refreshed_at)


def test_a_live_tenant_hides_no_straggler() -> None:
    freshness = freshness_of([entry("live", timedelta()), entry("old", 2 * DAY, "held", "no students")], NOW, DAY)
    assert [(each.tenant_code, each.age, each.reason) for each in freshness.stragglers] == [
        ("old", 2 * DAY, "no students")
    ]
    assert (freshness.tenants, freshness.oldest) == (2, 2 * DAY)
    assert freshness.summary == "1 of 2 tenants were not confirmed correct within 24 hours: old"


@pytest.mark.parametrize(("age", "is_fresh"), [(DAY - timedelta(seconds=1), True), (DAY, True), (1.5 * DAY, False)])
def test_the_threshold_itself_is_fresh(age: timedelta, is_fresh: bool) -> None:
    assert bool(freshness_of([entry("a", age)], NOW, DAY).stragglers) is not is_fresh


def test_a_never_published_tenant_comes_first_and_a_departed_one_does_not_count() -> None:
    freshness = freshness_of(
        [entry("old", 9 * DAY), entry("new", None, NEVER), entry("gone", 90 * DAY, DEPARTED)], NOW, DAY
    )
    assert [each.tenant_code for each in freshness.stragglers] == ["new", "old"]
    assert freshness.tenants == 2


PARTNER = RosterPartner("acme", "Acme", ("away", "north"), ())


def stored(**changes: object) -> StoredDocument:
    entries = [asdict(entry("away", 9 * DAY, DEPARTED)) | changes, asdict(entry("north", timedelta()))]
    return StoredDocument(orjson.dumps({"tenants": entries}), "etag")


def test_a_tenant_that_came_back_counts_again_before_any_run_reached_it() -> None:
    freshness = freshness_of(PartnerIndex.parse(stored(), PARTNER).tenants, NOW, DAY)
    assert [each.tenant_code for each in freshness.stragglers] == ["away"]
    assert freshness.tenants == 2


@pytest.mark.parametrize("when", ["yesterday", "2026-03-07T12:00:00", 7])
def test_an_index_with_invalid_times_starts_over_and_stops_nobody(when: object) -> None:
    index = PartnerIndex.parse(stored(refreshed_at=when), PARTNER)
    assert [each.age for each in freshness_of(index.tenants, NOW, DAY).stragglers] == [None, None]


def test_the_oldest_of_many_stragglers_are_named() -> None:
    entries = [entry(f"t{number:02d}", number * DAY) for number in range(2, 15)]
    assert freshness_of(entries, NOW, DAY).summary == (
        "13 of 13 tenants were not confirmed correct within 24 hours: t14, t13, t12, t11, t10, t09, t08, t07, t06, t05 "
        "and 3 more"
    )


def test_without_tenants_nobody_is_late() -> None:
    assert freshness_of([], NOW, 1.5 * DAY).summary == "all 0 tenants were confirmed correct within 36 hours"


@given(st.lists(st.none() | st.integers(0, 10**6), max_size=20))
def test_every_tenant_is_fresh_or_named(seconds: list[int | None]) -> None:
    entries = [
        entry(f"t{number}", None if age is None else timedelta(seconds=age)) for number, age in enumerate(seconds)
    ]
    late = {f"t{number}" for number, age in enumerate(seconds) if age is None or age > DAY.total_seconds()}
    assert {each.tenant_code for each in freshness_of(entries, NOW, DAY).stragglers} == late


@pytest.mark.parametrize(
    ("ahead", "is_fresh"),
    [(timedelta(minutes=5), True), (timedelta(minutes=5, seconds=1), False), (365 * DAY, False)],
)
def test_a_tenant_that_is_dated_in_the_future_is_not_fresh(ahead: timedelta, is_fresh: bool) -> None:
    freshness = freshness_of([entry("a", -ahead), entry("b", timedelta(hours=1))], NOW, DAY)
    assert bool(freshness.stragglers) is not is_fresh
    assert freshness.oldest == timedelta(hours=1)
    if not is_fresh:
        assert freshness.summary == (
            "1 of 2 tenants were not confirmed correct within 24 hours: a. 1 of them is dated in the future: the clock "
            "of a run was fast, or this one's is slow"
        )
        assert "in the future; last try: unchanged" in str(freshness.stragglers[0])
        assert RunReport.parse(RunReport(stragglers=freshness.stragglers).document()) == RunReport(
            stragglers=freshness.stragglers
        )


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        ((NOW, NOW + timedelta(minutes=5)), None),
        ((NOW, NOW + timedelta(minutes=6)), timedelta(minutes=6)),
        ((NOW + DAY, NOW), DAY),
        ((None, NOW), None),
        ((None, None), None),
    ],
)
def test_how_far_moments_are_in_the_future(moments: tuple[datetime | None, ...], expected: timedelta | None) -> None:
    assert ahead_of(NOW, *moments) == expected


def test_an_unusable_code_is_a_straggler_by_a_name_that_can_be_printed() -> None:
    partner = RosterPartner("acme", "Acme", ("fine",), (2026,), ("a\n/b",))
    index = PartnerIndex.parse(None, partner)
    (unusable,) = (each for each in index.tenants if each.is_unusable)
    assert (unusable.tenant_code, unusable.name, unusable.status) == ("a\n/b", r"'a\n/b'", "unusable_code")
    assert "U+000A" in unusable.reason
    freshness = freshness_of(index.tenants, NOW, DAY)
    assert {(each.tenant_code, each.has_unusable_code) for each in freshness.stragglers} == {
        ("fine", False),
        (r"'a\n/b'", True),
    }
    assert freshness.summary.endswith(". 1 of them can have no roster, because of its code")
    assert RunReport.parse(RunReport(stragglers=freshness.stragglers).document()) == RunReport(
        stragglers=freshness.stragglers
    )


def test_a_code_that_became_usable_is_no_longer_shown_as_unusable() -> None:
    before = PartnerIndex.parse(None, RosterPartner("acme", "Acme", (), (), ("was",)))
    stored = StoredDocument(before.to_json(), "etag")
    (entry_now,) = PartnerIndex.parse(stored, RosterPartner("acme", "Acme", ("was",), ())).tenants
    assert entry_now.status == NEVER
    assert PartnerIndex.parse(stored, RosterPartner("acme", "Acme", (), ())).tenants == ()
