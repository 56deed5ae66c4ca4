"""Maps the model's levels to what a decision asks of them, and to the words of an answer: pure.

The rules that use them are in `deciding` (student resolution contract, section 5).
"""

from __future__ import annotations

from collections.abc import Mapping

FIRST_NAME, LAST_NAME, BIRTH_DATE = "first_name", "last_name", "birth_date"
SCHOOL, STUDENT_ID, MIDDLE_NAME, SEX = "school", "student_id", "middle_name", "sex"
OBSERVED = (FIRST_NAME, LAST_NAME, BIRTH_DATE)

# Levels that agree at least nearly, and those that contradict. An initial does neither.
NEARLY: Mapping[str, frozenset[str]] = {
    FIRST_NAME: frozenset({"exact", "nickname", "near", "prefix", "alike", "swapped"}),
    LAST_NAME: frozenset({"exact", "token", "near", "swapped"}),
    BIRTH_DATE: frozenset({"exact", "swapped", "near"}),
}
CONTRADICTS: Mapping[str, frozenset[str]] = {
    FIRST_NAME: frozenset({"differs"}),
    LAST_NAME: frozenset({"differs", "alike"}),
    BIRTH_DATE: frozenset({"differs", "year", "partly"}),
}

_SHOWN = (FIRST_NAME, LAST_NAME, BIRTH_DATE, SCHOOL, STUDENT_ID)
_WORDS = {"alike": "near", "initial": "prefix", "one": "exact"}


def agrees(levels: Mapping[str, str], comparison: str) -> bool:
    """Whether a name or the birth date agrees at least nearly."""
    return levels[comparison] in NEARLY[comparison]


def shown(levels: Mapping[str, str]) -> dict[str, str]:
    """The levels in the words of an answer."""
    return {name: _WORDS.get(levels[name], levels[name]) for name in _SHOWN}
