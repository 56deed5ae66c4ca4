"""Reads names so that spellings of one name compare equal: pure (student resolution contract, section 3).

What belongs here: letters, tokens, suffixes and nicknames. `scoring` says how alike two names are.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

SUFFIXES = frozenset({"JR", "SR", "II", "III", "IV"})
# Words that children of different families share: "DE LA CRUZ" and "DE LA ROSA" have no surname in common.
PARTICLES = frozenset(
    {"A", "AL", "BIN", "D", "DA", "DAS", "DE", "DEL", "DELLA", "DEN", "DER", "DI", "DO", "DOS", "DU", "E", "EL", "LA"}
    | {"LAS", "LE", "LOS", "MAC", "MC", "O", "SAN", "SANTA", "ST", "TEN", "TER", "VAN", "VON", "Y"}
)
# No name has more; a line of 4 KB must not be compared letter by letter.
MOST_TOKENS, LONGEST_TOKEN = 8, 40

MISSING = frozenset({"", "NONE", "NULL", "NAN", "N/A", "NA", "UNKNOWN"})
# Apostrophes join: D'ANDRE and D'ANGELO would otherwise both be called D.
_JOINING = re.compile("['\u2018\u2019\u02bc\u0060\u00b4]")
_NO_LETTERS = re.compile(r"[\W\d_]")
# The usual marks, which NFKD sets apart from their letters, and marks that nobody sees: most names have no others.
_MARKS = re.compile("[\u0300-\u036f\ufe00-\ufe0f]+")
# What NFKD leaves as it is.
_LETTERS = str.maketrans({"Ø": "O", "Ł": "L", "Đ": "D", "Æ": "AE", "Œ": "OE", "Þ": "TH", "Ð": "D", "ı": "I", "Ħ": "H"})


class GivenNames(NamedTuple):
    """``first`` is the first word, ``middle`` what follows it and the middle name's words."""

    first: str | None
    middle: tuple[str, ...]
    suffix: str | None
    further: str | None = None  # the first name's own second word, where it is no initial


class Surname(NamedTuple):
    """``joined`` has all words in their order; ``tokens`` is the set of those that a family goes by, sorted."""

    joined: str | None
    tokens: tuple[str, ...]
    suffix: str | None


def is_missing(text: str) -> bool:
    """Whether a text is one of the ways to write nothing."""
    return text.strip().upper() in MISSING


def given_names(first_name: str | None, middle_name: str | None = None) -> GivenNames:
    """The words of a first and a middle name; a first name's further words are middle names."""
    words, suffix = _without_suffix(_words(first_name))
    if middle_name is None and len(words) == 1:
        return GivenNames(words[0], (), suffix)
    further, other_suffix = _without_suffix(_words(middle_name))
    middle = [*words[1:], *(word for word in further if word not in words[1:])]
    own_second = next((word for word in words[1:] if len(word) > 1), None)
    return GivenNames(words[0] if words else None, tuple(middle), suffix or other_suffix, own_second)


def surname(last_name: str | None) -> Surname:
    """The words of a last name; particles and lone letters are left out of the tokens, unless there is nothing else."""
    words, suffix = _without_suffix(_words(last_name))
    if len(words) == 1:
        return Surname(words[0], (words[0],), suffix)
    tokens = {word for word in words if word not in PARTICLES and len(word) > 1} or set(words)
    return Surname(" ".join(words) or None, tuple(sorted(tokens)), suffix)


@cache
def nicknames() -> Mapping[str, tuple[str, ...]]:
    """For each name the names that stand for it, either way; from a public table (its licence is beside it)."""
    related: dict[str, set[str]] = defaultdict(set)
    table = files(__package__).joinpath("nicknames.csv").read_text(encoding="utf-8").splitlines()
    for row in csv.DictReader(table):
        name, other = given_names(row["name1"]).first, given_names(row["name2"]).first
        if name and other and name != other:
            related[name].add(other)
            related[other].add(name)
    return {name: tuple(sorted(others)) for name, others in related.items()}


def suffix_of(text: str | None) -> str | None:
    """A generation's suffix where a field holds one, such as the roster's code."""
    return _first_suffix(_words(text))


def _words(text: str | None) -> list[str]:
    if text is None or is_missing(text):
        return []
    if not text.isascii():
        marked = _MARKS.sub("", unicodedata.normalize("NFKD", _JOINING.sub("", text)))
        text = marked if marked.isascii() else _plain(marked)
    elif "'" in text or "`" in text:
        text = _JOINING.sub("", text)
    words = text.upper().replace("-", " ").split()
    if not all(map(str.isalpha, words)):  # few names have anything else
        words = _NO_LETTERS.sub(_mark_or_blank, text.upper()).split()
        words = [word for word in words if any(map(str.isalpha, word))]
    return [word[:LONGEST_TOKEN] for word in words[:MOST_TOKENS]]


def _mark_or_blank(found: re.Match[str]) -> str:
    """A vowel sign of an Indic script is a mark within its word, and no letter."""
    return found[0] if unicodedata.category(found[0]).startswith("M") else " "


def _plain(decomposed: str) -> str:
    """Letters in capitals, without marks: for text that has more than ASCII letters and the usual marks."""
    letters = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return unicodedata.normalize("NFC", letters).upper().translate(_LETTERS)  # NFKD takes Hangul's syllables apart


def _without_suffix(words: list[str]) -> tuple[list[str], str | None]:
    if SUFFIXES.isdisjoint(words):
        return words, None
    kept = [word for word in words if word not in SUFFIXES]
    if not kept:  # somebody has such a name
        return words, None
    return kept, _first_suffix(words)


def _first_suffix(words: list[str]) -> str | None:
    return next((word for word in words if word in SUFFIXES), None)
