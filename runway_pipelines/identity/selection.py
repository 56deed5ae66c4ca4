"""Selects the libraries to ask LML about (library identity contract, section 2).

Belongs here: the condition, and reading its libraries page by page. The cursor is the library's id, and one moment
(`Selection.as_of`) decides what is due, so rows stamped while the pages are read neither come again nor shift the rest,
and a new run resumes with what is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from psycopg import Connection, sql

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.identity.transactions import Connections, in_transaction
from runway_pipelines.systems.lml.verdicts import Library

_BEFORE_ALL = -(2**31)


class Cohort(StrEnum):
    """Compilations (`VA`) and all others; asked separately, because a compilation's answer holds its tracks."""

    VA = "va"
    NON_VA = "non_va"


@dataclass(frozen=True)
class Selection:
    """The libraries that are due at ``as_of`` (with a time zone).

    ``stale_days`` 0 selects every canonical library, however fresh. The stamp of an unresolved library or a compilation
    holds it back for ``unresolved_retry_days``. ``recheck`` adds every compilation with a stamp. ``shard`` is (index,
    count); ``limit`` caps each cohort.
    """

    as_of: datetime
    stale_days: int = 7
    include_null_canonical: bool = False
    unresolved_retry_days: int = 30
    recheck: bool = False
    shard: tuple[int, int] = (0, 1)
    limit: int | None = None
    schema: str = "wxyc_schema"

    def __post_init__(self) -> None:
        index, count = self.shard
        for name, value in (("stale_days", self.stale_days), ("unresolved_retry_days", self.unresolved_retry_days)):
            if value < 0:
                raise _wrong(name, "a number of days, 0 or more", str(value))
        if not 0 <= index < count:
            raise _wrong("shard", "an index below the count", f"{index} of {count}")
        if self.limit is not None and self.limit < 1:
            raise _wrong("limit", "at least 1", str(self.limit))
        if self.as_of.tzinfo is None:
            raise _wrong("as_of", "a moment with a time zone", "one without")


def _wrong(name: str, expected: str, came: str) -> ConfigurationError:
    return ConfigurationError(expected=f"{name} to be {expected}", came=came, remedy=f"correct {name}")


# Null-safe: a library without volume letters is not like 'Z%'.
_IS_COMPILATION = sql.SQL(
    "(coalesce(l.code_volume_letters like 'Z%%', false)"
    " or exists (select from {tracks} as t where t.library_id = l.id offset 0))"
)
_IS_CANONICAL = sql.SQL("l.canonical_entity_id is not null")
# Without an identity row the comparison is null.
_IS_FRESH = sql.SQL("coalesce(i.last_verified_at >= %(fresh_since)s, false)")
_IS_STALE = sql.SQL("coalesce(i.last_verified_at < %(fresh_since)s, false)")
_IS_HELD_BACK = sql.SQL("coalesce(l.unresolved_attempted_at > %(stamped_since)s, false)")
_IS_RECHECKED = sql.SQL("coalesce(l.unresolved_attempted_at < %(as_of)s, false)")


def statement(selection: Selection, cohort: Cohort, columns: sql.Composable) -> sql.Composed:
    """Selects ``columns`` (of table ``l``) of the cohort's due libraries after the cursor. Binds: `parameters`."""
    library, identity, tracks = (
        sql.Identifier(selection.schema, name) for name in ("library", "library_identity", "compilation_track_artist")
    )
    is_compilation = _IS_COMPILATION.format(tracks=tracks)
    in_cohort = is_compilation if cohort is Cohort.VA else sql.SQL("not {}").format(is_compilation)
    conditions = [
        sql.SQL("l.id > %(after)s"),
        sql.SQL("l.artist_name is not null"),
        _is_due(selection, cohort),
        in_cohort,
    ]
    if selection.shard[1] > 1:
        conditions.append(sql.SQL("mod(abs(l.id), %(shards)s) = %(shard)s"))
    # "offset 0" forces an index lookup per library, whatever the statistics say. Otherwise Postgres reads all tracks,
    # and with old statistics all identities, for each page: 203 CPU seconds for 650,000 libraries.
    return sql.SQL(
        "select {columns} from {library} as l left join lateral"
        " (select e.last_verified_at from {identity} as e where e.library_id = l.id offset 0) as i on true"
        " where {conditions}"
    ).format(columns=columns, library=library, identity=identity, conditions=sql.SQL(" and ").join(conditions))


def _is_due(selection: Selection, cohort: Cohort) -> sql.Composed:
    canonical = sql.SQL("true") if selection.include_null_canonical else _IS_CANONICAL
    fresh = sql.SQL("false") if selection.stale_days == 0 else _IS_FRESH
    due = sql.SQL("(({canonical} and not {fresh}) or {stale}) and not {held_back}").format(
        canonical=canonical, fresh=fresh, stale=_IS_STALE, held_back=_IS_HELD_BACK
    )
    if selection.recheck and cohort is Cohort.VA:
        due = sql.SQL("{due} or {rechecked}").format(due=due, rechecked=_IS_RECHECKED)
    return sql.SQL("({})").format(due)


def parameters(selection: Selection) -> dict[str, Any]:
    """The binds of `statement`, with the cursor before every library."""
    return {
        "after": _BEFORE_ALL,
        "as_of": selection.as_of,
        "fresh_since": selection.as_of - timedelta(days=selection.stale_days),
        "stamped_since": selection.as_of - timedelta(days=selection.unresolved_retry_days),
        "shard": selection.shard[0],
        "shards": selection.shard[1],
    }


def pages(connections: Connections, selection: Selection, cohort: Cohort, page_size: int) -> Iterator[list[Library]]:
    """The cohort's due libraries by id, at most ``page_size`` at a time.

    Each page is a short read of its own, which holds no connection afterwards. Raises what `in_transaction` raises.
    """
    columns = sql.SQL("l.id, l.legacy_release_id, l.artist_name, l.album_title")
    page = sql.SQL("{} order by l.id limit %(size)s").format(statement(selection, cohort, columns))
    bound = parameters(selection)
    left = selection.limit
    while left is None or left > 0:
        bound["size"] = page_size if left is None else min(page_size, left)
        libraries = [Library(*row) for row in _read(connections, page, bound)]
        if not libraries:
            return
        yield libraries
        bound["after"] = libraries[-1].library_id
        left = None if left is None else left - len(libraries)


def count(connections: Connections, selection: Selection, cohort: Cohort) -> int:
    """How many libraries `pages` yields."""
    counted = statement(selection, cohort, sql.SQL("count(*)"))
    [(number,)] = _read(connections, counted, parameters(selection))
    return int(number) if selection.limit is None else min(int(number), selection.limit)


def _read(connections: Connections, query: sql.Composed, bound: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    def work(connection: Connection[Any]) -> list[tuple[Any, ...]]:
        # Never prepared: a generic plan ignores where the cursor stands.
        return connection.execute(query, bound, prepare=False).fetchall()

    return in_transaction(connections, work, read_only=True)
