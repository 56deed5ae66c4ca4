"""Reads a file of candidates: pure (student resolution contract, sections 1 and 3).

Belongs here: what a line may say, and what each line becomes. A line that cannot be used costs that line, never the
file. Reasons name members and rules, never values.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec

from runway_pipelines.errors import Permanent
from runway_pipelines.students.dates import DateOrder, read_birth_dates
from runway_pipelines.students.names import MISSING, GivenNames, Surname, given_names, is_missing, surname

MOST_LINES = 500_000
LONGEST_LINE = 4096
MOST_IDS = 20  # no file has as many columns of them

_CANDIDATE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Possessive, so that each letter is looked at once: with plain repeats, 250 blanks took 3 s and 4 KB of them days.
_LIST_ENTRY = re.compile(r"""\s*+(?:'([^']*+)'|"([^"]*+)"|([^,'"]*+))\s*+(?:,|$)""")
_LARGEST_COUNT = 1_000_000
_GRADE_NUMBER = re.compile(r"0*(\d{1,2})(?:ST|ND|RD|TH)?(?: GRADE)?|GRADE 0*(\d{1,2})")
_GRADE_WORDS = {
    word: grade
    for grade, words in {
        -1: "PK PREK PRE-K PREKINDERGARTEN PRE-KINDERGARTEN PRESCHOOL PRESCHOOL/PREKINDERGARTEN EARLYEDUCATION "
        "INFANT/TODDLER P3 P4 PS EE",
        0: "K KG KF KINDERGARTEN KDG TK TRANSITIONALKINDERGARTEN",
        1: "FIRST", 2: "SECOND", 3: "THIRD", 4: "FOURTH", 5: "FIFTH", 6: "SIXTH", 7: "SEVENTH", 8: "EIGHTH",
        9: "NINTH FRESHMAN", 10: "TENTH SOPHOMORE", 11: "ELEVENTH JUNIOR", 12: "TWELFTH SENIOR",
        13: "POSTSECONDARY GRADE13",
    }.items()
    for word in words.split()
}  # fmt: skip


class TooManyCandidates(Permanent):
    """A file has more lines than one resolution takes."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One student of a file, as it can be compared. ``line`` is its place in the file, from 0."""

    line: int
    candidate_id: str
    record_count: int
    first_name: str | None
    middle_names: tuple[str, ...]
    further_name: str | None  # the first name's own second word, where it is no initial
    last_name: str | None
    surname_tokens: tuple[str, ...]
    suffix: str | None
    birth_date: date | None
    school_id: str | None
    student_ids: tuple[tuple[int, str], ...]  # each with its place in the list: a column of the file
    sex: str | None
    grade: int | None

    def __repr__(self) -> str:
        return f"Candidate(line={self.line})"  # never a name in a log

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("line", self.line)]


@dataclass(frozen=True)
class Invalid:
    """A line that is no candidate, and why; ``candidate_id`` where it could be read."""

    line: int
    candidate_id: str | None
    reason: str


@dataclass(frozen=True, repr=False)
class Candidates:
    """A whole file: every line is in one of the two."""

    valid: tuple[Candidate, ...]
    invalid: tuple[Invalid, ...]
    date_order: DateOrder
    default_dates: int
    unreadable_dates: int


class _Line(msgspec.Struct, gc=False):
    candidate_id: Any = None
    obs_first_name: Any = None
    obs_middle_name: Any = None
    obs_last_name: Any = None
    obs_birth_date: Any = None
    obs_school_id: Any = None
    obs_student_ids: Any = None
    obs_sex: Any = None
    obs_grade: Any = None
    record_count: Any = None


class _Unusable(Exception):
    """A line breaks a rule; the text names the member and the rule."""


_TEXTS = (
    "obs_first_name",
    "obs_middle_name",
    "obs_last_name",
    "obs_birth_date",
    "obs_school_id",
    "obs_sex",
    "obs_grade",
)
_TEXT_OR_NUMBER = frozenset({str, int, float, type(None)})  # by type, because a bool is an int
_DECODER = msgspec.json.Decoder(_Line)


def read_candidates(lines: Iterable[bytes], today: date) -> Candidates:
    """Read a file's lines, with or without their ends. Blank lines are skipped. Raises `TooManyCandidates`."""
    read: list[tuple[int, _Line]] = []
    invalid: list[Invalid] = []
    for number, line in enumerate(_counted(lines)):
        entry = _Line()
        try:
            entry = _decoded(line)
            _check(entry)
            read.append((number, entry))
        except _Unusable as unusable:
            invalid.append(Invalid(number, _readable_id(entry), str(unusable)))
    unique, repeated = _without_repeated(read, {each.candidate_id for each in invalid})
    dates = read_birth_dates([_text(entry.obs_birth_date) for _, entry in unique], today)
    names = _Names()
    return Candidates(
        valid=tuple(
            _candidate(number, entry, day, names) for (number, entry), day in zip(unique, dates.dates, strict=True)
        ),
        invalid=tuple(sorted((*invalid, *repeated), key=lambda each: each.line)),
        date_order=dates.order,
        default_dates=dates.defaults,
        unreadable_dates=dates.unreadable,
    )


def student_ids(value: object) -> tuple[tuple[int, str], ...]:
    """The IDs of an array, a text, a number or the text of a list, each with its place; a repeated ID counts once."""
    entries: Sequence[object] = value if isinstance(value, list) else _entries_of(value)
    found: dict[str, int] = {}
    for place, entry in enumerate(entries[:MOST_IDS]):
        text = _text(entry)
        if text is not None:
            # The consumers do the same: a spreadsheet made a number of it.
            found.setdefault(text.removesuffix(".0"), place)
    return tuple((place, student_id) for student_id, place in found.items())


def grade_number(value: str | None) -> int | None:
    """The number of a grade, from Ed-Fi's descriptor or a short form: 0 is kindergarten, -1 before it, 13 after 12."""
    if value is None or is_missing(value):
        return None
    plain = value.rsplit("#", 1)[-1].strip().upper().removesuffix(".0")
    if found := _GRADE_NUMBER.fullmatch(plain):
        number = int(found[1] or found[2])
        return number if number <= 13 else None
    word = plain.removesuffix("GRADE").replace(" ", "")
    return _GRADE_WORDS.get(word, _GRADE_WORDS.get(plain.replace(" ", "")))


def sex_letter(value: str | None) -> str | None:
    """M or F; anything else is no evidence."""
    if value is None:
        return None
    plain = value.rsplit("#", 1)[-1].strip().upper()
    return plain[0] if plain in {"M", "F", "MALE", "FEMALE"} else None


def _counted(lines: Iterable[bytes]) -> Iterator[bytes]:
    count = 0
    for line in lines:
        stripped = line.strip()
        if not stripped:
            continue
        count += 1
        if count > MOST_LINES:
            raise TooManyCandidates(
                expected=f"at most {MOST_LINES:,} candidates in a file",
                came="more lines",
                remedy="resolve the file in parts",
            )
        yield stripped


def _decoded(line: bytes) -> _Line:
    if len(line) > LONGEST_LINE:
        raise _Unusable("line.too_long")
    try:
        return _DECODER.decode(line)
    except msgspec.ValidationError:
        raise _Unusable("line.not_an_object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Unusable("line.not_json") from None


def _check(entry: _Line) -> None:
    if entry.candidate_id is None:
        raise _Unusable("candidate_id.missing")
    if _readable_id(entry) is None:
        raise _Unusable("candidate_id.not_usable")
    for member in _TEXTS:
        if type(getattr(entry, member)) not in _TEXT_OR_NUMBER:
            raise _Unusable(f"{member}.not_a_text")
    ids = entry.obs_student_ids
    if type(ids) is list:
        if not all(type(each) in _TEXT_OR_NUMBER for each in ids):
            raise _Unusable("obs_student_ids.not_texts")
    elif type(ids) in _TEXT_OR_NUMBER:
        entry.obs_student_ids = _entries_of(ids)
    else:
        raise _Unusable("obs_student_ids.not_an_array")
    _record_count(entry.record_count)


def _record_count(value: object) -> int:
    if value is None:
        return 1
    text = _text(value) if type(value) in _TEXT_OR_NUMBER else ""
    if text is None:
        return 1
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:10]) <= _LARGEST_COUNT:
        raise _Unusable("record_count.not_a_count")
    return int(text[:10])


def _readable_id(entry: _Line) -> str | None:
    value = entry.candidate_id
    return value if isinstance(value, str) and _CANDIDATE_ID.fullmatch(value) else None


def _without_repeated(
    read: list[tuple[int, _Line]], of_invalid: Collection[str | None]
) -> tuple[list[tuple[int, _Line]], list[Invalid]]:
    """Each id once. An id that comes again with other members is refused: nobody knows whose rows it marks."""
    by_id: dict[str, list[tuple[int, _Line]]] = defaultdict(list)
    for number, entry in read:
        by_id[entry.candidate_id].append((number, entry))
    kept: list[tuple[int, _Line]] = []
    repeated: list[Invalid] = []
    for candidate_id, entries in by_id.items():
        is_one = candidate_id not in of_invalid and all(entry == entries[0][1] for _, entry in entries)
        kept += entries[:1] if is_one else []
        reason = "candidate_id.repeated" if is_one else "candidate_id.of_two_students"
        repeated += [Invalid(number, candidate_id, reason) for number, _ in entries[is_one:]]
    return kept, repeated


class _Names:
    """A file's names, each read once: most come again, and reading one takes microseconds. Ends with the file."""

    def __init__(self) -> None:
        self._given: dict[tuple[object, object], GivenNames] = {}
        self._surnames: dict[object, Surname] = {}

    def given(self, first_name: object, middle_name: object) -> GivenNames:
        key = (first_name, middle_name)
        if key not in self._given:
            self._given[key] = given_names(_text(first_name), _text(middle_name))
        return self._given[key]

    def surname(self, last_name: object) -> Surname:
        if last_name not in self._surnames:
            self._surnames[last_name] = surname(_text(last_name))
        return self._surnames[last_name]


def _candidate(line: int, entry: _Line, birth_date: date | None, names: _Names) -> Candidate:
    given = names.given(entry.obs_first_name, entry.obs_middle_name)
    last = names.surname(entry.obs_last_name)
    school_id = _text(entry.obs_school_id)
    return Candidate(
        line=line,
        candidate_id=entry.candidate_id,
        record_count=_record_count(entry.record_count),
        first_name=given.first,
        middle_names=given.middle,
        further_name=given.further,
        last_name=last.joined,
        surname_tokens=last.tokens,
        suffix=last.suffix or given.suffix,
        birth_date=birth_date,
        school_id=school_id.removesuffix(".0") if school_id else None,
        student_ids=student_ids(entry.obs_student_ids),
        sex=sex_letter(_text(entry.obs_sex)),
        grade=grade_number(_text(entry.obs_grade)),
    )


def _text(value: object) -> str | None:
    """A member's text, without blanks around; None if it is one of the ways to write nothing."""
    if value is None:
        return None
    if type(value) is not str:
        value = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    text = value.strip()
    return None if text.upper() in MISSING else text


def _entries_of(value: object) -> list[object]:
    """The entries of a list that was written as text, or the text or number itself as the one entry."""
    if not isinstance(value, str):
        return [value]
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return [text]
    entries: list[object] = []
    place, inside = 0, text[1:-1]
    while place < len(inside):
        found = _LIST_ENTRY.match(inside, place)
        if found is None:
            raise _Unusable("obs_student_ids.not_an_array")
        entries.append(found[1] or found[2] or found[3])
        place = found.end()
    return entries
