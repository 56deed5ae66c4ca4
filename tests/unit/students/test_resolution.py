"""A file's candidates become answers, in the smallest districts that show it."""

from tests.unit.students.world import answer, candidate, student

ANA = student("1001234", "Ana María", "López García", "2010-01-31")


def test_an_id_with_names_and_birth_date_is_accepted() -> None:
    found = answer(candidate("ana", "lopez garcia", "01312010", ["1001234"]), ANA)
    assert (found.decision, found.reason, found.student_unique_id) == ("accept", "id_confirmed", "1001234")
    assert found.ids_agree
    assert found.candidates == ()


def test_a_stranger_is_nobody() -> None:
    found = answer(candidate("Zoe", "Quist", "2012-05-05", ["5"]), ANA)
    assert (found.decision, found.reason, found.student_unique_id) == ("none", "no_candidate", None)
