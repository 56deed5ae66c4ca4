"""A file's bytes as the lines that `observables` reads: pure (student resolution contract, section 1).

No sender can make a piece larger than `INFLATED_BYTES`, or a line longer than the longest. Bytes are counted after
decompression: a small file may become a large one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from runway_pipelines.errors import Permanent
from runway_pipelines.students.observables import LONGEST_LINE, MOST_LINES, TooManyCandidates

# All lines at their greatest length, with their ends.
MOST_BYTES = MOST_LINES * (LONGEST_LINE + 2)
# Blank lines are no candidates, and reading them takes time all the same.
MOST_LINES_WITH_BLANKS = 2 * MOST_LINES
INFLATED_BYTES = 64 * 1024
_GZIP = 31  # zlib's window bits with gzip's header
# Stands in for a longer line: `observables` answers it with line.too_long, and nobody holds the line itself.
_TOO_LONG = b"x" * (LONGEST_LINE + 2)


class FileTooLarge(Permanent):
    """A file has more bytes than the most lines of the greatest length."""


class GzipBroken(Permanent):
    """What should be gzip is something else, or is cut off."""


def lines_of(chunks: Iterable[bytes], *, most_bytes: int = MOST_BYTES) -> Iterator[bytes]:
    """The lines without their ends. Raises `FileTooLarge` and, where it is mostly blank lines, `TooManyCandidates`."""
    taken, count, rest = 0, 0, b""
    for chunk in chunks:
        taken += len(chunk)
        if taken > most_bytes:
            raise FileTooLarge(
                expected=f"at most {most_bytes:,} bytes of candidates",
                came="more",
                remedy="resolve the file in parts",
            )
        *whole, rest = (rest + chunk).split(b"\n")
        count += len(whole)
        if count > MOST_LINES_WITH_BLANKS:
            raise TooManyCandidates(
                expected=f"at most {MOST_LINES:,} candidates in a file",
                came=f"more than {MOST_LINES_WITH_BLANKS:,} lines",
                remedy="leave blank lines out, or resolve the file in parts",
            )
        yield from map(_bounded, whole)
        rest = _bounded(rest)
    if rest:
        yield rest


def inflated(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The decompressed bytes, in small pieces; successive gzip members are read as one. Raises `GzipBroken`."""
    inflater, is_begun = zlib.decompressobj(_GZIP), False
    for chunk in chunks:
        rest = chunk
        while rest:
            if inflater.eof:
                inflater, is_begun = zlib.decompressobj(_GZIP), False
            try:
                yield inflater.decompress(rest, INFLATED_BYTES)
                is_begun = True
                rest = inflater.unused_data or inflater.unconsumed_tail
                while not rest and not inflater.eof and (piece := inflater.decompress(b"", INFLATED_BYTES)):
                    yield piece
                    rest = inflater.unused_data or inflater.unconsumed_tail
            except zlib.error:
                raise _broken("something else") from None
    if not is_begun or not inflater.eof:
        raise _broken("an end before the end")


def _bounded(line: bytes) -> bytes:
    """A line may have one byte more than the longest: a carriage return."""
    return line if len(line) <= LONGEST_LINE + 1 else _TOO_LONG


def _broken(came: str) -> GzipBroken:
    return GzipBroken(expected="a body in gzip", came=came, remedy="send the whole of it, or send it uncompressed")
