"""A bundle's lines get the students' ids, and nothing else of them changes."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.students.applying import apply_resolutions

ACCEPTED = {"abc-1": "1001234", "abc_2": "1001235", "quote": 'a"b\\'}


def one(line: bytes) -> tuple[bytes, bool]:
    (applied,) = apply_resolutions([line], ACCEPTED)
    return applied


def test_an_accepted_candidate_becomes_the_student() -> None:
    line = b'{ "studentReference":  {"studentUniqueId": "CANDIDATE_abc-1"}, "score": 1.50 }\r\n'
    assert one(line) == (line.replace(b"CANDIDATE_abc-1", b"1001234"), True)


def test_every_place_of_a_line_is_written() -> None:
    assert one(b'["CANDIDATE_abc-1","CANDIDATE_abc_2"]') == (b'["1001234","1001235"]', True)


@pytest.mark.parametrize("line", [b'["CANDIDATE_zz"]\n', b'["CANDIDATE_abc-1","CANDIDATE_zz"]\n'])
def test_a_line_of_another_candidate_is_left_as_it_was(line: bytes) -> None:
    assert one(line) == (line, False)


@pytest.mark.parametrize(
    "line", [b'{"a": "1"}\n', b"", b'{"note": "see CANDIDATE_abc-1"}', b"\xff\xfe", b'{"a": "CANDIDATE_"}']
)
def test_a_line_without_a_candidate_is_resolved_as_it_is(line: bytes) -> None:
    assert one(line) == (line, True)


def test_an_id_is_written_as_json() -> None:
    assert orjson.loads(one(b'["CANDIDATE_quote"]').line) == ['a"b\\']


@given(st.binary(), st.binary())
def test_what_surrounds_a_candidate_stays_byte_for_byte(before: bytes, after: bytes) -> None:
    line = before + b'"CANDIDATE_abc-1"' + after
    expected = before + b'"1001234"' + after
    if b"CANDIDATE" not in before + after and not before.endswith(b'"'):
        assert one(line) == (expected, True)
