"""What a request's headers ask for (RFC 9110): encoding, validators, a range. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})-(\d{0,18})\s*")
_QUALITY = re.compile(r"q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)


@dataclass(frozen=True)
class ByteRange:
    """From the first to the last byte, inclusive."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Unsatisfiable(Exception):
    """The range begins after the end."""


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The range asked for; None if the whole is the answer (no range, several, another unit, nonsense).

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
    """Whether ``Accept-Encoding`` names gzip with a quality above zero; ``*`` does not count."""
    for entry in (header or "").lower().split(","):
        coding, _, parameters = entry.partition(";")
        if coding.strip() in ("gzip", "x-gzip"):
            quality = _QUALITY.fullmatch(parameters.strip())
            return not parameters.strip() or (quality is not None and float(quality[1]) > 0)
    return False


def etag(sha256: str, *, is_gzip: bool) -> str:
    """The strong validator of a snapshot's representation; the compressed bytes have their own."""
    return f'"{sha256}-gzip"' if is_gzip else f'"{sha256}"'


def is_known(if_none_match: str | None, current: str) -> bool:
    """Whether the client has it already: one of its validators is the current one (weak comparison), or ``*``."""
    if if_none_match is None:
        return False
    known = {entry.strip().removeprefix("W/") for entry in if_none_match.split(",")}
    return "*" in known or current in known


def is_outdated(if_match: str | None, current: str | None) -> bool:
    """Whether the client only wants bytes that it knows, and these are different (strong comparison)."""
    if if_match is None or if_match.strip() == "*":
        return False
    return current not in {entry.strip() for entry in if_match.split(",")}


def may_resume(if_range: str | None, current: str) -> bool:
    """Whether a range may be answered: the client's first part is of the same bytes (strong comparison)."""
    return if_range is None or if_range.strip() == current
