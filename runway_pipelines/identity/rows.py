"""Turns a batch of verdicts into rows of the catalogue's tables: pure (library identity contract, sections 1 and 3).

Belongs here: which provenance may be written, which id goes where, which compilations are ready, and the counts that
need no database. `writer.py` compares with the existing rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from ctypes import c_float
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from runway_pipelines.identity.counts import Counts, Skip
from runway_pipelines.systems.lml.verdicts import TRACKS_CONTRACT_VERSION, Answer, Kind, Provenance, Track, Verdict

LONGEST_POSITION = 20

# The confidence that a method's provenance may have, both ends included.
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


class MainRow(NamedTuple):
    """A row of ``library_identity``; None means that LML has no such id."""

    library_id: int
    method: str
    confidence: float
    wikidata_qid: str | None
    spotify_id: str | None
    apple_music_id: str | None
    discogs_artist_id: int | None
    musicbrainz_artist_id: str | None
    bandcamp_id: str | None


class SourceRow(NamedTuple):
    """A row of ``library_identity_source``."""

    library_id: int
    source: str
    external_id: str
    method: str
    confidence: float


class TrackRow(NamedTuple):
    """An update for the rows of ``compilation_track_artist`` with this artist and title.

    ``track_position`` is None unless exactly one is usable.
    """

    library_id: int
    artist_name: str
    track_title: str | None
    resolved_artist_name: str
    confidence: float | None
    track_position: str | None


@dataclass
class BatchRows:
    """The rows of a batch, and the counts that need no database.

    ``stamped`` are the libraries that get ``unresolved_attempted_at``.
    """

    mains: list[MainRow] = field(default_factory=list)
    sources: list[SourceRow] = field(default_factory=list)
    tracks: list[TrackRow] = field(default_factory=list)
    stamped: list[int] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)


def unanswered(answer: Answer) -> Counts:
    """Counts an answer's libraries without a verdict."""
    return Counts(
        scanned=len(answer.missing) + len(answer.untrusted) + len(answer.malformed),
        rows_skipped=Counter(
            {
                Skip.CARDINALITY_MISMATCH: len(answer.missing),
                Skip.UNTRUSTED_LIBRARY_ID: len(answer.untrusted),
                Skip.LML_ERROR: len(answer.malformed),
            }
        ),
    )


def batch_rows(verdicts: Iterable[Verdict], tracks_contract_version: int | None) -> BatchRows:
    """The rows of storable verdicts on distinct libraries.

    Single artists count as `scanned` alone; the writer counts their outcome, because it knows the existing rows.
    """
    rows = BatchRows()
    for verdict in verdicts:
        rows.counts.scanned += 1
        if verdict.kind is Kind.SINGLE_ARTIST:
            rows.mains.append(_main_row(verdict))
            rows.sources += source_rows(verdict.library_id, verdict.provenance, rows.counts.others)
            continue
        rows.stamped.append(verdict.library_id)
        if verdict.kind is Kind.UNRESOLVED:
            rows.counts.rows_unresolved += 1
        elif is_ready(verdict, tracks_contract_version):
            rows.counts.rows_resolved_compilation += 1
            rows.tracks += track_rows(verdict.library_id, verdict.tracks or (), rows.counts.others)
        else:
            rows.counts.rows_skipped[Skip.COMPILATION] += 1
    return rows


def is_ready(verdict: Verdict, tracks_contract_version: int | None) -> bool:
    """Whether LML has matched the compilation's tracks."""
    if tracks_contract_version != TRACKS_CONTRACT_VERSION:
        return False
    return verdict.tracks_attempted is True or (verdict.tracks_attempted is False and bool(verdict.tracks))


def is_storable(verdict: Verdict) -> bool:
    """Whether a single artist's verdict has its main row's required values; checked here for dry runs too."""
    if verdict.kind is not Kind.SINGLE_ARTIST:
        return True
    confidence = verdict.confidence
    return None not in (verdict.artist_ids, verdict.method) and confidence is not None and 0 <= confidence <= 1


def _main_row(verdict: Verdict) -> MainRow:
    ids = verdict.artist_ids
    if ids is None or verdict.method is None or verdict.confidence is None:
        raise ValueError("A single artist's verdict without ids, method or confidence.")
    return MainRow(
        library_id=verdict.library_id,
        method=verdict.method,
        confidence=as_real(verdict.confidence),
        wikidata_qid=ids.wikidata_qid,
        spotify_id=ids.spotify_artist_id,
        apple_music_id=ids.apple_music_artist_id,
        discogs_artist_id=ids.discogs_artist_id,
        musicbrainz_artist_id=ids.musicbrainz_artist_id,
        bandcamp_id=ids.bandcamp_id,
    )


def source_rows(library_id: int, provenance: Iterable[Provenance], counted: Counter[str]) -> list[SourceRow]:
    """The writable provenance, the last entry of each source. Adds what is left out to ``counted``."""
    kept: dict[str, SourceRow] = {}
    for entry in provenance:
        if entry.confidence is None:
            counted["source_rows_skipped_null_confidence"] += 1
        elif entry.external_id is None:
            counted["source_rows_skipped_null_external_id"] += 1
        elif not is_in_band(entry.method, entry.confidence):
            counted["source_rows_out_of_band"] += 1
        else:
            confidence = as_real(entry.confidence)
            kept[entry.source] = SourceRow(library_id, entry.source, entry.external_id, entry.method, confidence)
    return list(kept.values())


def is_in_band(method: str, confidence: float) -> bool:
    """Whether the confidence lies in the method's band, at the column's precision. An unknown method has no band."""
    band = BANDS.get(method)
    return band is not None and as_real(band[0]) <= as_real(confidence) <= as_real(band[1])


@lru_cache(maxsize=4096)
def as_real(confidence: float) -> float:
    """The confidence as the column (float4) holds it, so that a repeated value compares equal."""
    return c_float(confidence).value


def track_rows(library_id: int, tracks: Iterable[Track], counted: Counter[str]) -> list[TrackRow]:
    """One row for each artist and title, from the last of its tracks. Adds both outcomes to ``counted``.

    A track for which LML names nobody writes nothing; not even its position counts.
    """
    rows: dict[tuple[str, str | None], TrackRow] = {}
    positions: dict[tuple[str, str | None], set[str]] = {}
    for track in tracks:
        name = track.resolved_artist_name
        if name is None or not name.strip():
            counted["compilation_track_rows_unnamed"] += 1
            continue
        key = (track.artist_name, track.track_title)
        confidence = None if track.confidence is None else as_real(track.confidence)
        rows[key] = TrackRow(library_id, *key, name, confidence, track_position=None)
        positions.setdefault(key, set()).update([track.track_position] if track.track_position else [])
    if rows:
        counted["compilation_track_rows_offered"] += len(rows)
    return [row._replace(track_position=_only_position(positions[key])) for key, row in rows.items()]


def _only_position(positions: Collection[str]) -> str | None:
    """The position, if there is exactly one and it fits the column."""
    if len(positions) != 1:
        return None
    [position] = positions
    return position if len(position) <= LONGEST_POSITION else None
