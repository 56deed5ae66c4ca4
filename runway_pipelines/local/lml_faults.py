"""Faults that a test asks the local LML for: which calls they belong to, and what they do to an answer's results.

What they do to the connection (a cut, a slow or endless body) is `lml_server`'s.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Result = dict[str, Any]
Path = tuple[str | int, ...]

FOREIGN_OFFSET = 900_000_000
# Values that the contract's schema refuses, by what is wrong: where in a result they stand, and the value.
MALFORMED: Mapping[str, tuple[Path, Any]] = {
    "library_id as string": (("library_id",), "7"),
    "library_id as float": (("library_id",), 7.5),
    "library_id as bool": (("library_id",), True),
    "library_id null": (("library_id",), None),
    "kind unknown": (("kind",), "duo"),
    "kind null": (("kind",), None),
    "method unknown": (("method",), "guess"),
    "confidence above 1": (("confidence",), 1.01),
    "confidence below 0": (("confidence",), -0.01),
    "confidence NaN": (("confidence",), math.nan),
    "confidence infinite": (("confidence",), math.inf),
    "confidence as string": (("confidence",), "0.9"),
    "confidence as bool": (("confidence",), True),
    "main as list": (("main",), []),
    "discogs_artist_id as string": (("main", "discogs_artist_id"), "7"),
    "discogs_artist_id as bool": (("main", "discogs_artist_id"), True),
    "wikidata_qid as number": (("main", "wikidata_qid"), 7),
    "provenance null": (("provenance",), None),
    "provenance of strings": (("provenance",), ["discogs"]),
    "source unknown": (("provenance", 0, "source"), "myspace"),
    "source's method unknown": (("provenance", 0, "method"), "guess"),
    "source's confidence NaN": (("provenance", 0, "confidence"), math.nan),
    "source's confidence above 1": (("provenance", 0, "confidence"), 2),
    "external_id as number": (("provenance", 0, "external_id"), 7),
}
# Values that the schema lets pass, and a table does not take.
UNSTORABLE: Mapping[str, tuple[Path, Any]] = {
    "text with a NUL": (("provenance", 0, "external_id"), "a\x00b"),
    "text with a lone surrogate": (("provenance", 0, "external_id"), "a\ud800b"),
    "confidence null": (("confidence",), None),
    "discogs_artist_id beyond int": (("main", "discogs_artist_id"), 2**31),
    "discogs_artist_id beyond bigint": (("main", "discogs_artist_id"), 2**70),
    "musicbrainz_artist_id no uuid": (("main", "musicbrainz_artist_id"), "no uuid"),
    "source's confidence out of band": (
        ("provenance", 0),
        {
            "source": "discogs",
            "method": "exact_match",
            "confidence": 0.5,
            "external_id": "7",
        },
    ),
}

Edit = Literal["short", "long", "duplicate", "foreign", "swapped", "repeated_source", "replace"]


class Rule(BaseModel):
    """One fault, and the calls it belongs to: those that meet all conditions that are given, at most ``times``.

    =================  ================================================================================================
    ``status``         answer with ``status``, and ``Retry-After: retry_after`` where that is given
    ``slow``           wait ``seconds`` first; other faults and the answer come after
    ``cut``            close the connection in the middle of the answer
    ``trickle``        send the answer in pieces over ``seconds``
    ``body``           answer 200 with ``value``, a text, in place of the JSON
    ``huge``           answer 200 with ``size`` bytes of JSON
    ``short``          leave results out
    ``long``           append results a second time
    ``duplicate``      put the neighbour's result in place of results
    ``foreign``        results for libraries that were not asked about (their ids plus `FOREIGN_OFFSET`)
    ``swapped``        results trade places with their neighbours
    ``repeated_source``  give results' first provenance row twice
    ``replace``        put ``value`` at ``path`` of results (`MALFORMED` and `UNSTORABLE` have some)
    =================  ================================================================================================

    The faults of results touch those of ``library_ids``; where that is not given, the first one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: Literal["status", "slow", "cut", "trickle", "body", "huge"] | Edit
    calls: tuple[int, ...] | None = Field(None, description="By number, from 1, since the rules were set.")
    library_ids: tuple[int, ...] | None = Field(None, description="Calls that ask about one of these.")
    more_than: int | None = Field(None, description="Calls with more inputs than this.")
    times: int | None = Field(None, ge=1)
    status: int = Field(500, ge=200, le=599)
    retry_after: str | None = None
    seconds: float = Field(0, ge=0)
    size: int = Field(0, ge=0)
    path: Path = ()
    value: Any = None

    @property
    def edits_results(self) -> bool:
        """Whether `edited` does something."""
        return self.fault in _EDITS

    def concerns(self, number: int, library_ids: Sequence[int]) -> bool:
        """Whether a call meets the conditions."""
        return (
            (self.calls is None or number in self.calls)
            and (self.library_ids is None or not set(self.library_ids).isdisjoint(library_ids))
            and (self.more_than is None or len(library_ids) > self.more_than)
        )


class Script:
    """The rules in force, and how often each can still be used."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self._left = [math.inf if rule.times is None else rule.times for rule in rules]

    def rules_for(self, number: int, library_ids: Sequence[int]) -> list[Rule]:
        """The faults of a call, in the order they were given; uses them up."""
        concerned = []
        for index, rule in enumerate(self._rules):
            if self._left[index] > 0 and rule.concerns(number, library_ids):
                self._left[index] -= 1
                concerned.append(rule)
        return concerned


def edited(results: Sequence[Result], rule: Rule) -> list[Any]:
    """The results with a rule's fault; those given stay as they are. Rules of other faults change nothing."""
    edit = _EDITS.get(rule.fault)
    if edit is None or not results:
        return list(results)
    at = [
        index
        for index, result in enumerate(results)
        if (index == 0 if rule.library_ids is None else result["library_id"] in rule.library_ids)
    ]
    return edit(copy.deepcopy(list(results)), at, rule)


def _short(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    return [result for index, result in enumerate(results) if index not in at]


def _long(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    return results + [results[index] for index in at]


def _duplicate(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    return [results[(index + 1) % len(results)] if index in at else result for index, result in enumerate(results)]


def _foreign(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    for index in at:
        results[index]["library_id"] += FOREIGN_OFFSET
    return results


def _swapped(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    for index in at:
        other = (index + 1) % len(results)
        results[index], results[other] = results[other], results[index]
    return results


def _repeated_source(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    for index in at:
        results[index]["provenance"] += results[index]["provenance"][:1]
    return results


def _replace(results: list[Any], at: list[int], rule: Rule) -> list[Any]:
    for index in at:
        *parents, last = (index, *rule.path)
        place: Any = results
        for step in parents:
            place = place[step]
        place[last] = rule.value
    return results


_EDITS: Mapping[str, Callable[[list[Any], list[int], Rule], list[Any]]] = {
    "short": _short,
    "long": _long,
    "duplicate": _duplicate,
    "foreign": _foreign,
    "swapped": _swapped,
    "repeated_source": _repeated_source,
    "replace": _replace,
}
