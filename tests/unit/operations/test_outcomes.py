"""Which event an outcome is, given the one before it, and what the event holds."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.operations.outcomes import (
    CREDENTIALS_FAILING,
    IDENTITY_RUN_FAILED,
    IDENTITY_RUN_RECOVERED,
    MOST_CHARACTERS,
    MOST_REASONS,
    ROSTER_HELD,
    ROSTER_REFRESH_FAILED,
    ROSTER_REFRESH_RECOVERED,
    ROSTER_RELEASED,
    ROSTERS_FRESH_AGAIN,
    ROSTERS_STALE,
    STUDENT_FILE_FOREIGN,
    STUDENT_RESOLUTION_FAILED,
    TENANT_CODE_UNUSABLE,
    OperatorEvent,
    RunOutcome,
    events_of,
    freshness_event,
    known_holds,
    resolution_events,
    secret_gone,
    unusable_code_event,
)
from runway_pipelines.operations.run_report import CredentialsFailure

IDENTITY = "library_identity_job"
MOST_ENTRY_BYTES = 256 * 1024

SUCCESS = RunOutcome(
    run_id="run-1",
    job_name="partner_rosters_job",
    partner_id="acme",
    is_success=True,
    trigger="schedule",
    ended_at=datetime(2026, 7, 1, 9, 30, tzinfo=UTC),
)
CRASH = replace(SUCCESS, is_success=False)
HELD = replace(CRASH, reasons={"acme/north": "held: no students"}, counts={"new": 3, "held": 1})


def no_login(code: str | None = "JWT_TOKEN_INVALID", version: str | None = "v1", reason: str = "refused") -> RunOutcome:
    return replace(CRASH, credentials_failure=CredentialsFailure(code, version, reason))


def failing(why: str) -> RunOutcome:
    return replace(CRASH, reasons={"acme/north": f"failed: {why}"}, counts={"failed": 1})


def tomorrow(outcome: RunOutcome) -> RunOutcome:
    return replace(outcome, ended_at=outcome.ended_at + timedelta(days=1))


def news(outcome: RunOutcome, *earlier: RunOutcome, url: str | None = None) -> list[OperatorEvent]:
    """The events that operators get for an outcome. ``earlier`` outcomes are given newest first."""
    previous = next(iter(earlier), None)
    return events_of(outcome, previous, url, identity_jobs=frozenset([IDENTITY]), known=known_holds(earlier))


def event(outcome: RunOutcome, previous: RunOutcome | None = None, url: str | None = None) -> Any:
    found = news(outcome, *filter(None, [previous]), url=url)
    assert len(found) <= 1
    return found[0] if found else None


def guarded(north: str = "1a2b students_lost", **more: str) -> RunOutcome:
    """Rosters that guards hold, and tenants that failed for another reason."""
    reasons = {"acme/north": "held: half the students are gone", **{f"acme/{code}": why for code, why in more.items()}}
    return replace(CRASH, reasons=reasons, holds={"acme/north": north}, counts={"held": 1, "failed": len(more)})


@pytest.mark.parametrize(
    ("previous", "outcome", "expected"),
    [
        (None, guarded(), {ROSTER_HELD: ["acme/north"]}),
        (SUCCESS, guarded(), {ROSTER_HELD: ["acme/north"]}),
        (guarded(), guarded(), {}),
        (guarded("1a2b students_lost"), guarded("ffff students_lost"), {ROSTER_HELD: ["acme/north"]}),
        (guarded("1a2b students_lost"), guarded("1a2b id_type_lost"), {ROSTER_HELD: ["acme/north"]}),
        (guarded(), SUCCESS, {ROSTER_RELEASED: ["acme/north"]}),
        (guarded(south="failed: no table"), SUCCESS, {ROSTER_RELEASED: ["acme/north"], ROSTER_REFRESH_RECOVERED: []}),
        (guarded(), guarded(south="failed: no table"), {ROSTER_REFRESH_FAILED: ["acme/south"]}),
        (SUCCESS, guarded(south="x"), {ROSTER_HELD: ["acme/north"], ROSTER_REFRESH_FAILED: ["acme/south"]}),
        (guarded(south="failed: no table"), guarded(), {ROSTER_REFRESH_RECOVERED: []}),
        (guarded(), CRASH, {ROSTER_REFRESH_FAILED: []}),
        (guarded(), no_login(), {CREDENTIALS_FAILING: []}),
    ],
)
def test_operators_hear_of_a_hold_once_and_of_its_end(
    previous: RunOutcome | None, outcome: RunOutcome, expected: dict[str, list[str]]
) -> None:
    found = news(outcome, *filter(None, [previous]))
    assert {each.detail_type: list(each.detail["reasons"]) for each in found} == expected


@pytest.mark.parametrize("between", [CRASH, no_login()], ids=["a crash", "refused credentials"])
@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (guarded(), {ROSTER_REFRESH_RECOVERED: []}),
        (guarded("ffff students_lost"), {ROSTER_HELD: ["acme/north"], ROSTER_REFRESH_RECOVERED: []}),
        (SUCCESS, {ROSTER_RELEASED: ["acme/north"], ROSTER_REFRESH_RECOVERED: []}),
    ],
    ids=["still held", "another candidate", "released"],
)
def test_a_night_that_judged_nothing_makes_no_news_of_a_hold(
    between: RunOutcome, outcome: RunOutcome, expected: dict[str, list[str]]
) -> None:
    assert not between.has_judged
    found = news(outcome, between, guarded())
    assert {each.detail_type: list(each.detail["reasons"]) for each in found} == expected


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (guarded(), {ROSTER_REFRESH_RECOVERED: []}),
        (guarded("ffff students_lost"), {ROSTER_HELD: ["acme/north"], ROSTER_REFRESH_RECOVERED: []}),
        (SUCCESS, {ROSTER_RELEASED: ["acme/north"], ROSTER_REFRESH_RECOVERED: []}),
        (failing("no table"), {}),
    ],
    ids=["still held", "another candidate", "released", "fails again"],
)
def test_nights_in_which_a_held_tenant_failed_neither_release_it_nor_tell_it_again(
    outcome: RunOutcome, expected: dict[str, list[str]]
) -> None:
    found = news(outcome, failing("no table"), failing("no column"), guarded())
    assert {each.detail_type: list(each.detail["reasons"]) for each in found} == expected


def test_a_hold_that_ended_before_the_tenant_failed_is_told_again() -> None:
    assert ROSTER_HELD in [each.detail_type for each in news(guarded(), failing("no table"), SUCCESS, guarded())]


@pytest.mark.parametrize(
    ("previous", "outcome", "expected"),
    [
        (None, SUCCESS, None),
        (SUCCESS, SUCCESS, None),
        (CRASH, SUCCESS, ROSTER_REFRESH_RECOVERED),
        (HELD, SUCCESS, ROSTER_REFRESH_RECOVERED),
        (no_login(), SUCCESS, ROSTER_REFRESH_RECOVERED),
        (None, HELD, ROSTER_REFRESH_FAILED),
        (SUCCESS, HELD, ROSTER_REFRESH_FAILED),
        (HELD, HELD, None),
        (failing("expected 31 rows, 7 came"), failing("expected 30 rows, 6 came"), None),
        (failing("no table"), failing("no column"), ROSTER_REFRESH_FAILED),
        (HELD, tomorrow(HELD), ROSTER_REFRESH_FAILED),
        (CRASH, CRASH, None),
        (HELD, CRASH, ROSTER_REFRESH_FAILED),
        (no_login(), CRASH, ROSTER_REFRESH_FAILED),
        (None, no_login(), CREDENTIALS_FAILING),
        (SUCCESS, no_login(), CREDENTIALS_FAILING),
        (CRASH, no_login(), CREDENTIALS_FAILING),
        (no_login(), no_login(), None),
        (no_login(), tomorrow(no_login()), CREDENTIALS_FAILING),
        (no_login(reason="in other words"), no_login(), None),
        (no_login(version="v0"), no_login(), CREDENTIALS_FAILING),
        (no_login(code="390144"), no_login(), CREDENTIALS_FAILING),
        (no_login(None, None), no_login(None, None), None),
        (no_login(None, None), no_login(None), CREDENTIALS_FAILING),
        (None, replace(CRASH, job_name=IDENTITY, partner_id=None), IDENTITY_RUN_FAILED),
        (None, replace(SUCCESS, job_name=IDENTITY, partner_id=None), None),
        (CRASH, replace(SUCCESS, job_name=IDENTITY, partner_id=None), IDENTITY_RUN_RECOVERED),
        (replace(CRASH, job_name=IDENTITY), replace(CRASH, job_name=IDENTITY), None),
    ],
)
def test_an_outcome_and_the_previous_one_decide_the_event(
    previous: RunOutcome | None, outcome: RunOutcome, expected: str | None
) -> None:
    found = event(outcome, previous)
    assert (found and found.detail_type) == expected


@pytest.mark.parametrize(
    ("was_stale", "stale", "expected"),
    [
        ("", "", None),
        ("", "a", ROSTERS_STALE),
        ("a", "a", None),
        ("a", "ab", ROSTERS_STALE),
        ("a", "b", ROSTERS_STALE),
        ("ab", "a", None),
        ("a", "", ROSTERS_FRESH_AGAIN),
    ],
)
def test_a_stale_tenant_is_reported_once_and_so_is_the_recovery(
    was_stale: str, stale: str, expected: str | None
) -> None:
    found = freshness_event(SUCCESS, dict.fromkeys(stale, "50 hours old"), set(was_stale), None)
    assert (found and found.detail_type) == expected
    if found is not None:
        assert (found.detail["partner"], found.detail["counts"]) == ("acme", {"stale": len(stale)})
        assert found.detail["reasons"] == dict.fromkeys(stale, "50 hours old")


def test_a_secret_that_is_gone_names_no_run() -> None:
    assert secret_gone("acme", "deleted", SUCCESS.ended_at).detail == {
        "partner": "acme",
        "run_id": None,
        "run_url": None,
        "job": None,
        "trigger": None,
        "occurred_at": "2026-07-01T09:30:00+00:00",
        "counts": {},
        "reasons": {},
        "reasons_left_out": 0,
        "credentials": {"code": "SecretGone", "secret_version": None, "reason": "deleted"},
    }


def test_a_failed_refresh_names_partner_run_time_and_link() -> None:
    assert event(HELD, url="https://dagster.example.org/").detail == {
        "partner": "acme",
        "run_id": "run-1",
        "run_url": "https://dagster.example.org/runs/run-1",
        "job": "partner_rosters_job",
        "trigger": "schedule",
        "occurred_at": "2026-07-01T09:30:00+00:00",
        "counts": {"new": 3, "held": 1},
        "reasons": {"acme/north": "held: no students"},
        "reasons_left_out": 0,
        "credentials": None,
    }


def test_failing_credentials_say_which_version_failed_and_how() -> None:
    found = event(no_login()).detail
    assert found["credentials"] == {"code": "JWT_TOKEN_INVALID", "secret_version": "v1", "reason": "refused"}


def test_an_unusable_code_is_told_once_and_again_when_there_is_another() -> None:
    first, both = {"acme/'a/b'": "unusable_code: a slash"}, {"acme/'a/b'": "unusable_code: a slash", "acme/'c*'": "x"}
    judgement = replace(SUCCESS, job_name="roster_freshness_job")
    told = unusable_code_event(judgement, first, {}, None)
    assert told is not None
    assert (told.detail_type, told.detail["reasons"]) == (TENANT_CODE_UNUSABLE, first)
    assert told.detail["counts"] == {"unusable": 1}
    assert unusable_code_event(judgement, first, first, None) is None
    assert unusable_code_event(judgement, both, first, None) is not None
    assert unusable_code_event(judgement, first, both, None) is None
    assert unusable_code_event(judgement, {}, both, None) is None


def test_every_event_has_the_same_members() -> None:
    events = [
        event(HELD),
        event(no_login()),
        event(SUCCESS, CRASH),
        event(replace(CRASH, job_name=IDENTITY, partner_id=None)),
        secret_gone("acme", "deleted", SUCCESS.ended_at),
    ]
    assert len({tuple(each.detail) for each in events}) == 1


def test_without_the_address_of_dagster_there_is_no_link() -> None:
    assert event(HELD, url=None).detail["run_url"] is None


def test_the_time_is_utc_wherever_the_run_ended() -> None:
    there = replace(HELD, ended_at=datetime(2026, 7, 1, 2, 30, tzinfo=timezone(timedelta(hours=-7))))
    assert event(there).detail["occurred_at"] == "2026-07-01T09:30:00+00:00"


def test_long_reasons_are_cut_and_the_event_counts_what_is_missing() -> None:
    reasons = {f"acme/t{number:03d}": "failed: " + "x" * MOST_CHARACTERS for number in range(MOST_REASONS + 7)}
    detail = event(replace(HELD, reasons=reasons)).detail
    assert list(detail["reasons"]) == sorted(reasons)[:MOST_REASONS]
    assert detail["reasons_left_out"] == 7
    assert detail["reasons"]["acme/t000"].endswith("x... (8 characters left out)")


@given(st.sampled_from(["\x00", "\U0001f393", "é", '"', "x"]), st.integers(0, 2000))
def test_no_event_exceeds_the_size_limit_of_an_entry(character: str, length: int) -> None:
    longest = "\U00020000" * 124  # a tenant's code, with four digits more; four bytes a character
    reasons = {f"{'p' * 64}/{longest}{number:04d}": character * length for number in range(400)}
    largest = replace(no_login(reason=character * length), reasons=reasons)
    assert len(orjson.dumps(event(largest).detail)) < MOST_ENTRY_BYTES - 1000


RESOLVED = replace(SUCCESS, job_name="student_resolution_job", partner_id="acme/north", trigger="file")


def test_another_districts_file_is_told_once_for_each_version_of_it() -> None:
    foreign = {"v1": "foreign_file: act: of 12 candidates ...", "v2": "foreign_file: sat: of 40 candidates ..."}
    events = resolution_events(RESOLVED, foreign, ["v2", "v0"], None)
    assert [(each.detail_type, each.detail["partner"], each.detail["reasons"]) for each in events] == [
        (STUDENT_FILE_FOREIGN, "acme", {"acme/north": foreign["v1"]})
    ]
    assert resolution_events(RESOLVED, {}, [], None) == []


def test_every_failed_resolution_is_told_beside_the_foreign_files_of_the_run() -> None:
    failed = replace(RESOLVED, is_success=False, reasons={"acme/north": "failed: act: too many lines"})
    events = resolution_events(failed, {"v1": "foreign_file: sat"}, [], "https://dagster.example.org/")
    assert [each.detail_type for each in events] == [STUDENT_FILE_FOREIGN, STUDENT_RESOLUTION_FAILED]
    assert events[1].detail["reasons"] == failed.reasons
    assert events[1].detail["run_url"] == "https://dagster.example.org/runs/run-1"
