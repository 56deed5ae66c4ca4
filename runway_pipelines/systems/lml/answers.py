"""Checks LML's answer to one call before anyone trusts it: pure (library identity contract, section 1).

A malformed result costs that result, not the batch; a body without an array of results costs the call. A result is
malformed if it breaks the schema, contradicts its own kind, or could not be stored in Postgres.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from runway_pipelines.errors import LmlError, Permanent
from runway_pipelines.systems.lml.verdicts import (
    TRACKS_CONTRACT_VERSION,
    Answer,
    ArtistIds,
    Kind,
    Library,
    Provenance,
    Track,
    Verdict,
)

# In characters. The schema sets no limit, but Postgres indexes texts of up to 2,704 bytes only, so hardly any title or
# name in the catalogue is longer. No service's ids come near it.
LONGEST_TEXT = 2_000
LARGEST_INTEGER = 2**31 - 1
# Smaller numbers underflow float4, and Postgres refuses them.
SMALLEST_CONFIDENCE = 1e-37
# Each becomes a count in the run's metadata.
MOST_STATISTICS = 20
LONGEST_STATISTIC_NAME = 50
# Larger JSON numbers are not exact, and their sum over a run might not fit 64 bits.
LARGEST_STATISTIC = 2**53

_UUID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_NAMES = {dict: "an object", list: "an array", str: "a text", bool: "a boolean", type(None): "null"}


class AnswerUnreadable(LmlError, Permanent):
    """A complete JSON body with status 200 that is not an answer to the request.

    Permanent: a wrong address, a proxy or another version of the service gives the same answer again.
    """


def parse_answer(document: object, asked: Sequence[Library]) -> Answer:
    """Match an answer's decoded JSON with the libraries asked about, whose ids are unique.

    Verdicts keep the order of ``asked``. Raises `AnswerUnreadable` for a body without an array of results.
    """
    envelope = _envelope(document)
    results: list[Any] = envelope["results"]
    echoed = [_echoed_id(result) for result in results]
    believed = _believed_places(echoed, asked)
    taken = set(believed.values())

    verdicts: list[Verdict] = []
    missing: list[int] = []
    untrusted: list[int] = []
    malformed: list[int] = []
    for place, library in enumerate(asked):
        library_id = library.library_id
        if library_id in believed:
            try:
                verdicts.append(_verdict(library_id, results[believed[library_id]]))
            except ValidationError:
                malformed.append(library_id)
        elif place >= len(results) or place in taken:
            missing.append(library_id)
        elif echoed[place] is None:
            malformed.append(library_id)
        else:
            untrusted.append(library_id)

    return Answer(
        verdicts=tuple(verdicts),
        missing=tuple(missing),
        untrusted=tuple(untrusted),
        malformed=tuple(malformed),
        results_dropped=len(results) - len(verdicts) - len(malformed),
        tracks_contract_version=_tracks_contract_version(envelope.get("tracks_contract_version")),
        cache_stats=_statistics(envelope.get("cache_stats")),
    )


def _envelope(document: object) -> dict[str, Any]:
    if isinstance(document, dict) and isinstance(document.get("results"), list):
        return document
    came = _json_name(document)
    if isinstance(document, dict):
        came += f" with {_json_name(document['results'])} as results" if "results" in document else " without results"
    raise AnswerUnreadable(
        status=200,
        expected="an object with an array of results",
        came=came,
        remedy="check that LIBRARY_METADATA_URL is LML's, and that its version follows the contract",
    )


def _json_name(value: object) -> str:
    """A value's JSON type."""
    return _JSON_NAMES.get(type(value), "a number")


def _echoed_id(result: object) -> int | None:
    """The library id that a result names; None if unreadable."""
    library_id = result.get("library_id") if isinstance(result, dict) else None
    return library_id if type(library_id) is int else None


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


def _verdict(library_id: int, result: dict[str, Any]) -> Verdict:
    """The verdict of a trusted result; raises pydantic's `ValidationError`."""
    checked = _Result.model_validate(result)
    is_single = checked.kind is Kind.SINGLE_ARTIST
    return Verdict(
        library_id=library_id,
        kind=checked.kind,
        artist_ids=checked.main.artist_ids() if checked.main and is_single else None,
        method=checked.method if is_single else None,
        confidence=checked.confidence if is_single else None,
        # Keeps both entries of a source named twice: which one is written depends on `rows.source_rows`.
        provenance=tuple([entry.provenance() for entry in checked.provenance]),
        tracks_attempted=checked.tracks_attempted,
        tracks=None if checked.tracks is None else tuple([track.track() for track in checked.tracks]),
    )


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
    return isinstance(name, str) and len(name) <= LONGEST_STATISTIC_NAME and not _LONE_SURROGATE.search(name)


def _is_statistic(number: object) -> bool:
    # False for NaN, infinities and booleans, which cannot be added up.
    return (type(number) is int or type(number) is float) and -LARGEST_STATISTIC <= number <= LARGEST_STATISTIC


# The schema: the components of the service's OpenAPI document under their names there, tighter where Postgres is. One
# core checks 55,000 results a second, or 16,000 compilations of 15 tracks; checks written by hand managed 80,000 and
# 16,000, and were harder to read.


def _storable(confidence: float) -> float:
    return confidence if confidence >= SMALLEST_CONFIDENCE else 0.0


def _named(text: str) -> str | None:
    """None for an empty or blank id, which means the same as null."""
    return text if text and not text.isspace() else None


def _canonical_uuid(text: str) -> str | None:
    """Postgres' spelling of the UUID, so that an unchanged id compares equal."""
    if _named(text) is None:
        return None
    # UUID() alone also accepts braces, urn:, underscores and other scripts' digits.
    if not _UUID.fullmatch(text):
        raise ValueError("not a UUID")
    return str(UUID(text))


# pydantic's strict str also refuses lone surrogates.
_Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=LONGEST_TEXT)]
_Id = Annotated[_Text, AfterValidator(_named)]
_UuidText = Annotated[_Text, AfterValidator(_canonical_uuid)]
_DiscogsId = Annotated[int, Field(ge=1, le=LARGEST_INTEGER)]
_Confidence = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AfterValidator(_storable)]
_Source = Literal["discogs", "musicbrainz", "wikidata", "spotify", "apple_music", "bandcamp"]
_Method = Literal[
    "manual",
    "cross_source_agreement",
    "exact_match",
    "name_variation",
    "member_group",
    "alias_match",
    "trigram",
    "llm",
]


class _Component(BaseModel):
    # Strict: no id as text, no 7.0, no true for 1. Unknown members are ignored, because services grow.
    model_config = ConfigDict(strict=True, extra="ignore")


class _Provenance(_Component):
    source: _Source
    method: _Method
    confidence: _Confidence | None
    external_id: _Id | None = None

    def provenance(self) -> Provenance:
        return Provenance(self.source, self.method, self.confidence, self.external_id)


class _Main(_Component):
    discogs_artist_id: _DiscogsId | None = None
    musicbrainz_artist_id: _UuidText | None = None
    wikidata_qid: _Id | None = None
    spotify_artist_id: _Id | None = None
    apple_music_artist_id: _Id | None = None
    bandcamp_id: _Id | None = None

    def artist_ids(self) -> ArtistIds:
        return ArtistIds(
            discogs_artist_id=self.discogs_artist_id,
            musicbrainz_artist_id=self.musicbrainz_artist_id,
            wikidata_qid=self.wikidata_qid,
            spotify_artist_id=self.spotify_artist_id,
            apple_music_artist_id=self.apple_music_artist_id,
            bandcamp_id=self.bandcamp_id,
        )


class _Track(_Component):
    """A malformed track costs the whole result; otherwise a partial list would pass for complete."""

    track_position: _Id | None
    # Name and title identify the catalogue's row and stay unchanged, even an empty title.
    artist_name: Annotated[_Text, Field(min_length=1)]
    track_title: _Text | None
    resolved_artist_name: _Id | None
    confidence: _Confidence | None
    method: _Method | None
    sources: list[_Provenance]

    def track(self) -> Track:
        return Track(
            track_position=self.track_position,
            artist_name=self.artist_name,
            track_title=self.track_title,
            resolved_artist_name=self.resolved_artist_name,
            confidence=self.confidence,
        )


class _Result(_Component):
    """All but `library_id`, which `_echoed_id` reads."""

    kind: Annotated[Kind, Field(strict=False)]
    main: _Main | None = None
    method: _Method | None = None
    confidence: _Confidence | None = None
    provenance: list[_Provenance]
    tracks_attempted: bool | None = None
    tracks: list[_Track] | None = None

    @model_validator(mode="after")
    def _agrees_with_its_kind(self) -> _Result:
        """A single artist has a complete verdict, though any id may be null; nothing else has ids.

        A contradictory result is refused. Trusting half of it costs more than asking again, because an unresolved
        library or a compilation is left alone for a month.
        """
        is_single = self.kind is Kind.SINGLE_ARTIST
        if is_single and (self.main is None or self.method is None or self.confidence is None):
            raise ValueError("a single artist without a composed verdict")
        if not is_single and self.main is not None and self.main.artist_ids() != ArtistIds():
            raise ValueError("ids for something other than a single artist")
        if self.kind is Kind.UNRESOLVED and (self.method is not None or self.confidence is not None):
            raise ValueError("a verdict for an unresolved library")
        return self
