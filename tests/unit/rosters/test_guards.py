"""Each guard holds just above its threshold and not at it, says why in numbers, and can be turned off."""

from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import DecisionRefused
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.encoding import RosterCounts
from runway_pipelines.rosters.guards import (
    ALL_RULES,
    GUARD_NAMES,
    ID_TYPE_LOST,
    STUDENTS_ADDED,
    STUDENTS_CHANGED,
    WAREHOUSE_MOVED,
    Comparison,
    Guards,
    as_warnings,
    combine,
    holding,
    judge_announced_guards,
    judge_guards,
)
from runway_pipelines.rosters.holds import Expectation, Expectations, signed
from runway_pipelines.rosters.manifest import Earlier, Manifest, Signature
from runway_pipelines.rosters.quality import (
    COLLIDING_CODES,
    NOT_EMPTY,
    STUDENTS_LOST,
    CheckResult,
    blocking,
    judge,
)
from runway_pipelines.systems.snowflake.connection import Place
from tests.factories import POLICY, TENANT, manifest

GUARDS = POLICY.guards.guards
OFF = Guards(0, 20, 0, 100, 0, 0, 0, warehouse_moved=False)
HERE = Place("xy12345", "ANALYTICS", "PROD")
NOW = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
SIGNED = Signature("Ann", "new school", NOW.isoformat())
counts = st.integers(0, 5000)
UNCHANGED: dict[str, Any] = {"students_added": 0, "students_removed": 0, "students_changed": 0, "previous_sha256": "p"}


def of(place: Place | None = HERE, **changes: Any) -> Manifest:
    """A manifest of a thousand students that came from a place, and that nothing has changed in."""
    return replace(
        manifest(students=1000, students_without_codes=0, students_by_id_system={"Local": 1000}),
        **(asdict(place) if place else {}),
        **UNCHANGED | changes,
    )


def against(published: Manifest | None, *places: Place, is_first: bool = False) -> Comparison:
    return Comparison(published, is_first, places)


def result_of(
    name: str, candidate: Manifest, comparison: Comparison | None = None, guards: Guards = GUARDS
) -> CheckResult:
    results = judge_guards(candidate, comparison or against(of()), guards)
    (found,) = (each for each in results if each.rule.name == name)
    return found


def holders(results: tuple[CheckResult, ...]) -> list[str]:
    return [each.rule.name for each in holding(results)]


def test_a_candidate_like_what_is_published_is_held_by_no_guard() -> None:
    results = judge_guards(of(), against(of()), GUARDS)
    assert tuple(each.rule.name for each in results) == GUARD_NAMES
    assert holders(results) == []


@pytest.mark.parametrize(
    ("removed", "published", "is_held"),
    [
        (50, 1000, False),  # the share itself
        (51, 1000, True),
        (20, 100, False),  # the number itself, a fifth of the students
        (21, 100, True),
        (21, 420, False),  # 5 % of 420 are 21
        (22, 420, True),
        (100, 100, True),
        (5, 5, False),  # a small tenant, all of whose students went: `not_empty` and the warning have their say
    ],
)
def test_lost_students_hold_above_both_the_share_and_the_number(removed: int, published: int, is_held: bool) -> None:
    found = result_of(STUDENTS_LOST, of(students_removed=removed), against(of(students=published)))
    assert (found.passed, found.holds, found.is_error) == (not is_held, True, True)
    assert found.numbers == {"students_removed": removed, "students_removed_share": round(removed / published, 4)}
    assert f"{removed:,} of {published:,} published students ({removed / published:.1%})" in found.reason
    assert ("more than 5.0%" in found.reason) is is_held


@pytest.mark.parametrize(
    ("students", "largest", "is_held"),
    [
        (950, 1000, False),  # the share itself
        (949, 1000, True),
        (380, 400, False),  # the number itself
        (379, 400, True),
        (480, 500, False),
    ],
)
def test_students_lost_in_small_steps_hold_above_the_same_share_and_number(
    students: int, largest: int, is_held: bool
) -> None:
    earlier = (Earlier("2026-02-22T02:00:00+00:00", largest), Earlier("2026-02-27T02:00:00+00:00", students + 11))
    comparison = replace(against(of(students=students + 10)), earlier=earlier)
    found = result_of(STUDENTS_LOST, of(students=students, students_removed=10), comparison)
    assert (found.passed, found.holds) == (not is_held, True)
    said = f"lost {(largest - students) / largest:.1%} since 2026-02-22, {largest:,} -> {students} students, more than"
    assert (said in found.reason) is is_held
    assert found.numbers["students_removed"] == 10
    assert ("students_lost_in_steps" in found.numbers) is is_held
    assert result_of(STUDENTS_LOST, of(students=students, students_removed=10), comparison, OFF).passed


def test_a_roster_that_grows_is_held_for_no_earlier_loss() -> None:
    comparison = replace(against(of(students=800)), earlier=[Earlier("2026-02-22T02:00:00+00:00", 1000)])
    for students, passed in ((799, False), (800, True), (801, True)):
        assert result_of(STUDENTS_LOST, of(students=students, students_removed=5), comparison).passed is passed


@pytest.mark.parametrize(
    ("added", "published", "is_held"),
    [(500, 1000, False), (501, 1000, True), (100, 100, False), (101, 100, True), (101, 202, False), (102, 202, True)],
)
def test_new_students_hold_above_both_the_share_and_the_number(added: int, published: int, is_held: bool) -> None:
    found = result_of(STUDENTS_ADDED, of(students_added=added), against(of(students=published)))
    assert found.passed is not is_held
    assert found.numbers == {"students_added": added, "students_added_share": round(added / published, 4)}
    assert f"{added:,} students are new, beside {published:,} published ones" in found.reason


@pytest.mark.parametrize(
    ("changed", "removed", "is_held"), [(750, 0, False), (751, 0, True), (600, 200, False), (601, 200, True)]
)
def test_changed_students_hold_above_their_share_of_those_in_both(changed: int, removed: int, is_held: bool) -> None:
    found = result_of(STUDENTS_CHANGED, of(students_changed=changed, students_removed=removed))
    assert found.passed is not is_held
    assert found.numbers["students_changed"] == changed
    assert f"{changed:,} of {1000 - removed:,} students in both" in found.reason


def test_where_no_student_is_in_both_none_has_changed() -> None:
    assert result_of(STUDENTS_CHANGED, of(students_removed=1000)).passed


@pytest.mark.parametrize(
    ("before", "after", "students", "is_held"),
    [
        (900, 650, 1000, False),  # 0.9 - 0.65 is more than 0.25 by the last bit
        (900, 649, 1000, True),
        (250, 0, 1000, False),
        (251, 0, 1000, True),
        (900, 1300, 2000, False),  # a share of all students, not a number
        (900, 1299, 2000, True),
    ],
)
def test_an_id_type_that_fell_by_more_points_than_the_threshold_holds(
    before: int, after: int, students: int, is_held: bool
) -> None:
    candidate = of(students=students, students_by_id_system={"State": after} if after else {})
    found = result_of(ID_TYPE_LOST, candidate, against(of(students_by_id_system={"State": before})))
    assert found.passed is not is_held
    assert ("State fell by" in found.reason) is is_held
    assert found.numbers["id_types_lost"] == is_held


def test_an_id_type_of_several_spellings_counts_as_the_largest_of_them() -> None:
    several = {"uri://x#Local": 600, "Local": 580, "uri://y#Local": 10}
    for after, is_held in (({"uri://z#Local": 350}, False), ({"Local": 349, "uri://x#Local": 349}, True)):
        found = result_of(ID_TYPE_LOST, of(students_by_id_system=after), against(of(students_by_id_system=several)))
        assert found.passed is not is_held


def test_every_id_type_that_fell_is_named_and_one_that_is_new_is_not() -> None:
    before = against(of(students_by_id_system={"State": 900, "Local": 800, "SSN": 100}))
    found = result_of(ID_TYPE_LOST, of(students_by_id_system={"SSN": 90, "Lunch": 1000}), before)
    assert found.reason.startswith("Local fell by 80 points, State fell by 90 points of all students, more than 25")
    assert found.numbers == {"id_types_lost": 2, "largest_fall": 0.9}


@pytest.mark.parametrize(
    ("colliding", "before", "is_held"),
    [
        (100, 0, False),  # the threshold itself
        (101, 0, True),
        (101, 50, True),
        (102, 51, False),  # not more than twice
        (103, 51, True),
        (900, 450, False),
    ],
)
def test_shared_codes_hold_above_the_share_and_above_twice_what_was_published(
    colliding: int, before: int, is_held: bool
) -> None:
    found = result_of(COLLIDING_CODES, of(colliding_codes=colliding), against(of(colliding_codes=before)))
    assert found.passed is not is_held
    assert f"{colliding:,} codes are shared" in found.reason


@pytest.mark.parametrize(
    "other",
    [
        Place("XY12345", "ANALYTICS", "PROD"),
        Place("xy12345", "analytics", "prod"),
        Place("Xy12345", "Analytics", "Prod"),
    ],
)
def test_a_place_in_another_case_is_the_same(other: Place) -> None:
    assert result_of(WAREHOUSE_MOVED, of(other)).passed


@pytest.mark.parametrize("member", ["account", "database", "schema"])
def test_another_account_database_or_schema_holds_and_both_places_are_named(member: str) -> None:
    there = replace(HERE, **{member: "elsewhere"})
    found = result_of(WAREHOUSE_MOVED, of(there))
    assert not found.passed
    assert str(HERE) in found.reason
    assert str(there) in found.reason


def test_a_published_manifest_of_an_earlier_version_has_no_place_and_passes() -> None:
    assert result_of(WAREHOUSE_MOVED, of(), against(of(None))).passed
    assert result_of(WAREHOUSE_MOVED, of(None), against(of())).passed


@pytest.mark.parametrize("missing", ["account", "database", "schema"])
def test_a_place_without_a_member_is_none(missing: str) -> None:
    members: dict[str, Any] = {missing: None}
    assert replace(of(), **members).place is None


def test_a_first_roster_has_nothing_to_compare_with() -> None:
    strange = of(
        colliding_codes=900,
        students_by_id_system={},
        students_added=None,
        students_removed=None,
        students_changed=None,
        previous_sha256=None,
    )
    assert holders(judge_guards(strange, against(None, is_first=True), GUARDS)) == []


def test_a_first_roster_is_compared_with_where_the_partners_others_come_from() -> None:
    others = (Place("xy12345", "OTHER", "PROD"), Place("zz", "ANALYTICS", "PROD"))
    found = result_of(WAREHOUSE_MOVED, of(), against(None, *others, is_first=True))
    assert holders(judge_guards(of(), against(None, *others, is_first=True), GUARDS)) == [WAREHOUSE_MOVED]
    assert "zz/ANALYTICS.PROD" in found.reason
    assert result_of(WAREHOUSE_MOVED, of(), against(None, *others, HERE, is_first=True)).passed


def test_a_roster_that_is_not_the_first_is_not_compared_with_the_partners_others() -> None:
    assert result_of(WAREHOUSE_MOVED, of(), against(of(), Place("zz", "D", "S"))).passed


def test_what_is_published_and_cannot_be_read_holds_as_lost_students() -> None:
    unreadable = against(None)
    candidate = of(students_added=None, students_removed=None, students_changed=None)
    assert holders(judge_guards(candidate, unreadable, GUARDS)) == [STUDENTS_LOST]
    assert "cannot be read" in result_of(STUDENTS_LOST, candidate, unreadable).reason
    # Also where the manifest is there, and the snapshot beside it could not be compared.
    assert holders(judge_guards(candidate, against(of()), GUARDS)) == [STUDENTS_LOST]


def test_the_very_bytes_that_are_published_pass_also_where_their_manifest_cannot_be_read() -> None:
    assert holders(judge_guards(of(), against(None), GUARDS)) == []
    assert holders(judge_guards(of(students_changed=1), against(None), GUARDS)) == [STUDENTS_LOST]


def test_the_place_that_confirmed_what_is_published_counts_more_than_the_manifests() -> None:
    moved_to = Place("zz", "D", "S")
    since = Comparison(of(HERE), is_first=False, place=moved_to)
    assert result_of(WAREHOUSE_MOVED, of(moved_to), since).passed
    assert not result_of(WAREHOUSE_MOVED, of(HERE), since).passed
    unreadable = Comparison(None, is_first=False, places=[HERE], place=moved_to)
    assert result_of(WAREHOUSE_MOVED, of(moved_to), unreadable).passed


def test_what_is_published_and_cannot_be_read_is_compared_with_the_partners_other_places() -> None:
    assert WAREHOUSE_MOVED in holders(judge_guards(of(), against(None, Place("zz", "D", "S")), GUARDS))


@given(
    counts,
    counts,
    counts,
    counts,
    st.dictionaries(st.sampled_from(["Local", "State", "uri://x#Local"]), counts),
    st.booleans(),
    st.none() | st.builds(lambda students: of(students=students), counts),
)
def test_a_guard_that_is_turned_off_holds_nothing(
    added: int,
    removed: int,
    changed: int,
    colliding: int,
    systems: dict[str, int],
    is_first: bool,
    published: Manifest | None,
) -> None:
    candidate = of(
        Place("zz", "D", "S"),
        students_added=added,
        students_removed=removed,
        students_changed=changed,
        colliding_codes=colliding,
        students_by_id_system=systems,
    )
    comparison = against(published, HERE, is_first=is_first)
    assert holders(judge_guards(candidate, comparison, OFF)) == []
    for name in (STUDENTS_LOST, STUDENTS_ADDED, STUDENTS_CHANGED, ID_TYPE_LOST, COLLIDING_CODES, WAREHOUSE_MOVED):
        one_off = replace(GUARDS, **{name: getattr(OFF, name)})
        without = [each for each in holders(judge_guards(candidate, comparison, GUARDS)) if each != name]
        assert holders(judge_guards(candidate, comparison, one_off)) == without


def test_all_guards_that_fail_are_named_in_one_verdict() -> None:
    everything = of(
        Place("zz", "D", "S"),
        students=2000,
        students_added=1600,
        students_removed=600,
        students_changed=399,
        colliding_codes=500,
        students_by_id_system={},
    )
    assert holders(judge_guards(everything, against(of()), GUARDS)) == list(GUARD_NAMES)


# beside the other rules


def results_of(candidate: Manifest, published: Manifest | None, guards: Guards = GUARDS) -> tuple[CheckResult, ...]:
    comparison = against(published, is_first=published is None)
    return combine(judge(candidate, published, POLICY.thresholds), judge_guards(candidate, comparison, guards))


def test_combined_there_is_one_result_of_every_rule_in_order() -> None:
    assert tuple(each.rule for each in results_of(of(), of())) == ALL_RULES
    assert len({rule.name for rule in ALL_RULES}) == len(ALL_RULES)
    assert set(GUARD_NAMES) <= {rule.name for rule in ALL_RULES}


def test_between_its_two_thresholds_a_loss_is_a_warning_and_above_both_an_error() -> None:
    def lost(removed: int, guards: Guards = GUARDS) -> CheckResult:
        (found,) = (
            each for each in results_of(of(students_removed=removed), of(), guards) if each.rule.name == STUDENTS_LOST
        )
        return found

    assert (lost(10).passed, lost(10).is_error) == (True, False)
    assert (lost(50).passed, lost(50).is_error, lost(50).blocks) == (False, False, False)
    assert (lost(51).passed, lost(51).is_error, lost(51).blocks) == (False, True, False)
    assert (lost(900, OFF).passed, lost(900, OFF).is_error) == (False, False)


def test_a_blocking_rule_neither_holds_nor_can_be_made_a_warning() -> None:
    results = results_of(of(students=0, students_removed=1000), of())
    assert NOT_EMPTY not in holders(results)
    decided = as_warnings(results, [NOT_EMPTY, *GUARD_NAMES], "somebody said so")
    assert [each.rule.name for each in blocking(decided)] == [NOT_EMPTY]
    assert holders(decided) == []


def test_a_failure_that_somebody_decided_on_is_a_warning_that_says_why_and_the_others_still_hold() -> None:
    results = results_of(of(Place("zz", "D", "S"), students_removed=600), of())
    assert holders(results) == [STUDENTS_LOST, WAREHOUSE_MOVED]
    decided = as_warnings(results, [STUDENTS_LOST, STUDENTS_ADDED], "expected by Ann")
    assert holders(decided) == [WAREHOUSE_MOVED]
    (lost,) = (each for each in decided if each.rule.name == STUDENTS_LOST)
    assert (lost.passed, lost.is_error) == (False, False)
    assert lost.reason.endswith("; expected by Ann")
    (added,) = (each for each in decided if each.rule.name == STUDENTS_ADDED)
    assert "Ann" not in added.reason


# what is known before the first row


def announced(students: int, **changes: Any) -> RosterCounts:
    counted = RosterCounts(students=students, students_by_id_system=Counter({"Local": students}))
    for name, value in changes.items():
        setattr(counted, name, value)
    return counted


@pytest.mark.parametrize(
    ("students", "held_by"),
    [(1000, []), (950, []), (949, [STUDENTS_LOST]), (1500, []), (1501, [STUDENTS_ADDED]), (0, [STUDENTS_LOST])],
)
def test_the_announced_number_of_students_is_the_least_that_must_have_changed(
    students: int, held_by: list[str]
) -> None:
    counted = announced(students)
    expected = held_by + ([ID_TYPE_LOST] if not students else [])
    assert holders(judge_announced_guards(counted, HERE, against(of()), GUARDS)) == expected


def test_what_else_is_announced_is_judged_too() -> None:
    counted = announced(1000, colliding_codes=101, students_by_id_system={"Local": 749})
    there = Place("zz", "D", "S")
    assert holders(judge_announced_guards(counted, there, against(of()), GUARDS)) == [
        ID_TYPE_LOST,
        COLLIDING_CODES,
        WAREHOUSE_MOVED,
    ]


def test_an_announced_first_roster_has_only_the_partners_other_places_to_compare_with() -> None:
    first = against(None, Place("zz", "D", "S"), is_first=True)
    assert holders(judge_announced_guards(announced(7), HERE, first, GUARDS)) == [WAREHOUSE_MOVED]


# who decides, and until when


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "   ",
        "x" * 201,
        "two\nlines",
        "a\ttab",
        "\x1b[31m",
        "\u202ereversed",
        "a\x00",
        "line\u2028separator",
        "line\u2029separator",
    ],
)
@pytest.mark.parametrize("is_name", [True, False])
def test_a_name_or_a_reason_that_is_no_plain_line_is_refused_and_not_quoted(bad: str, is_name: bool) -> None:
    name, reason = (bad, "a reason") if is_name else ("Ann", bad)
    with pytest.raises(DecisionRefused) as refused:
        signed(name, reason, NOW)
    assert ("decided_by" in str(refused.value)) is is_name
    assert bad.strip() == "" or bad not in str(refused.value)


@pytest.mark.parametrize("good", ["x", "x" * 200, "  Ann  ", "Zoë Ångström", "李", "it's <fine>; 100 %"])
def test_a_plain_line_of_up_to_200_characters_signs(good: str) -> None:
    signature = signed(good, good, NOW)
    assert (signature.decided_by, signature.reason) == (good.strip(), good.strip())
    assert signature.at == NOW.isoformat()


def expectation(**changes: Any) -> Expectation:
    return replace(
        Expectation("e1", (STUDENTS_LOST, WAREHOUSE_MOVED), NOW.isoformat(), SIGNED, TENANT.tenant_code), **changes
    )


@pytest.mark.parametrize(
    ("before_end", "covers"),
    [(timedelta(microseconds=1), True), (timedelta(), False), (timedelta(seconds=-1), False)],
)
def test_an_expectation_ends_at_its_end(before_end: timedelta, covers: bool) -> None:
    assert expectation().covers(TENANT, STUDENTS_LOST, NOW - before_end) is covers


def test_an_expectation_covers_its_own_guards_and_tenant_alone() -> None:
    before = NOW - timedelta(days=1)
    other = PartnerTenant(TENANT.partner_id, "district-13")
    assert not expectation().covers(TENANT, STUDENTS_ADDED, before)
    assert not expectation().covers(other, STUDENTS_LOST, before)
    assert expectation(tenant_code=None).covers(other, STUDENTS_LOST, before)


@pytest.mark.parametrize("until", ["", "tomorrow", "2026-03-01T09:00:00"])
def test_an_expectation_whose_end_cannot_be_read_covers_nothing(until: str) -> None:
    assert not expectation(until=until).covers(TENANT, STUDENTS_LOST, NOW)


def test_of_several_expectations_the_first_that_covers_counts() -> None:
    before = NOW - timedelta(days=1)
    ended = expectation(id="ended", until=(NOW - timedelta(days=2)).isoformat())
    wide = expectation(id="wide", tenant_code=None)
    assert Expectations((ended, wide, expectation())).covering(TENANT, STUDENTS_LOST, before) == wide
    assert Expectations((ended,)).covering(TENANT, STUDENTS_LOST, before) is None
