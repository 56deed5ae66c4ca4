"""Every ended run is looked at once, whatever the order in which runs come into sight."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.operations.run_cursor import OVERLAP_SECONDS, RunCursor

START = 1_800_000_000.0


@given(
    st.lists(
        st.tuples(
            # Few values, so that several runs end at one instant; then how much later each comes into sight.
            st.integers(1, 40).map(lambda minutes: START + 60.0 * minutes),
            st.floats(0, OVERLAP_SECONDS - 1),
        ),
        max_size=30,
    ),
    st.integers(1, 4),
    st.integers(1, 120),
)
def test_each_run_is_looked_at_exactly_once(
    runs: list[tuple[float, float]], most_runs: int, minutes_between_ticks: int
) -> None:
    cursor = RunCursor(START)
    looked_at: Counter[str] = Counter()
    now = START
    for _ in range(60 + len(runs)):
        now += 60.0 * minutes_between_ticks
        in_sight = {f"run-{number}": end for number, (end, late) in enumerate(runs) if end + late <= now}
        new = sorted((end, run_id) for run_id, end in in_sight.items() if cursor.is_new(run_id, end))
        this_tick = {run_id: end for end, run_id in new[:most_runs]}
        looked_at.update(list(this_tick))
        restored = RunCursor.parse(cursor.advanced(this_tick, [end for end, _ in new[most_runs:]], now).to_json())
        assert restored is not None
        cursor = restored
    assert looked_at == {f"run-{number}": 1 for number in range(len(runs))}


def test_the_floor_follows_the_runs_so_that_nothing_is_remembered_for_ever() -> None:
    cursor = RunCursor(START).advanced({"run-1": START + 10}, [], START + 20)
    assert cursor == RunCursor(START, {"run-1": START + 10})
    ended = START + 11 + OVERLAP_SECONDS
    later = cursor.advanced({"run-2": ended}, [], ended + 5)
    assert later == RunCursor(START + 11, {"run-2": ended})
    assert not later.is_new("run-1", START + 10)


YEAR = 365 * 86_400.0


def test_a_tick_with_a_fast_clock_hides_no_run() -> None:
    cursor = RunCursor(START).advanced({"run-1": START + 10}, [], START + YEAR)
    assert cursor.is_new("run-2", START + 20)


def test_a_floor_in_the_future_is_taken_back() -> None:
    cursor = RunCursor(START + YEAR).without_future(START)
    assert cursor.is_new("run-1", START + 1)
    assert RunCursor(START + 1).without_future(START) == RunCursor(START + 1)


def test_a_run_that_was_left_stays_new_for_as_long_as_it_is_left() -> None:
    cursor = RunCursor(START).advanced({}, [START + 5], START + 100 * OVERLAP_SECONDS)
    assert cursor.is_new("left", START + 5)


def test_a_run_that_ended_before_the_start_is_never_new() -> None:
    assert not RunCursor(START).is_new("run-1", START - 1)


def test_a_run_stamped_by_a_clock_that_is_ahead_is_looked_at_once_and_hides_no_other() -> None:
    cursor = RunCursor(START).advanced({"ahead": START + 3600}, [], START + 60)
    assert not cursor.is_new("ahead", START + 3600)
    assert cursor.is_new("right", START + 61)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7", "null", '{"floor": 1}', '{"floor": 1, "seen": []}'])
def test_text_that_is_not_a_cursor_parses_as_none(text: str | None) -> None:
    assert RunCursor.parse(text) is None
