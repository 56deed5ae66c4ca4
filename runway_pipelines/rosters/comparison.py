"""What changed between two snapshots of one tenant, counted in students: pure.

Both files are in the order of ``studentUniqueId``, so their lines are merged as streams. Only one student's lines of
each file are in memory.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

import orjson

from runway_pipelines.errors import RowsUnreadable
from runway_pipelines.rosters.encoding import FILLER

# Only a key of ours can look like this: inside a JSON string the quotes would be escaped.
_STUDENT_STARTS = b'"studentReference":{"studentUniqueId":"'
_STUDENT_ENDS = b'"},"studentIdentificationCodes":['
# An entry that stands for a missing code, with the comma after it; the last entry has none.
_FILLER_ENTRY = re.compile(
    rb'\{"studentIdentificationSystemDescriptor":"(?:[^"\\]|\\.)*",'
    rb'"identificationCode":"%b(?:[^"\\]|\\.)*"\},?' % FILLER.encode()
)


@dataclass(frozen=True)
class RosterChanges:
    """How many students are only in the new snapshot, only in the old one, and in both with different lines."""

    added: int
    removed: int
    changed: int


class Kind(StrEnum):
    """How a student differs between two snapshots."""

    ADDED = "added"
    REMOVED = "removed"
    OTHER_CODES = "other codes"
    OTHER_SCHOOL = "other school"
    OTHER_BOTH = "other codes and school"


def compare_rosters(previous: Iterable[bytes], current: Iterable[bytes]) -> RosterChanges:
    """Count the changes from ``previous`` to ``current`` (lines, each with its newline).

    Raises `RowsUnreadable` for a foreign line or a file out of order; the message quotes nothing.
    """
    added = removed = changed = 0
    for _, old, new in _differing(previous, current):
        added += old is None
        removed += new is None
        changed += old is not None and new is not None
    return RosterChanges(added, removed, changed)


def differences(previous: Iterable[bytes], current: Iterable[bytes]) -> Iterator[tuple[Kind, str]]:
    """Each student who differs, and how; raises `RowsUnreadable` as `compare_rosters` does."""
    for student, old, new in _differing(previous, current):
        if old is None:
            kind = Kind.ADDED
        elif new is None:
            kind = Kind.REMOVED
        else:
            kind = _kind_of(old, new)
        try:
            yield kind, student.decode()
        except UnicodeDecodeError:
            raise _not_a_roster("an id that is not UTF-8") from None


def _differing(
    previous: Iterable[bytes], current: Iterable[bytes]
) -> Iterator[tuple[bytes, list[bytes] | None, list[bytes] | None]]:
    """Each student who differs, with the old and the new lines, in order."""
    olds, news = _students(previous), _students(current)
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        if old is None or (new is not None and new[0] < old[0]):
            if new is not None:
                yield new[0], None, new[1]
            new = next(news, None)
        elif new is None or old[0] < new[0]:
            yield old[0], old[1], None
            old = next(olds, None)
        else:
            if old[1] != new[1] and _codes(old[1]) != _codes(new[1]):
                yield old[0], old[1], new[1]
            old, new = next(olds, None), next(news, None)


def _kind_of(old: list[bytes], new: list[bytes]) -> Kind:
    has_codes, has_school = (
        _member(old, name) != _member(new, name)
        for name in ("studentIdentificationCodes", "educationOrganizationReference")
    )
    if has_codes and has_school:
        return Kind.OTHER_BOTH
    return Kind.OTHER_SCHOOL if has_school else Kind.OTHER_CODES


def _member(lines: list[bytes], name: str) -> set[bytes]:
    try:
        return {orjson.dumps(orjson.loads(line)[name]) for line in _codes(lines)}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise _not_a_roster("a damaged line") from None


def _students(lines: Iterable[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    last = b""
    for student, own_lines in groupby(lines, key=_student_of):
        if student <= last:
            raise _not_a_roster("students out of order")
        last = student
        yield student, list(own_lines)


def _codes(lines: list[bytes]) -> list[bytes]:
    """The lines without fillers, which come and go with the other students' ID types."""
    return [_FILLER_ENTRY.sub(b"", line).replace(b",]}", b"]}") for line in lines]


def _student_of(line: bytes) -> bytes:
    """The line's studentUniqueId as UTF-8."""
    start = line.find(_STUDENT_STARTS)
    end = line.find(_STUDENT_ENDS, start)
    if start < 0 or end < 0:
        raise _not_a_roster("a line of another form")
    text = line[start + len(_STUDENT_STARTS) : end]
    if b"\\" not in text:
        return text
    try:
        return str(orjson.loads(b'"' + text + b'"')).encode()
    except orjson.JSONDecodeError:
        raise _not_a_roster("a damaged escape") from None


def _not_a_roster(came: str) -> RowsUnreadable:
    return RowsUnreadable(
        expected="a snapshot in the order of studentUniqueId, one record a line",
        came=came,
        remedy="check the previous snapshot's object; the new one is complete without the comparison",
    )
