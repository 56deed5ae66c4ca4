"""The values that LML takes and returns (library identity contract, section 1).

A *verdict* is the service's answer for one library, *provenance* is why; a failed call is neither. `answers.py` turns
JSON into these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# The version of the answer's tracks that we can read.
TRACKS_CONTRACT_VERSION = 1


class Kind(StrEnum):
    """What a library is."""

    SINGLE_ARTIST = "single_artist"
    COMPILATION = "compilation"
    UNRESOLVED = "unresolved"


@dataclass(frozen=True, slots=True)
class Library:
    """A catalogue row as LML sees it."""

    library_id: int
    legacy_release_id: int | None
    artist_name: str
    album_title: str


@dataclass(frozen=True, slots=True)
class ArtistIds:
    """An artist's composed ids; None where LML has none. ``musicbrainz_artist_id`` is a UUID as text."""

    discogs_artist_id: int | None = None
    musicbrainz_artist_id: str | None = None
    wikidata_qid: str | None = None
    spotify_artist_id: str | None = None
    apple_music_artist_id: str | None = None
    bandcamp_id: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """One source's finding. With a null confidence or id, the source ran and found nothing."""

    source: str
    method: str
    confidence: float | None
    external_id: str | None


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a compilation, with the artist that LML resolved."""

    track_position: str | None
    artist_name: str
    track_title: str | None
    resolved_artist_name: str | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """LML's answer for one library.

    ``artist_ids``, ``method`` and ``confidence`` (0 to 1) are None unless it is a single artist. ``tracks`` is None
    unless requested.
    """

    library_id: int
    kind: Kind
    artist_ids: ArtistIds | None = None
    method: str | None = None
    confidence: float | None = None
    provenance: tuple[Provenance, ...] = ()
    tracks_attempted: bool | None = None
    tracks: tuple[Track, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """A call's answer. Every library asked about is in exactly one of the first four fields.

    ``missing``, ``untrusted`` and ``malformed`` are library ids: without a result, with another library's result in
    their place, with a result that the schema refuses. ``results_dropped`` counts results that belong to none of the
    libraries. ``cache_stats`` has the numeric entries alone.
    """

    verdicts: tuple[Verdict, ...]
    missing: tuple[int, ...] = ()
    untrusted: tuple[int, ...] = ()
    malformed: tuple[int, ...] = ()
    results_dropped: int = 0
    tracks_contract_version: int | None = None
    cache_stats: Mapping[str, float] = field(default_factory=dict)
