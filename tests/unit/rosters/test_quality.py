"""Each rule passes what it should, fails what it should, and says so in numbers that are safe to show."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.rosters.encoding import CONSUMER_CONTRACT, ROWS_OF_TENANT
from runway_pipelines.rosters.manifest import Manifest
from runway_pipelines.rosters.quality import (
    COLLIDING_CODES,
    ID_TYPE_COVERAGE,
    MERGED_STUDENTS,
    NOT_EMPTY,
    NOT_MASKED,
    PLAUSIBLE_YEARS,
    RULES,
    STUDENTS_LOST,
    UNSAFE_IDS,
    CheckResult,
    Thresholds,
    blocking,
    judge,
    unreadable,
)
from tests.factories import POLICY, manifest

THRESHOLDS = POLICY.thresholds
counts = st.integers(0, 500)


def result_of(
    name: str, new: Manifest, previous: Manifest | None = None, thresholds: Thresholds = THRESHOLDS
) -> CheckResult:
    (found,) = (each for each in judge(new, previous, thresholds) if each.rule.name == name)
    return found


def with_students(students: int, **by_system: int) -> Manifest:
    return manifest(students=students, students_without_codes=0, students_by_id_system=by_system)


@given(
    counts,
    counts,
    counts,
    st.dictionaries(st.text(max_size=3), counts, max_size=3),
    st.none() | st.builds(with_students, counts),
)
def test_any_manifest_gets_one_result_from_every_rule_in_order(
    students: int, without: int, colliding: int, systems: dict[str, int], previous: Manifest | None
) -> None:
    new = manifest(
        students=students,
        students_without_codes=min(without, students),
        colliding_codes=colliding,
        students_by_id_system=systems,
        students_removed=0,
    )
    results = judge(new, previous, THRESHOLDS)
    assert tuple(each.rule for each in results) == RULES
    assert all(each.reason for each in results)
    assert blocking(results) == tuple(each for each in results if each.rule.blocking and not each.passed)


def test_a_good_roster_passes_every_rule() -> None:
    good = manifest(students_removed=0)
    assert [each.rule.name for each in judge(good, manifest(), THRESHOLDS) if not each.passed] == []


def test_what_would_give_a_child_anothers_score_or_stop_the_consumers_blocks() -> None:
    blocking_rules = {ROWS_OF_TENANT, NOT_EMPTY, CONSUMER_CONTRACT, NOT_MASKED, PLAUSIBLE_YEARS, MERGED_STUDENTS}
    assert {rule.name for rule in RULES if rule.blocking} == blocking_rules


def test_only_failed_blocking_rules_keep_a_roster_back() -> None:
    bad = manifest(students=0, students_without_codes=0, colliding_codes=3, students_by_id_system={"a,b": 1})
    results = judge(bad, None, THRESHOLDS)
    assert {each.rule.name for each in blocking(results)} == {NOT_EMPTY, CONSUMER_CONTRACT}
    assert not result_of(COLLIDING_CODES, bad).passed
    assert not result_of(COLLIDING_CODES, bad).blocks
    assert not result_of(ROWS_OF_TENANT, bad).blocks


@pytest.mark.parametrize("check", [ROWS_OF_TENANT, CONSUMER_CONTRACT])
def test_rows_refused_while_they_were_read_block_with_the_reason(check: str) -> None:
    found = unreadable(check, "3 rows of another tenant")
    assert blocking([found]) == (found,)
    assert (found.rule.name, found.reason) == (check, "3 rows of another tenant")


def test_an_empty_roster_is_held_and_counts_the_rows_without_identity() -> None:
    found = result_of(NOT_EMPTY, manifest(students=0, rows_without_identity=7))
    assert found.blocks
    assert "has no student of this tenant" in found.reason
    assert found.numbers == {"students": 0, "rows_without_identity": 7}


def test_one_student_is_a_roster() -> None:
    assert result_of(NOT_EMPTY, manifest(students=1)).passed


@pytest.mark.parametrize(
    "descriptor",
    [
        *(
            "Local",
            "uri://ed-fi.org/StudentIdentificationSystemDescriptor#Local",
            "#Local",
            "##x",
            "a#b#c",
            "é",
            "State ID",
        ),
        *(
            "SSN-4",
            "a@b",
            "50%",
            "Q&A",
            "why?",
            "x:y",
            "uri://x#-",
            "uri://(a)['b']#Local",
            "studentUniqueId2",
            "Ed Org",
        ),
    ],
)
def test_a_descriptor_that_is_bare_or_a_uri_is_readable(descriptor: str) -> None:
    assert result_of(CONSUMER_CONTRACT, with_students(10, **{descriptor: 1})).passed


@pytest.mark.parametrize("namespace", ["", "uri://x#"])
@pytest.mark.parametrize(
    "id_type",
    [
        *(
            "",
            "a,b",
            ",",
            "a'b",
            "'",
            'a"b',
            '"',
            "`",
            "a\\b",
            "{x}",
            "{{ x }}",
            "[x",
            "x)",
            "<x>",
            "｛x｝",
            "“x”",
            "\t",
            "a\nb",
        ),
        *(
            "a\x85",
            "a\u2028",
            "State: X",
            "State:",
            " Local",
            "Local ",
            "\u00a0x",
            "@x",
            "*x",
            "&x",
            "!x",
            "?x",
            "%x",
            "- x",
            "|",
        ),
        *("studentUniqueId", "STUDENTUNIQUEID", "edOrgId", "edorgid"),
    ],
)
def test_a_descriptor_that_is_not_safe_where_consumers_put_it_holds_the_roster(id_type: str, namespace: str) -> None:
    found = result_of(CONSUMER_CONTRACT, with_students(10, Local=9, **{namespace + id_type: 1}))
    assert found.blocks
    assert found.numbers == {"id_systems": 2, "unreadable_id_systems": 1}
    assert "1 of 2 id systems" in found.reason


@given(st.sets(st.text(max_size=6), max_size=6))
def test_the_unreadable_descriptors_are_counted_and_not_named(descriptors: set[str]) -> None:
    found = result_of(CONSUMER_CONTRACT, manifest(students_by_id_system=dict.fromkeys(descriptors, 1)))
    unreadable = int(found.numbers["unreadable_id_systems"])
    same_numbers = [f"{number}," for number in range(unreadable)] + [
        str(n) for n in range(len(descriptors) - unreadable)
    ]
    assert found.passed == (not unreadable)
    assert (
        found.reason
        == result_of(CONSUMER_CONTRACT, manifest(students_by_id_system=dict.fromkeys(same_numbers, 1))).reason
    )


def test_one_masked_value_holds_the_roster() -> None:
    found = result_of(NOT_MASKED, manifest(masked_values=1))
    assert found.blocks
    assert "masking policy" in found.reason


@pytest.mark.parametrize(("rows", "blocks"), [(1, False), (10, False), (11, True), (1000, True)])
def test_a_few_rows_of_an_implausible_year_are_a_warning_and_many_hold_the_roster(rows: int, blocks: bool) -> None:
    found = result_of(PLAUSIBLE_YEARS, manifest(association_rows=1000, implausible_rows=rows))
    assert (found.passed, found.blocks, found.is_error) == (False, blocks, blocks)
    assert found.numbers == {"implausible_rows": rows, "implausible_rows_share": rows / 1000}


@pytest.mark.parametrize(("codes", "blocks"), [(1, False), (10, False), (11, True)])
def test_codes_of_an_implausible_year_count_for_themselves(codes: int, blocks: bool) -> None:
    new = manifest(association_rows=100_000, code_rows=1000, implausible_codes=codes)
    assert (result_of(PLAUSIBLE_YEARS, new).passed, result_of(PLAUSIBLE_YEARS, new).blocks) == (False, blocks)


@pytest.mark.parametrize(
    ("merged", "rows", "blocks"), [(0, 10, False), (5, 10, False), (6, 10, True), (10, 1000, False), (11, 1000, True)]
)
def test_a_key_that_many_ids_share_holds_the_roster_and_a_few_corrections_do_not(
    merged: int, rows: int, blocks: bool
) -> None:
    found = result_of(MERGED_STUDENTS, manifest(association_rows=rows, merged_ids=merged))
    assert (found.passed, found.blocks) == (merged == 0, blocks)


def test_another_spelling_of_an_id_system_is_no_fall() -> None:
    before = manifest(students_by_id_system={"uri://x#Local": 90, "Local": 5})
    found = result_of(ID_TYPE_COVERAGE, manifest(students_by_id_system={"Local": 90}), before)
    assert found.passed


def test_an_unsafe_id_is_a_warning() -> None:
    found = result_of(UNSAFE_IDS, manifest(unsafe_ids=2))
    assert (found.passed, found.blocks) == (False, False)
    assert found.reason.startswith("2 student ids")


def test_a_roster_whose_codes_all_went_may_have_been_read_while_they_were_loaded() -> None:
    found = result_of(ID_TYPE_COVERAGE, manifest(students_by_id_system={}, students_without_codes=100), manifest())
    assert "may be loading them still" in found.reason
    some_left = manifest(students_by_id_system={"Local": 9}, students_without_codes=91)
    assert "loading" not in result_of(ID_TYPE_COVERAGE, some_left, manifest()).reason


@pytest.mark.parametrize(("colliding", "passed"), [(0, True), (1, True), (20, True), (21, False), (1000, False)])
def test_more_shared_codes_than_an_ordinary_district_has_are_a_warning(colliding: int, passed: bool) -> None:
    found = result_of(COLLIDING_CODES, manifest(students=1000, colliding_codes=colliding))
    assert (found.passed, found.blocks) == (passed, False)
    assert found.numbers == {"colliding_codes": colliding, "colliding_codes_share": colliding / 1000}
    assert ("more than 2% of 1000 students" in found.reason) is not passed


@pytest.mark.parametrize(
    ("colliding", "said"),
    [(0, "no code is shared by several students"), (1, "1 code is shared"), (3, "3 codes are shared")],
)
def test_the_reason_counts_the_shared_codes(colliding: int, said: str) -> None:
    assert result_of(COLLIDING_CODES, manifest(students=1000, colliding_codes=colliding)).reason.startswith(said)


@pytest.mark.parametrize(
    ("students", "without", "threshold", "passed"),
    [
        (100, 50, 0.5, True),
        (100, 51, 0.5, False),
        (1000, 100, 0.9, True),
        (1000, 101, 0.9, False),
        (10, 10, 0.0, True),
        (10, 0, 1.0, True),
        (10, 1, 1.0, False),
    ],
)
def test_too_few_students_with_a_code_is_a_warning_from_the_threshold_on(
    students: int, without: int, threshold: float, passed: bool
) -> None:
    new = manifest(students=students, students_without_codes=without, students_by_id_system={})
    found = result_of(ID_TYPE_COVERAGE, new, thresholds=replace(THRESHOLDS, students_with_codes=threshold))
    assert (found.passed, found.blocks) == (passed, False)
    assert found.numbers["students_with_codes_share"] == 1 - without / students


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        (with_students(100, Local=50), with_students(100, Local=40), True),
        (with_students(100, Local=50), with_students(100, Local=39), False),
        (with_students(100, Local=5), with_students(100), True),
        (with_students(100, Local=11), with_students(100), False),
        (with_students(100, Local=50), with_students(200, Local=100), True),  # a share, not a number
        (with_students(100, Local=50), with_students(200, Local=50), False),
        (with_students(100, Local=50), with_students(100, Local=100, State=1), True),
        (with_students(0), with_students(100, Local=1), True),
        (with_students(100, Local=100), with_students(0), False),
    ],
)
def test_an_id_type_that_fell_by_more_than_the_threshold_since_the_last_snapshot_is_a_warning(
    before: Manifest, after: Manifest, passed: bool
) -> None:
    found = result_of(ID_TYPE_COVERAGE, after, before, replace(THRESHOLDS, students_with_codes=0, coverage_drop=0.1))
    assert (found.passed, found.blocks) == (passed, False)
    assert found.numbers["id_types_fallen"] == (not passed)
    assert ("Local fell by more than 10% of students" in found.reason) == (not passed)


@pytest.mark.parametrize(("before", "after"), [(50, 40), (90, 80), (80, 70)])
def test_a_fall_of_exactly_the_threshold_passes(before: int, after: int) -> None:
    new, old = with_students(100, Local=after), with_students(100, Local=before)
    assert result_of(ID_TYPE_COVERAGE, new, old, replace(THRESHOLDS, coverage_drop=0.1)).passed


@pytest.mark.parametrize(
    ("removed", "threshold", "passed"),
    [(1, 0.01, True), (2, 0.01, False), (0, 0.0, True), (1, 0.0, False), (100, 1.0, True)],
)
def test_more_students_lost_than_the_threshold_is_a_warning(removed: int, threshold: float, passed: bool) -> None:
    thresholds = replace(THRESHOLDS, students_lost=threshold)
    found = result_of(STUDENTS_LOST, manifest(students_removed=removed, previous_sha256="p"), manifest(), thresholds)
    assert (found.passed, found.blocks) == (passed, False)
    assert found.numbers == {"students_removed": removed, "students_removed_share": removed / 100}
    assert found.reason.startswith(f"{removed} of 100 students")


def test_the_share_of_lost_students_refers_to_the_previous_snapshot() -> None:
    new, previous = manifest(students=1000, students_removed=2, previous_sha256="p"), manifest(students=100)
    assert not result_of(STUDENTS_LOST, new, previous).passed


def test_a_first_snapshot_has_lost_nobody() -> None:
    found = result_of(STUDENTS_LOST, manifest(students_removed=None, previous_sha256=None), None)
    assert found.passed
    assert found.reason == "there is no snapshot to compare with"


@pytest.mark.parametrize(("previous", "removed"), [(None, None), (None, 90), (manifest(), None)])
def test_a_previous_snapshot_that_cannot_be_read_is_a_warning(previous: Manifest | None, removed: int | None) -> None:
    found = result_of(STUDENTS_LOST, manifest(students_removed=removed, previous_sha256="p"), previous)
    assert (found.passed, found.blocks) == (False, False)


def test_in_a_first_snapshot_no_id_type_has_fallen() -> None:
    assert result_of(ID_TYPE_COVERAGE, manifest(students_by_id_system={})).passed
