"""Writing LML's answers into the catalogue, a transaction a batch (library identity contract, sections 3 and 4).

The steps of a transaction, which every writer takes in the same order and each in key order, so that two can wait for
each other but never deadlock:

1. insert the main rows that are not there: who inserts the same at the same time is waited for, and its row is there;
2. lock the others: what they hold now is what is compared, protected and copied to the history;
3. the sources that differ; 4. the history, then the mains that differ; of the rest `last_verified_at` alone;
5. the compilations' tracks; 6. the stamps.

Sources may come after new mains because nobody sees one without the other: a transaction is there as a whole or not at
all. `plan` compares by the same statements, and writes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from threading import Event
from typing import Any, NamedTuple

from psycopg import Connection, sql

from runway_pipelines.errors import RunwayError, Unavailable
from runway_pipelines.identity.counts import Counts, Skip, skipped
from runway_pipelines.identity.folding import fold_artist_name
from runway_pipelines.identity.rows import BatchRows, MainRow, TrackRow, batch_rows, is_storable, unanswered
from runway_pipelines.identity.statements import Statements, artists_named, statements
from runway_pipelines.identity.transactions import Connections, Refused, in_transaction
from runway_pipelines.systems.lml.verdicts import Answer, Verdict

# Called with the id of a quarantined library and the reason, which quotes no row.
OnRefusal = Callable[[int, str], None]


class NotWritten(Exception):
    """An answer could not be written to its end: ``reason`` says why, ``counts`` accounts for all of its libraries."""

    def __init__(self, counts: Counts, reason: RunwayError) -> None:
        self.counts = counts
        self.reason = reason
        super().__init__(str(reason))


class _Standing(NamedTuple):
    """How a library's main row stands to what LML says; ``changed`` names the columns that differ."""

    library_id: int
    is_new: bool
    is_manual: bool
    changed: str


def write(
    connections: Connections,
    answer: Answer,
    *,
    schema: str,
    has_artist_columns: bool,
    now: datetime,
    on_refusal: OnRefusal | None = None,
    stopped: Event | None = None,
) -> Counts:
    """Write an answer's verdicts, on distinct libraries, and count all of its libraries.

    When the database refuses the batch, it is halved until the library that it refuses stands alone; that one is not
    written, and counts as `writer_error`. What else `in_transaction` raises ends the answer: `NotWritten` is raised,
    and what is not written counts as `writer_error`.
    """
    batch = statements(schema, has_artist_columns)

    def work(connection: Connection[Any], rows: BatchRows) -> Counts:
        return _write(connection, schema, batch, rows, now)

    return _in_parts(connections, answer, work, read_only=False, on_refusal=on_refusal, stopped=stopped)


def plan(
    connections: Connections,
    answer: Answer,
    *,
    schema: str,
    has_artist_columns: bool,
    on_refusal: OnRefusal | None = None,
    stopped: Event | None = None,
) -> Counts:
    """What `write` would count, from reading alone; what only writing can show (a constraint) is not seen."""
    batch = statements(schema, has_artist_columns)

    def work(connection: Connection[Any], rows: BatchRows) -> Counts:
        return _plan(connection, schema, batch, rows)

    return _in_parts(connections, answer, work, read_only=True, on_refusal=on_refusal, stopped=stopped)


def _in_parts(
    connections: Connections,
    answer: Answer,
    work: Callable[[Connection[Any], BatchRows], Counts],
    *,
    read_only: bool,
    on_refusal: OnRefusal | None,
    stopped: Event | None,
) -> Counts:
    """The batch in one transaction; halves of it, and halves of these, where the database refuses."""
    counts = unanswered(answer)

    def quarantine(verdict: Verdict, reason: str) -> None:
        counts.merge(skipped(1, Skip.WRITER_ERROR))
        if on_refusal is not None:
            on_refusal(verdict.library_id, reason)

    storable = [verdict for verdict in answer.verdicts if is_storable(verdict)]
    for verdict in answer.verdicts:
        if not is_storable(verdict):
            quarantine(verdict, "a single artist without ids, method or a confidence from 0 to 1")

    version = answer.tracks_contract_version
    parts = [storable] if storable else []
    while parts:
        part = parts.pop()
        try:
            # The rows, with their counts, are made anew for each attempt.
            counts.merge(
                in_transaction(
                    connections,
                    lambda connection, part=part: work(connection, batch_rows(part, version)),  # type: ignore[misc]
                    read_only=read_only,
                    stopped=stopped,
                )
            )
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


def _write(connection: Connection[Any], schema: str, batch: Statements, rows: BatchRows, now: datetime) -> Counts:
    artist_ids = _artist_ids(connection, schema, batch, rows.tracks)  # before anything is locked
    if rows.mains:
        rows.counts.merge(_write_mains_and_sources(connection, batch, rows, now))
    if rows.tracks:
        tracks = _track_arrays(batch, rows.tracks, artist_ids)
        _run(connection, batch.lock_tracks, tracks)
        counted = _count_tracks(_run(connection, batch.compare_tracks, tracks))
        rows.counts.others.update(counted)
        _run(connection, batch.update_tracks, tracks)
    if rows.stamped:
        stamped = {"ids": rows.stamped, "now": now}
        _run(connection, batch.lock_stamped, stamped)
        _run(connection, batch.stamp, stamped)
    return rows.counts


def _write_mains_and_sources(connection: Connection[Any], batch: Statements, rows: BatchRows, now: datetime) -> Counts:
    moment = {"now": now}
    found = _ids(connection, batch.find_mains, {"ids": [row.library_id for row in rows.mains]})
    missing = [row for row in rows.mains if row.library_id not in found]
    inserted: set[int] = set()
    if missing:
        inserted = _ids(connection, batch.insert_mains, _arrays(batch.main_columns, missing) | moment)
    standings = [_Standing(library_id, is_new=True, is_manual=False, changed="") for library_id in inserted]
    there = [row for row in rows.mains if row.library_id not in inserted]
    if there:
        _run(connection, batch.lock_mains, {"ids": [row.library_id for row in there]})
        standings += _compare_mains(connection, batch, there)
    written: list[tuple[Any, ...]] = []
    if rows.sources:
        written = _run(connection, batch.write_sources, _arrays(batch.source_columns, rows.sources) | moment)
    _write_changed_mains(connection, batch, there, standings, now)
    return _count_mains(standings, [library_id for (library_id,) in written])


def _write_changed_mains(
    connection: Connection[Any],
    batch: Statements,
    there: Sequence[MainRow],
    standings: Sequence[_Standing],
    now: datetime,
) -> None:
    """The rows that were there: those that differ with their history, of the others the moment alone."""
    known = {row.library_id for row in there}
    if any(standing.is_new for standing in standings if standing.library_id in known):
        raise Unavailable(
            expected="main rows that are there when they are locked",
            came="one that was deleted in between",
            remedy="try again",
        )
    reasons = {
        standing.library_id: standing.changed for standing in standings if standing.changed and not standing.is_manual
    }
    if reasons:
        changed = _arrays(batch.main_columns, [row for row in there if row.library_id in reasons]) | {"now": now}
        reason = [f"LML changed {reasons[library_id]}" for library_id in changed["library_id"]]
        _run(connection, batch.keep_history, changed | {"reason": reason})
        _run(connection, batch.update_mains, changed)
    unchanged = [library_id for library_id in known if library_id not in reasons]
    if unchanged:
        _run(connection, batch.touch_mains, {"ids": unchanged, "now": now})


def _plan(connection: Connection[Any], schema: str, batch: Statements, rows: BatchRows) -> Counts:
    if rows.mains:
        changed: list[tuple[Any, ...]] = []
        if rows.sources:
            changed = _run(connection, batch.changed_sources, _arrays(batch.source_columns, rows.sources))
        standings = _compare_mains(connection, batch, rows.mains)
        rows.counts.merge(_count_mains(standings, [library_id for (library_id,) in changed]))
    if rows.tracks:
        tracks = _track_arrays(batch, rows.tracks, _artist_ids(connection, schema, batch, rows.tracks))
        rows.counts.others.update(_count_tracks(_run(connection, batch.compare_tracks, tracks)))
    return rows.counts


def _compare_mains(connection: Connection[Any], batch: Statements, rows: Sequence[MainRow]) -> list[_Standing]:
    return [_Standing(*row) for row in _run(connection, batch.compare_mains, _arrays(batch.main_columns, rows))]


def _count_mains(standings: Iterable[_Standing], sources_of: Sequence[int]) -> Counts:
    """How the single artists end; ``sources_of`` has the library of each source row that is written."""
    counts = Counts(others=Counter({"source_rows_written": len(sources_of)}))
    with_new_sources = set(sources_of)
    for standing in standings:
        if standing.is_manual:
            counts.rows_skipped[Skip.MANUAL_PROTECTED] += 1
            continue
        counts.rows_resolved += 1
        if not (standing.is_new or standing.changed or standing.library_id in with_new_sources):
            counts.others["rows_unchanged"] += 1
    return counts


def _count_tracks(comparisons: Iterable[tuple[Any, ...]]) -> Counter[str]:
    """By what happens to the rows; ``unmatched`` are offered tracks that have none."""
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


def _artist_ids(
    connection: Connection[Any], schema: str, batch: Statements, tracks: Iterable[TrackRow]
) -> Mapping[str, int]:
    """The catalogue's artist for each name that exactly one bears."""
    names = {track.resolved_artist_name for track in tracks if track.resolved_artist_name is not None}
    if not names:
        return {}
    function = _folding_function(connection, schema)
    if function is not None:
        return dict(_run(connection, artists_named(schema, function), {"names": sorted(names)}))
    return _artist_ids_without_function(connection, batch, names)


def _folding_function(connection: Connection[Any], schema: str) -> sql.Identifier | None:
    """The catalogue's SQL function, in its schema or on the search path."""
    own = sql.Identifier(schema, "fold_artist_name")
    for function in (own, sql.Identifier("fold_artist_name")):
        name = f"{function.as_string(connection)}(text)"
        if _run(connection, b"select 1 where to_regprocedure(%(name)s) is not null", {"name": name}):
            return function
    return None


def _artist_ids_without_function(
    connection: Connection[Any], batch: Statements, names: Iterable[str]
) -> Mapping[str, int]:
    """By reading every artist, in pieces."""
    folded = {name: fold_artist_name(name) for name in names}
    found: dict[str, list[int]] = {fold: [] for fold in folded.values()}
    with connection.cursor(name="artists") as cursor:
        for artist_id, artist_name in cursor.execute(batch.all_artists):
            fold = fold_artist_name(artist_name)
            if fold in found:
                found[fold].append(artist_id)
    return {name: found[fold][0] for name, fold in folded.items() if len(found[fold]) == 1}


def _track_arrays(batch: Statements, rows: Sequence[TrackRow], artist_ids: Mapping[str, int]) -> dict[str, list[Any]]:
    offered = [
        (
            row.library_id,
            row.artist_name,
            row.track_title,
            artist_ids.get(row.resolved_artist_name) if row.resolved_artist_name is not None else None,
            row.resolved_artist_name is not None,
            row.confidence,
            row.track_position,
        )
        for row in rows
    ]
    return _arrays(batch.track_columns, offered)


def _arrays(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """One array for each of ``columns`` and the bounds of the first, which is the library's id; of one row or more.

    Main rows have the optional columns last, so that without these the arrays end earlier.
    """
    arrays = dict(zip(columns, map(list, zip(*rows, strict=True)), strict=False))
    return arrays | {"first": min(arrays["library_id"]), "last": max(arrays["library_id"])}


def _ids(connection: Connection[Any], statement: bytes, bound: Mapping[str, Any]) -> set[int]:
    return {library_id for (library_id,) in _run(connection, statement, bound)}


def _run(connection: Connection[Any], statement: bytes, bound: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    # Never prepared: a generic plan would be made for arrays of any size.
    cursor = connection.execute(statement, bound, prepare=False)
    return cursor.fetchall() if cursor.description is not None else []
