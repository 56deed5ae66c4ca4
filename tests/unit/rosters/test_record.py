"""What of the record is unfinished, what is overtaken, and what a person is told to do about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from runway_pipelines.rosters.manifest import Signature
from runway_pipelines.rosters.record import DONE, Change, Entry, Present, State, changes_of, what_finishes

NOW = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
A, B = "a" * 64, "b" * 64
WHY = Signature("Ann", "it's closed", NOW.isoformat())
GUARDS = "students_lost, students_added"
IN_A_WEEK = (NOW + timedelta(days=7)).isoformat()


def entry(what: str, to: str | None = A, *, id: str = "1", tenant: str | None = "north", **details: str | int) -> Entry:  # noqa: A002
    at = (NOW + timedelta(minutes=int(id))).isoformat()
    return Entry(what, "acme", tenant, "run", B, to, WHY, details, at=at, id=id)


def done(begun: Entry) -> Entry:
    return replace(begun, what=begun.what + DONE)


def states(*entries: Entry, present: Present = Present()) -> list[State]:  # noqa: B008 - it is frozen
    return [change.state for change in changes_of(entries, lambda _: present, NOW)]


HELD, PUBLISHED = Present(held_sha256=A), Present(published_sha256=A)
OPEN, OVER = [State.UNFINISHED], [State.OVERTAKEN]


def test_what_is_completed_asks_nothing_of_the_tenant() -> None:
    begun = entry("approve")
    assert changes_of([begun, done(begun)], _nobody_asks, NOW) == [Change(begun, State.COMPLETED)]


def _nobody_asks(entry: Entry) -> Present:
    raise AssertionError


@pytest.mark.parametrize(
    ("begun", "present", "expected"),
    [
        (entry("approve"), HELD, OPEN),
        (entry("approve"), PUBLISHED, OPEN),
        (entry("approve"), Present(held_sha256=B), OVER),
        (entry("reject"), HELD, OPEN),
        (entry("reject"), PUBLISHED, OVER),
        (entry("rollback"), Present(published_sha256=B), OPEN),
        (entry("unpin"), PUBLISHED, OPEN),
        (entry("purge"), Present(), OPEN),
        (entry("hold"), HELD, OPEN),
        (entry("hold"), Present(refreshed_at=NOW), OPEN),
        (entry("hold"), Present(refreshed_at=NOW + timedelta(hours=1)), OVER),
        (entry("release"), Present(refreshed_at=NOW + timedelta(hours=1)), OVER),
        (entry("prune", sha256=f"{A} {B}"), Present(kept=frozenset({B})), OPEN),
        (entry("prune", sha256=f"{A} {B}"), Present(kept=frozenset({"c"})), OVER),
        (entry("expect", guards=GUARDS, until=IN_A_WEEK), Present(), OPEN),
        (entry("expect", until=NOW.isoformat()), Present(), OVER),
        (entry("expect-end", expectation="x"), Present(), OPEN),
    ],
    ids=lambda value: value.what if isinstance(value, Entry) else None,
)
def test_what_nobody_completed_is_open_as_long_as_something_is_left_of_it(
    begun: Entry, present: Present, expected: list[State]
) -> None:
    assert states(begun, present=present) == expected


@pytest.mark.parametrize(
    ("first", "later", "expected"),
    [
        (entry("approve"), entry("rollback", B, id="2"), State.OVERTAKEN),
        (entry("rollback"), entry("rollback", id="2"), State.OVERTAKEN),
        (entry("rollback"), entry("purge", None, id="2", tenant=None), State.OVERTAKEN),
        (entry("rollback"), entry("approve", id="2", tenant="south"), State.UNFINISHED),
        (entry("rollback"), entry("prune", id="2"), State.UNFINISHED),
        (entry("prune", sha256=A), entry("prune", id="2"), State.OVERTAKEN),
        (
            entry("expect", guards="students_lost", until=IN_A_WEEK),
            entry("expect", guards="students_lost", until=IN_A_WEEK, id="2"),
            State.OVERTAKEN,
        ),
        (
            entry("expect", guards="students_lost", until=IN_A_WEEK),
            entry("expect", guards="students_added", until=IN_A_WEEK, id="2"),
            State.UNFINISHED,
        ),
        (entry("expect-end", expectation="x"), entry("expect-end", expectation="x", id="2"), State.OVERTAKEN),
        (entry("expect-end", expectation="x"), entry("expect-end", expectation="y", id="2"), State.UNFINISHED),
    ],
    ids=lambda value: f"{value.what} {value.id}" if isinstance(value, Entry) else None,
)
def test_a_later_change_that_was_completed_overtakes_it(first: Entry, later: Entry, expected: State) -> None:
    kept = Present(published_sha256=A, kept=frozenset({A}))
    assert states(first, later, done(later), present=kept) == [expected, State.COMPLETED]
    assert states(first, later, present=kept)[0] is State.UNFINISHED, "one that was not completed overtakes nothing"


@pytest.mark.parametrize(
    ("begun", "said"),
    [
        (entry("approve"), "rosters approve acme/north aaaaaaaaaaaa --reason"),
        (entry("reject"), "rosters reject acme/north aaaaaaaaaaaa --reason"),
        (entry("rollback"), "rosters rollback acme/north --to aaaaaaaaaaaa --reason"),
        (entry("unpin", tenant="St. Mary"), "rosters unpin 'acme/St. Mary' --reason"),
        (entry("purge", None, tenant=None, with_snapshots=True), "rosters purge acme --with-snapshots --reason"),
        (entry("purge", None), "rosters purge acme/north --reason"),
        (
            entry("expect", None, tenant=None, guards=GUARDS, until="2026-03-08T00:00:00+00:00"),
            "rosters expect acme --guard students_lost --guard students_added --until 2026-03-07 --reason",
        ),
        (entry("expect-end", None, expectation="1234abcd"), "rosters expect acme/north --end 1234abcd --reason"),
    ],
    ids=lambda value: value.what if isinstance(value, Entry) else None,
)
def test_what_a_person_began_is_finished_by_saying_it_again_with_the_same_reason(begun: Entry, said: str) -> None:
    assert what_finishes(begun) == f"""runway-pipelines {said} 'it'"'"'s closed'"""


def test_an_entry_without_its_details_is_no_reason_to_show_none() -> None:
    foreign = entry("expect")
    assert states(foreign, entry("expect", id="2")) == OVER * 2
    assert "--until None" in what_finishes(foreign)


def test_what_a_run_began_the_next_one_finishes() -> None:
    assert what_finishes(entry("hold")) == "the next refresh of acme/north finishes it"
    assert what_finishes(entry("prune")) == "the next run_retention_job finishes it"
