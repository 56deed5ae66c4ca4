"""What a tick decides about a partner, from what it saw: every row of the credentials contract, section 2."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.credentials.rotation import (
    Decision,
    LastSeen,
    LastTry,
    Pacing,
    Requested,
    Requests,
    Trigger,
    TryState,
    attempt_of,
    cursor_text,
    decide,
    needs_direct_look,
    parse_cursor,
    run_key,
)
from runway_pipelines.systems.aws.secret_versions import Current, Gone, Observation, Unreadable

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PACING = Pacing(first=15 * MINUTE, longest=360 * MINUTE)
SOON = NOW + 15 * MINUTE
WORKED, UNDER_WAY = LastTry(TryState.WORKED), LastTry(TryState.UNDER_WAY)


def failed(minutes_ago: float) -> LastTry:
    return LastTry(TryState.FAILED, NOW - minutes_ago * MINUTE)


def tick(seen: LastSeen | None, observed: Observation, **given: Any) -> Decision:
    defaults: dict[str, Any] = {"last_try": LastTry(), "requests": Requests(), "is_first_tick": False}
    return decide(seen, observed, now=NOW, pacing=PACING, **(defaults | given))


def test_the_first_sight_of_a_secret_counts_as_new_credentials_and_as_no_rotation() -> None:
    for is_first_tick in (True, False):
        decision = tick(None, Current("v1"), is_first_tick=is_first_tick)
        assert decision == Decision(LastSeen("v1", 0, SOON), Trigger.FIRST_SIGHT)


def test_a_new_version_is_tried_with_the_plain_key() -> None:
    assert tick(LastSeen("v1"), Current("v2"), last_try=WORKED) == Decision(LastSeen("v2", 0, SOON), Trigger.ROTATION)


def test_a_version_that_works_is_left_alone() -> None:
    assert tick(LastSeen("v1", 3, SOON), Current("v1"), last_try=WORKED) == Decision(LastSeen("v1", 3, None))


def test_a_version_that_is_being_tried_is_left_alone_however_long_it_takes() -> None:
    overdue = LastSeen("v1", 0, NOW - 600 * MINUTE)
    assert tick(overdue, Current("v1"), last_try=UNDER_WAY) == Decision(overdue)


def test_a_cleared_cursor_starts_nothing_that_was_requested_before() -> None:
    requests = Requests(observed=Requested(attempt=2, order=17))
    assert tick(None, Current("v1"), requests=requests, is_first_tick=True) == Decision(LastSeen("v1", 2))


def test_a_partner_that_was_away_and_is_back_is_refreshed_with_a_key_of_its_own() -> None:
    requests = Requests(observed=Requested(attempt=2, order=17))
    assert tick(None, Current("v1"), requests=requests) == Decision(LastSeen("v1", 3, SOON), Trigger.FIRST_SIGHT, 3)


def test_a_version_that_came_back_after_another_was_tried_gets_the_next_number() -> None:
    requests = Requests(observed=Requested(0, order=17), seen=Requested(0, order=18))
    assert tick(LastSeen("v2"), Current("v1"), requests=requests) == Decision(
        LastSeen("v1", 1, SOON), Trigger.ROTATION, 1
    )


def test_a_number_that_was_used_before_the_cursor_was_cleared_is_not_used_again() -> None:
    requests = Requests(observed=Requested(3, order=17), seen=Requested(0, order=18))
    assert tick(LastSeen("v2", 0), Current("v1"), requests=requests).attempt == 4


def test_back_and_forth_and_back_uses_no_key_twice() -> None:
    seen, keys, orders = LastSeen("v1"), ["p:v1"], {"v1": 1}
    for order, version in enumerate(["v2", "v1", "v2", "v1", "v2"], start=2):
        asked = {v: Requested(0, o) for v, o in orders.items()}
        requests = Requests(asked.get(version), asked.get(seen.secret_version or ""))
        decision = tick(seen, Current(version), requests=requests)
        assert decision.seen is not None and decision.trigger is Trigger.ROTATION
        seen = decision.seen
        keys.append(run_key("p", version, decision.attempt))
        orders[version] = order
    assert len(set(keys)) == len(keys)


def test_a_tick_that_died_before_its_cursor_was_kept_is_not_repeated() -> None:
    requests = Requests(observed=Requested(0, order=18), seen=Requested(0, order=17))
    assert tick(LastSeen("v1"), Current("v2"), requests=requests) == Decision(LastSeen("v2", 0, SOON))


def test_a_secret_that_is_gone_is_reported_once_and_its_number_kept() -> None:
    assert tick(LastSeen("v1", 4, SOON), Gone("deleted")) == Decision(LastSeen(None, 4), departed="deleted")
    assert tick(LastSeen(None, 4), Gone("deleted")) == Decision(LastSeen(None, 4))
    assert tick(None, Gone("deleted"), is_first_tick=True) == Decision(LastSeen(None), departed="deleted")


def test_a_restored_secret_is_refreshed_with_a_key_of_its_own_and_a_first_one_with_the_plain_key() -> None:
    requests = Requests(observed=Requested(0, order=17))
    assert tick(LastSeen(None, 4), Current("v1"), requests=requests) == Decision(
        LastSeen("v1", 5, SOON), Trigger.FIRST_SIGHT, 5
    )
    assert tick(LastSeen(None), Current("v1")) == Decision(LastSeen("v1", 0, SOON), Trigger.FIRST_SIGHT)


@pytest.mark.parametrize("seen", [None, LastSeen("v1", 2, SOON), LastSeen(None, 2)])
def test_an_unreadable_secret_keeps_what_was_last_seen(seen: LastSeen | None) -> None:
    assert tick(seen, Unreadable("throttled")) == Decision(seen)


def test_a_failure_found_by_another_run_is_scheduled_for_a_retry() -> None:
    assert tick(LastSeen("v1"), Current("v1"), last_try=failed(1)) == Decision(LastSeen("v1", 0, SOON))


def test_a_failing_version_is_tried_again_when_it_is_due() -> None:
    waiting = LastSeen("v1", 1, NOW + MINUTE)
    assert tick(waiting, Current("v1"), last_try=failed(29)) == Decision(waiting)
    decision = tick(LastSeen("v1", 1, NOW), Current("v1"), last_try=failed(29))
    assert decision == Decision(LastSeen("v1", 2, NOW + 58 * MINUTE), Trigger.HEALING, 2)


@pytest.mark.parametrize(
    ("next_try", "last_try"),
    [(NOW + 365 * 1440 * MINUTE, LastTry(TryState.FAILED, NOW - 60 * MINUTE)), (NOW, failed(-365 * 1440))],
    ids=["the sensor's clock", "the run's clock"],
)
def test_a_clock_that_was_fast_keeps_nobody_waiting(next_try: datetime, last_try: LastTry) -> None:
    assert tick(LastSeen("v1", 1, next_try), Current("v1"), last_try=last_try).trigger is Trigger.HEALING


def test_a_run_that_was_queued_for_long_and_has_just_failed_is_not_followed_at_once() -> None:
    overdue = LastSeen("v1", 1, NOW - 60 * MINUTE)
    assert tick(overdue, Current("v1"), last_try=failed(1)) == Decision(overdue)


def test_a_run_that_died_before_it_tried_is_replaced() -> None:
    decision = tick(LastSeen("v1", 0, NOW), Current("v1"), last_try=LastTry(TryState.FAILED, None))
    assert decision.trigger is Trigger.HEALING
    assert tick(LastSeen("v1", 0, NOW), Current("v1"), last_try=LastTry()).trigger is Trigger.HEALING


def test_the_wait_doubles_with_each_attempt_up_to_its_bound() -> None:
    waits, now, failed_at = [], NOW, NOW
    seen = LastSeen("v1", 0, NOW + PACING.first)
    for _ in range(8):
        assert seen.next_try is not None
        now = seen.next_try
        decision = decide(
            seen, Current("v1"), last_try=LastTry(TryState.FAILED, failed_at), requests=Requests(),
            is_first_tick=False, now=now, pacing=PACING,
        )  # fmt: skip
        assert decision.seen is not None and decision.seen.next_try is not None
        seen, failed_at = decision.seen, now
        waits.append((decision.seen.next_try - now) / MINUTE)
    assert waits == [30, 60, 120, 240, 360, 360, 360, 360]


@pytest.mark.parametrize(
    ("seen", "observed", "was_requested", "expected"),
    [
        (LastSeen("v1"), Current("v2"), False, False),  # a change: its run_key can start one run only
        (LastSeen("v2"), Current("v1"), True, True),  # came back: or an old page of the listing
        (LastSeen("v1"), Current("v1"), True, False),
        (LastSeen(None), Current("v1"), True, True),  # restored
        (LastSeen(None), Current("v1"), False, False),
        (None, Current("v1"), True, False),
        (LastSeen("v1"), Gone("x"), False, True),
        (LastSeen(None), Gone("x"), False, False),
        (None, Gone("x"), False, False),
        (LastSeen("v1"), Unreadable("x"), True, False),
    ],
)
def test_only_what_a_stale_listing_could_fake_is_looked_at_directly(
    seen: LastSeen | None, observed: Observation, was_requested: bool, expected: bool
) -> None:
    assert needs_direct_look(seen, observed, was_requested=was_requested) is expected


def test_run_keys_follow_the_contract() -> None:
    assert run_key("acme", "v1", 0) == "acme:v1"
    assert run_key("acme", "v1", 3) == "acme:v1:3"
    assert [attempt_of(key) for key in ("acme:v1", "acme:v1:3", "", "acme:v1:x")] == [0, 3, 0, 0]


moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)


@given(
    st.dictionaries(
        st.text(min_size=1), st.builds(LastSeen, st.none() | st.text(), st.integers(0), st.none() | moments)
    )
)
def test_a_cursor_is_read_back_as_it_was_written(seen: dict[str, LastSeen]) -> None:
    assert parse_cursor(cursor_text(seen)) == seen


@pytest.mark.parametrize("text", [None, "", "null", "[]", "{", '{"acme": 3}', '{"acme": {"version": "v1"}}'])
def test_a_spoiled_cursor_counts_as_none(text: str | None) -> None:
    assert parse_cursor(text) is None
