"""Checks LML's answer to one call before anyone trusts it: pure (library identity contract, section 1).

A body without an array of results costs the call. A sound result is decoded into its struct, constraints included,
which costs 2 microseconds; any other is read by `tolerance.py`, member by member, which says why. Both ways give
the same verdict for what both understand.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from runway_pipelines.errors import LmlError, Permanent
from runway_pipelines.systems.lml.tolerance import LONE_SURROGATE, ResultRefused, is_blank, tolerant_verdict
from runway_pipelines.systems.lml.verdicts import (
    TRACKS_CONTRACT_VERSION,
    Answer,
    Kind,
    LeftOut,
    Library,
    Verdict,
)

# Each becomes a count in the run's metadata.
MOST_STATISTICS = 20
LONGEST_STATISTIC_NAME = 50
# Larger JSON numbers are not exact, and their sum over a run might not fit 64 bits.
LARGEST_STATISTIC = 2**53

_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_JSON_NAMES = {dict: "an object", list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
_RESULTS = msgspec.json.Decoder(list[msgspec.Raw])
_VERDICT = msgspec.json.Decoder(Verdict)


class AnswerUnreadable(LmlError, Permanent):
    """A complete JSON body with status 200 that is not an answer to the request.

    Permanent: a wrong address, a proxy or another version of the service gives the same answer again.
    """


class _Reading(NamedTuple):
    """A result: the library id that it names, None if unreadable, and its verdict or the fault that refuses it."""

    library_id: int | None
    verdict: Verdict | None
    fault: str = ""
    left_out: LeftOut | None = None


def parse_answer(document: Mapping[str, Any], asked: Sequence[Library]) -> Answer:
    """Match an answer with the libraries asked about, whose ids are unique.

    ``document`` is what `protocol.decoded` makes: `msgspec.Raw` members, or plain values. Verdicts keep the order of
    ``asked``. Raises `AnswerUnreadable` for a document without an array of results.
    """
    readings = [_reading(result) for result in _results(document)]
    believed = _believed_places([reading.library_id for reading in readings], asked)
    taken = set(believed.values())

    verdicts: list[Verdict] = []
    missing: list[int] = []
    untrusted: list[int] = []
    malformed: list[int] = []
    refusals: Counter[str] = Counter()
    left_out = LeftOut()
    for place, library in enumerate(asked):
        library_id = library.library_id
        if library_id in believed:
            reading = readings[believed[library_id]]
            if reading.verdict is None:
                malformed.append(library_id)
                refusals[reading.fault] += 1
                continue
            verdicts.append(reading.verdict)
            if reading.left_out is not None:
                left_out.update(reading.left_out)
        elif place >= len(readings) or place in taken:
            missing.append(library_id)
        elif readings[place].library_id is None:
            malformed.append(library_id)
            refusals[readings[place].fault] += 1
        else:
            untrusted.append(library_id)

    return Answer(
        verdicts=tuple(verdicts),
        missing=tuple(missing),
        untrusted=tuple(untrusted),
        malformed=tuple(malformed),
        refusals=refusals,
        left_out=left_out,
        results_dropped=len(readings) - len(verdicts) - len(malformed),
        tracks_contract_version=_tracks_contract_version(_plain(document.get("tracks_contract_version"))),
        cache_stats=_statistics(_plain(document.get("cache_stats"))),
    )


def _results(document: Mapping[str, Any]) -> Sequence[object]:
    results = document.get("results")
    if isinstance(results, msgspec.Raw):
        try:
            return _RESULTS.decode(results)
        except msgspec.ValidationError:
            results = _plain(results)
    if isinstance(results, list):
        return results
    came = f"{_json_name(results)} as results" if "results" in document else "no results"
    raise AnswerUnreadable(
        status=200,
        expected="an object with an array of results",
        came=f"an object with {came}",
        remedy="check that LIBRARY_METADATA_URL is LML's, and that its version follows the contract",
    )


def _json_name(value: object) -> str:
    """A value's JSON type."""
    return _JSON_NAMES.get(type(value), "a number")


def _reading(result: object) -> _Reading:
    if isinstance(result, msgspec.Raw):
        try:
            verdict = _VERDICT.decode(result)
        except (ValueError, RecursionError):  # msgspec's errors, and bytes that are not UTF-8
            pass
        else:
            if _is_sound(verdict, result):
                return _Reading(verdict.library_id, verdict)
        result = _plain(result)
    library_id = result.get("library_id") if isinstance(result, dict) else None
    if type(library_id) is not int:
        return _Reading(None, None, "library_id.not_an_integer" if isinstance(result, dict) else "result.not_an_object")
    try:
        verdict, left_out = tolerant_verdict(library_id, result)
    except ResultRefused as refused:
        return _Reading(library_id, None, refused.fault)
    return _Reading(library_id, verdict, left_out=left_out)


def _plain(value: object) -> Any:
    """A member's decoded JSON; None for bytes that are not JSON."""
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        # The standard library's: integers beyond 64 bits stay what they are.
        return json.loads(bytes(value))
    except (ValueError, RecursionError):
        return None


def _is_sound(verdict: Verdict, result: msgspec.Raw) -> bool:
    """Whether `tolerant_verdict` would give the same verdict: checks what the struct's constraints cannot say."""
    if b"\\u0000" in bytes(result):  # the one way to write NUL, which Postgres cannot store
        return False
    ids = verdict.artist_ids
    if verdict.kind is not Kind.SINGLE_ARTIST:
        if ids is not None or verdict.method is not None or verdict.confidence is not None:
            return False
    elif (
        ids is None
        or verdict.method is None
        or verdict.confidence is None
        or is_blank(ids.wikidata_qid)
        or is_blank(ids.spotify_artist_id)
        or is_blank(ids.apple_music_artist_id)
        or is_blank(ids.bandcamp_id)
        or not (ids.musicbrainz_artist_id is None or _UUID.fullmatch(ids.musicbrainz_artist_id))
    ):
        return False
    for entry in verdict.provenance:
        if is_blank(entry.external_id):
            return False
    for track in verdict.tracks or ():
        if is_blank(track.track_position) or is_blank(track.resolved_artist_name):
            return False
    return True


def _believed_places(echoed: Sequence[int | None], asked: Sequence[Library]) -> dict[int, int]:
    """The place of each library's trusted result; further results for its id are dropped unread.

    Results come in the order asked. Of two results for one id, the one in that library's place wins; the other may be a
    neighbour's under a wrong id. If neither is in place, the first wins.
    """
    believed = {
        library.library_id: place
        for place, (library, library_id) in enumerate(zip(asked, echoed, strict=False))
        if library_id == library.library_id
    }
    if len(believed) < len(asked):
        asked_ids = {library.library_id for library in asked}
        for place, library_id in enumerate(echoed):
            if library_id is not None and library_id in asked_ids:
                believed.setdefault(library_id, place)
    return believed


def _tracks_contract_version(value: object) -> int | None:
    """The integer 1 alone; ``True`` and 1.0 compare equal to it."""
    return value if type(value) is int and value == TRACKS_CONTRACT_VERSION else None


def _statistics(cache_stats: object) -> dict[str, float]:
    """The first numeric entries; anything else is ignored."""
    if not isinstance(cache_stats, dict):
        return {}
    numbers = ((name, number) for name, number in cache_stats.items() if _is_name(name) and _is_statistic(number))
    return dict(islice(numbers, MOST_STATISTICS))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and len(name) <= LONGEST_STATISTIC_NAME and not LONE_SURROGATE.search(name)


def _is_statistic(number: object) -> bool:
    # False for NaN, infinities and booleans, which cannot be added up.
    return (type(number) is int or type(number) is float) and -LARGEST_STATISTIC <= number <= LARGEST_STATISTIC
