"""Gives rows numbers instead of texts: pure.

DuckDB groups, joins and sorts numbers several times as fast as texts, and each distinct text is read once. Numbers
follow the order of their values, so that sorting by either is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

Reading = TypeVar("Reading")

# What DuckDB's trim takes away: every kind of space, and no tab or line's end.
_BLANKS = "\u0020\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"


@dataclass(frozen=True, repr=False)
class Numbered:
    """For each row its value's place in ``values``, which are distinct and sorted; null is no value."""

    numbers: pa.Array
    values: pa.Array

    def at(self, places: pa.Array) -> Numbered:
        """The rows at these places, with the same values."""
        return Numbered(self.numbers.take(places), self.values)


def numbered_texts(texts: Sequence[str | None]) -> Numbered:
    """Rows with these texts."""
    values = pa.array(texts, pa.string())
    known = values.unique().drop_null()
    ordered = known.take(pc.sort_indices(known))
    return Numbered(pc.index_in(values, value_set=ordered), ordered)


def numbered_lists(lists: Sequence[tuple[str, ...] | None]) -> Numbered:
    """Rows with these lists of texts, which Arrow cannot sort."""
    ordered = sorted({each for each in lists if each is not None})
    place = {each: number for number, each in enumerate(ordered)}
    numbers = [None if each is None else place[each] for each in lists]
    return Numbered(pa.array(numbers, pa.int32()), pa.array(ordered, pa.list_(pa.string())))


def read_once(texts: pa.ChunkedArray, read: Callable[[str | None], Reading]) -> tuple[list[Reading], pa.Array]:
    """What ``read`` makes of each distinct text and, last, of null; and the place of each row's reading."""
    encoded = whole(texts.cast(pa.string())).dictionary_encode()
    readings = [read(text) for text in encoded.dictionary.to_pylist()]
    return [*readings, read(None)], encoded.indices.fill_null(len(readings))


def trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as texts without spaces around them."""
    return pc.utf8_trim(column.cast(pa.string()), _BLANKS)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """The column in one piece."""
    return column.combine_chunks()


def lists_by(owners: pa.Array, values: pa.Array) -> tuple[pa.Array, pa.ListArray]:
    """The owners, and the list of each one's values. The rows must be sorted by owner."""
    runs = pc.run_end_encode(owners)
    starts = pa.concat_arrays([pa.array([0], pa.int32()), runs.run_ends.cast(pa.int32())])
    return runs.values, pa.ListArray.from_arrays(starts, values)


def without_repeated(rows: pa.Table) -> pa.Table:
    """Each distinct row once. The rows must be sorted by all columns."""
    later, earlier = rows.slice(1), rows.slice(0, max(rows.num_rows - 1, 0))
    is_same = reduce(pc.and_, (pc.equal(later[name], earlier[name]) for name in rows.column_names))
    is_same = is_same.fill_null(False)
    if not pc.any(is_same).as_py():
        return rows
    return pa.concat_tables([rows.slice(0, 1), later.filter(pc.invert(is_same))])
