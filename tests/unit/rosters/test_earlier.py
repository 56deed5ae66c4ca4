"""What a pointer remembers of the last days' rosters: little, and enough to see a slow loss."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.rosters.earlier import REMEMBERED, carried_on, earlier_of
from runway_pipelines.rosters.manifest import Earlier, Pointer
from tests.factories import manifest, pointer

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def at(students: int, days_ago: float) -> Earlier:
    return Earlier((NOW - days_ago * DAY).isoformat(), students)


def after(students: int, *earlier: Earlier, published: int = 5000, is_same: bool = False) -> tuple[Earlier, ...]:
    candidate = manifest(sha256="b" * 64, students=students)
    before = pointer(sha256=candidate.sha256 if is_same else "a" * 64, earlier=earlier)
    return carried_on(before, manifest(students=published), candidate, NOW)


def test_a_first_roster_remembers_none() -> None:
    assert carried_on(None, None, manifest(), NOW) == ()


def test_what_is_replaced_by_fewer_students_is_remembered_as_published_until_now() -> None:
    assert after(4800) == (Earlier("2026-11-22T02:00:00+00:00", 5000),)


def test_what_is_replaced_by_as_many_students_is_forgotten() -> None:
    assert after(5000) == ()


def test_what_is_confirmed_keeps_what_it_remembers_and_is_no_earlier_one() -> None:
    assert after(4800, at(5000, 2), published=4800, is_same=True) == (at(5000, 2),)


def test_what_was_published_within_the_week_stays_and_what_was_before_it_goes() -> None:
    last = REMEMBERED / DAY
    assert after(4500, at(4900, last + 0.001), at(4800, last), published=4600)[:-1] == (at(4800, last),)


def test_what_a_fast_clock_dated_is_neither_compared_with_nor_carried_on() -> None:
    ahead = at(9000, -365)
    assert earlier_of(pointer(earlier=(ahead, at(6000, 1))), NOW) == (at(6000, 1),)
    assert ahead not in after(4800, ahead)


def test_a_larger_roster_takes_the_place_of_the_smaller_ones_before_it() -> None:
    assert after(4000, at(4400, 3), at(4300, 2), published=4500) == (at(4500, 0),)


def test_of_one_day_the_largest_stays_for_as_long_as_the_latest() -> None:
    assert after(4000, at(4400, 0.08), at(4300, 0.04), published=4200) == (at(4400, 0),)


def test_where_what_is_published_has_no_manifest_the_others_are_carried_on() -> None:
    assert carried_on(pointer(earlier=(at(5000, 1),)), None, manifest(students=10), NOW) == (at(5000, 1),)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 40)), max_size=60))
def test_the_largest_of_the_last_week_is_never_forgotten_and_no_more_than_eight_are_kept(
    nights: list[tuple[int, int]],
) -> None:
    """``nights``: how many students the warehouse has, and how many hours after the one before."""
    now, before, published = NOW, None, manifest(sha256="0", students=50)
    replaced: list[tuple[datetime, int]] = []
    for number, (students, hours) in enumerate(nights):
        now += timedelta(hours=hours)
        if before is not None:
            replaced.append((now, published.students))
        candidate = manifest(sha256=str(number), students=students)
        kept = carried_on(before, published, candidate, now)
        # A day's largest stays for as long as the day's latest.
        of_the_week, and_a_day = (
            max([size for until, size in replaced if until >= now - days and size > students], default=0)
            for days in (REMEMBERED, REMEMBERED + DAY)
        )
        assert of_the_week <= max((each.students for each in kept), default=0) <= and_a_day
        assert len(kept) <= 8
        before, published = pointer(sha256=candidate.sha256, earlier=kept), candidate


def test_a_pointer_without_them_is_read_and_one_with_them_is_read_by_what_does_not_know_them() -> None:
    plain = pointer()
    assert b"earlier" in plain.to_json()
    assert Pointer.from_json("k", plain.to_json().replace(b'"earlier": []', b'"of_another_version": 7')) == plain
    remembering = pointer(earlier=(at(5000, 1),))
    assert Pointer.from_json("k", remembering.to_json()) == remembering
