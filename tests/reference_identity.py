"""A naive reference of what LML's answers do to the catalogue's tables, to compare the real writer with.

Written from the library identity contract, sections 1, 3 and 4, and from nothing else: tables are dicts, verdicts are
taken one after the other, rows one after the other. It must stay independent of what it is compared with; only the
values of `verdicts.py` are shared.
"""

import struct
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from runway_pipelines.systems.lml.verdicts import Answer, Kind, Provenance, Verdict

Row = dict[str, Any]

NOTES = "consumer:lml-bulk"
RELEASE_IDS = (
    "discogs_master_id",
    "discogs_release_id",
    "musicbrainz_release_group_mbid",
    "musicbrainz_release_mbid",
    "musicbrainz_recording_mbid",
)
PLAIN_IDS = ("wikidata_qid", "spotify_id", "apple_music_id")
ARTIST_IDS = ("discogs_artist_id", "musicbrainz_artist_id", "bandcamp_id")


def float4(number: float | None) -> float | None:
    return None if number is None else struct.unpack("f", struct.pack("f", number))[0]


def fold(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", name) if not "\u0300" <= c <= "\u036f").lower()


def is_in_band(method: str, confidence: float) -> bool:
    percent = round(confidence * 100, 4)
    return {
        "manual": percent == 100,
        "cross_source_agreement": 0 <= percent <= 100,
        "exact_match": percent == 100,
        "name_variation": 90 <= percent <= 99,
        "member_group": 80 <= percent <= 89,
        "alias_match": 75 <= percent <= 84,
        "trigram": 70 <= percent <= 100,
        "llm": 60 <= percent <= 79,
    }.get(method, False)


def moved(old: datetime | None, now: datetime, is_recheck: bool) -> datetime:
    """A moment that says no more than which day: a second write on one day tells nothing, except a recheck."""
    if old is None or is_recheck or old.astimezone(UTC).date() != now.astimezone(UTC).date():
        return now
    return old


@dataclass
class ReferenceCatalogue:
    """The tables. ``tracks`` are rows by id, ``artists`` names by id.

    ``track_counts`` are those of all answers so far: the tracks that name nobody, and the distinct ones that name
    somebody, with and without a row.
    """

    has_artist_columns: bool = True
    artists: dict[int, str] = field(default_factory=dict)
    stamps: dict[int, datetime | None] = field(default_factory=dict)
    identity: dict[int, Row] = field(default_factory=dict)
    sources: dict[tuple[int, str], Row] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    tracks: dict[int, Row] = field(default_factory=dict)
    track_counts: Counter[str] = field(default_factory=Counter)

    @property
    def ids(self) -> tuple[str, ...]:
        return PLAIN_IDS + (ARTIST_IDS if self.has_artist_columns else ())

    def apply(self, answer: Answer, now: datetime, is_recheck: bool = False) -> Counter[str]:
        """Write the answer down, and return the counts that the contract names and that are not zero."""
        counted: Counter[str] = Counter()
        for skip, libraries in (
            ("lml_cardinality_mismatch", answer.missing),
            ("lml_untrusted_library_id", answer.untrusted),
            ("lml_error", answer.malformed),
        ):
            counted["scanned"] += len(libraries)
            counted[skip] += len(libraries)
        for verdict in sorted(answer.verdicts, key=lambda verdict: verdict.library_id):
            counted["scanned"] += 1
            if verdict.kind is Kind.SINGLE_ARTIST:
                self._single_artist(verdict, now, counted, is_recheck)
                continue
            self.stamps[verdict.library_id] = moved(self.stamps.get(verdict.library_id), now, is_recheck)
            if verdict.kind is Kind.UNRESOLVED:
                counted["rows_unresolved"] += 1
            else:
                self._compilation(verdict, answer.tracks_contract_version, counted)
        return +counted

    def _single_artist(self, verdict: Verdict, now: datetime, counted: Counter[str], is_recheck: bool) -> None:
        touched = self._write_sources(verdict, now, counted)
        assert verdict.artist_ids is not None
        said = {
            "wikidata_qid": verdict.artist_ids.wikidata_qid,
            "spotify_id": verdict.artist_ids.spotify_artist_id,
            "apple_music_id": verdict.artist_ids.apple_music_artist_id,
            "discogs_artist_id": verdict.artist_ids.discogs_artist_id,
            "musicbrainz_artist_id": verdict.artist_ids.musicbrainz_artist_id,
            "bandcamp_id": verdict.artist_ids.bandcamp_id,
        }
        said = {name: said[name] for name in self.ids}
        old = self.identity.get(verdict.library_id)
        if old is None:
            self.identity[verdict.library_id] = {
                "library_id": verdict.library_id,
                **dict.fromkeys(RELEASE_IDS),
                **said,
                "method": verdict.method,
                "confidence": float4(verdict.confidence),
                "last_verified_at": now,
                "agreement_sources": None,
                "notes": NOTES,
            }
            counted["rows_resolved"] += 1
            return
        moment = moved(old["last_verified_at"], now, is_recheck)
        if old["method"] == "manual" and old["notes"] != NOTES:
            self.identity[verdict.library_id] = old | {"last_verified_at": moment}
            counted["manual_protected"] += 1
            return
        new = old | {name: value for name, value in said.items() if value is not None}
        new |= {"method": verdict.method, "confidence": float4(verdict.confidence)}
        if new != old:
            self.history.append(old | {"superseded_at": now})
            new |= {"agreement_sources": None, "notes": NOTES}
            moment = now
        elif not touched:
            counted["rows_unchanged"] += 1
        self.identity[verdict.library_id] = new | {"last_verified_at": moment}
        counted["rows_resolved"] += 1

    def _write_sources(self, verdict: Verdict, now: datetime, counted: Counter[str]) -> bool:
        wanted: dict[str, Provenance] = {}
        for entry in verdict.provenance:
            if entry.confidence is None:
                counted["source_rows_skipped_null_confidence"] += 1
            elif entry.external_id is None:
                counted["source_rows_skipped_null_external_id"] += 1
            elif not is_in_band(entry.method, entry.confidence):
                counted["source_rows_out_of_band"] += 1
            else:
                wanted[entry.source] = entry
        touched = False
        for source, entry in wanted.items():
            key = (verdict.library_id, source)
            content = {
                "external_id": entry.external_id,
                "method": entry.method,
                "confidence": float4(entry.confidence),
            }
            old = self.sources.get(key)
            if old is None or {name: old[name] for name in content} != content:
                key_columns = {"library_id": verdict.library_id, "source": source}
                of_this_write = {"last_verified_at": now, "boost_sources": None, "notes": NOTES}
                self.sources[key] = key_columns | content | of_this_write
                counted["source_rows_written"] += 1
                touched = True
        return touched

    def _compilation(self, verdict: Verdict, version: int | None, counted: Counter[str]) -> None:
        tracks = verdict.tracks or ()
        has_run = version == 1 and (verdict.tracks_attempted or (verdict.tracks_attempted is False and tracks != ()))
        if not has_run:
            counted["compilation"] += 1
            return
        counted["rows_resolved_compilation"] += 1
        self.track_counts["unnamed"] += sum(t.resolved_artist_name is None for t in tracks)
        naming = [t for t in tracks if t.resolved_artist_name is not None]
        keys = {(row["artist_name"], row["track_title"]) for row in self.tracks.values()
                if row["library_id"] == verdict.library_id}  # fmt: skip
        offered = {(t.artist_name, t.track_title) for t in naming}
        self.track_counts.update(offered=len(offered), unmatched=len(offered - keys))
        for row in self.tracks.values():
            if row["library_id"] != verdict.library_id or row["track_artist_link_method"] == "librarian":
                continue
            same = [t for t in naming if (t.artist_name, t.track_title) == (row["artist_name"], row["track_title"])]
            if not same:
                continue
            positions = {t.track_position for t in same} - {None, ""}
            if not row["track_position"] and len(positions) == 1 and len(min(positions)) <= 20:
                row["track_position"] = min(positions)
            said = same[-1]
            row["track_artist_id"] = self._artist(said.resolved_artist_name)
            row["track_artist_link_confidence"] = float4(said.confidence)
            row["track_artist_link_method"] = "lml_backfill"

    def _artist(self, name: str | None) -> int | None:
        bearers = [key for key, artist in self.artists.items() if name is not None and fold(artist) == fold(name)]
        return bearers[0] if len(bearers) == 1 else None
