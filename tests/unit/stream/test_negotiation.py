"""What headers ask for."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.stream.negotiation import (
    ByteRange,
    Unsatisfiable,
    accepts_gzip,
    etag,
    is_known,
    is_outdated,
    may_resume,
    parse_range,
)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 150))
def test_a_range_is_what_python_slices(first: int, last: int, size: int) -> None:
    content = bytes(size)
    for header, wanted in (
        (f"bytes={first}-{last}", content[first : last + 1]),
        (f"bytes={first}-", content[first:]),
        (f"bytes=-{last}", content[-last:] if last else b""),
    ):
        try:
            part = parse_range(header, size)
        except Unsatisfiable:
            assert wanted == b""
            continue
        if part is None:
            assert last < first
        else:
            assert part.size == len(wanted)
            assert 0 <= part.first <= part.last < size


@pytest.mark.parametrize("header", [None, "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1-2,3-4", "rows=1-2"])
def test_what_is_no_range_asks_for_the_whole(header: str | None) -> None:
    assert parse_range(header, 10) is None


def test_spaces_do_not_matter() -> None:
    assert parse_range(" bytes = 1-3 ", 10) == ByteRange(1, 3)


@given(st.text())
def test_no_text_breaks_it(header: str) -> None:
    accepts_gzip(header)
    is_known(header, '"x"')
    may_resume(header, '"x"')
    with suppress(Unsatisfiable):
        parse_range(header, 10)


@pytest.mark.parametrize(
    ("header", "is_gzip"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("br, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;q=1.0", True),
        ("gzip;q=nonsense", False),
        ("deflate, br", False),
        ("*", False),
        ("identity", False),
        ("gzipped", False),
    ],
)
def test_gzip_is_sent_only_when_it_is_named(header: str | None, is_gzip: bool) -> None:
    assert accepts_gzip(header) is is_gzip


def test_the_validator_names_the_digest_and_the_encoding() -> None:
    assert etag("abc", is_gzip=False) == '"abc"'
    assert etag("abc", is_gzip=True) == '"abc-gzip"'


def test_if_match_wants_the_same_bytes_or_none() -> None:
    assert is_outdated('"a"', '"b"')
    assert is_outdated('W/"b"', '"b"')
    assert is_outdated('"b"', None)
    assert not is_outdated('"a", "b"', '"b"')
    assert not is_outdated("*", None)
    assert not is_outdated(None, '"b"')


def test_if_none_match_compares_weakly_and_if_range_strongly() -> None:
    assert is_known('"a", W/"b"', '"b"')
    assert is_known("*", '"b"')
    assert not is_known('"a"', '"b"')
    assert not is_known(None, '"b"')
    assert may_resume(None, '"b"')
    assert may_resume('"b"', '"b"')
    assert not may_resume('W/"b"', '"b"')
