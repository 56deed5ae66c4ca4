"""Each rule for a line of candidates with the smallest line that meets it; a bad line costs that line alone."""

from typing import Any

import orjson
import pytest

from runway_pipelines.students import observables
from runway_pipelines.students.observables import (
    LONGEST_LINE,
    TooManyCandidates,
    grade_number,
    read_candidates,
    sex_letter,
    student_ids,
)
from tests.unit.students.world import TODAY, candidate, lines, read


def refused(line: bytes | dict[str, Any]) -> str:
    """The reason of a line that is no candidate, beside a good one that is."""
    written = line if isinstance(line, bytes) else orjson.dumps(line)
    found = read_candidates([written, b'{"candidate_id": "good"}'], TODAY)
    assert [each.candidate_id for each in found.valid] == ["good"]
    assert [each.line for each in found.invalid] == [0]
    return found.invalid[0].reason


def test_what_the_public_bundles_write() -> None:
    line = (
        b'{ "candidate_id": "103667c3", "obs_first_name": "ana", "obs_last_name": "lopez garcia", "obs_birth_date": '
        b'"01312008", "obs_school_id": "None", "obs_student_ids": "[\'605003\', \'605003\']", "record_count": "1" }'
    )
    (found,) = read_candidates([line], TODAY).valid
    assert (found.candidate_id, found.record_count) == ("103667c3", 1)
    assert (found.first_name, found.surname_tokens) == ("ANA", ("GARCIA", "LOPEZ"))
    assert (str(found.birth_date), found.school_id, found.student_ids) == ("2008-01-31", None, ((0, "605003"),))


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        (["123", "456"], [(0, "123"), (1, "456")]),
        (["123", None, "none", " 123 "], [(0, "123")]),
        ("123", [(0, "123")]),
        (123, [(0, "123")]),
        (123.0, [(0, "123")]),
        ("123.0", [(0, "123")]),
        ("['123', 'none']", [(0, "123")]),
        ("[None, 'nan', '456']", [(2, "456")]),
        ('["1", "2,3"]', [(0, "1"), (1, "2,3")]),
        ("[123, 456.0]", [(0, "123"), (1, "456")]),
        ("[ '123' , 456 ]", [(0, "123"), (1, "456")]),
        ("['', , '456',]", [(2, "456")]),
        ("[]", []),
        ([], []),
        ("00123", [(0, "00123")]),
        (None, []),
        ("N/A", []),
    ],
)
def test_ids_in_every_way_of_writing_them(written: object, ids: list[tuple[int, str]]) -> None:
    assert list(student_ids(written)) == ids


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[]", "line.not_an_object"),
        (b'"text"', "line.not_an_object"),
        (b'{"candidate_id": "a"', "line.not_json"),
        (b'{"candidate_id": "\xff"}', "line.not_json"),
        (b'{"candidate_id": "a", "obs_first_name": "\xc3"}', "line.not_json"),
        (b"\x00", "line.not_json"),
        ({"obs_first_name": "ana"}, "candidate_id.missing"),
        ({"candidate_id": None}, "candidate_id.missing"),
        ({"candidate_id": 7}, "candidate_id.not_usable"),
        ({"candidate_id": "a b"}, "candidate_id.not_usable"),
        ({"candidate_id": "a" * 65}, "candidate_id.not_usable"),
        ({"candidate_id": "a\n"}, "candidate_id.not_usable"),
        ({"candidate_id": "a", "obs_first_name": ["ana"]}, "obs_first_name.not_a_text"),
        ({"candidate_id": "a", "obs_birth_date": True}, "obs_birth_date.not_a_text"),
        ({"candidate_id": "a", "obs_student_ids": {"a": 1}}, "obs_student_ids.not_an_array"),
        ({"candidate_id": "a", "obs_student_ids": [["1"]]}, "obs_student_ids.not_texts"),
        ({"candidate_id": "a", "obs_student_ids": "['1' '2']"}, "obs_student_ids.not_an_array"),
        # It once took days to say so.
        ({"candidate_id": "a", "obs_student_ids": f"[{' ' * 3500}'x]"}, "obs_student_ids.not_an_array"),
        ({"candidate_id": "a", "record_count": 0}, "record_count.not_a_count"),
        ({"candidate_id": "a", "record_count": "many"}, "record_count.not_a_count"),
        ({"candidate_id": "a", "record_count": [1]}, "record_count.not_a_count"),
    ],
)
def test_a_line_that_is_no_candidate_is_invalid(line: bytes | dict[str, Any], reason: str) -> None:
    assert refused(line) == reason


def test_a_line_of_4_kb_is_read_and_a_longer_one_is_not() -> None:
    line = orjson.dumps({"candidate_id": "a", "more": ""})
    longest = line[:-2] + b"x" * (LONGEST_LINE - len(line)) + line[-2:]
    assert len(longest) == LONGEST_LINE
    assert len(read_candidates([longest], TODAY).valid) == 1
    assert refused(longest[:-2] + b"x" + longest[-2:]) == "line.too_long"


@pytest.mark.parametrize(("written", "count"), [(None, 1), ("", 1), (3, 3), ("3", 3), (3.0, 3)])
def test_a_record_count_may_be_a_text(written: object, count: int) -> None:
    assert read({"candidate_id": "a", "record_count": written}).valid[0].record_count == count


def test_a_candidate_that_comes_twice_counts_once() -> None:
    one = candidate("Ana", "Lopez", "2008-01-31")
    found = read(one, one)
    assert [each.line for each in found.valid] == [0]
    assert [(each.line, each.reason) for each in found.invalid] == [(1, "candidate_id.repeated")]


def test_one_candidate_id_on_two_students_is_neither() -> None:
    one = candidate("Ana", "Lopez", "2008-01-31")
    found = read(one, {**one, "obs_first_name": "Eva"})
    assert found.valid == ()
    assert [each.reason for each in found.invalid] == ["candidate_id.of_two_students"] * 2


@pytest.mark.parametrize("reason", ["record_count.not_a_count", "obs_sex.not_a_text"])
def test_one_candidate_id_on_a_usable_line_and_another_is_neither(reason: str) -> None:
    one = candidate("Ana", "Lopez", "2008-01-31")
    wrong = {"record_count": 0} if reason.startswith("record_count") else {"obs_sex": []}
    for both in ((one, {**one, **wrong}), ({**one, **wrong}, one)):
        found = read(*both)
        assert found.valid == ()
        assert sorted(each.reason for each in found.invalid) == ["candidate_id.of_two_students", reason]


def test_too_many_lines_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observables, "MOST_LINES", 2)
    many = lines(*(candidate("Ana", "Lopez", None) for _ in range(3)))
    assert len(read_candidates(many[:2], TODAY).valid) == 2
    with pytest.raises(TooManyCandidates):
        read_candidates(many, TODAY)


def test_blank_lines_are_none() -> None:
    assert read_candidates([b"\n", b"  \r\n"], TODAY).valid == ()


def test_unknown_members_are_ignored_and_missing_words_say_nothing() -> None:
    (found,) = read({"candidate_id": "a", "more": {"x": 1}, "obs_first_name": "NULL", "obs_school_id": "nan"}).valid
    assert (found.first_name, found.school_id, found.last_name, found.birth_date) == (None, None, None, None)


@pytest.mark.parametrize(
    ("written", "grade"),
    [
        ("uri://ed-fi.org/GradeLevelDescriptor#Ninth grade", 9), ("09", 9), ("9", 9), ("9th", 9), ("Grade 9", 9),
        ("9th Grade", 9), ("KG", 0), ("K", 0), ("Kindergarten", 0), ("PK", -1), ("Preschool/Prekindergarten", -1),
        ("12.0", 12), ("Postsecondary", 13), ("Ungraded", None), ("99", None), (None, None),
    ],
)  # fmt: skip
def test_grades_are_one_number(written: str | None, grade: int | None) -> None:
    assert grade_number(written) == grade


@pytest.mark.parametrize(
    ("written", "letter"), [("M", "M"), ("female", "F"), ("x#Male", "M"), ("X", None), (None, None)]
)
def test_sex_is_a_letter(written: str | None, letter: str | None) -> None:
    assert sex_letter(written) == letter


def test_a_candidate_never_shows_its_name() -> None:
    found = read(candidate("Ana", "Lopez", "2008-01-31"))
    assert "ANA" not in f"{found.valid[0]!r} {found!r}"
