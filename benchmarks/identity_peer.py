"""The same verdicts written as one would without thinking of sets: a transaction for each library, a statement for each
row.

Belongs here: what the writer is compared with. Its rows and its protections are the writer's, so that the tables end
the same, or the comparison means nothing; its statements are prepared after a few times, as the driver does by itself.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import Connection

from runway_pipelines.identity.rows import BatchRows, MainRow, SourceRow, TrackRow, as_real, batch_rows
from runway_pipelines.identity.statements import LINK_METHOD, NOTES
from runway_pipelines.systems.lml.verdicts import Verdict

_IDS = ("wikidata_qid", "spotify_id", "apple_music_id")
_COMPARED = ("method", "confidence", *_IDS)
_KEPT = (
    "library_id, discogs_master_id, discogs_release_id, musicbrainz_release_group_mbid, musicbrainz_release_mbid,"
    " musicbrainz_recording_mbid, wikidata_qid, spotify_id, apple_music_id, last_verified_at, method, confidence,"
    " agreement_sources, notes"
)
_LOCK = f"select {', '.join(_COMPARED)}, notes from library_identity where library_id = %s for update"
_SOURCE = (
    "insert into library_identity_source as t"
    " (library_id, source, external_id, method, confidence, last_verified_at, notes)"
    " values (%s, %s, %s, %s, %s, %s, %s) on conflict (library_id, source) do update set"
    " external_id = excluded.external_id, method = excluded.method, confidence = excluded.confidence,"
    " last_verified_at = excluded.last_verified_at, notes = excluded.notes,"
    " boost_sources = case when (t.external_id, t.method, t.confidence) is not distinct from"
    " (excluded.external_id, excluded.method, excluded.confidence) then t.boost_sources end"
)
_HISTORY = (
    f"insert into library_identity_history ({_KEPT}, superseded_at, superseded_reason)"
    f" select {_KEPT}, %s, %s from library_identity where library_id = %s"
)
_MAIN = (
    "insert into library_identity as t"
    " (library_id, method, confidence, wikidata_qid, spotify_id, apple_music_id, last_verified_at, notes)"
    " values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict (library_id) do update set"
    " method = excluded.method, confidence = excluded.confidence,"
    " wikidata_qid = coalesce(excluded.wikidata_qid, t.wikidata_qid),"
    " spotify_id = coalesce(excluded.spotify_id, t.spotify_id),"
    " apple_music_id = coalesce(excluded.apple_music_id, t.apple_music_id),"
    " last_verified_at = excluded.last_verified_at, notes = excluded.notes"
)
_NO_LONGER_AGREED = "update library_identity set agreement_sources = null where library_id = %s"
_TOUCH = "update library_identity set last_verified_at = %s where library_id = %s"
_STAMP = "update library set unresolved_attempted_at = %s where id = %s"
_ARTIST = "select id from artists where fold_artist_name(artist_name) = fold_artist_name(%s) limit 2"
_LINK = (
    "update compilation_track_artist set track_artist_id = %s, track_artist_link_confidence = %s,"
    " track_artist_link_method = %s where library_id = %s and artist_name = %s and track_title is not distinct from %s"
    " and track_artist_link_method is distinct from 'librarian'"
)
_POSITION = (
    "update compilation_track_artist set track_position = %s where library_id = %s and artist_name = %s"
    " and track_title is not distinct from %s and coalesce(track_position, '') = ''"
    " and track_artist_link_method is distinct from 'librarian'"
)


def write_library(connection: Connection[Any], verdict: Verdict, version: int | None, now: datetime) -> None:
    """One library in one transaction; the tables are on the search path."""
    rows: BatchRows = batch_rows([verdict], version)
    with connection.transaction():
        for main in rows.mains:
            _write_main(connection, main, rows.sources, now)
        for track in rows.tracks:
            _write_track(connection, track)
        for library_id in rows.stamped:
            connection.execute(_STAMP, [now, library_id])


def _write_main(connection: Connection[Any], main: MainRow, sources: list[SourceRow], now: datetime) -> None:
    before = connection.execute(_LOCK, [main.library_id]).fetchone()
    for source in sources:
        connection.execute(_SOURCE, [*source, now, NOTES])
    if before is not None:
        *content, notes = before
        if content[0] == "manual" and notes != NOTES:
            connection.execute(_TOUCH, [now, main.library_id])
            return
        stands = dict(zip(_COMPARED, content, strict=True)) | {"confidence": as_real(content[1])}
        changed = [name for name in _COMPARED if getattr(main, name) not in (None, stands[name])]
        if changed:
            connection.execute(_HISTORY, [now, f"LML changed {', '.join(changed)}", main.library_id])
            connection.execute(_NO_LONGER_AGREED, [main.library_id])
    ids = [getattr(main, name) for name in _IDS]
    connection.execute(_MAIN, [main.library_id, main.method, main.confidence, *ids, now, NOTES])


def _write_track(connection: Connection[Any], track: TrackRow) -> None:
    found = connection.execute(_ARTIST, [track.resolved_artist_name]).fetchall()
    artist_id = found[0][0] if len(found) == 1 else None
    key = [track.library_id, track.artist_name, track.track_title]
    connection.execute(_LINK, [artist_id, track.confidence, LINK_METHOD, *key])
    if track.track_position is not None:
        connection.execute(_POSITION, [track.track_position, *key])
