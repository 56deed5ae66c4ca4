"""Reads the names of the warehouse's rows: pure (student resolution contract, section 3).

What belongs here: rows with numbers for names, and the names that the numbers stand for. `names` reads a single name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.students.names import SUFFIXES, given_names, suffix_of, surname
from runway_pipelines.students.numbering import Numbered, numbered_lists, numbered_texts, read_once, trimmed
from runway_pipelines.students.observables import sex_letter

_SUFFIXES = sorted(SUFFIXES)


@dataclass(frozen=True, repr=False)
class WrittenNames:
    """Each way in which a row writes its student, in numbers: their order is that of the values they stand for."""

    rows: pa.Table  # person, first_name, further_name, initials, last_name, suffix, birth_date, sex
    values: Mapping[str, pa.Array]  # by column
    surname_tokens: pa.Array  # by the last name's number

    def restored(self, rows: pa.Table) -> pa.Table:
        """Some of the rows with the values instead of their numbers; other columns stay."""
        tokens = self.surname_tokens.take(rows["last_name"])
        columns = {
            name: self.values[name].take(column) if name in self.values else column
            for name, column in zip(rows.column_names, rows.columns, strict=True)
        }
        return pa.table(columns | {"surname_tokens": tokens})


def read_names(students: pa.Table) -> WrittenNames:
    """The names of the warehouse's students; ``person`` is a student's number, and a maiden name is a last name."""
    written = _with_maiden_names(students)
    given, given_places = read_once(written["first_name"], given_names)
    middle, middle_places = read_once(written["middle_name"], given_names)
    last, last_places = read_once(written["last_name"], surname)
    codes, code_places = read_once(written["generation_code_suffix"], suffix_of)
    sexes, sex_places = read_once(written["birth_sex"], sex_letter)
    first_names = numbered_texts([name.first for name in given]).at(given_places)
    further_names = numbered_texts([name.further for name in given]).at(given_places)
    last_names = numbered_texts([name.joined for name in last]).at(last_places)
    initials = _together(
        numbered_lists([_initials(name.middle) for name in given]).at(given_places),
        numbered_lists([_initials((name.first or "", *name.middle)) for name in middle]).at(middle_places),
    )
    sex = numbered_texts(sexes).at(sex_places)
    suffix = _first_suffix(
        (codes, code_places),
        ([name.suffix for name in last], last_places),
        ([name.suffix for name in given], given_places),
    )
    tokens = {name.joined: name.tokens for name in last}  # the same words have the same tokens
    rows = {
        "person": written["person"],
        "first_name": first_names.numbers,
        "further_name": further_names.numbers,
        "initials": initials.numbers,
        "last_name": last_names.numbers,
        "suffix": suffix,
        "birth_date": written["birth_date"],
        "sex": sex.numbers,
    }
    return WrittenNames(
        rows=pa.table(rows),
        values={
            "first_name": first_names.values,
            "further_name": further_names.values,
            "initials": initials.values,
            "last_name": last_names.values,
            "suffix": pa.array(_SUFFIXES, pa.string()),
            "sex": sex.values,
        },
        surname_tokens=pa.array([tokens[name] for name in last_names.values.to_pylist()], pa.list_(pa.string())),
    )


def _with_maiden_names(students: pa.Table) -> pa.Table:
    """The rows, and again those with a maiden name, as their last name."""
    maiden_names = trimmed(students["maiden_name"])
    with_maiden_name = students.filter(pc.not_equal(maiden_names, ""))
    place = students.column_names.index("last_name")
    field = students.field(place)
    maiden = with_maiden_name.set_column(place, field, with_maiden_name["maiden_name"].cast(field.type))
    return pa.concat_tables([students, maiden])


def _initials(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({word[0] for word in words if word}))


def _together(one: Numbered, other: Numbered) -> Numbered:
    """Each row's letters of both, united once for each distinct pair of sets; null without letters."""
    letters, others = one.values.to_pylist(), other.values.to_pylist()
    pairs = pc.add(pc.multiply(one.numbers.cast(pa.int64()), len(others)), other.numbers).dictionary_encode()
    both = [{*letters[pair // len(others)], *others[pair % len(others)]} for pair in pairs.dictionary.to_pylist()]
    return numbered_lists([tuple(sorted(each)) or None for each in both]).at(pairs.indices)


def _first_suffix(*columns: tuple[Sequence[str | None], pa.Array]) -> pa.Array:
    """The number of each row's first suffix; a column is its readings, and each row's place in them."""
    number = {suffix: place for place, suffix in enumerate(_SUFFIXES)}
    return pc.coalesce(
        *(
            pa.array([None if suffix is None else number[suffix] for suffix in suffixes], pa.int32()).take(places)
            for suffixes, places in columns
        )
    )
