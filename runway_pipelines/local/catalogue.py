"""The radio station's catalogue for the embedded stack and the tests: tables and synthetic content.

In production, another application owns these tables (library identity contract, section 5). The content is a function
of the numbers alone; seeding again keeps what the pipeline has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
from psycopg import sql
from psycopg.sql import SQL, Identifier

from runway_pipelines.identity.migration import apply
from runway_pipelines.local.draws import Draws, Ints
from runway_pipelines.local.lml_verdicts import compilation_tracks, track_artists

SCHEMA = "wxyc_schema"
LIBRARIES = 5_000
CHANGE_FEED = "catalogue_changes"  # the channel that the row triggers notify
FIRST_OF_LML = 1_000_001  # above the artist ids that grow with the catalogue

_IDENTITY_COLUMNS = (
    "discogs_master_id int, discogs_release_id int, musicbrainz_release_group_mbid uuid, musicbrainz_release_mbid uuid,"
    " musicbrainz_recording_mbid uuid, wikidata_qid text, spotify_id text, apple_music_id text,"
    " last_verified_at timestamptz not null, method text not null,"
    " confidence real not null check (confidence between 0 and 1), agreement_sources text, notes text"
)
_TABLES = f"""
create table if not exists artists (id serial primary key, artist_name varchar(128) not null);
create table if not exists library (
    id serial primary key, artist_name varchar(128), album_title varchar(128) not null, canonical_entity_id text,
    legacy_release_id int not null, code_volume_letters varchar(4), unresolved_attempted_at timestamptz
);
create table if not exists library_identity (
    library_id int primary key references library (id), {_IDENTITY_COLUMNS},
    distinct_unresolved_sources int generated always as (
        num_nulls(discogs_master_id, discogs_release_id, musicbrainz_release_group_mbid, musicbrainz_release_mbid,
            musicbrainz_recording_mbid, wikidata_qid, spotify_id, apple_music_id)
    ) stored
);
create index if not exists library_identity_quality
    on library_identity (confidence, distinct_unresolved_sources desc);
create table if not exists library_identity_source (
    library_id int references library (id), source text, external_id text not null, method text not null,
    confidence real not null check (confidence between 0 and 1), last_verified_at timestamptz not null,
    boost_sources text, notes text, primary key (library_id, source)
);
create table if not exists library_identity_history (
    history_id serial primary key, library_id int not null, {_IDENTITY_COLUMNS},
    superseded_at timestamptz default now(), superseded_reason text not null, reason_category text,
    archived_at timestamptz
);
create table if not exists compilation_track_artist (
    id serial primary key, library_id int not null references library (id), artist_name varchar(255) not null,
    track_title varchar(255), track_position varchar(20), track_artist_id int references artists (id),
    track_artist_link_confidence real check (track_artist_link_confidence between 0 and 1),
    track_artist_link_method text, unique (library_id, artist_name, track_title)
);
create unique index if not exists compilation_track_artist_untitled
    on compilation_track_artist (library_id, artist_name) where track_title is null;
"""
# A stack of an earlier version may hold what the second unique index refuses.
_UPGRADE = """
do $$ begin
    if exists (
        select from pg_catalog.pg_attribute where attrelid = to_regclass('compilation_track_artist')
            and attname = 'track_title' and atttypid = 'text'::regtype
    ) then
        delete from compilation_track_artist as t using compilation_track_artist as first
            where t.library_id = first.library_id and t.artist_name = first.artist_name and t.id > first.id
                and t.track_title is null and first.track_title is null;
        alter table compilation_track_artist alter column track_title type varchar(255);
    end if;
end $$;
"""
# The real schema also notifies its change feed of every row.
_CHANGE_FEED = f"""
create or replace function notify_change() returns trigger language plpgsql as $$
declare
    changed record := case when tg_op = 'DELETE' then old else new end;
    key int;
begin
    if tg_table_name = 'library_identity' then key := changed.library_id; else key := changed.id; end if;
    perform pg_notify(
        '{CHANGE_FEED}', json_build_object('table', tg_table_name, 'op', tg_op, 'id', key)::text
    );
    return null;
end $$;
create or replace trigger notify_change after insert or update or delete on library
    for each row execute function notify_change();
create or replace trigger notify_change after insert or update or delete on library_identity
    for each row execute function notify_change();
create or replace trigger notify_change after insert or update or delete on compilation_track_artist
    for each row execute function notify_change();
"""
# pg_unicode_fast lowers case like Python's str.lower, whatever the server's locale; Postgres 14 does not have it yet.
_FOLDING = r"""
create or replace function fold_artist_name(name text) returns text language sql immutable strict parallel safe
    return lower(regexp_replace(normalize(name, NFD), '[\u0300-\u036F]', '', 'g') collate pg_catalog.pg_unicode_fast);
create index if not exists artists_folded_name on artists (fold_artist_name(artist_name));
"""
_COLUMNS = {
    "artists": ("id", "artist_name"),
    "library": (
        "id", "artist_name", "album_title", "canonical_entity_id", "legacy_release_id", "code_volume_letters",
        "unresolved_attempted_at",
    ),
    "library_identity": ("library_id", "discogs_release_id", "spotify_id", "last_verified_at", "method", "confidence"),
    "library_identity_source": ("library_id", "source", "external_id", "method", "confidence", "last_verified_at"),
    "compilation_track_artist": (
        "id", "library_id", "artist_name", "track_title", "track_position", "track_artist_id",
        "track_artist_link_confidence", "track_artist_link_method",
    ),
}  # fmt: skip
_LONG_AGO = datetime(2026, 1, 5, 12, tzinfo=UTC)

_FIRST = (
    "Amber", "Björn", "Clara", "Dusty", "Élise", "Fennel", "Gösta", "Hazel", "Iñaki", "Juno", "Kasimir", "Łucja",
    "Marisol", "Niamh", "Ødger", "Petra", "Quill", "Renée", "Søren", "Tomás", "Ursula", "Vågn", "Willa", "Zoë",
)  # fmt: skip
_LAST = (
    "Ashgrove", "Bellweather", "Corvidae", "Dunlin", "Elderflower", "Fjellström", "Grünwald", "Halcyon", "Inkwell",
    "Jazmín", "Kestrel", "Lindqvist", "Müller", "Nightjar", "Ortega", "Pärlan", "Quartz", "Rookery", "Sandpiper",
    "Thistle", "Umbra", "Vireo", "Wren", "Yarrow",
)  # fmt: skip
_THINGS = (
    "Harbor", "Static", "Lantern", "Meadow", "Signal", "Orchard", "Tape", "Window", "Comet", "Ledger", "Riverbed",
    "Satellite", "Attic", "Compass", "Ember", "Parade",
)  # fmt: skip
_GENRES = ("Blues", "Jazz", "Reggae", "Rock", "Soundtracks", "Hip-hop")


def create_tables(
    connection: psycopg.Connection[Any],
    schema: str = SCHEMA,
    *,
    folding: bool = True,
    change_feed: bool = True,
    artist_columns: bool = False,
) -> None:
    """Create what is missing: the schema, the tables, and with ``folding`` the folding function and its index.

    ``change_feed`` adds the row triggers, ``artist_columns`` applies the optional migration. Runs in one transaction,
    or within the caller's.
    """
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"catalogue/{schema}"])
        connection.execute(SQL("create schema if not exists {}").format(Identifier(schema)))
        before = connection.execute("select current_setting('search_path')").fetchone()
        connection.execute("select set_config('search_path', quote_ident(%s), true)", [schema])
        connection.execute(_UPGRADE.encode())
        connection.execute(_TABLES.encode())
        if folding:
            connection.execute(_FOLDING.encode())
        if change_feed:
            connection.execute(_CHANGE_FEED.encode())
        connection.execute("select set_config('search_path', %s, true)", before)
    if artist_columns:
        apply(connection, schema)


def seed_catalogue(
    connection: psycopg.Connection[Any],
    schema: str = SCHEMA,
    *,
    libraries: int = LIBRARIES,
    change_feed: bool = True,
) -> int:
    """Create the tables, add the synthetic content, and return the number of added rows (0 the second time).

    Existing rows stay as they are.
    """
    added = 0
    with connection.transaction():
        create_tables(connection, schema, change_feed=change_feed)
        for table, rows in catalogue_rows(libraries).items():
            added += _add(connection, schema, table, _COLUMNS[table], rows)
    if added:
        connection.execute(SQL("analyze {}").format(SQL(", ").join(Identifier(schema, table) for table in _COLUMNS)))
    return added


def catalogue_rows(libraries: int) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each table; a larger catalogue starts with the rows of a smaller one."""
    numbers = np.arange(1, libraries + 1)
    draws = Draws("catalogue")
    artists = _artists(max(libraries // 4, 8))
    library = list(_libraries(draws, numbers))
    identities, sources = _verified_earlier(draws, numbers)
    return {
        "artists": artists,
        "library": library,
        "library_identity": identities,
        "library_identity_source": sources,
        "compilation_track_artist": list(_tracks(draws, _compilations(draws, library), dict(artists))),
    }


def _artist_name(number: int) -> str:
    """A name for each number; every ninth is its predecessor in another spelling, which folds to the same."""
    if number % 9 == 0:
        return _artist_name(number - 1).upper()
    first, last = _FIRST[number % len(_FIRST)], _LAST[number // len(_FIRST) % len(_LAST)]
    again = number // (len(_FIRST) * len(_LAST))
    return f"{first} {last}" + (f" {again + 1}" if again else "")


def _artists(count: int) -> list[tuple[int, str]]:
    """The artists that the local LML names, then ``count`` of the catalogue's own."""
    known = [(FIRST_OF_LML + place, name) for place, name in enumerate(track_artists())]
    return known + [(number, _artist_name(number)) for number in range(1, count + 1)]


def _libraries(draws: Draws, numbers: Ints) -> Iterator[tuple[Any, ...]]:
    """One in 25 is on a compilation shelf; some lack an artist or a canonical entity, or have a stamp."""
    shelves, titles, places = (draws.below(field, numbers, 1_000_000) for field in ("shelf", "title", "place"))
    nameless = draws.chance("nameless", numbers, 0.01)
    canonical = draws.chance("canonical", numbers, 0.9)
    stamped = draws.chance("stamped", numbers, 0.02)
    for at, number in enumerate(numbers.tolist()):
        on_shelf = shelves[at] % 25 == 0
        genre = _GENRES[places[at] % len(_GENRES)]
        artist = f"Various Artists - {genre}" if on_shelf else _artist_name(1 + int(places[at]) % max(number // 4, 8))
        letters = f"Z{chr(97 + int(titles[at]) % 5)}" if on_shelf else (None, None, "Ba", "C")[shelves[at] % 4]
        yield (
            number,
            None if nameless[at] else artist,
            f"{_THINGS[titles[at] % 16]} {_THINGS[titles[at] // 16 % 16]} {number}",
            f"entity-{number}" if canonical[at] else None,
            100_000 + number,
            letters,
            _LONG_AGO if stamped[at] else None,
        )


def _verified_earlier(draws: Draws, numbers: Ints) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Old identities, from the station's staff and from an earlier job."""
    manual = numbers[draws.chance("manual", numbers, 0.01)].tolist()
    earlier = numbers[draws.chance("earlier", numbers, 0.05)].tolist()
    by_hand = set(manual)
    identities: list[tuple[Any, ...]] = [(n, 700_000 + n, f"by-hand-{n}", _LONG_AGO, "manual", 1.0) for n in manual]
    identities += [(n, 700_000 + n, None, _LONG_AGO, "trigram", 0.75) for n in earlier if n not in by_hand]
    sources: list[tuple[Any, ...]] = [(n, "spotify", f"by-hand-{n}", "manual", 1.0, _LONG_AGO) for n in manual]
    sources += [(n, "discogs", str(700_000 + n), "trigram", 0.75, _LONG_AGO) for n in earlier if n not in by_hand]
    return identities, sources


def _compilations(draws: Draws, library: Sequence[tuple[Any, ...]]) -> list[tuple[int, str, str]]:
    """Compilations with known tracks: half of those on the shelf, and a few elsewhere."""
    ids = np.array([row[0] for row in library])
    on_shelf = np.array([str(row[5] or "").startswith("Z") for row in library])
    known = np.where(on_shelf, draws.chance("known tracks", ids, 0.5), draws.chance("hidden compilation", ids, 0.01))
    return [(row[0], row[1] or "", row[2]) for row, is_known in zip(library, known.tolist(), strict=True) if is_known]


def _tracks(
    draws: Draws, compilations: Iterable[tuple[int, str, str]], artists: dict[int, str]
) -> Iterator[tuple[Any, ...]]:
    """Up to seventeen tracks each, of distinct artists or titles; a librarian has linked some, and half have no
    position.

    The first ones are those that the local LML knows, so that it can resolve their artists.
    """
    for library_id, artist_name, album_title in compilations:
        known = compilation_tracks(library_id, artist_name, album_title)
        places = np.arange(20) + library_id * 20
        picks = draws.below("track", places, 1_000_000).tolist()
        taken = set[tuple[str, str | None]]()
        for at in range(6 + library_id % 12):
            # The limit grows with the library's id, not with the catalogue, so that larger catalogues only add rows.
            artist_id = 1 + picks[at] % min(max(library_id // 4, 8), len(artists))
            linked = picks[at] % 10 == 3
            of_lml = known[at] if at < len(known) else None
            artist_name = of_lml["artist_name"] if of_lml else artists[artist_id]
            track_title = of_lml["track_title"] if of_lml else f"{_THINGS[picks[at] // 7 % 16]} {at + 1}"
            if (artist_name, track_title) in taken:
                continue
            taken.add((artist_name, track_title))
            yield (
                library_id * 20 + at,
                library_id,
                artist_name,
                track_title,
                f"{'AB'[at % 2]}{at // 2 + 1}" if picks[at] % 2 else None,
                artist_id if linked else None,
                1.0 if linked else None,
                "librarian" if linked else None,
            )


def _add(
    connection: psycopg.Connection[Any],
    schema: str,
    table: str,
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
) -> int:
    """Copy the rows in, skip existing keys, and move the sequence past the highest id."""
    target, names = Identifier(schema, table), SQL(", ").join(map(Identifier, columns))
    new = Identifier("pg_temp", f"new_{table}")
    connection.execute(
        SQL("create temporary table {} on commit drop as select {} from {} limit 0").format(
            Identifier(f"new_{table}"), names, target
        )
    )
    with connection.cursor().copy(SQL("copy {} ({}) from stdin").format(new, names)) as copy:
        for row in rows:
            copy.write_row(row)
    added = connection.execute(
        SQL("insert into {} ({}) select {} from {} on conflict do nothing").format(target, names, names, new)
    ).rowcount
    connection.execute(SQL("drop table {}").format(new))
    if added and columns[0] == "id":
        connection.execute(
            SQL("select setval(pg_get_serial_sequence({}, 'id'), greatest((select max(id) from {}), 1))").format(
                sql.Literal(target.as_string(connection)), target
            )
        )
    return added
