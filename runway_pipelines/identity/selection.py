"""Selects the libraries to ask LML about (library identity contract, section 2).

Belongs here: the conditions, and reading their libraries part by part. One moment (`Selection.as_of`) decides what is
due, so rows that are written meanwhile neither come again nor shift the rest, and a new run resumes with what is left.

Each read first takes a known number of rows, then judges them, and leaves the planner no choice (`_WINDOWED`). A
``limit`` over conditions that the planner cannot estimate made it read and sort everything behind the cursor: 419,000
buffers a page, 163 of the 194 s that 650,000 libraries took.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from psycopg import Connection, sql

from runway_pipelines.identity.transactions import Connections, in_transaction
from runway_pipelines.systems.lml.verdicts import Library

# Libraries judged by one read: 131 reads for 650,000, however few of them are due, and 5 MB when all are.
WINDOW = 5_000
# Ids that one pass over the stamped libraries brings; each pass reads the whole table.
PASS = 50_000
_BEFORE_ALL = -(2**31)
_BEFORE_EVER = datetime.min.replace(tzinfo=UTC)


class Cohort(StrEnum):
    """Compilations (`VA`) and all others; asked separately, because a compilation's answer holds every track."""

    VA = "va"
    NON_VA = "non_va"


Row = tuple[Any, ...]
_Found = dict[Cohort, list[Library]]


@dataclass(frozen=True)
class Selection:
    """The libraries that are due at ``as_of`` (with a time zone).

    ``stale_days`` 0 selects every canonical library, however fresh. A stamp holds a library back for
    ``unresolved_retry_days``; if LML has matched no track of a compilation, for ``not_ready_retry_days`` where that is
    shorter. ``recheck`` selects the stamped libraries instead. ``shard`` is (index, count); ``limit`` caps each
    cohort.
    """

    as_of: datetime
    stale_days: int = 7
    include_null_canonical: bool = False
    unresolved_retry_days: int = 30
    not_ready_retry_days: int = 7
    recheck: bool = False
    shard: tuple[int, int] = (0, 1)
    limit: int | None = None
    schema: str = "wxyc_schema"


# Keep the planner from reading a table once for each row of another when statistics are old or missing. Compiling a
# statement, or starting workers for it, takes longer than running it.
_WHOLE = {"enable_nestloop": "off", "enable_mergejoin": "off", "jit": "off", "max_parallel_workers_per_gather": "0"}
_SET = "select set_config(name, value, true) from unnest(%(names)s::text[], %(values)s::text[]) as plan (name, value)"
# Also keep the planner from reading more of a table than a window.
_WINDOWED = _WHOLE | {"enable_seqscan": "off", "enable_bitmapscan": "off"}

# Libraries with the columns that decide whether they are due. `is_matched`: LML has matched a track of theirs.
_JUDGED = sql.SQL(
    "{libraries} as l"
    " left join (select library_id, last_verified_at from {identity} where {part}) as i on i.library_id = l.id"
    " left join (select library_id, coalesce(bool_or(track_artist_link_method = 'lml_backfill'), false) as is_matched"
    " from {tracks} where {part} group by library_id) as t on t.library_id = l.id"
)
# Null-safe: a library without volume letters is not like 'Z%'.
_IS_COMPILATION = sql.SQL("(t.library_id is not null or coalesce(l.code_volume_letters like 'Z%%', false))")
_IS_MINE = sql.SQL("mod(abs(l.id), %(shards)s) = %(shard)s")
_LIBRARY = sql.SQL("l.id, l.legacy_release_id, l.artist_name, l.album_title")
# Without an identity row, comparisons with its moment are null.
_IS_DUE = sql.SQL(
    "(l.artist_name is not null"
    " and (({canonical} and {not_fresh}) or coalesce(i.last_verified_at < %(fresh_since)s, false))"
    " and not coalesce(l.unresolved_attempted_at > case when {is_compilation} and not coalesce(t.is_matched, false)"
    " then %(not_ready_since)s else %(unresolved_since)s end, false))"
)
# When LML answered last: the stamp, or the verification of a stamped library that LML has resolved since.
_ANSWERED = sql.SQL("greatest(l.unresolved_attempted_at, i.last_verified_at)")
_IS_RECHECKED = sql.SQL(
    "(l.artist_name is not null and l.unresolved_attempted_at is not null and {answered} < %(as_of)s)"
).format(answered=_ANSWERED)

# The last row of the window is always selected, because the next window begins after it.
_NEXT_WINDOW = sql.SQL(
    "with libraries as materialized (select {columns}, l.canonical_entity_id, l.code_volume_letters,"
    " l.unresolved_attempted_at from {library} as l where l.id > %(after)s and {is_mine}"
    " order by l.id limit %(window)s),"
    " last as materialized (select max(id) as id from libraries)"
    " select {columns}, {is_compilation}, {is_due} from {judged}"
    " where {is_due} or l.id = (select id from last) order by l.id"
)
_AFTER = sql.SQL("library_id > %(after)s and library_id <= (select id from last)")
_NEXT_STAMPED = sql.SQL(
    "select l.id, {answered} from {library} as l left join {identity} as i on i.library_id = l.id"
    " where {is_rechecked} and {is_mine} and ({answered}, l.id) > (%(answered_after)s, %(after)s)"
    " order by {answered}, l.id limit %(pass)s"
)
_THESE = sql.SQL("select {columns}, {is_compilation} from {judged} where l.id = any(%(ids)s) and {is_rechecked}")
_COUNT = sql.SQL("select {is_compilation}, count(*) from {judged} where {is_mine} and {is_selected} group by 1")


def pages(
    connections: Connections, selection: Selection, sizes: Mapping[Cohort, int], *, window: int = WINDOW
) -> Iterator[tuple[Cohort, list[Library]]]:
    """The due libraries in one pass over the table, a page of a cohort as soon as ``sizes`` of it are read.

    By id; with ``recheck`` by the moment of LML's last answer, the earliest first. Each read is short and holds no
    connection afterwards. Raises what `in_transaction` raises.
    """
    waiting: _Found = {cohort: [] for cohort in Cohort}
    left: dict[Cohort, int | None] = dict.fromkeys(Cohort, selection.limit)
    reads = _stamped(connections, selection, window) if selection.recheck else _due(connections, selection, window)
    for found in reads:
        for cohort, libraries in found.items():
            page, size, rest = waiting[cohort], sizes[cohort], left[cohort]
            page += libraries[:rest]
            left[cohort] = rest and max(rest - len(libraries), 0)
            while len(page) >= size or (page and left[cohort] == 0):
                yield cohort, page[:size]
                del page[:size]
        if all(rest == 0 for rest in left.values()):
            return
    yield from ((cohort, page) for cohort, page in waiting.items() if page)


def count(connections: Connections, selection: Selection) -> dict[Cohort, int]:
    """How many libraries of each cohort `pages` yields."""
    is_selected = _IS_RECHECKED if selection.recheck else _is_due(selection)
    query = _COUNT.format(
        judged=_judged(selection, _table(selection, "library"), sql.SQL("true")),
        is_compilation=_IS_COMPILATION,
        is_mine=_IS_MINE,
        is_selected=is_selected,
    )
    counted = dict.fromkeys(Cohort, 0)
    for is_compilation, number in _read(connections, _WHOLE, query, _parameters(selection)):
        counted[Cohort.VA if is_compilation else Cohort.NON_VA] = int(number)
    return counted if selection.limit is None else {each: min(n, selection.limit) for each, n in counted.items()}


def _due(connections: Connections, selection: Selection, window: int) -> Iterator[_Found]:
    """The due libraries by id, judged a window of ids at a time."""
    query = _NEXT_WINDOW.format(
        library=_table(selection, "library"),
        judged=_judged(selection, sql.Identifier("libraries"), _AFTER),
        columns=_LIBRARY,
        is_compilation=_IS_COMPILATION,
        is_due=_is_due(selection),
        is_mine=_IS_MINE,
    )
    bound = _parameters(selection) | {"window": window}
    while rows := _read(connections, _WINDOWED, query, bound):
        last_id, *_, is_due = rows[-1]
        yield _by_cohort(rows if is_due else rows[:-1])
        bound["after"] = last_id


def _stamped(connections: Connections, selection: Selection, window: int) -> Iterator[_Found]:
    """The stamped libraries, the earliest answer first.

    No index has that order, so each pass reads the whole table; it brings the ids of many windows.
    """
    query = _THESE.format(
        judged=_judged(selection, _table(selection, "library"), sql.SQL("library_id = any(%(ids)s)")),
        columns=_LIBRARY,
        is_compilation=_IS_COMPILATION,
        is_rechecked=_IS_RECHECKED,
    )
    for ids in _stamped_ids(connections, selection, window):
        rows = _read(connections, _WINDOWED, query, _parameters(selection) | {"ids": ids})
        places = {library_id: place for place, library_id in enumerate(ids)}
        yield _by_cohort(sorted(rows, key=lambda row: places[row[0]]))


def _stamped_ids(connections: Connections, selection: Selection, window: int) -> Iterator[list[int]]:
    query = _NEXT_STAMPED.format(
        library=_table(selection, "library"),
        identity=_table(selection, "library_identity"),
        answered=_ANSWERED,
        is_rechecked=_IS_RECHECKED,
        is_mine=_IS_MINE,
    )
    bound = _parameters(selection) | {"answered_after": _BEFORE_EVER, "pass": PASS}
    while rows := _read(connections, _WHOLE, query, bound):
        for first in range(0, len(rows), window):
            yield [library_id for library_id, _ in rows[first : first + window]]
        if len(rows) < PASS:
            return
        bound["after"], bound["answered_after"] = rows[-1]


def _is_due(selection: Selection) -> sql.Composed:
    canonical = sql.SQL("true" if selection.include_null_canonical else "l.canonical_entity_id is not null")
    not_fresh = sql.SQL(
        "true" if selection.stale_days == 0 else "not coalesce(i.last_verified_at >= %(fresh_since)s, false)"
    )
    return _IS_DUE.format(canonical=canonical, not_fresh=not_fresh, is_compilation=_IS_COMPILATION)


def _judged(selection: Selection, libraries: sql.Composable, part: sql.Composable) -> sql.Composed:
    """``libraries`` with their identities and tracks; ``part`` limits what is read of those two tables."""
    identity, tracks = (_table(selection, name) for name in ("library_identity", "compilation_track_artist"))
    return _JUDGED.format(libraries=libraries, identity=identity, tracks=tracks, part=part)


def _table(selection: Selection, name: str) -> sql.Identifier:
    return sql.Identifier(selection.schema, name)


def _by_cohort(rows: Sequence[Row]) -> _Found:
    """Rows that begin with `_LIBRARY` and `_IS_COMPILATION`."""
    return {
        Cohort.NON_VA: [Library(*row[:4]) for row in rows if not row[4]],
        Cohort.VA: [Library(*row[:4]) for row in rows if row[4]],
    }


def _parameters(selection: Selection) -> dict[str, Any]:
    """The binds of all queries, with the cursor before every library."""
    not_ready_days = min(selection.not_ready_retry_days, selection.unresolved_retry_days)
    return {
        "after": _BEFORE_ALL,
        "as_of": selection.as_of,
        "fresh_since": selection.as_of - timedelta(days=selection.stale_days),
        "unresolved_since": selection.as_of - timedelta(days=selection.unresolved_retry_days),
        "not_ready_since": selection.as_of - timedelta(days=not_ready_days),
        "shard": selection.shard[0],
        "shards": selection.shard[1],
    }


def _read(
    connections: Connections, plan: Mapping[str, str], query: sql.Composed, bound: Mapping[str, Any]
) -> list[Row]:
    def work(connection: Connection[Any]) -> list[Row]:
        connection.execute(_SET, {"names": list(plan), "values": list(plan.values())})
        # Never prepared: a generic plan ignores where the cursor stands.
        return connection.execute(query, bound, prepare=False).fetchall()

    return in_transaction(connections, work, read_only=True)
