"""Reads birth dates in the notations that files have, decided for the whole file: pure.

A date that can be read in two ways is read as the rest of the file says. What is no birth date is missing, never wrong
(student resolution contract, section 3).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from runway_pipelines.students.names import is_missing

YOUNGEST, OLDEST = 3, 25
# Nobody older is in a file of students; such years are typing errors and placeholders.
OLDEST_AT_ALL = 100
# What systems and people write for an unknown birth date; spreadsheets write day 0 or 1.
DEFAULT_DATES = frozenset(
    {date(1899, 12, 30), date(1899, 12, 31), date(1904, 1, 1), date(1911, 11, 11), date(1970, 1, 1), date(1980, 1, 1)}
    | {date(year, 1, 1) for year in (*range(1900, 1903), 1910, 1950, 1990, 2000)}
)
# A date that more than this share of the candidates have is a default. Five at least: a small file may have triplets.
MOST_OF_ONE_DATE, FEWEST_OF_ONE_DATE = 0.1, 5

_FIRST_SERIAL, _LAST_SERIAL = 20_000, 60_000  # 1954 to 2064
_SPREADSHEETS_DAY_0 = date(1899, 12, 30)
_LONGEST = 64
# A time, or a zone alone. The T of a time follows a digit: that of OCT and AUGUST is a month's.
_TIME = re.compile(r"(?:(?:(?<=\d)T| )\s*\d{1,2}:\d{2}.*|(?<=\d)T\d{2,6}.*|(?<=\d)(?:Z|[+-]\d{2}:\d{2}))$")
_YEAR_FIRST = re.compile(r"(\d{4})[-/. ](\d{1,2})[-/. ](\d{1,2})")
_YEAR_LAST = re.compile(r"(\d{1,2})[-/. ](\d{1,2})[-/. ](\d{4}|\d{2})")
_MONTH_NAMED = re.compile(r"([A-Z]{3,})\.?[-/ ,]*(\d{1,2})(?:ST|ND|RD|TH)?[-/ ,]+(\d{4}|\d{2})")
_DAY_THEN_NAME = re.compile(r"(\d{1,2})(?:ST|ND|RD|TH)?[-/ ,.]*(?:DE )?([A-Z]{3,})\.?[-/ ,]*(?:DEL? )?(\d{4}|\d{2})")
_YEAR_THEN_NAME = re.compile(r"(\d{4})[-/ ,]+([A-Z]{3,})\.?[-/ ,]*(\d{1,2})")
_MONTHS = (
    "JANUARY ENERO", "FEBRUARY FEBRERO", "MARCH MARZO", "APRIL ABRIL", "MAY MAYO", "JUNE JUNIO", "JULY JULIO",
    "AUGUST AGOSTO", "SEPTEMBER SEPTIEMBRE", "OCTOBER OCTUBRE", "NOVEMBER NOVIEMBRE", "DECEMBER DICIEMBRE",
)  # fmt: skip


class DateOrder(StrEnum):
    """What comes first where a notation does not say it, as the summary calls it."""

    MONTH_FIRST = "month_first"
    DAY_FIRST = "day_first"
    ASSUMED = "month_first_assumed"  # both are possible


@dataclass(frozen=True, repr=False)
class BirthDates:
    """A file's dates, in its order, and how they were read. Missing ones are None."""

    dates: tuple[date | None, ...]
    order: DateOrder
    defaults: int  # how many were a default
    unreadable: int


@dataclass(frozen=True)
class _Readings:
    """The dates that a text can be, by what comes first; equal where the notation says it."""

    month_first: date | None
    day_first: date | None


_UNREADABLE = _Readings(None, None)


def read_birth_dates(texts: Sequence[str | None], today: date) -> BirthDates:
    """Read a whole file's dates. ``today`` decides centuries and what is too old to be a birth date."""
    known: dict[str, _Readings] = {}
    for text in texts:
        if text is not None and text not in known:
            known[text] = _read(text, today)
    readings = [known[text] if text is not None else _UNREADABLE for text in texts]
    order = _order(readings)
    dates = [_choose(reading, order) for reading in readings]
    defaults = defaults_among(dates)
    return BirthDates(
        tuple(None if day in defaults else day for day in dates),
        order,
        sum(day in defaults for day in dates if day is not None),
        sum(day is None for day, text in zip(dates, texts, strict=True) if text is not None and not is_missing(text)),
    )


def defaults_among(dates: Iterable[date | None]) -> frozenset[date]:
    """The dates that stand for no date: the usual ones, and one that more than a tenth of all have."""
    counted = Counter(dates)
    total = counted.total()
    return DEFAULT_DATES | {
        day
        for day, count in counted.items()
        if day is not None and count > total * MOST_OF_ONE_DATE and count >= FEWEST_OF_ONE_DATE
    }


def _order(readings: Iterable[_Readings]) -> DateOrder:
    """By the dates that can be read in one way alone; month first if they do not say."""
    month_alone = sum(reading.day_first is None and reading.month_first is not None for reading in readings)
    day_alone = sum(reading.month_first is None and reading.day_first is not None for reading in readings)
    if month_alone == day_alone:
        return DateOrder.ASSUMED
    return DateOrder.MONTH_FIRST if month_alone > day_alone else DateOrder.DAY_FIRST


def _choose(reading: _Readings, order: DateOrder) -> date | None:
    """As the file says, or in the one way that is possible: a spreadsheet swaps what it can and leaves the rest."""
    if order is DateOrder.DAY_FIRST:
        return reading.day_first or reading.month_first
    return reading.month_first or reading.day_first


def _read(text: str, today: date) -> _Readings:
    if len(text) > _LONGEST:
        return _UNREADABLE
    plain = _TIME.sub("", text.strip().upper()).strip().removesuffix(".0")
    if plain.isascii() and plain.isdigit():
        return _digits(plain, today)
    if found := _YEAR_FIRST.fullmatch(plain):
        return _certain(found[1], found[2], found[3], today)
    if found := _YEAR_LAST.fullmatch(plain):
        return _Readings(_date(found[3], found[1], found[2], today), _date(found[3], found[2], found[1], today))
    if found := _MONTH_NAMED.fullmatch(plain):
        return _certain(found[3], _month(found[1]), found[2], today)
    if found := _DAY_THEN_NAME.fullmatch(plain):
        return _certain(found[3], _month(found[2]), found[1], today)
    if found := _YEAR_THEN_NAME.fullmatch(plain):
        return _certain(found[1], _month(found[2]), found[3], today)
    return _UNREADABLE


def _digits(plain: str, today: date) -> _Readings:
    """Eight digits are never ambiguous between year first and last: no month is 19 or 20."""
    if len(plain) == 5 and _FIRST_SERIAL <= int(plain) <= _LAST_SERIAL:
        day = _plausible(_SPREADSHEETS_DAY_0 + timedelta(days=int(plain)), today)
        return _Readings(day, day)
    if len(plain) == 7:  # a spreadsheet took it for a number
        plain = f"0{plain}"
    if len(plain) != 8:
        return _UNREADABLE
    if day := _date(plain[:4], plain[4:6], plain[6:], today):
        return _Readings(day, day)
    return _Readings(
        _date(plain[4:], plain[:2], plain[2:4], today),
        _date(plain[4:], plain[2:4], plain[:2], today),
    )


def _certain(year: str, month: str, day: str, today: date) -> _Readings:
    read = _date(year, month, day, today)
    return _Readings(read, read)


def _date(year: str, month: str, day: str, today: date) -> date | None:
    try:
        if len(year) == 4:
            return _plausible(date(int(year), int(month), int(day)), today)
        return _of_two_digits(int(year), int(month), int(day), today)
    except ValueError:
        return None


def _of_two_digits(year: int, month: int, day: int, today: date) -> date | None:
    """The century in which a student of 3 to 25 was born."""
    for century in (2000, 1900):
        if YOUNGEST <= today.year - (century + year) <= OLDEST:
            return date(century + year, month, day)
    return None


def _plausible(day: date, today: date) -> date | None:
    if day in DEFAULT_DATES:
        return day  # counted as a default
    return day if day <= today and day.year >= today.year - OLDEST_AT_ALL else None


def _month(name: str) -> str:
    """The number of a month that is written out or shortened, in English or Spanish; 0 for another word."""
    for number, names in enumerate(_MONTHS, 1):
        if any(month.startswith(name) for month in names.split()) or (name == "SEPT" and number == 9):
            return str(number)
    return "0"
