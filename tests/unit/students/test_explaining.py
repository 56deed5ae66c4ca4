"""A verdict is explained by the rule that spoke and by what each level weighs, and by no name."""

from __future__ import annotations

import msgspec
import pytest

from runway_pipelines.students.deciding import RULES
from runway_pipelines.students.explaining import SAYS, Explanation, NoSuchCandidate, explain
from runway_pipelines.students.model import shipped_model
from runway_pipelines.students.persons import Persons
from tests.unit.students.world import candidate, persons, read, student

ANA = student("1001234", "Anabel", "Quist", "2010-01-31")
EVA = student("1001299", "Evangelina", "Tamm", "2011-05-05")


def explained(district: Persons, *rows: dict[str, object], of: int = 0) -> Explanation:
    candidate_id = str(rows[of]["candidate_id"])
    return explain(read(*rows), candidate_id, district, shipped_model())


@pytest.mark.parametrize(
    ("row", "names_are_exact"),
    [
        (("anabel", "quist", "01312010", ["1001234"]), True),
        (("anabel", "quist", "02312010", ["1001299"]), True),
        (("anabell", "quist", "01312010"), False),
        ((None, "quist", "01312010"), False),
    ],
)
def test_the_levels_add_up_to_the_weight(row: tuple[object, ...], names_are_exact: bool) -> None:
    found = explained(persons(ANA, EVA), candidate(*row))  # type: ignore[arg-type]
    best = found.students[0]
    assert best.student_unique_id == "1001234"
    assert best.prior + best.names + sum(level.bits or 0 for level in best.levels) == pytest.approx(
        best.weight, abs=0.01
    )
    assert (best.names != 0) is names_are_exact
    assert [level.bits is None for level in best.levels[:2]] == [names_are_exact] * 2


def test_rules_that_share_a_reason_are_told_apart() -> None:
    twin = student("1001234", "Anabel", "Quist", "2010-01-31", is_multiple_birth=True)
    assert explained(persons(twin), candidate("anabell", "quist", "01312010", ["1001234"])).rule == "half_a_twin"
    other = explained(persons(ANA), candidate("evangelina", "quist", "01312010", ["1001234"]))
    assert (other.rule, other.reason) == ("first_name_contradicts", "first_name_contradicts")


def test_a_verdict_of_the_whole_file_says_so() -> None:
    rows = (
        candidate("anabel", "quist", "01312010", ["1001234"]),
        candidate("anabel", "quist", "02282010", ["1001234"]),
    )
    found = explained(persons(ANA), *rows)
    assert (found.decision, found.rule) == ("review", "claimed_twice")


def test_an_invalid_line_has_its_reason_and_an_unknown_id_is_an_error() -> None:
    bad = candidate("anabel", "quist", None, record_count="none at all")
    assert explained(persons(ANA), bad).reason == "record_count.not_a_count"
    with pytest.raises(NoSuchCandidate):
        explain(read(bad), "nobody", persons(ANA), shipped_model())


def test_every_rule_has_a_sentence() -> None:
    assert {rule.__name__.removeprefix("_") for rule in RULES} <= set(SAYS)


def test_no_name_is_in_it() -> None:
    found = explained(persons(ANA, EVA), candidate("anabel", "quist", "01312010", ["1001299"]))
    text = msgspec.json.encode(found).decode().lower()
    assert not [word for word in ("anabel", "quist", "tamm", "2010-01-31", "01312010") if word in text]
