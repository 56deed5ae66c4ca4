"""A run's checks: what they compare, and where each line is drawn."""

from collections import Counter

import dagster as dg
import pytest

from runway_pipelines.identity.assets import (
    CHECK_SPECS,
    FEWEST_ANSWERS,
    LIBRARY_IDENTITY,
    evaluations,
    unmatched_tracks,
)
from runway_pipelines.identity.counts import Counts, Skip, skipped
from runway_pipelines.identity.health import IdentityHealth
from runway_pipelines.identity.options import IdentityOptions

HEALTHY = IdentityHealth(verified_in_time=100, verifiable=100, mains_without_sources=0)
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def judged(counts: Counts, health: IdentityHealth | None = HEALTHY, **options: float) -> dict[str, dg.AssetCheckResult]:
    made = list(evaluations(counts, health, IdentityOptions(**options)))
    assert {each.asset_key for each in made} == {LIBRARY_IDENTITY}
    return {each.check_name: each for each in made}


def complete(**numbers: int) -> Counts:
    counts = Counts(**numbers)
    counts.scanned = counts.accounted_for
    return counts


def test_a_run_with_nothing_due_passes_every_check() -> None:
    checks = judged(Counts())
    assert list(checks) == [spec.name for spec in CHECK_SPECS]
    assert all(check.passed for check in checks.values())


@pytest.mark.parametrize(
    "counts",
    [
        Counts(scanned=3, rows_resolved=2),
        Counts(scanned=3, rows_resolved=4),
        Counts(scanned=3, rows_unresolved=1, rows_skipped=Counter({Skip.LML_ERROR: 1})),
        Counts(rows_resolved_compilation=1),
    ],
    ids=["one lost", "one twice", "one of a batch lost", "one from nowhere"],
)
def test_a_lost_or_duplicate_library_is_an_error(counts: Counts) -> None:
    check = judged(counts)["counts_add_up"]
    assert (check.passed, check.severity) == (False, ERROR)
    assert f"{counts.scanned} scanned, {counts.accounted_for} accounted for" in str(check.description)


def test_every_outcome_of_a_library_counts() -> None:
    counts = Counts(rows_resolved=1, rows_resolved_compilation=2, rows_unresolved=3)
    counts.rows_skipped.update(dict.fromkeys(Skip, 4))
    counts.scanned = 1 + 2 + 3 + 7 * 4
    assert judged(counts)["counts_add_up"].passed
    counts.scanned += 1
    assert not judged(counts)["counts_add_up"].passed


@pytest.mark.parametrize(
    ("unresolved", "resolved", "passes"),
    [(50, 50, True), (51, 49, False), (100, 0, False), (FEWEST_ANSWERS - 1, 0, True), (FEWEST_ANSWERS, 0, False)],
)
def test_many_unresolved_answers_are_a_warning_if_there_are_enough_answers(
    unresolved: int, resolved: int, passes: bool
) -> None:
    check = judged(complete(rows_unresolved=unresolved, rows_resolved=resolved))["unresolved_share"]
    assert (check.passed, check.severity) == (passes, WARN)


def test_libraries_without_an_answer_do_not_count_as_answers() -> None:
    counts = Counts(rows_unresolved=40, rows_resolved=60, rows_skipped=Counter({Skip.LML_ERROR: 900}))
    counts.scanned = counts.accounted_for
    check = judged(counts, most_unresolved=0.39)["unresolved_share"]
    assert not check.passed and "40.0% of 100 answers" in str(check.description)
    assert judged(counts, most_unresolved=0.4)["unresolved_share"].passed


@pytest.mark.parametrize(("verified", "passes"), [(90, True), (89, False), (0, False)])
def test_too_few_libraries_verified_in_time_are_a_warning(verified: int, passes: bool) -> None:
    check = judged(Counts(), IdentityHealth(verified, 100, 0))["verified_in_time"]
    assert (check.passed, check.severity) == (passes, WARN)
    assert judged(Counts(), IdentityHealth(0, 0, 0))["verified_in_time"].passed, "there is nothing to verify"


def test_one_main_row_without_its_sources_is_a_warning() -> None:
    check = judged(Counts(), IdentityHealth(100, 100, 1))["sources_complete"]
    assert (check.passed, check.severity) == (False, WARN)
    assert "1 main rows lack their sources" in str(check.description)


def test_without_the_catalogue_only_the_counts_are_checked() -> None:
    assert set(judged(Counts(), None)) == {"counts_add_up", "answers_believed", "unresolved_share"}


@pytest.mark.parametrize(("disbelieved", "passes"), [(0, True), (5, True), (6, False), (100, False)])
def test_more_than_one_answer_in_twenty_that_is_not_believed_is_an_error(disbelieved: int, passes: bool) -> None:
    counts = complete(rows_resolved=100 - disbelieved)
    counts.merge(skipped(disbelieved, Skip.LML_ERROR))
    counts.others.update({"lml_not_believed": disbelieved, "lml_results_malformed.kind.null": disbelieved})
    check = judged(counts)["answers_believed"]
    assert (check.passed, check.severity) == (passes, ERROR)
    if disbelieved:
        assert f"{disbelieved} of 100 answers" in str(check.description)
        assert f"kind.null {disbelieved}" in str(check.description)


@pytest.mark.parametrize(
    ("offered", "unmatched", "is_told"), [(10, 5, True), (10, 4, False), (9, 9, False), (0, 0, False)]
)
def test_tracks_that_mostly_match_no_row_are_told_from_ten_and_a_half_on(
    offered: int, unmatched: int, is_told: bool
) -> None:
    counts = Counts(
        others=Counter({"compilation_track_rows_offered": offered, "compilation_track_rows_unmatched": unmatched})
    )
    warning = unmatched_tracks(counts)
    assert (warning is not None) == is_told
    assert warning is None or "5 of 10 tracks that LML offers (50%)" in warning
