"""Rows with numbers have the order, the groups and the values of rows with texts."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.students.numbering import (
    Numbered,
    lists_by,
    numbered_lists,
    numbered_texts,
    read_once,
    trimmed,
    without_repeated,
)

texts = st.lists(st.none() | st.text("ab \u3000é", max_size=3))
pairs = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc")))


@given(texts)
def test_numbers_are_in_the_order_of_their_texts(values: list[str | None]) -> None:
    is_numbered(values, numbered_texts(values))


@given(st.lists(st.none() | st.lists(st.text("abé", min_size=1, max_size=2), max_size=3).map(tuple)))
def test_numbers_are_in_the_order_of_their_lists(values: list[tuple[str, ...] | None]) -> None:
    is_numbered([None if value is None else list(value) for value in values], numbered_lists(values))


def is_numbered(values: list[Any], found: Numbered) -> None:
    numbers, known = found.numbers.to_pylist(), found.values.to_pylist()
    assert [None if number is None else known[number] for number in numbers] == values
    assert known == [value for value, _ in groupby(sorted(value for value in values if value is not None))]
    backwards = pa.array(reversed(range(len(values))), pa.int32())
    assert found.at(backwards).numbers.to_pylist() == numbers[::-1]


@given(texts)
def test_each_text_is_read_once(values: list[str | None]) -> None:
    asked: list[str | None] = []

    def read(text: str | None) -> str:
        asked.append(text)
        return f"<{text}>"

    readings, places = read_once(pa.chunked_array([values[:2], values[2:]], pa.string()), read)
    assert [readings[place] for place in places.to_pylist()] == [f"<{value}>" for value in values]
    assert len(asked) == len({*values, None})


@given(st.lists(st.text(max_size=5) | st.text(" \t\n\u00a0\u2003\u3000a", max_size=5)))
def test_spaces_are_what_duckdb_takes_for_spaces(values: list[str]) -> None:
    rows = pa.table({"place": range(len(values)), "text": pa.array(values, pa.string())})
    with duckdb.connect() as database:
        database.register("rows", rows)
        expected = database.execute("select trim(text) from rows order by place").fetchall()
    assert trimmed(rows["text"]).to_pylist() == [text for (text,) in expected]


@given(pairs)
def test_sorted_rows_become_a_list_for_each_owner(rows: list[tuple[int, str]]) -> None:
    rows.sort()
    owners, lists = lists_by(
        pa.array([owner for owner, _ in rows], pa.int32()), pa.array([v for _, v in rows], pa.string())
    )
    found = list(zip(owners.to_pylist(), lists.to_pylist(), strict=True))
    assert found == [(owner, [v for _, v in own]) for owner, own in groupby(rows, key=lambda row: row[0])]


@given(pairs)
def test_sorted_rows_are_kept_once(rows: list[tuple[int, str]]) -> None:
    rows.sort()
    table = pa.table(
        {"number": pa.array([n for n, _ in rows], pa.int32()), "text": pa.array([t for _, t in rows], pa.string())}
    )
    assert [tuple(row.values()) for row in without_repeated(table).to_pylist()] == sorted(set(rows))
