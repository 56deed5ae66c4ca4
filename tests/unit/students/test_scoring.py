"""The SQL texts weigh pairs as a naive reference does, whatever the order of the rows."""

from __future__ import annotations

import random
from datetime import date
from typing import Any

import pytest

from runway_pipelines.students import scoring
from runway_pipelines.students.memory_database import Means, StatementRefused, TooLargeToResolve, memory_database
from runway_pipelines.students.model import shipped_model
from runway_pipelines.students.scoring import Evidence, score
from tests.unit.students import reference
from tests.unit.students.world import candidate, persons, read, student

FIRST = ["ANA", "ANNA", "MARIA", "MARIANA", "WILLIAM", "BILL", "JUAN", "LOPEZ", "JADEN", "JAYDEN"]
LAST = ["LOPEZ", "LOPES", "GARCIA", "LOPEZ GARCIA", "QUIST", "QUISTE", "ANA", "SMITHSON"]


def some_student(chance: random.Random, number: int) -> dict[str, Any]:
    return student(
        str(1_000_000 + number * 7),
        chance.choice(FIRST),
        chance.choice(LAST),
        date(2009 + chance.randrange(2), 1 + chance.randrange(3), 1 + chance.randrange(13)).isoformat(),
        school_id=chance.choice(["1", "2"]),
        codes=(str(50_000 + number * 11),),
    )


def some_row(chance: random.Random, roster: list[dict[str, Any]]) -> dict[str, Any]:
    """A student's row of which members are another's, or missing."""
    mine, other = chance.choice(roster), chance.choice(roster)
    one = [mine, mine, mine, other]
    ids = [chance.choice(one)["student_unique_id"], chance.choice(one)["codes"][0]][: chance.randrange(3)]
    if ids and chance.random() < 0.3:
        place = chance.randrange(len(ids[0]))
        ids[0] = ids[0][:place] + chance.choice("0123456789") + ids[0][place + 1 :]
    row = {
        "first": chance.choice([*one, {"first_name": None}])["first_name"],
        "last": chance.choice([*one, {"last_name": None}])["last_name"],
        "born": chance.choice(one)["birth_date"].isoformat() if chance.random() < 0.9 else None,
        "school": chance.choice(one)["school_id"],
        "ids": list(dict.fromkeys(ids)),
    }
    if chance.random() < 0.1:
        row["first"], row["last"] = row["last"], row["first"]
    return row


def as_candidate(row: dict[str, Any]) -> dict[str, Any]:
    return candidate(row["first"], row["last"], row["born"], row["ids"], obs_school_id=row["school"])


def weights(evidence: Evidence) -> list[tuple[float, str]]:
    return [(pair.weight, pair.student_unique_id) for pair in (evidence.best, evidence.second) if pair is not None]


@pytest.mark.parametrize("seed", range(6))
def test_weights_are_those_of_the_reference(seed: int) -> None:
    chance = random.Random(seed)
    roster = [some_student(chance, number) for number in range(60)]
    rows = [some_row(chance, roster) for _ in range(80)]
    rows = [row for row in rows if " " not in (row["first"] or "")]
    found = score(read(*map(as_candidate, rows)).valid, persons(*roster), shipped_model()).evidence
    for line, row in enumerate(rows):
        expected = reference.best(row, roster)
        assert [round(weight, 6) for weight, _ in weights(found[line])] == [round(weight, 6) for weight, _ in expected]
        if len({round(weight, 6) for weight, _ in expected}) == len(expected):
            assert {unique_id for _, unique_id in weights(found[line])} == {unique_id for _, unique_id in expected}
        if found[line].best is not None:
            child = next(each for each in roster if each["student_unique_id"] == found[line].best.student_unique_id)
            assert dict(found[line].best.levels) == reference.levels(row, child)


def test_the_order_of_rows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random("order")
    roster = [some_student(chance, number) for number in range(60)]
    rows = [as_candidate(some_row(chance, roster)) for _ in range(60)]
    usual = by_id(rows, roster)
    for part in (7, 19):
        monkeypatch.setattr(scoring, "PART", part)
        chance.shuffle(roster)
        chance.shuffle(rows)
        assert by_id(rows, roster) == usual


def by_id(rows: list[dict[str, Any]], roster: list[dict[str, Any]]) -> dict[str, Evidence]:
    candidates = read(*rows).valid
    found = score(candidates, persons(*roster), shipped_model(), Means(threads=1 + len(rows) % 2)).evidence
    return {each.candidate_id: found[each.line] for each in candidates}


def test_two_keys_with_one_id_have_one_order() -> None:
    ana = student("1234567", "Ana", "Lopez", "2010-01-31")
    both = persons(*({**ana, "k_student_xyear": f"k{number}"} for number in range(20)))
    found = score(read(candidate("ana", "lopez", "2010-01-31", ["1234567"])).valid, both, shipped_model()).evidence[0]
    assert [pair.person for pair in (found.best, found.second) if pair is not None] == [0, 1]


@pytest.mark.parametrize(
    ("written", "level"),
    [
        ("1234567", "exact"),
        ("1234568", "mistyped"),
        ("1234576", "mistyped"),
        ("123456", "mistyped"),
        ("7654321", "differs"),
    ],
)
def test_an_id_with_one_digit_wrong_is_an_agreement_of_its_own(written: str, level: str) -> None:
    ana = student("1234567", "Ana", "Lopez", "2010-01-31")
    found = score(read(candidate("ana", "lopez", "2010-01-31", [written])).valid, persons(ana), shipped_model())
    assert found.evidence[0].best is not None
    assert found.evidence[0].best.levels["student_id"] == level


def test_too_much_for_the_memory_says_so() -> None:
    with pytest.raises(TooLargeToResolve, match="20 MB"), memory_database(Means(memory_mb=20)) as database:
        database.execute("create table large as select md5(i::varchar) as text from range(3000000) as t(i)")


def test_the_database_has_no_way_out() -> None:
    with memory_database(Means()) as database:
        assert database.execute("select current_setting('temp_directory')").fetchone() == ("",)
    for way_out in ("copy (select 1) to 'no.csv'", "from 'no.csv'", "install httpfs", "set temp_directory = '/tmp'"):
        with pytest.raises(StatementRefused), memory_database(Means()) as database:
            database.execute(way_out)


def test_nobody_in_the_roster_is_no_error() -> None:
    found = score(read(candidate("ana", "lopez", "2010-01-31", ["1"])).valid, persons(), shipped_model())
    assert found.evidence == {0: Evidence()}


def test_no_candidates_are_no_error() -> None:
    assert score((), persons(student("1", "Ana", "Lopez", "2010-01-31")), shipped_model()).evidence == {}
