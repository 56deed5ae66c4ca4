"""A sender's bytes become bounded lines, whatever the sender does."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.students.lines import INFLATED_BYTES, FileTooLarge, GzipBroken, inflated, lines_of
from runway_pipelines.students.observables import LONGEST_LINE, MOST_LINES, TooManyCandidates, read_candidates

TODAY = date(2026, 11, 28)


def cut(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


@given(st.binary(max_size=300), st.integers(1, 50))
def test_short_lines_come_as_they_are_however_they_are_cut(content: bytes, size: int) -> None:
    lines = content.split(b"\n")
    assert list(lines_of(cut(content, size))) == (lines if lines[-1] else lines[:-1])


@given(st.binary(max_size=300), st.binary(max_size=100), st.integers(1, 50))
def test_members_of_gzip_are_one_content_however_they_are_cut(one: bytes, other: bytes, size: int) -> None:
    assert b"".join(inflated(cut(gzip.compress(one) + gzip.compress(other), size))) == one + other


@given(st.integers(0, 60))
def test_gzip_that_ends_before_its_end_is_refused(length: int) -> None:
    whole = gzip.compress(b"0123456789" * 3)
    with pytest.raises(GzipBroken):
        list(inflated([whole[: min(length, len(whole) - 1)]]))


def test_gzip_that_is_something_else_or_has_something_behind_it_is_refused() -> None:
    for body in (b"plain", gzip.compress(b"x") + b"plain"):
        with pytest.raises(GzipBroken):
            list(inflated([body]))


def test_a_line_that_is_too_long_costs_that_line_and_is_never_held() -> None:
    lines = list(lines_of(cut(b'{"candidate_id": "a"}\n' + b"y" * 10**6 + b'\n{"candidate_id": "b"}', 1000)))
    assert max(map(len, lines)) <= LONGEST_LINE + 2
    candidates = read_candidates(lines, TODAY)
    assert [each.candidate_id for each in candidates.valid] == ["a", "b"]
    assert [(each.line, each.reason) for each in candidates.invalid] == [(1, "line.too_long")]


def test_a_line_of_the_longest_length_is_read_with_a_carriage_return_too() -> None:
    line = b'{"candidate_id": "a"}'.ljust(LONGEST_LINE - 1) + b" "
    assert len(read_candidates(lines_of([line + b"\r\n" + line.replace(b'"a"', b'"b"')]), TODAY).valid) == 2


def test_a_bomb_stops_at_the_limit_of_its_decompressed_bytes() -> None:
    bomb = gzip.compress(b"\0" * 4_000_000)
    seen: list[int] = []

    def counted() -> Iterator[bytes]:
        for piece in inflated([bomb]):
            seen.append(len(piece))
            yield piece

    with pytest.raises(FileTooLarge):
        list(lines_of(counted(), most_bytes=1_000_000))
    assert max(seen) <= INFLATED_BYTES and sum(seen) <= 1_000_000 + INFLATED_BYTES


def test_blank_lines_without_end_are_refused() -> None:
    with pytest.raises(TooManyCandidates):
        for _ in lines_of(b"\n" * 100_000 for _ in range(2 * MOST_LINES // 100_000 + 1)):
            pass
