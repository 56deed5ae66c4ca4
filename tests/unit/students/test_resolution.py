"""A file's candidates become answers and a summary, in their order, without a name or a birth date of the roster."""

from __future__ import annotations

import random
from datetime import date
from typing import Any

import orjson
import pytest

from runway_pipelines.students.memory_database import Means, TooLargeToResolve
from runway_pipelines.students.model import shipped_model
from runway_pipelines.students.observables import read_candidates
from runway_pipelines.students.persons import Persons
from runway_pipelines.students.resolution import Resolved, encode_answer, resolve
from tests.unit.students.world import TODAY, answer, candidate, lines, persons, read, resolved, student

ANA = student("1001234", "Ana María", "López García", "2010-01-31")
EVA = student("1001299", "Eva", "Quist", "2011-05-05", codes=("777001",))
HER_ROW = ("ana", "lopez garcia", "01312010")
HER_FULL_ROW = ("ana maría", "lopez garcia", "01312010")


def test_an_id_with_names_and_birth_date_is_accepted() -> None:
    found = answer(candidate(*HER_ROW, ["1001234"]), ANA)
    assert (found.decision, found.reason, found.student_unique_id) == ("accept", "id_confirmed", "1001234")
    assert found.ids_agree
    assert found.candidates == ()


def test_a_stranger_is_nobody() -> None:
    found = answer(candidate("Zoe", "Tamm", "2012-05-05", ["5"]), ANA)
    assert (found.decision, found.reason, found.student_unique_id) == ("none", "no_candidate", None)


def test_a_review_names_the_two_best_and_says_what_agrees() -> None:
    found = answer(candidate(*HER_ROW, ["1001299"]), ANA, EVA)
    assert (found.decision, found.student_unique_id, len(found.candidates)) == ("review", None, 2)
    assert found.candidates[0].student_unique_id == "1001234"
    assert found.candidates[0].weight == found.weight > found.candidates[1].weight
    assert found.candidates[0].agreement == {
        "first_name": "exact", "last_name": "exact", "birth_date": "exact", "school": "exact", "student_id": "differs",
    }  # fmt: skip
    assert found.candidates[1].agreement["student_id"] == "exact"


def test_answers_come_in_the_files_order_with_the_summary_last() -> None:
    rows = lines(candidate(*HER_ROW, ["1001234"]), candidate("Zoe", "Tamm", None), candidate(*HER_FULL_ROW))
    rows.insert(1, b"not json\n")
    found = resolve(read_candidates(rows, TODAY), persons(ANA), shipped_model())
    answers = [orjson.loads(line) for line in encode_answer(found, {"seconds": 0.5})]
    assert [each["decision"] for each in answers[:-1]] == ["accept", "invalid", "none", "accept"]
    assert answers[1] | {"weight": 0} == {
        "candidate_id": None, "decision": "invalid", "reason": "line.not_json", "student_unique_id": None, "weight": 0,
        "ids_agree": False, "candidates": [],
    }  # fmt: skip
    assert set(answers[-1]) == {"summary"}
    assert answers[-1]["summary"]["seconds"] == 0.5
    assert [each["student_unique_id"] for each in answers[:-1]] == ["1001234", None, None, "1001234"]


def test_the_summary_counts_candidates_and_their_records() -> None:
    rows = [candidate(*HER_ROW, ["1001234"], record_count=3), candidate("Zoe", "Tamm", None, record_count="2")]
    summary = resolved(rows, persons(ANA)).summary
    assert (summary.candidates, summary.records, summary.students) == (2, 5, 1)
    assert (summary.decisions["accept"].candidates, summary.decisions["accept"].records) == (1, 3)
    assert (summary.reasons["none:no_candidate"].candidates, summary.reasons["none:no_candidate"].records) == (1, 2)
    assert summary.model_version == shipped_model().version
    assert summary.date_order == "month_first"


def test_the_summary_says_what_ids_alone_would_have_done() -> None:
    rows = [
        candidate(*HER_ROW, ["1001234"]),  # right
        candidate("Zoe", "Tamm", "2014-02-02", ["1001299"], record_count=4),  # nobody's, and Eva's ID
        candidate(*HER_ROW),  # no ID
    ]
    alone = resolved(rows, persons(ANA, EVA)).summary.id_alone
    assert (alone.matched.candidates, alone.matched.records) == (2, 5)
    assert (alone.contradicted.candidates, alone.contradicted.records) == (1, 4)
    assert alone.to_another_student.candidates == 0


def test_ids_alone_are_one_column_with_one_type() -> None:
    """The file's second column finds the roster's Local code twice, and its first one a unique ID once."""
    rows = [
        candidate("eva", "quist", "05052011", ["9", "777001"]),
        candidate("ana", "lopez", "01312010", ["1001234", "888001"]),
        candidate("ida", "tamm", "06062012", ["none", "999001"]),
    ]
    roster = [{**ANA, "codes": ("888001",)}, EVA, student("1001300", "Ida", "Tamm", "2012-06-06", codes=("999001",))]
    assert resolved(rows, persons(*roster)).summary.id_alone.matched.candidates == 3


def test_a_shared_code_gives_the_row_to_another_student_too() -> None:
    """Matching by ID joins the row to both; the observables alone say whose it is, so a person looks."""
    roster = [{**ANA, "codes": ("5550001",)}, {**EVA, "codes": ("5550001",)}]
    found = resolved([candidate(*HER_ROW, ["5550001"])], persons(*roster))
    assert found.resolutions[0].reason == "id_belongs_to_another_student"
    assert found.summary.id_alone.matched.candidates == 1


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_changes_no_answer(seed: int) -> None:
    chance = random.Random(seed)
    roster = [
        student(f"10{i:03d}", f"{'abcdefgh'[i % 8]}nn", f"{'xyz'[i % 3]}opez", f"2010-01-{i % 9 + 1:02d}")
        for i in range(40)
    ]
    rows = [
        candidate(
            each["first_name"],
            each["last_name"],
            each["birth_date"].isoformat(),
            [chance.choice(roster)["student_unique_id"]],
        )
        for each in roster
    ]
    usual = answers_by_id(resolved(rows, persons(*roster)))
    chance.shuffle(rows)
    chance.shuffle(roster)
    assert answers_by_id(resolved(rows, persons(*roster))) == usual


def test_a_verdict_does_not_depend_on_the_other_candidates() -> None:
    rows = [candidate(*HER_ROW, ["1001234"]), candidate("eva", "quist", "05132011"), candidate("Zoe", "Tamm", None)]
    together = answers_by_id(resolved(rows, persons(ANA, EVA)))
    for row in rows:
        assert resolved([row], persons(ANA, EVA)).resolutions[0] == together[row["candidate_id"]]


def answers_by_id(found: Resolved) -> dict[str | None, Any]:
    return {each.candidate_id: each for each in found.resolutions}


def test_no_name_and_no_birth_date_of_the_roster_is_in_an_answer() -> None:
    secret = student("1001234", "Zzyxcanary", "Qvortcanary", "2011-11-17", middle_name="Wumcanary", codes=("1234567",))
    twin = {**secret, "k_student_xyear": "k2", "student_unique_id": "1001235", "first_name": "Zzyxcanari", "codes": ()}
    rows = [
        candidate("zzyxcanary", "qvortcanary", "11172011", ["1001234"]),
        candidate("zzyx", "qvort", "11172011", ["1001235"]),
        candidate("zzyxcanary", "other", "11182011", ["1001234"]),
    ]
    found = resolved(rows, persons(secret, twin))
    written = b"".join(encode_answer(found, {})).decode().lower()
    shown = repr(found) + repr(persons(secret)) + repr(read(*rows)) + repr(found.resolutions) + repr(found.summary)
    for word in ("canary", "canari", "2011-11-17", "20111117"):
        assert word not in written
        assert word not in shown.lower()


def test_too_little_memory_is_an_error_that_quotes_nothing() -> None:
    names = [f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}canary" for i in range(676)]
    roster = persons(*(student(f"{i:07d}", name, "Same", "2011-11-17") for i, name in enumerate(names)))
    rows = read(*(candidate(name, "Same", "2011-11-17") for name in names))
    with pytest.raises(TooLargeToResolve) as raised:
        resolve(rows, roster, shipped_model(), means=Means(memory_mb=4, threads=1))
    assert "canary" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_file_of_nobody_is_no_error() -> None:
    found = resolved([], persons(ANA))
    assert (found.resolutions, found.summary.candidates) == ((), 0)


def test_a_roster_of_nobody_is_no_error() -> None:
    empty: Persons = persons()
    assert [each.decision for each in resolved([candidate(*HER_ROW, ["1"])], empty).resolutions] == ["none"]


def test_the_years_of_the_dates_are_judged_by_the_given_day() -> None:
    (found,) = read_candidates(lines(candidate("a", "b", "1/2/30")), date(2036, 1, 1)).valid
    assert found.birth_date == date(2030, 1, 2)
