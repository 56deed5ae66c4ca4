"""Reads a result that breaks LML's schema, member by member: pure (library identity contract, section 1).

The service grows, and one bad member must not cost a verdict. What cannot be understood or stored is left out and
counted. A result is refused only when it lacks what a verdict needs: its kind and, for a single artist, the object of
its ids, a method that is text, and a confidence; without these there is no main row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

from runway_pipelines.systems.lml.verdicts import (
    LARGEST_INTEGER,
    LONGEST_TEXT,
    METHODS,
    SMALLEST_CONFIDENCE,
    SOURCES,
    ArtistIds,
    Kind,
    LeftOut,
    Provenance,
    Track,
    Verdict,
)

T = TypeVar("T")

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_UUID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)
_ABSENT = object()


def is_blank(text: str | None) -> bool:
    """Whether an id is there and says nothing, which means the same as null."""
    return text is not None and (not text or text.isspace())


class ResultRefused(Exception):
    """A result that cannot be believed; ``fault`` is the member and the rule (``kind.unknown_value``)."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault


class _EntryLeftOut(Exception):
    """An array's entry is left out because it lacks a member that it needs; the loss is counted already."""


class _Unusable(Exception):
    """A value that breaks ``rule``."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class _UnknownValue(_Unusable):
    """A text that an enumeration does not have."""

    def __init__(self) -> None:
        super().__init__("unknown_value")


def tolerant_verdict(library_id: int, result: object) -> tuple[Verdict, LeftOut]:
    """The verdict of a decoded result, and what it lost; raises `ResultRefused`."""
    if not isinstance(result, dict):
        raise ResultRefused("result.not_an_object")
    left_out = LeftOut()
    kind = _required(result, "kind", _kind)
    is_single = kind is Kind.SINGLE_ARTIST
    artist_ids = _artist_ids(result, is_single, left_out)
    if not is_single and artist_ids != ArtistIds():
        # Half a contradiction is not worth believing: an unresolved library is left alone for a month.
        raise ResultRefused(f"main.ids_of_{kind}")
    verdict = Verdict(
        library_id=library_id,
        kind=kind,
        artist_ids=artist_ids if is_single else None,
        method=_required(result, "method", _name) if is_single else None,
        confidence=_required(result, "confidence", _confidence) if is_single else None,
        provenance=_entries(result, "provenance", _provenance, left_out) or (),
        tracks_attempted=_optional(result, "tracks_attempted", "tracks_attempted", _boolean, left_out),
        tracks=_entries(result, "tracks", _track, left_out),
    )
    return verdict, left_out


def _artist_ids(result: Mapping[str, Any], is_single: bool, left_out: LeftOut) -> ArtistIds:
    if is_single:
        main = _required(result, "main", _object)
    else:
        main = _optional(result, "main", "main", _object, left_out) or {}

    def read(name: str, reader: Callable[[object], T | None]) -> T | None:
        return _optional(main, name, f"main.{name}", reader, left_out)

    return ArtistIds(
        discogs_artist_id=read("discogs_artist_id", _discogs_id),
        musicbrainz_artist_id=read("musicbrainz_artist_id", _uuid),
        wikidata_qid=read("wikidata_qid", _id),
        spotify_artist_id=read("spotify_artist_id", _id),
        apple_music_artist_id=read("apple_music_artist_id", _id),
        bandcamp_id=read("bandcamp_id", _id),
    )


def _entries(
    result: Mapping[str, Any], member: str, read: Callable[[Mapping[str, Any], LeftOut], T], left_out: LeftOut
) -> tuple[T, ...] | None:
    """The usable entries of an array; None if there is no array."""
    entries = result.get(member, None if member == "tracks" else [])
    if not isinstance(entries, list):
        if entries is not None or member == "provenance":
            left_out.unusable_members[f"{member}.not_an_array"] += 1
        return None
    kept: list[T] = []
    for entry in entries:
        if not isinstance(entry, dict):
            left_out.unusable_members[f"{member}.not_an_object"] += 1
            continue
        with suppress(_EntryLeftOut):
            kept.append(read(entry, left_out))
    return tuple(kept)


def _provenance(entry: Mapping[str, Any], left_out: LeftOut) -> Provenance:
    """An entry is one row, so any member that cannot be stored costs all of it."""
    return Provenance(
        source=_needed(entry, "source", "provenance.source", _known(SOURCES), left_out),
        method=_needed(entry, "method", "provenance.method", _known(METHODS), left_out),
        confidence=_needed(entry, "confidence", "provenance.confidence", _nullable(_confidence), left_out),
        external_id=_needed(entry, "external_id", "provenance.external_id", _nullable(_id), left_out, absent=None),
    )


def _track(entry: Mapping[str, Any], left_out: LeftOut) -> Track:
    """Name and title say which row it is. Without the rest, a track says less, or nothing."""
    return Track(
        track_position=_optional(entry, "track_position", "tracks.track_position", _id, left_out),
        artist_name=_needed(entry, "artist_name", "tracks.artist_name", _name, left_out),
        track_title=_needed(entry, "track_title", "tracks.track_title", _nullable(_text), left_out),
        resolved_artist_name=_optional(entry, "resolved_artist_name", "tracks.resolved_artist_name", _id, left_out),
        confidence=_optional(entry, "confidence", "tracks.confidence", _confidence, left_out),
        method=_optional(entry, "method", "tracks.method", _known(METHODS), left_out),
    )


def _required(result: Mapping[str, Any], member: str, read: Callable[[object], T]) -> T:
    """A member that the verdict needs."""
    value = result.get(member, _ABSENT)
    try:
        return read(value)
    except _Unusable as unusable:
        raise ResultRefused(f"{member}.{_rule(value, unusable)}") from None


def _optional(
    holder: Mapping[str, Any], name: str, member: str, read: Callable[[object], T | None], left_out: LeftOut
) -> T | None:
    """A member that may be absent, null, or left out."""
    value = holder.get(name)
    if value is None:
        return None
    try:
        return read(value)
    except _Unusable as unusable:
        _count(member, value, unusable, left_out)
        return None


def _needed(
    entry: Mapping[str, Any],
    name: str,
    member: str,
    read: Callable[[object], T],
    left_out: LeftOut,
    *,
    absent: object = _ABSENT,
) -> T:
    """A member that its entry needs; if it is unusable, counts it and raises `_EntryLeftOut`."""
    value = entry.get(name, absent)
    try:
        return read(value)
    except _Unusable as unusable:
        _count(member, value, unusable, left_out)
        raise _EntryLeftOut from None


def _count(member: str, value: object, unusable: _Unusable, left_out: LeftOut) -> None:
    if isinstance(unusable, _UnknownValue):
        left_out.unknown_values[member] += 1
    else:
        left_out.unusable_members[f"{member}.{_rule(value, unusable)}"] += 1


def _rule(value: object, unusable: _Unusable) -> str:
    return "missing" if value is _ABSENT else "null" if value is None else unusable.rule


# Readers take any JSON value, and raise `_Unusable`.


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Unusable("not_an_object")
    return value


def _kind(value: object) -> Kind:
    text = _text(value)
    try:
        return Kind(text)
    except ValueError:
        raise _UnknownValue from None


def _text(value: object) -> str:
    if type(value) is not str:
        raise _Unusable("not_a_text")
    if len(value) > LONGEST_TEXT:
        raise _Unusable("too_long")
    if "\0" in value or LONE_SURROGATE.search(value):
        raise _Unusable("not_storable")
    return value


def _name(value: object) -> str:
    text = _text(value)
    if not text:
        raise _Unusable("empty")
    return text


def _id(value: object) -> str | None:
    """None for a blank id."""
    text = _text(value)
    return None if is_blank(text) else text


def _uuid(value: object) -> str | None:
    """Postgres' spelling of the UUID, so that an unchanged id compares equal."""
    text = _id(value)
    if text is None:
        return None
    # UUID() alone also accepts braces, urn:, underscores and other scripts' digits.
    if not _UUID.fullmatch(text):
        raise _Unusable("not_a_uuid")
    return str(UUID(text))


def _discogs_id(value: object) -> int:
    if type(value) is not int:
        raise _Unusable("not_an_integer")
    if not 1 <= value <= LARGEST_INTEGER:
        raise _Unusable("out_of_range")
    return value


def _confidence(value: object) -> float:
    if type(value) is not int and type(value) is not float:
        raise _Unusable("not_a_number")
    if not 0 <= value <= 1:  # NaN too
        raise _Unusable("out_of_range")
    return float(value) if value >= SMALLEST_CONFIDENCE else 0.0


def _boolean(value: object) -> bool:
    if type(value) is not bool:
        raise _Unusable("not_a_boolean")
    return value


def _known(values: tuple[str, ...]) -> Callable[[object], Any]:
    def read(value: object) -> str:
        if _text(value) not in values:
            raise _UnknownValue
        return str(value)

    return read


def _nullable(read: Callable[[object], T]) -> Callable[[object], T | None]:
    return lambda value: None if value is None else read(value)
