"""What the request's headers ask for (RFC 9110): encoding, validators, a range. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})-(\d{0,18})\s*")
_QUALITY = re.compile(r"q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)


@dataclass(frozen=True)
class ByteRange:
    """From the first to the last byte, both of them in it."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Unsatisfiable(Exception):
    """The range begins behind the end."""


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The one range that is asked for, or None where the whole answers: none, several, another unit, nonsense.

    Raises `Unsatisfiable`.
    """
    match = _RANGE.fullmatch((header or "").strip())
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        if int(last) == 0 or size == 0:
            raise Unsatisfiable
        return ByteRange(max(0, size - int(last)), size - 1)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise Unsatisfiable
    return ByteRange(int(first), min(int(last) if last else size - 1, size - 1))


def accepts_gzip(header: str | None) -> bool:
    """Whether ``Accept-Encoding`` names gzip with a quality above zero. ``*`` alone asks for nothing."""
    for entry in (header or "").lower().split(","):
        coding, _, parameters = entry.partition(";")
        if coding.strip() in ("gzip", "x-gzip"):
            quality = _QUALITY.fullmatch(parameters.strip())
            return not parameters.strip() or (quality is not None and float(quality[1]) > 0)
    return False


def etag(sha256: str, *, is_gzip: bool) -> str:
    """The strong validator of a snapshot's representation: compressed, other bytes come."""
    return f'"{sha256}-gzip"' if is_gzip else f'"{sha256}"'


def is_known(if_none_match: str | None, current: str) -> bool:
    """Whether the client has it already: any of its validators is the current one (weak comparison), or ``*``."""
    if if_none_match is None:
        return False
    known = {entry.strip().removeprefix("W/") for entry in if_none_match.split(",")}
    return "*" in known or current in known


def is_outdated(if_match: str | None, current: str | None) -> bool:
    """Whether the client wants only bytes that it knows, and these are others (strong comparison)."""
    if if_match is None or if_match.strip() == "*":
        return False
    return current not in {entry.strip() for entry in if_match.split(",")}


def may_resume(if_range: str | None, current: str) -> bool:
    """Whether a range may be answered: the client has the beginning of the same bytes (strong comparison)."""
    return if_range is None or if_range.strip() == current
