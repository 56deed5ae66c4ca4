"""Rows that are read as numbers say what each row says when it is read by itself."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.students.names import given_names, suffix_of, surname
from runway_pipelines.students.observables import sex_letter
from runway_pipelines.students.written_names import read_names

FIRST = ["Ana", " ana", "Ana María", "ANA M", "José Luis Jr", "Jr", "none", "", " ", "D'Andre", "李 龍", "Zoë\t"]
LAST = [
    "Lopez",
    "López ",
    "Lopez-Garcia",
    "Garcia Lopez",
    "De la Cruz",
    "King III",
    "King Jr",
    "Sr Lopez",
    "N/A",
    "",
    " ",
    "\u3000",
    "\t",
    "O'Brien",
]
COLUMNS = {
    "first_name": FIRST,
    "middle_name": FIRST,
    "last_name": LAST,
    "maiden_name": LAST,
    "generation_code_suffix": ["Jr", "II", "none", ""],
    "birth_sex": ["Male", "F", "uri://x#Female", "other"],
}
rows = st.lists(st.fixed_dictionaries({name: st.sampled_from([None, *of]) for name, of in COLUMNS.items()}))


@given(rows)
def test_each_row_says_what_it_says_by_itself(written: list[dict[str, Any]]) -> None:
    columns = {name: pa.array([row[name] for row in written], pa.string()) for name in COLUMNS}
    names = read_names(pa.table({**columns, "person": range(len(written)), "birth_date": [None] * len(written)}))
    found = names.restored(names.rows).to_pylist()
    with_maiden_name = [each for each in enumerate(written) if (each[1]["maiden_name"] or "").strip(" \u3000")]
    expected = [said(person, row, row["last_name"]) for person, row in enumerate(written)]
    expected += [said(person, row, row["maiden_name"]) for person, row in with_maiden_name]
    assert [{name: row[name] for name in expected[0]} for row in found] == expected


def said(person: int, row: dict[str, Any], last_name: str | None) -> dict[str, Any]:
    """What one row says of its student."""
    first, middle, last = given_names(row["first_name"]), given_names(row["middle_name"]), surname(last_name)
    words = [*first.middle, middle.first, *middle.middle]
    return {
        "person": person,
        "first_name": first.first,
        "further_name": first.further,
        "initials": sorted({word[0] for word in words if word}) or None,
        "last_name": last.joined,
        "surname_tokens": list(last.tokens) or None,
        "suffix": suffix_of(row["generation_code_suffix"]) or last.suffix or first.suffix,
        "sex": sex_letter(row["birth_sex"]),
    }
