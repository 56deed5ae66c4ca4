"""The local LML's answers: a function of a library's id, artist and title alone.

Tests use it as the reference for what the pipeline must write. The contract (library identity, section 1) defines the
shapes; this module chooses how often values are null or out of band, and tracks not ready.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# The lowest and highest confidence of a method's provenance.
BANDS: Mapping[str, tuple[float, float]] = {
    "manual": (1.0, 1.0),
    "cross_source_agreement": (0.0, 1.0),
    "exact_match": (1.0, 1.0),
    "name_variation": (0.90, 0.99),
    "member_group": (0.80, 0.89),
    "alias_match": (0.75, 0.84),
    "trigram": (0.70, 1.0),
    "llm": (0.60, 0.79),
}
ID_FIELDS: Mapping[str, str] = {
    "discogs": "discogs_artist_id",
    "musicbrainz": "musicbrainz_artist_id",
    "wikidata": "wikidata_qid",
    "spotify": "spotify_artist_id",
    "apple_music": "apple_music_artist_id",
    "bandcamp": "bandcamp_id",
}
# The share among libraries that are not compilations. With a tenth of compilations, it is four fifths of a catalogue.
SINGLE_ARTIST_PERCENT = 88
TRACKS_CONTRACT_VERSION = 1

_SOURCES = tuple(ID_FIELDS)
# Each is drawn as often as it appears here.
_METHODS = (
    *("exact_match",) * 6,
    *("name_variation",) * 4,
    *("trigram",) * 3,
    *("alias_match", "llm", "cross_source_agreement") * 2,
    "member_group",
    "manual",
)
_NO_TRACKS: dict[str, Any] = {"tracks_attempted": False, "tracks": []}
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FIRST_WORDS = ("Amber", "Björn", "Cobalt", "Désolé", "Electric", "Frozen", "Golden", "Hüsker", "Ivory", "Jóhann")
_SECOND_WORDS = ("Ensemble", "Freitas", "Garden", "Harvest", "Orchestra", "Paladino", "Quartet", "Señoras", "Tigers")


def track_artists() -> list[str]:
    """All artists that the local LML names on compilations."""
    return [f"{first} {second}" for first in _FIRST_WORDS for second in _SECOND_WORDS]


def is_various(artist_name: str) -> bool:
    """Whether the local LML takes this artist's albums for compilations."""
    return artist_name.strip().casefold().startswith(("various", "v/a"))


def resolved(library_id: int, artist_name: str, album_title: str, *, include_tracks: bool) -> dict[str, Any]:
    """One result, as the contract's JSON; has tracks only if requested."""
    draws = _Draws("verdict", str(library_id), artist_name, album_title)
    if is_various(artist_name):
        return _compilation(library_id, artist_name, album_title, include_tracks)
    if draws.below(100) < SINGLE_ARTIST_PERCENT:
        # The real service does not match such a row's tracks yet, and says so.
        return _single_artist(library_id, artist_name, draws) | (_NO_TRACKS if include_tracks else {})
    return _result(library_id, "unresolved")


def compilation_tracks(library_id: int, artist_name: str, album_title: str) -> list[dict[str, Any]]:
    """A compilation's tracks, which `resolved` may withhold."""
    draws = _Draws("tracks", str(library_id), artist_name, album_title)
    return [_track(number, draws) for number in range(1, 5 + draws.below(9))]


def artist_ids(artist_name: str) -> dict[str, str]:
    """An artist's external id in each source, the same for all albums."""
    draws = _Draws("artist", artist_name)
    return {
        "discogs": str(1 + draws.below(9_999_999)),
        "musicbrainz": str(uuid.UUID(int=draws.below(2**128), version=4)),
        "wikidata": f"Q{1 + draws.below(99_999_999)}",
        "spotify": "".join(_BASE62[draws.below(62)] for _ in range(22)),
        "apple_music": str(1 + draws.below(999_999_999)),
        "bandcamp": f"artist-{draws.below(999_999)}",
    }


class _Draws:
    """An endless stream of numbers for a name; the answers depend on the order of draws."""

    def __init__(self, *name: str) -> None:
        self._bytes = _stream("\x1f".join(name).encode("utf-8", "surrogatepass"))

    def below(self, limit: int) -> int:
        """A number in [0, limit)."""
        size = (limit.bit_length() + 7) // 8 + 3  # spare bytes keep the bias below 1 in 10^7
        return int.from_bytes(bytes(next(self._bytes) for _ in range(size)), "little") % limit

    def pick(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def percent(self, rate: int) -> bool:
        return self.below(100) < rate

    def between(self, low: float, high: float) -> float:
        """A number in [low, high] with two decimals."""
        first, last = round(low * 100), round(high * 100)
        return (first + self.below(last - first + 1)) / 100


def _stream(name: bytes) -> Iterator[int]:
    number = 0
    while True:
        yield from hashlib.sha512(name + number.to_bytes(4, "little")).digest()
        number += 1


def _result(library_id: int, kind: str, **members: Any) -> dict[str, Any]:
    head = {"kind": kind, "library_id": library_id, "main": None, "method": None, "confidence": None, "provenance": []}
    return head | members


def _single_artist(library_id: int, artist_name: str, draws: _Draws) -> dict[str, Any]:
    ids = artist_ids(artist_name)
    first = draws.below(len(_SOURCES))
    sources = [_SOURCES[(first + step) % len(_SOURCES)] for step in range(2 + draws.below(4))]
    # The first source always finds something, because a verdict needs at least one.
    provenance = [_found(sources[0], ids[sources[0]], draws)]
    provenance += [_provenance(source, ids[source], draws) for source in sources[1:]]
    lowest = min((row for row in provenance if row["confidence"] is not None), key=lambda row: row["confidence"])
    main: dict[str, Any] = {
        ID_FIELDS[row["source"]]: int(row["external_id"]) if row["source"] == "discogs" else row["external_id"]
        for row in provenance
        if row["external_id"] is not None
    }
    if draws.percent(50):  # an unknown id is null or absent
        main = dict.fromkeys(ID_FIELDS.values()) | main
    return _result(
        library_id,
        "single_artist",
        main=main,
        method=lowest["method"],
        confidence=lowest["confidence"],
        provenance=provenance,
    )


def _provenance(source: str, external_id: str, draws: _Draws) -> dict[str, Any]:
    """One row. In 7 %, the source found nothing, or is out of its method's band."""
    row = _found(source, external_id, draws)
    trouble = draws.below(100)
    if trouble < 5:  # the real service's nulls come together
        return row | {"confidence": None, "external_id": None}
    if trouble < 7 and row["method"] != "cross_source_agreement":
        return row | {"confidence": draws.between(0.30, 0.55)}
    return row


def _found(source: str, external_id: str, draws: _Draws) -> dict[str, Any]:
    method = draws.pick(_METHODS)
    low, high = BANDS[method]
    return {
        "source": source,
        "method": method,
        "confidence": draws.between(max(low, 0.60), high),
        "external_id": external_id,
    }


def _compilation(library_id: int, artist_name: str, album_title: str, include_tracks: bool) -> dict[str, Any]:
    draws = _Draws("readiness", str(library_id), artist_name, album_title)
    if not include_tracks:
        absent = {"tracks": None, "tracks_attempted": None} if draws.percent(50) else {}
        return _result(library_id, "compilation", **absent)
    state = draws.below(100)
    if state < 6:  # not matched yet
        return _result(library_id, "compilation", tracks_attempted=False, tracks=draws.pick(([], None)))
    tracks = compilation_tracks(library_id, artist_name, album_title)
    return _result(library_id, "compilation", tracks_attempted=state >= 12, tracks=tracks)


def _track(number: int, draws: _Draws) -> dict[str, Any]:
    artist_name = f"{draws.pick(_FIRST_WORDS)} {draws.pick(_SECOND_WORDS)}"
    title = None if draws.percent(3) else f"Track {number} of {draws.below(1000)}"
    position = draws.pick((str(number), f"A{number}", f"{number}.", None, f"{number} (hidden after the silence)"))
    head = {"track_position": position, "artist_name": artist_name, "track_title": title}
    if draws.percent(15):  # LML knows no such artist
        return head | {"resolved_artist_name": None, "confidence": None, "method": None, "sources": []}
    source = _found("discogs", artist_ids(artist_name)["discogs"], draws)
    return head | {
        "resolved_artist_name": artist_name.upper() if draws.percent(20) else artist_name,
        "confidence": source["confidence"],
        "method": source["method"],
        "sources": [source],
    }
