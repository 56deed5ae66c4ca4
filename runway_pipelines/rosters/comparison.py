"""What changed between two snapshots of one tenant, counted in students: pure.

Both files are in the order of ``studentUniqueId``, so their lines are merged as streams. Only the lines of one student
of each are in memory.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import orjson

from runway_pipelines.errors import RowsUnreadable
from runway_pipelines.rosters.encoding import FILLER

# Only a key of ours can look like this: inside a JSON string the quotes would be escaped.
_STUDENT_STARTS = b'"studentReference":{"studentUniqueId":"'
_STUDENT_ENDS = b'"},"studentIdentificationCodes":['
# An entry that stands for no code, with the comma after it; without one it is the last.
_FILLER_ENTRY = re.compile(
    rb'\{"studentIdentificationSystemDescriptor":"(?:[^"\\]|\\.)*",'
    rb'"identificationCode":"%b(?:[^"\\]|\\.)*"\},?' % FILLER.encode()
)


@dataclass(frozen=True)
class RosterChanges:
    """How many students only the new snapshot has, only the old one has, and have different lines in the two."""

    added: int
    removed: int
    changed: int


def compare_rosters(previous: Iterable[bytes], current: Iterable[bytes]) -> RosterChanges:
    """Count the changes from ``previous`` to ``current`` (lines, each with its newline).

    Raises `RowsUnreadable` for a foreign line or a file out of order; the message quotes nothing.
    """
    added = removed = changed = 0
    olds, news = _students(previous), _students(current)
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        if old is None or (new is not None and new[0] < old[0]):
            added += 1
            new = next(news, None)
        elif new is None or old[0] < new[0]:
            removed += 1
            old = next(olds, None)
        else:
            changed += old[1] != new[1] and _codes(old[1]) != _codes(new[1])
            old, new = next(olds, None), next(news, None)
    return RosterChanges(added, removed, changed)


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
