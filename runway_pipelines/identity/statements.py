"""The statements that write a batch of verdicts: one for each step, whatever the number of rows (contract, section 3).

Belongs here: SQL, and the conditions that protect what is there. Rows come as arrays (``unnest``), in the order of the
tuples of `rows.py`; each row that is locked, inserted or copied is taken in key order. In which order the steps go and
what is counted is `writer.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from psycopg import sql
from psycopg.adapt import PyFormat
from psycopg.sql import SQL, Composed, Identifier

NOTES = "consumer:lml-bulk"
LINK_METHOD = "lml_backfill"

# The main row's columns that LML's answers fill, in the order of `rows.MainRow`.
IDS = {"wikidata_qid": "text", "spotify_id": "text", "apple_music_id": "text"}
ARTIST_IDS = {"discogs_artist_id": "int", "musicbrainz_artist_id": "uuid", "bandcamp_id": "text"}
_HISTORY = (
    "library_id",
    "discogs_master_id",
    "discogs_release_id",
    "musicbrainz_release_group_mbid",
    "musicbrainz_release_mbid",
    "musicbrainz_recording_mbid",
    "wikidata_qid",
    "spotify_id",
    "apple_music_id",
    "last_verified_at",
    "method",
    "confidence",
    "agreement_sources",
    "notes",
)
_SOURCE = {"library_id": "int", "source": "text", "external_id": "text", "method": "text", "confidence": "real"}
_TRACK = {
    "library_id": "int",
    "artist_name": "text",
    "track_title": "text",
    "artist_id": "int",
    "is_named": "bool",
    "confidence": "real",
    "track_position": "text",
}


@dataclass(frozen=True)
class Statements:
    """For one schema, with or without the columns of the artist-level ids.

    Mains, sources and tracks are bound as one array for each of their columns, named like it, with ``first`` and
    ``last``, the bounds of their library ids.
    """

    find_mains: bytes
    insert_mains: bytes
    lock_mains: bytes
    compare_mains: bytes
    keep_history: bytes
    update_mains: bytes
    touch_mains: bytes
    changed_sources: bytes
    write_sources: bytes
    lock_tracks: bytes
    compare_tracks: bytes
    update_tracks: bytes
    lock_stamped: bytes
    stamp: bytes
    all_artists: bytes
    main_columns: tuple[str, ...]
    source_columns: tuple[str, ...]
    track_columns: tuple[str, ...]


@cache
def statements(schema: str, has_artist_columns: bool) -> Statements:
    """The statements for this catalogue."""
    ids = IDS | ARTIST_IDS if has_artist_columns else IDS
    mains = {"library_id": "int", "method": "text", "confidence": "real"} | ids
    library, identity, source, history, track, artists = (
        Identifier(schema, name)
        for name in (
            "library",
            "library_identity",
            "library_identity_source",
            "library_identity_history",
            "compilation_track_artist",
            "artists",
        )
    )
    composed = {
        "find_mains": SQL("select library_id from {} where library_id = any(%(ids)s::int[])").format(identity),
        "insert_mains": _insert_mains(identity, mains, ids),
        "lock_mains": _lock(identity, "library_id"),
        "compare_mains": _compare_mains(identity, mains, ids),
        "keep_history": _keep_history(identity, history, (*_HISTORY, *(ARTIST_IDS if has_artist_columns else ()))),
        "update_mains": _update_mains(identity, mains, ids),
        "touch_mains": _set_moment(identity, "last_verified_at", "library_id"),
        "changed_sources": SQL("select u.library_id {}").format(_changed_sources(source)),
        "write_sources": _write_sources(source),
        "lock_tracks": _lock_tracks(track),
        "compare_tracks": _compare_tracks(track),
        "update_tracks": _update_tracks(track),
        "lock_stamped": _lock(library, "id"),
        "stamp": _set_moment(library, "unresolved_attempted_at", "id"),
        "all_artists": SQL("select id, artist_name from {} where artist_name is not null").format(artists),
    }
    return Statements(
        **{name: statement.as_bytes() for name, statement in composed.items()},
        main_columns=tuple(mains),
        source_columns=tuple(_SOURCE),
        track_columns=tuple(_TRACK),
    )


def artists_named(schema: str, function: Identifier) -> bytes:
    """The one artist of each folded name of ``names``; the index on ``artists`` is on the same function."""
    return (
        SQL(
            "select u.name, min(a.id) from unnest(%(names)s::text[]) as u(name)"
            " join {artists} as a on {fold}(a.artist_name) = {fold}(u.name) group by u.name having count(*) = 1"
        )
        .format(artists=Identifier(schema, "artists"), fold=function)
        .as_bytes()
    )


def _names(columns: Iterable[str], table: str | None = None) -> Composed:
    return SQL(", ").join(Identifier(table, name) if table else Identifier(name) for name in columns)


def _given(columns: dict[str, str]) -> Composed:
    """The bound rows, as the table ``u``. In binary: a text costs 220 ns instead of 650 so, a number 190 of 1,200."""
    arrays = SQL(", ").join(
        SQL("{}::{}[]").format(sql.Placeholder(name, format=PyFormat.BINARY), SQL(kind))  # type: ignore[arg-type]
        for name, kind in columns.items()
    )
    return SQL("unnest({}) as u({})").format(arrays, _names(columns))


def _between(table: str) -> Composed:
    """Batches come from pages by id, so that their range is an index scan of little more than their rows. By the keys
    alone a join of 500 with 45,000 reads them all: 50 ms instead of 4.
    """
    return SQL("{}.library_id between %(first)s and %(last)s").format(SQL(table))  # type: ignore[arg-type]


def _set_moment(table: Identifier, column: str, key: str) -> Composed:
    return SQL("update {table} set {column} = %(now)s where {key} = any(%(ids)s::int[])").format(
        table=table, column=Identifier(column), key=Identifier(key)
    )


def _lock(table: Identifier, key: str) -> Composed:
    """Against other writers, not against rows that refer to these."""
    return SQL("select {key} from {table} where {key} = any(%(ids)s::int[]) order by {key} for no key update").format(
        key=Identifier(key), table=table
    )


def _insert_mains(identity: Identifier, mains: dict[str, str], ids: dict[str, str]) -> Composed:
    return SQL(
        "insert into {identity} (library_id, method, confidence, {ids}, last_verified_at, notes)"
        " select {given_columns}, %(now)s, {notes} from {given} order by u.library_id"
        " on conflict (library_id) do nothing returning library_id"
    ).format(
        identity=identity,
        ids=_names(ids),
        given_columns=_names(mains, "u"),
        notes=sql.Literal(NOTES),
        given=_given(mains),
    )


def _compare_mains(identity: Identifier, mains: dict[str, str], ids: dict[str, str]) -> Composed:
    """(library_id, whether it has no row, whether its row is manual, the columns whose content would change)."""
    changes = [
        SQL("case when u.{name} is not null and u.{name} is distinct from e.{name} then {label} end").format(
            name=Identifier(name), label=sql.Literal(name)
        )
        for name in ("method", "confidence", *ids)
    ]
    return SQL(
        "select u.library_id, e.library_id is null, e.method is not distinct from 'manual', concat_ws(', ', {changes})"
        " from {given} left join {identity} as e on e.library_id = u.library_id and {between}"
    ).format(changes=SQL(", ").join(changes), given=_given(mains), identity=identity, between=_between("e"))


def _keep_history(identity: Identifier, history: Identifier, columns: tuple[str, ...]) -> Composed:
    return SQL(
        "insert into {history} ({columns}, superseded_at, superseded_reason)"
        " select {old}, %(now)s, u.reason"
        " from unnest(%(library_id)s::int[], %(reason)s::text[]) as u(library_id, reason)"
        " join {identity} as e on e.library_id = u.library_id where {between} order by e.library_id"
    ).format(
        history=history,
        columns=_names(columns),
        old=_names(columns, "e"),
        identity=identity,
        between=_between("e"),
    )


def _update_mains(identity: Identifier, mains: dict[str, str], ids: dict[str, str]) -> Composed:
    """An id that LML says nothing about stays."""
    kept = SQL(", ").join(SQL("{name} = coalesce(u.{name}, t.{name})").format(name=Identifier(name)) for name in ids)
    return SQL(
        "update {identity} as t set method = u.method, confidence = u.confidence, {kept}, last_verified_at = %(now)s,"
        " notes = {notes} from {given} where t.library_id = u.library_id and {between}"
    ).format(identity=identity, kept=kept, notes=sql.Literal(NOTES), given=_given(mains), between=_between("t"))


def _changed_sources(source: Identifier) -> Composed:
    return SQL(
        "from {given} left join {source} as e on e.library_id = u.library_id and e.source = u.source"
        " and {between}"
        " where e.library_id is null"
        " or (e.external_id, e.method, e.confidence) is distinct from (u.external_id, u.method, u.confidence)"
    ).format(given=_given(_SOURCE), source=source, between=_between("e"))


def _write_sources(source: Identifier) -> Composed:
    return SQL(
        "insert into {source} ({columns}, last_verified_at, notes) select {given_columns}, %(now)s, {notes} {changed}"
        " order by u.library_id, u.source on conflict (library_id, source) do update set"
        " external_id = excluded.external_id, method = excluded.method, confidence = excluded.confidence,"
        " last_verified_at = excluded.last_verified_at, notes = excluded.notes returning library_id"
    ).format(
        source=source,
        columns=_names(_SOURCE),
        given_columns=_names(_SOURCE, "u"),
        notes=sql.Literal(NOTES),
        changed=_changed_sources(source),
    )


_IS_TRACK = SQL(
    "t.library_id = u.library_id and t.artist_name = u.artist_name and t.track_title is not distinct from u.track_title"
    " and {between}"
).format(between=_between("t"))
_IS_LIBRARIANS = SQL("t.track_artist_link_method is not distinct from 'librarian'")
# Where LML names nobody, an artist that is linked stays: it says nothing about that id.
_LINK_CHANGES = SQL(
    "(not {librarians} and (u.is_named or t.track_artist_id is null)"
    " and (t.track_artist_id, t.track_artist_link_confidence, t.track_artist_link_method)"
    " is distinct from (u.artist_id, u.confidence, {method}))"
).format(librarians=_IS_LIBRARIANS, method=sql.Literal(LINK_METHOD))
_POSITION_CHANGES = SQL("(coalesce(t.track_position, '') = '' and u.track_position is not null)")


def _lock_tracks(track: Identifier) -> Composed:
    return SQL(
        "select t.id from {given} join {track} as t on {is_track} where {link} or {position}"
        " order by t.id for no key update of t"
    ).format(given=_given(_TRACK), track=track, is_track=_IS_TRACK, link=_LINK_CHANGES, position=_POSITION_CHANGES)


def _compare_tracks(track: Identifier) -> Composed:
    """For each offered track and each of its rows: (whether there is a row, whether it is a librarian's, whether the
    link would change, whether it would get an artist, whether the position would be filled).
    """
    return SQL(
        "select t.id is not null, {librarians}, t.id is not null and {link}, u.artist_id is not null,"
        " t.id is not null and {position} from {given} left join {track} as t on {is_track}"
    ).format(
        librarians=_IS_LIBRARIANS,
        link=_LINK_CHANGES,
        position=_POSITION_CHANGES,
        given=_given(_TRACK),
        track=track,
        is_track=_IS_TRACK,
    )


def _update_tracks(track: Identifier) -> Composed:
    linked = SQL(", ").join(
        SQL("{name} = case when {link} then {value} else t.{name} end").format(
            name=Identifier(name), link=_LINK_CHANGES, value=value
        )
        for name, value in (
            ("track_artist_id", SQL("u.artist_id")),
            ("track_artist_link_confidence", SQL("u.confidence")),
            ("track_artist_link_method", sql.Literal(LINK_METHOD)),
        )
    )
    return SQL(
        "update {track} as t set {linked}, track_position = case when {position} then u.track_position"
        " else t.track_position end from {given} where {is_track} and ({link} or {position})"
    ).format(
        track=track,
        linked=linked,
        position=_POSITION_CHANGES,
        given=_given(_TRACK),
        is_track=_IS_TRACK,
        link=_LINK_CHANGES,
    )
