"""Each guard with the smallest two students who need it; and no weight overrules one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.students.deciding import Decision, Policy, decide, decide_file, is_foreign
from runway_pipelines.students.model import shipped_model
from runway_pipelines.students.scoring import Evidence, Pair, Rivals
from tests.unit.students.world import answer, candidate, persons, read, resolved, student

ANA = student("1001234", "Ana", "Lopez", "2010-01-31")
HER_ROW = ("ana", "lopez", "01312010")

ALL_EXACT = {
    "first_name": "exact", "last_name": "exact", "birth_date": "exact", "middle_name": "missing", "sex": "missing",
    "grade": "missing", "school": "exact", "student_id": "exact",
}  # fmt: skip


def verdict(found: Any) -> tuple[str, str]:
    return found.decision.value, found.reason


def pair(weight: float = 30.0, *, ids_agree: bool = True, person: int = 1, **levels: str) -> Pair:
    return Pair(person, str(person), weight, ALL_EXACT | levels, ids_agree)


# Accepting.


def test_an_id_and_two_observables_are_enough() -> None:
    assert verdict(answer(candidate(*HER_ROW, ["1001234"]), ANA)) == ("accept", "id_confirmed")
    assert verdict(answer(candidate(None, "lopez", "01312010", ["1001234"]), ANA)) == ("accept", "id_confirmed")
    assert verdict(answer(candidate("ana", "lopez", None, ["1001234"]), ANA)) == ("accept", "id_confirmed")


def test_an_id_and_one_observable_are_not() -> None:
    assert verdict(answer(candidate("ana", None, None, ["1001234"]), ANA)) == ("review", "weak_evidence")
    assert verdict(answer(candidate("ana", "quist", "05051999", ["1001234"]), ANA)) == ("review", "weak_evidence")


def test_without_an_id_all_three_and_the_school_are_enough() -> None:
    assert verdict(answer(candidate(*HER_ROW), ANA)) == ("accept", "observables")


def test_without_an_id_two_of_three_are_not() -> None:
    assert verdict(answer(candidate("ana", None, "01312010"), ANA)) == ("review", "weak_evidence")
    assert verdict(answer(candidate("ana", "lopez", None), ANA)) == ("review", "weak_evidence")


def test_swapped_names_are_both_names() -> None:
    assert verdict(answer(candidate("lopez", "ana", "01312010", ["1001234"]), ANA)) == ("accept", "id_confirmed")


def test_an_earlier_name_counts() -> None:
    earlier = {**ANA, "api_year": 2025, "last_name": "Quist"}
    assert verdict(answer(candidate("ana", "quist", "01312010", ["1001234"]), ANA, earlier)) == (
        "accept",
        "id_confirmed",
    )


def test_a_nickname_is_the_name() -> None:
    william = student("1001", "William", "Quist", "2010-01-31")
    assert verdict(answer(candidate("bill", "quist", "01312010", ["1001"]), william)) == ("accept", "id_confirmed")


def test_a_floor_is_the_least_weight_that_is_accepted() -> None:
    policy = Policy()
    without_id = {"student_id": "missing", "ids_agree": False}
    for floor, levels in ((policy.floor, {}), (policy.floor_without_id, without_id)):
        assert decide(Evidence(pair(floor, **levels))).decision is Decision.ACCEPT
        assert decide(Evidence(pair(floor - 0.001, **levels))).reason == "weak_evidence"


# Guards, each with the smallest district that needs it.


def test_an_id_of_another_student_is_reviewed() -> None:
    eva = student("1001235", "Eva", "Quist", "2011-05-05")
    found = answer(candidate(*HER_ROW, ["1001235"]), ANA, eva)
    assert verdict(found) == ("review", "id_belongs_to_another_student")
    assert "1001234" in {match.student_unique_id for match in found.candidates}


@pytest.mark.parametrize("born", ["2010-05-13", "2010-12-05", "2010-05-21"])
def test_an_id_does_not_outweigh_whom_the_observables_say(born: str) -> None:
    """A list that slipped by a line: the row agrees with the next MARIA in everything, and with this one nearly."""
    owner = student("605003", "Maria", "Garcia", born, school_id="78")
    herself = student("605417", "Maria", "Garcia", "2010-05-12", school_id="79")
    found = answer(candidate("maria", "garcia", "05122010", ["605003"]), owner, herself)
    assert verdict(found) == ("review", "id_belongs_to_another_student")
    assert "605417" in {match.student_unique_id for match in found.candidates}
    assert answer(candidate("maria", "garcia", "05122010", ["605417"]), owner, herself).student_unique_id == "605417"


def test_an_id_does_not_outweigh_whom_a_whole_name_says_where_there_is_no_birth_date() -> None:
    """He has less than even odds without an ID, and still better ones than its owner would have."""
    others = [student(f"9{i:05d}", _word(i), f"Other{_word(i)}", "2009-09-09") for i in range(3_000)]
    owner = student("605003", "Jaden", "Smithers", "2010-05-12", school_id="78")
    himself = student("605417", "Jayden", "Smithers", "2012-01-30", school_id="79")
    row = candidate("jayden", "smithers", None, ["605003"], obs_school_id=None)
    assert verdict(answer(row, owner, *others)) == ("accept", "id_confirmed")
    assert verdict(answer(row, owner, himself, *others)) == ("review", "id_belongs_to_another_student")


def test_a_namesake_whose_birth_date_is_not_known_may_be_the_one() -> None:
    owner = student("605003", "Jaden", "Smithers", "2010-05-12")
    namesake = student("605004", "Jayden", "Smithers", None)
    row = candidate("jayden", "smithers", "05122010", ["605003"])
    assert verdict(answer(row, owner)) == ("accept", "id_confirmed")
    assert answer(row, owner, namesake).decision == "review"


@pytest.mark.parametrize(
    ("owner", "sister", "surname"),
    [
        ("Екатерина", "Елизавета", "Иванова"),
        ("지훈", "서연", "김"),
        ("दीपक", "दिपिका", "शर्मा"),
        ("محمد", "محمود", "حسن"),
    ],
)
def test_names_in_another_script_are_whole_or_different(owner: str, sister: str, surname: str) -> None:
    """Letters of one script share bytes, and so the names of two sisters looked alike."""
    known = student("605003", owner, surname, "2008-03-01")
    assert answer(candidate(owner, surname, "2008-03-01", ["605003"]), known).student_unique_id == "605003"
    for born in (None, "2008-03-01"):
        found = answer(candidate(sister, surname, born, ["605003"]), known)
        assert verdict(found) == ("review", "first_name_contradicts")


def test_one_right_and_one_wrong_id_are_reviewed() -> None:
    eva = student("1001235", "Eva", "Quist", "2011-05-05")
    found = answer(candidate(*HER_ROW, ["1001234", "1001235"]), ANA, eva)
    assert verdict(found) == ("review", "id_belongs_to_another_student")


def test_a_sisters_id_with_another_first_name_is_reviewed() -> None:
    found = answer(candidate("Beatriz", "lopez", "01312010", ["1001234"]), ANA)
    assert verdict(found) == ("review", "first_name_contradicts")


def test_another_middle_name_is_another_child() -> None:
    jose = student("1001", "José Luis", "Lopez", "2010-01-31")
    assert verdict(answer(candidate("jose manuel", "lopez", "01312010", ["1001"]), jose)) == (
        "review",
        "first_name_contradicts",
    )


def test_another_suffix_is_another_child() -> None:
    junior = student("1001", "Martin", "King", "2010-01-31", generation_code_suffix="Jr")
    found = answer(candidate("martin", "king iii", "01312010", ["1001"]), junior)
    assert verdict(found) == ("review", "first_name_contradicts")
    assert verdict(answer(candidate("martin", "king", "01312010", ["1001"]), junior)) == ("accept", "id_confirmed")


def test_a_first_name_a_letter_away_is_a_misspelling_unless_children_are_called_so() -> None:
    jaden = student("1001", "Jaden", "Quist", "2010-01-31")
    row = candidate("jayden", "quist", "01312010", ["1001"])
    others = [student(f"20{i}", "Jayden", "Other", f"2009-0{i}-01") for i in range(1, 4)]
    assert verdict(answer(row, jaden)) == ("accept", "id_confirmed")
    assert verdict(answer(row, jaden, *others)) == ("review", "first_name_contradicts")


def test_a_twins_name_a_letter_away_is_reviewed() -> None:
    mario = student("1001", "Mario", "Quist", "2010-01-31", is_multiple_birth=True)
    found = answer(candidate("maria", "quist", "01312010", ["1001"]), mario)
    assert verdict(found) == ("review", "first_name_contradicts")


def test_a_letter_away_and_the_other_sex_is_reviewed() -> None:
    mario = student("1001", "Mario", "Quist", "2010-01-31", birth_sex="Male")
    row = candidate("maria", "quist", "01312010", ["1001"], obs_sex="F")
    assert verdict(answer(row, mario)) == ("review", "first_name_contradicts")


def test_twins_with_like_names_are_reviewed() -> None:
    marta = student("1001", "Marta", "Quist", "2010-01-31")
    maria = student("1002", "Marla", "Quist", "2010-01-31")
    assert verdict(answer(candidate("marta", "quist", "01312010", ["1001"]), marta, maria)) == (
        "review",
        "twin_like_competitor",
    )


def test_twins_whose_names_say_which_are_accepted() -> None:
    twins = (student("1001", "Ana", "Quist", "2010-01-31"), student("1002", "Zoe", "Quist", "2010-01-31"))
    assert answer(candidate("ana", "quist", "01312010", ["1001"]), *twins).student_unique_id == "1001"
    assert answer(candidate("zoe", "quist", "01312010", ["1002"]), *twins).student_unique_id == "1002"


def test_a_twin_without_a_first_name_is_reviewed() -> None:
    twins = (student("1001", "Ana", "Quist", "2010-01-31"), student("1002", "Zoe", "Quist", "2010-01-31"))
    found = answer(candidate(None, "quist", "01312010", ["1001"]), *twins)
    assert verdict(found) == ("review", "twin_like_competitor")


def test_a_twins_nickname_that_fits_both_is_reviewed() -> None:
    twins = (student("1001", "Will", "Quist", "2010-01-31"), student("1002", "William", "Quist", "2010-01-31"))
    assert verdict(answer(candidate("will", "quist", "01312010", ["1001"]), *twins)) == (
        "review",
        "twin_like_competitor",
    )


def test_two_students_with_one_name_are_reviewed() -> None:
    first = student("1001234", "Ana", "Lopez", "2010-01-31")
    second = student("2007777", "Ana", "Lopez", "2010-01-30")
    found = answer(candidate("ana", "lopez", None), first, second)
    assert verdict(found) == ("review", "two_candidates")
    assert {match.student_unique_id for match in found.candidates} == {"1001234", "2007777"}


def test_one_key_for_two_children_is_reviewed() -> None:
    brother = {**ANA, "student_unique_id": "1001999", "first_name": "Beto", "birth_date": None, "api_year": 2025}
    assert verdict(answer(candidate(*HER_ROW, ["1001234"]), ANA, brother)) == ("review", "two_candidates")


def test_an_id_that_a_second_child_was_given_is_reviewed() -> None:
    graduate = student("605003", "Ann", "Smithers", "2004-05-12", api_year=2022)
    today = student("605003", "Luis", "Ortega", "2016-05-12")
    for row in (
        candidate("ann", "smithers", "2004-05-12", ["605003"]),
        candidate("luis", "ortega", "2016-05-12", ["605003"]),
        candidate("ann", "smithers", "2004-05-12"),
    ):
        assert verdict(answer(row, graduate, today)) == ("review", "two_candidates")


@pytest.mark.parametrize(
    "changed", [{"first_name": "Anna"}, {"last_name": "Ortega"}, {"first_name": "Bea", "last_name": "Ortega"}]
)
def test_a_student_who_changed_names_is_one_child(changed: dict[str, str]) -> None:
    before = student("605003", "Ann", "Smithers", "2010-05-12", api_year=2022)
    now = {**before, "api_year": 2026, **changed}
    assert answer(candidate("ann", "smithers", "2010-05-12", ["605003"]), before, now).student_unique_id == "605003"


def test_a_corrected_id_is_one_child() -> None:
    before = {**ANA, "student_unique_id": "1001999", "api_year": 2025}
    found = answer(candidate(*HER_ROW, ["1001999"]), ANA, before)
    assert (verdict(found), found.student_unique_id) == (("accept", "id_confirmed"), "1001234")


def test_a_brother_with_a_name_like_it_and_another_birth_date_is_reviewed() -> None:
    juan = student("1001", "Juanito", "Quist", "2010-01-31")
    assert verdict(answer(candidate("juanita", "quist", "07072013", ["1001"]), juan)) == ("review", "weak_evidence")


def test_a_half_named_twin_is_reviewed() -> None:
    """The sister ANA is not in the roster yet, and enrolled with ANA MARIA: her ID is the next one."""
    ana_maria = student("1203524", "Ana María", "Quist", "2010-01-31")
    assert verdict(answer(candidate("ana", "quist", "01312010", ["1203523"]), ana_maria)) == ("review", "weak_evidence")
    twin = {**ana_maria, "is_multiple_birth": True}
    assert verdict(answer(candidate("ana", "quist", "01312010", ["1203524"]), twin)) == (
        "review",
        "first_name_contradicts",
    )


def test_a_twin_with_another_second_name_is_reviewed() -> None:
    """Maximino José is not Maximino Espiridión José, whose twin he may be: the second name is a name too."""
    known = student("1252587", "Maximino Espiridión", "Tórrez Huguet", "2010-01-31", middle_name="José Mari")
    for called, expected in (("maximino josé", "review"), ("maximino espiridion", "accept")):
        row = candidate(called, "torrez huguet", "01312010", ["1252588"])
        assert verdict(answer(row, known))[0] == expected


def test_a_mistyped_id_supports_nobody_of_a_multiple_birth() -> None:
    twin = student("1203524", "Ana", "Quist", "2010-01-31", is_multiple_birth=True)
    assert verdict(answer(candidate("ana", "quist", "01312010", ["1203523"]), twin)) == ("review", "weak_evidence")


@pytest.mark.parametrize("written", ["kerri", "kerryn", "kery"])
def test_without_an_id_a_name_like_it_may_be_a_sisters_who_is_not_in_the_roster(written: str) -> None:
    kerry = student("1204481", "Kerry", "Riddlequist", "2011-05-30")
    alone = candidate(written, "riddlequist", "05302011")
    enrolled_next = candidate(written, "riddlequist", "05302011", ["1204482"])
    assert verdict(answer(alone, kerry)) == verdict(answer(enrolled_next, kerry)) == ("review", "weak_evidence")


def test_a_namesake_at_the_school_needs_the_birth_date() -> None:
    """Class lists are sorted by name: the ID in the row is the next line's as easily as its own."""
    maria = student("1001", "Maria", "Garcia", "2010-01-31")
    namesake = student("1002", "Maria", "Garcia", "2010-09-09")
    row = candidate("maria", "garcia", None, ["1001"])
    assert verdict(answer(row, maria)) == ("accept", "id_confirmed")
    assert verdict(answer(row, maria, namesake)) == ("review", "two_candidates")
    elsewhere = {**namesake, "school_id": "78"}
    assert verdict(answer(row, maria, elsewhere)) == ("accept", "id_confirmed")


def test_with_another_birth_date_both_names_must_be_whole() -> None:
    """GARCIA LOPEZ and GARCIA PEREZ stand one below the other in the list, too."""
    maria = student("1001", "Mariangela", "Garcia Perez", "2010-01-31")
    assert verdict(answer(candidate("mariangela", "garcia perez", "09172010", ["1001"]), maria))[0] == "accept"
    assert verdict(answer(candidate("mariangela", "garcia lopez", "09172010", ["1001"]), maria))[0] == "review"


# No weight overrules a guard.

_BLOCKED: Mapping[str, Evidence] = {
    "another's ID": Evidence(pair(), owners=frozenset({1, 2})),
    "an ID alone": Evidence(pair(), is_outweighed=True),
    "another's ID alone": Evidence(pair(ids_agree=False), owners=frozenset({2})),
    "first name": Evidence(pair(first_name="differs")),
    "middle name": Evidence(pair(middle_name="differs")),
    "suffix": Evidence(pair(), suffix_differs=True),
    "a name and no misspelling": Evidence(pair(first_name="near"), namesakes=3),
    "a prefix that is a name": Evidence(pair(first_name="prefix"), namesakes=3),
    "other sex": Evidence(pair(first_name="alike", sex="differs")),
    "twin, nearly": Evidence(pair(first_name="near"), is_multiple_birth=True),
    "half a twin": Evidence(pair(), is_multiple_birth=True, is_half_named=True),
    "rival": Evidence(pair(), rivals=Rivals(0.9, 0.95)),
    "rival without a first name": Evidence(pair(first_name="missing"), rivals=Rivals(1.0, 0.0)),
    "divided": Evidence(pair(), is_divided=True),
    "one observable": Evidence(pair(first_name="missing", last_name="missing")),
    "brother": Evidence(pair(first_name="near", birth_date="differs")),
    "cousin": Evidence(pair(last_name="token", birth_date="year")),
    "namesake without a birth date": Evidence(pair(birth_date="missing"), has_namesake=True),
    "namesake with another": Evidence(pair(birth_date="partly"), has_namesake=True),
    "namesake, and a name like it": Evidence(pair(first_name="near"), has_namesake=True),
    "twin without a first name": Evidence(pair(first_name="missing"), is_multiple_birth=True),
    "no ID, a nickname": Evidence(pair(ids_agree=False, student_id="missing", first_name="nickname")),
    "no ID, nearly": Evidence(pair(ids_agree=False, student_id="missing", first_name="near")),
    "no ID, two observables": Evidence(pair(ids_agree=False, birth_date="differs")),
    "no ID, one exact": Evidence(pair(ids_agree=False, first_name="near", last_name="near")),
    "no ID, no support": Evidence(
        pair(ids_agree=False, school="differs", student_id="missing", first_name="nickname"), namesakes=0
    ),
    "no ID, half named": Evidence(pair(ids_agree=False, student_id="missing"), is_half_named=True),
    "no ID, twin's ID": Evidence(pair(ids_agree=False, student_id="mistyped"), is_multiple_birth=True),
}


@pytest.mark.parametrize("name", _BLOCKED)
@given(weight=st.floats(min_value=0, allow_nan=False), second=st.floats(max_value=0, allow_nan=False))
def test_no_weight_overrules_a_guard(name: str, weight: float, second: float) -> None:
    evidence = _BLOCKED[name]
    assert evidence.best is not None
    heavy = msgspec.structs.replace(
        evidence, best=msgspec.structs.replace(evidence.best, weight=weight), second=pair(second, person=9)
    )
    assert decide(heavy).decision is Decision.REVIEW


@given(weight=st.floats(min_value=0, max_value=1e6), margin=st.floats(min_value=0, max_value=7.99))
def test_no_weight_overrules_a_second_student(weight: float, margin: float) -> None:
    second = pair(weight - margin, person=2)
    assert decide(Evidence(pair(weight), second)).reason == "two_candidates"


_LEVELS = st.fixed_dictionaries(
    {
        comparison.name: st.sampled_from([level.name for level in comparison.levels])
        for comparison in shipped_model().comparisons
    }
)


@given(
    levels=_LEVELS,
    weight=st.floats(min_value=-100, max_value=1000),
    evidence=st.builds(
        Evidence,
        rivals=st.none() | st.builds(Rivals, st.floats(0, 1), st.floats(0, 1)),
        owners=st.sets(st.integers(1, 3), max_size=2).map(frozenset),
        is_multiple_birth=st.booleans(),
        is_divided=st.booleans(),
        suffix_differs=st.booleans(),
        namesakes=st.integers(0, 5),
        is_half_named=st.booleans(),
        has_namesake=st.booleans(),
        is_outweighed=st.booleans(),
    ),
)
def test_whatever_is_accepted_passed_every_guard(levels: dict[str, str], weight: float, evidence: Evidence) -> None:
    best = Pair(1, "1", weight, levels, ids_agree=levels["student_id"] in {"exact", "one"})
    found = decide(msgspec.structs.replace(evidence, best=best))
    if found.decision is Decision.ACCEPT:
        assert weight >= Policy().floor
        assert levels["first_name"] not in {"differs", "initial"}
        assert levels["middle_name"] != "differs"
        assert evidence.owners <= {1}
        assert not evidence.is_divided
        assert not evidence.suffix_differs
        assert not (evidence.has_namesake and levels["birth_date"] == "missing")
        assert not (evidence.is_outweighed and best.ids_agree)
        assert sum(levels[name] in {"differs", "missing"} for name in ("first_name", "last_name", "birth_date")) <= 1


# Whole files.


def test_one_student_is_not_two_children() -> None:
    """The second one's birth date is mistyped, or it is a cousin of the same name: nobody knows."""
    two = [candidate(*HER_ROW, ["1001234"]), candidate("ana", "lopez", "01322010", ["1001234"])]
    two[1]["obs_birth_date"] = "01302010"
    assert [verdict(each) for each in resolved(two, persons(ANA)).resolutions] == [("review", "claimed_twice")] * 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"obs_first_name": "jose luis"}, {"obs_first_name": "jose manuel"}),
        ({"obs_middle_name": "luis"}, {"obs_middle_name": "manuel"}),
        ({"obs_first_name": "jose luis"}, {"obs_middle_name": "m."}),
        ({"obs_last_name": "garcia jr"}, {"obs_last_name": "garcia iii"}),
    ],
)
def test_two_brothers_are_not_one_student(one: dict[str, str], other: dict[str, str]) -> None:
    jose = student("1001234", "José", "Garcia", "2010-05-01")
    plain = {"obs_first_name": "jose", "obs_last_name": "garcia"}
    rows = [candidate("", "", "2010-05-01", ["1001234"], **{**plain, **each}) for each in (one, other, {})]
    found = [verdict(each) for each in resolved(rows, persons(jose)).resolutions]
    assert found == [("review", "claimed_twice")] * 3
    assert [each.decision for each in resolved(rows[1:], persons(jose)).resolutions] == ["accept"] * 2


def test_one_child_in_two_rows_is_accepted_twice() -> None:
    two = [candidate(*HER_ROW, ["1001234"]), candidate("ana", "lopez garcia", None, ["1001234"])]
    assert [each.decision for each in resolved(two, persons(ANA)).resolutions] == ["accept", "accept"]


def _foreign_world(strangers: int, own: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    roster = [
        student(f"10{i:02d}", _word(i), f"Own{_word(i)}", f"2010-01-{i % 28 + 1:02d}") for i in range(strangers + own)
    ]
    rows = [
        candidate(f"Zz{_word(i)}", f"Qq{_word(i)}", f"2008-07-{i + 1:02d}", [f"10{i:02d}"]) for i in range(strangers)
    ]
    rows += [
        candidate(each["first_name"], each["last_name"], each["birth_date"].isoformat(), [each["student_unique_id"]])
        for each in roster[strangers:]
    ]
    return roster, rows


def _word(number: int) -> str:
    return "".join(chr(97 + int(digit) * 2) for digit in f"{number * 37 % 1000:03d}") + "ovan"


def test_another_districts_file_is_told_and_nothing_of_it_is_accepted() -> None:
    roster, rows = _foreign_world(strangers=12, own=3)
    found = resolved(rows, persons(*roster))
    assert found.summary.is_foreign
    assert {each.reason for each in found.resolutions} == {"foreign_file"}
    assert {each.decision for each in found.resolutions} == {"review"}


def test_a_file_with_some_wrong_ids_is_no_other_districts() -> None:
    roster, rows = _foreign_world(strangers=9, own=3)
    found = resolved(rows, persons(*roster))
    assert not found.summary.is_foreign
    assert [each.decision for each in found.resolutions[-3:]] == ["accept"] * 3


def test_few_hits_say_nothing_about_a_file() -> None:
    evidence = {line: Evidence(owners=frozenset({1}), owners_contradicted=True) for line in range(9)}
    assert not is_foreign(evidence)
    assert is_foreign(evidence | {9: Evidence(owners=frozenset({1}), owners_contradicted=True)})


def test_nobody_in_a_foreign_file_stays_nobody() -> None:
    rows = read(candidate("Zoe", "Quist", None)).valid
    assert decide_file(rows, {0: Evidence()})[0].reason == "no_candidate"
