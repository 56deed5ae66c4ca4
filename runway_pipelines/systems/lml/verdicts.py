"""What LML is asked, and what it answers: pure values (library identity contract, section 1).

A *verdict* is the service's answer for one library, *provenance* is why. A call that failed is neither. What an answer
must be to become verdicts is decided in `answers.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# The version of the tracks' part of an answer that we can read.
TRACKS_CONTRACT_VERSION = 1


class Kind(StrEnum):
    """What a library is."""

    SINGLE_ARTIST = "single_artist"
    COMPILATION = "compilation"
    UNRESOLVED = "unresolved"


@dataclass(frozen=True, slots=True)
class Library:
    """A row of the catalogue, as LML is asked about it."""

    library_id: int
    legacy_release_id: int | None
    artist_name: str
    album_title: str


@dataclass(frozen=True, slots=True)
class ArtistIds:
    """The composed ids of an artist; None where LML says nothing. ``musicbrainz_artist_id`` is a UUID's text."""

    discogs_artist_id: int | None = None
    musicbrainz_artist_id: str | None = None
    wikidata_qid: str | None = None
    spotify_artist_id: str | None = None
    apple_music_artist_id: str | None = None
    bandcamp_id: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """What one source said; a null confidence or id: it ran and found nothing."""

    source: str
    method: str
    confidence: float | None
    external_id: str | None


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a compilation, and whom LML takes its artist for."""

    track_position: str | None
    artist_name: str
    track_title: str | None
    resolved_artist_name: str | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """LML's answer for one library that was asked about.

    ``artist_ids``, ``method`` and ``confidence`` (0 to 1) are those of a single artist, else None. ``tracks`` is None
    where they were not asked for.
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
    """A call's answer, sorted: every library that was asked about is in exactly one of the first four.

    ``missing`` got no result, ``untrusted`` had somebody else's or another one's second result in its place,
    ``malformed`` had one that the schema refuses; library ids. ``results_dropped`` counts the results that belong to
    none of the libraries, also those beyond the number asked. ``cache_stats`` are its numeric entries.
    """

    verdicts: tuple[Verdict, ...]
    missing: tuple[int, ...] = ()
    untrusted: tuple[int, ...] = ()
    malformed: tuple[int, ...] = ()
    results_dropped: int = 0
    tracks_contract_version: int | None = None
    cache_stats: Mapping[str, float] = field(default_factory=dict)
