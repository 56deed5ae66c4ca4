"""Writes LML's answers into the catalogue, one transaction per batch (library identity contract, sections 3 and 4).

Every writer takes a transaction's steps in this order, and each step in key order, so that writers may wait for each
other but never deadlock:

1. insert missing main rows and their sources, waiting for a concurrent insert of the same row;
2. lock the existing ones, and compare, protect and archive what they hold now;
3. write the sources that differ;
4. write the history, then the mains that differ; touch `last_verified_at` of the rest, once a day;
5. link the compilations' tracks;
6. set the stamps, once a day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from threading import Event
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.sql import Identifier

from runway_pipelines.errors import RunwayError, Unavailable
from runway_pipelines.identity.counts import Counts, Skip, skipped
from runway_pipelines.identity.folding import fold_artist_name
from runway_pipelines.identity.rows import BatchRows, MainRow, SourceRow, TrackRow, batch_rows, is_storable, unanswered
from runway_pipelines.identity.statements import NOTES, Statements, artists_named
from runway_pipelines.identity.transactions import Connections, Refused, in_transaction
from runway_pipelines.systems.lml.verdicts import LARGEST_INTEGER, Answer, Verdict

_statements = cache(Statements)
# Takes a quarantined library's id and the reason, which quotes no row.
OnRefusal = Callable[[int, str], None]
_Moment = dict[str, datetime]


class NotWritten(Exception):
    """Only part of an answer was written, for ``reason``; ``counts`` accounts for all of its libraries."""

    def __init__(self, counts: Counts, reason: RunwayError) -> None:
        self.counts = counts
        self.reason = reason
        super().__init__(str(reason))


class _Standing(NamedTuple):
    """A library's main row compared with its verdict; ``changed`` names the columns that differ."""

    library_id: int
    is_new: bool
    is_protected: bool
    changed: str


def write(
    connections: Connections,
    answer: Answer,
    *,
    schema: str,
    has_artist_columns: bool,
    now: datetime,
    moves_moments: bool = False,
    is_dry_run: bool = False,
    on_refusal: OnRefusal | None = None,
    stopped: Event | None = None,
) -> Counts:
    """Write an answer's verdicts, on distinct libraries, and count all of its libraries.

    If the database refuses the batch, it is halved until the refused library stands alone; that one counts as
    `writer_error`. Any other error of `in_transaction` ends the answer with `NotWritten`, and the rest counts as
    `writer_error`. A dry run makes the same comparisons and only reads, so it does not meet constraints.

    `last_verified_at` of an unchanged main row and `unresolved_attempted_at` stay if they are of today (UTC), unless
    ``moves_moments``: a recheck uses them to find what it has not asked about yet.
    """
    sql = _statements(schema, has_artist_columns)
    moment = _moment(now, moves_moments)
    counts = unanswered(answer)

    def attempt(connection: Connection[Any], verdicts: list[Verdict]) -> Counts:
        rows = batch_rows(verdicts, answer.tracks_contract_version)  # made anew, because they carry counts
        return _plan(connection, sql, rows) if is_dry_run else _write(connection, sql, rows, moment)

    def quarantine(verdict: Verdict, reason: str) -> None:
        counts.merge(skipped(1, Skip.WRITER_ERROR))
        if on_refusal is not None:
            on_refusal(verdict.library_id, reason)

    storable = [verdict for verdict in answer.verdicts if is_storable(verdict)]
    for verdict in answer.verdicts:
        if not is_storable(verdict):
            quarantine(verdict, "a single artist without ids, method or a confidence from 0 to 1")
    parts = [storable] if storable else []
    while parts:
        part = parts.pop()
        try:
            work = partial(attempt, verdicts=part)
            counts.merge(in_transaction(connections, work, read_only=is_dry_run, stopped=stopped))
        except RunwayError as error:
            counts.merge(skipped(len(part) + sum(map(len, parts)), Skip.WRITER_ERROR))
            raise NotWritten(counts, error) from None
        except Refused as refused:
            if len(part) == 1:
                quarantine(part[0], refused.reason)
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
    return counts


def _moment(now: datetime, moves_moments: bool) -> _Moment:
    """The binds of a moment; no moment lies within an empty day."""
    if moves_moments:
        return {"now": now, "today": now, "tomorrow": now}
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return {"now": now, "today": today, "tomorrow": today + timedelta(days=1)}


def _write(connection: Connection[Any], sql: Statements, rows: BatchRows, moment: _Moment) -> Counts:
    artist_ids = _artist_ids(connection, sql, rows.tracks)  # before locking anything
    if rows.mains:
        rows.counts.merge(_write_mains_and_sources(connection, sql, rows, moment))
    if rows.tracks:
        tracks = _track_arrays(sql, rows.tracks, artist_ids)
        _run(connection, sql.lock_tracks, tracks)
        rows.counts.others.update(_count_tracks(_run(connection, sql.compare_tracks, tracks)))
        _run(connection, sql.update_tracks, tracks)
    if rows.stamped:
        stamped = {"ids": rows.stamped} | moment
        _run(connection, sql.lock_stamped, stamped)
        _run(connection, sql.stamp, stamped)
    return rows.counts


def _write_mains_and_sources(connection: Connection[Any], sql: Statements, rows: BatchRows, moment: _Moment) -> Counts:
    found = _ids(connection, sql.find_mains, {"ids": [row.library_id for row in rows.mains]})
    missing = [row for row in rows.mains if row.library_id not in found]
    inserted: set[int] = set()
    new_sources = [row for row in rows.sources if row.library_id not in found]
    sources = [row for row in rows.sources if row.library_id in found]
    if missing and _copy_new(connection, sql, missing, new_sources, moment):
        inserted = {row.library_id for row in missing}
    elif missing:
        inserted = _ids(connection, sql.insert_mains, _arrays(sql.main_columns, missing) | moment)
        sources, new_sources = rows.sources, []
    new = [_Standing(library_id, is_new=True, is_protected=False, changed="") for library_id in inserted]
    standings: list[_Standing] = []
    there = [row for row in rows.mains if row.library_id not in inserted]
    if there:
        standings += _compare_mains(connection, sql.lock_and_compare_mains, sql, there)
    written = [row.library_id for row in new_sources]
    if sources:
        written += [i for (i,) in _run(connection, sql.write_sources, _arrays(sql.source_columns, sources) | moment)]
    _write_changed_mains(connection, sql, there, standings, moment)
    return _count_mains(new + standings, written)


def _copy_new(
    connection: Connection[Any],
    sql: Statements,
    mains: Sequence[MainRow],
    sources: Sequence[SourceRow],
    moment: _Moment,
) -> bool:
    """Insert rows, none of which should exist yet. It takes two thirds of the time of comparing and inserting them
    (30 ms for 500 libraries with 1,400 sources; nearly half of the rest is foreign keys).

    Returns False, and writes nothing, if a row exists after all, or for a value that only the database can refuse.
    """
    try:
        with connection.transaction():
            _copy(connection, sql.copy_mains, sql.main_types, _exact(mains, len(sql.main_columns)), moment)
            _copy(connection, sql.copy_sources, sql.source_types, sorted(sources), moment)
    except (psycopg.errors.UniqueViolation, ValueError):
        return False
    return True


def _exact(mains: Iterable[MainRow], columns: int) -> Iterator[tuple[Any, ...]]:
    """The rows as a binary COPY needs them; raises `ValueError` for a malformed id or one that the driver would cut."""
    for row in sorted(mains):
        if columns == len(row):
            artist_id, mbid = row.discogs_artist_id, row.musicbrainz_artist_id
            if artist_id is not None and abs(artist_id) > LARGEST_INTEGER:
                raise ValueError("no int4")
            yield row._replace(musicbrainz_artist_id=None if mbid is None else UUID(mbid))  # type: ignore[arg-type]
        else:
            yield row[:columns]


def _copy(
    connection: Connection[Any],
    statement: bytes,
    types: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    moment: _Moment,
) -> None:
    ending = (moment["now"], NOTES)
    with connection.cursor().copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row((*row, *ending))


def _write_changed_mains(
    connection: Connection[Any],
    sql: Statements,
    there: Sequence[MainRow],
    standings: Sequence[_Standing],
    moment: _Moment,
) -> None:
    """Write the existing rows: rows that differ, with their history; for the others only `last_verified_at`."""
    if len(standings) < len(there):
        raise Unavailable(
            expected="existing main rows while they are being locked",
            came="one that was deleted meanwhile",
            remedy="try again",
        )
    reasons = {
        standing.library_id: standing.changed
        for standing in standings
        if standing.changed and not standing.is_protected
    }
    if reasons:
        changed = _arrays(sql.main_columns, [row for row in there if row.library_id in reasons]) | moment
        reason = [f"LML changed {reasons[library_id]}" for library_id in changed["library_id"]]
        _run(connection, sql.keep_history, changed | {"reason": reason})
        _run(connection, sql.update_mains, changed)
    unchanged = [row.library_id for row in there if row.library_id not in reasons]
    if unchanged:
        _run(connection, sql.touch_mains, {"ids": unchanged} | moment)


def _plan(connection: Connection[Any], sql: Statements, rows: BatchRows) -> Counts:
    """What `_write` would count, without locks and writes."""
    if rows.mains:
        changed: list[tuple[Any, ...]] = []
        if rows.sources:
            changed = _run(connection, sql.changed_sources, _arrays(sql.source_columns, rows.sources))
        standings = _compare_mains(connection, sql.compare_mains, sql, rows.mains)
        rows.counts.merge(_count_mains(standings, [library_id for (library_id,) in changed]))
    if rows.tracks:
        tracks = _track_arrays(sql, rows.tracks, _artist_ids(connection, sql, rows.tracks))
        rows.counts.others.update(_count_tracks(_run(connection, sql.compare_tracks, tracks)))
    return rows.counts


def _compare_mains(
    connection: Connection[Any], statement: bytes, sql: Statements, rows: Sequence[MainRow]
) -> list[_Standing]:
    return [_Standing(*row) for row in _run(connection, statement, _arrays(sql.main_columns, rows))]


def _count_mains(standings: Iterable[_Standing], sources_of: Sequence[int]) -> Counts:
    """The single artists' outcomes; ``sources_of`` has the library of each written source row."""
    counts = Counts(others=Counter({"source_rows_written": len(sources_of)}))
    with_new_sources = set(sources_of)
    for standing in standings:
        if standing.is_protected:
            counts.rows_skipped[Skip.MANUAL_PROTECTED] += 1
            continue
        counts.rows_resolved += 1
        if not (standing.is_new or standing.changed or standing.library_id in with_new_sources):
            counts.others["rows_unchanged"] += 1
    return counts


def _count_tracks(comparisons: Iterable[tuple[Any, ...]]) -> Counter[str]:
    """Tracks by outcome; ``unmatched`` ones have no row."""
    counted: Counter[str] = Counter()
    for is_there, is_librarians, link_changes, has_artist, position_changes in comparisons:
        if not is_there:
            counted["compilation_track_rows_unmatched"] += 1
        elif is_librarians:
            counted["compilation_track_rows_librarian"] += 1
        elif link_changes:
            counted[f"compilation_track_rows_{'linked' if has_artist else 'without_artist'}"] += 1
        elif not position_changes:
            counted["compilation_track_rows_unchanged"] += 1
        if position_changes:
            counted["compilation_track_rows_position_filled"] += 1
    return counted


def _artist_ids(connection: Connection[Any], sql: Statements, tracks: Iterable[TrackRow]) -> Mapping[str, int]:
    """The catalogue's artist for each name that exactly one artist has."""
    names = {track.resolved_artist_name for track in tracks}
    if not names:
        return {}
    function = _folding_function(connection, sql.schema)
    if function is not None:
        return dict(_run(connection, artists_named(sql.schema, function), {"names": sorted(names)}))
    return _artist_ids_without_function(connection, sql, names)


def _folding_function(connection: Connection[Any], schema: str) -> Identifier | None:
    """The catalogue's SQL function, from its schema or the search path; None if there is none."""
    own = Identifier(schema, "fold_artist_name")
    for function in (own, Identifier("fold_artist_name")):
        name = f"{function.as_string(connection)}(text)"
        if _run(connection, b"select 1 where to_regprocedure(%(name)s) is not null", {"name": name}):
            return function
    return None


def _artist_ids_without_function(
    connection: Connection[Any], sql: Statements, names: Iterable[str]
) -> Mapping[str, int]:
    """`_artist_ids` by reading all artists through a cursor."""
    folded = {name: fold_artist_name(name) for name in names}
    found: dict[str, list[int]] = {fold: [] for fold in folded.values()}
    with connection.cursor(name="artists") as cursor:
        for artist_id, artist_name in cursor.execute(sql.all_artists):
            fold = fold_artist_name(artist_name)
            if fold in found:
                found[fold].append(artist_id)
    return {name: found[fold][0] for name, fold in folded.items() if len(found[fold]) == 1}


def _track_arrays(sql: Statements, rows: Sequence[TrackRow], artist_ids: Mapping[str, int]) -> dict[str, list[Any]]:
    offered = [
        (
            row.library_id,
            row.artist_name,
            row.track_title,
            artist_ids.get(row.resolved_artist_name),
            row.confidence,
            row.track_position,
        )
        for row in rows
    ]
    return _arrays(sql.track_columns, offered)


def _arrays(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """An array per column, and the bounds of the library ids; needs at least one row.

    Main rows have the optional columns last, so ``columns`` may be shorter than the rows.
    """
    arrays = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=False))
    return arrays | {"first": min(arrays["library_id"]), "last": max(arrays["library_id"])}


def _ids(connection: Connection[Any], statement: bytes, bound: Mapping[str, Any]) -> set[int]:
    return {library_id for (library_id,) in _run(connection, statement, bound)}


def _run(connection: Connection[Any], statement: bytes, bound: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    # Never prepared: a generic plan suits no particular array size.
    cursor = connection.execute(statement, bound, prepare=False)
    return cursor.fetchall() if cursor.description is not None else []
