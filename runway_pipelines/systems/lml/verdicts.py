"""The values that LML takes and returns (library identity contract, section 1).

A *verdict* is the service's answer for one library, *provenance* is why; a failed call is neither. The structs are also
the strict schema of the service's JSON: `answers.py` decodes a sound result into them in one step, and hands any other
to `tolerance.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

# The version of the answer's tracks that we can read.
TRACKS_CONTRACT_VERSION = 1
# In characters. LML sets no limit, but Postgres indexes texts of up to 2,704 bytes only, so hardly any title or
# name in the catalogue is longer. No service's ids come near it.
LONGEST_TEXT = 2_000
LARGEST_INTEGER = 2**31 - 1
# Smaller numbers underflow float4, and Postgres refuses them.
SMALLEST_CONFIDENCE = 1e-37

Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_TEXT)]
DiscogsId = Annotated[int, Meta(ge=1, le=LARGEST_INTEGER)]
Confidence = Annotated[float, Meta(ge=SMALLEST_CONFIDENCE, le=1)]
Source = Literal["discogs", "musicbrainz", "wikidata", "spotify", "apple_music", "bandcamp"]
Method = Literal[
    "manual",
    "cross_source_agreement",
    "exact_match",
    "name_variation",
    "member_group",
    "alias_match",
    "trigram",
    "llm",
]
SOURCES: tuple[str, ...] = get_args(Source)
METHODS: tuple[str, ...] = get_args(Method)


class Kind(StrEnum):
    """What a library is."""

    SINGLE_ARTIST = "single_artist"
    COMPILATION = "compilation"
    UNRESOLVED = "unresolved"


# None of the structs can be part of a cycle, so the garbage collector need not track them.


class Library(msgspec.Struct, frozen=True, gc=False):
    """A catalogue row as LML sees it, and the request's JSON for it."""

    library_id: int
    legacy_release_id: int | None
    artist_name: str
    album_title: str


class ArtistIds(msgspec.Struct, frozen=True, gc=False):
    """An artist's composed ids; None where LML has none. ``musicbrainz_artist_id`` is a UUID as text."""

    discogs_artist_id: DiscogsId | None = None
    musicbrainz_artist_id: Text | None = None
    wikidata_qid: Text | None = None
    spotify_artist_id: Text | None = None
    apple_music_artist_id: Text | None = None
    bandcamp_id: Text | None = None


class Provenance(msgspec.Struct, frozen=True, gc=False):
    """One source's finding. With a null confidence or id, the source ran and found nothing."""

    source: Source
    method: Method
    confidence: Confidence | None
    external_id: Text | None = None


class Track(msgspec.Struct, frozen=True, gc=False):
    """One track of a compilation, with the artist that LML resolved. Name and title identify the catalogue's row."""

    track_position: Text | None
    artist_name: Name
    track_title: Text | None
    resolved_artist_name: Text | None
    confidence: Confidence | None
    # Not stored. Only known methods take the fast path, so that unknown ones are counted.
    method: Method | None = None


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """LML's answer for one library.

    ``artist_ids``, ``method`` and ``confidence`` (0 to 1) are None unless it is a single artist. ``tracks`` is None
    unless requested.
    """

    library_id: int
    kind: Kind
    artist_ids: ArtistIds | None = msgspec.field(name="main", default=None)
    method: Name | None = None
    confidence: Confidence | None = None
    provenance: tuple[Provenance, ...] = ()
    tracks_attempted: bool | None = None
    tracks: tuple[Track, ...] | None = None


@dataclass(frozen=True)
class LeftOut:
    """What believed results lost: values by member (``provenance.source``), members with their rule
    (``main.wikidata_qid.too_long``).
    """

    unknown_values: Counter[str] = field(default_factory=Counter)
    unusable_members: Counter[str] = field(default_factory=Counter)

    def update(self, more: LeftOut) -> None:
        """Add ``more`` to these."""
        self.unknown_values.update(more.unknown_values)
        self.unusable_members.update(more.unusable_members)


@dataclass(frozen=True)
class Answer:
    """A call's answer. Every library asked about is in exactly one of the first four fields.

    ``missing``, ``untrusted`` and ``malformed`` are library ids: without a result, with another library's result in
    their place, with a result that cannot be believed. ``refusals`` counts the latter by member and rule
    (``kind.unknown_value``), ``left_out`` what believed results lost. ``results_dropped`` counts results that belong to
    none of the libraries. ``cache_stats`` has the numeric entries alone.
    """

    verdicts: tuple[Verdict, ...]
    missing: tuple[int, ...] = ()
    untrusted: tuple[int, ...] = ()
    malformed: tuple[int, ...] = ()
    refusals: Counter[str] = field(default_factory=Counter)
    left_out: LeftOut = field(default_factory=LeftOut)
    results_dropped: int = 0
    tracks_contract_version: int | None = None
    cache_stats: Mapping[str, float] = field(default_factory=dict)
