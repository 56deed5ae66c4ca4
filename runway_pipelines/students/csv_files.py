"""Makes candidates from a CSV file that no bundle prepared: pure (student resolution contract, section 1).

Columns are named by whoever has the file. Only plain names are guessed, and a guess that could be two is an error.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import orjson

from runway_pipelines.errors import Permanent

STUDENT_IDS = "student_ids"
# For each member of a candidate, the column names that are guessed; "student" before them is ignored.
_PLAIN_NAMES: Mapping[str, frozenset[str]] = {
    "first_name": frozenset({"first_name", "firstname", "first", "fname", "given_name"}),
    "middle_name": frozenset({"middle_name", "middlename", "middle", "middle_initial", "mi"}),
    "last_name": frozenset({"last_name", "lastname", "last", "lname", "surname", "family_name"}),
    "birth_date": frozenset({"birth_date", "birthdate", "date_of_birth", "dateofbirth", "dob", "birthday"}),
    "school_id": frozenset({"school_id", "schoolid", "school_code", "school_number"}),
    "sex": frozenset({"sex", "gender", "birth_sex"}),
    "grade": frozenset({"grade", "grade_level", "gradelevel"}),
    STUDENT_IDS: frozenset(
        {"id", "ids", "unique_id", "uniqueid", "number", "local_id", "state_id", "ssid", "local_student_id"}
        | {"state_student_id", "studentid"}
    ),
}
_LINE_ENDS = frozenset("\r\n")
_PREFIX = re.compile(r"^(?:student|stu)_(?=.)")

Columns = Mapping[str, Sequence[str]]  # the columns of each member; several for the IDs alone


class ColumnsUnclear(Permanent):
    """The columns of a CSV file do not say what they are."""


def choose_columns(header: Sequence[str], named: Columns) -> dict[str, tuple[str, ...]]:
    """The columns of each member: those that are named, and plain names for the rest.

    Raises `ColumnsUnclear`. It quotes no column that nobody named: a file without a header begins with a student.
    """
    absent = sorted({column for columns in named.values() for column in columns} - set(header))
    if absent:
        raise _unclear(f"none called {', '.join(absent)} among {len(header)}")
    chosen = {member: tuple(columns) for member, columns in named.items()}
    taken = {column for columns in chosen.values() for column in columns}
    for member, names in _PLAIN_NAMES.items():
        found = tuple(column for column in header if column not in taken and _plain(column) in names)
        if member in chosen or not found:
            continue
        if len(found) > 1 and member != STUDENT_IDS:
            raise _unclear(f"{' and '.join(found)}, which both may be the {member.replace('_', ' ')}")
        chosen[member] = found
    if not chosen:
        raise _unclear(f"{len(header)}, of which none has a plain name")
    repeated = sorted({column for columns in chosen.values() for column in columns if header.count(column) > 1})
    if repeated:
        raise _unclear(f"several called {' and '.join(repeated)}")
    return chosen


def candidate_lines(lines: Iterable[str], named: Columns) -> Iterator[bytes]:
    """A candidate for each row, called by the row's number from 1.

    Raises `ColumnsUnclear` before the first, and `csv.Error` for a quote that does not end in its own cell: the rows up
    to the next quote would be one.
    """
    reader = csv.DictReader(lines, strict=True)
    header = [column.removeprefix("\ufeff") for column in reader.fieldnames or ()]
    reader.fieldnames = header
    columns = choose_columns(header, named)
    for number, row in enumerate(reader, 1):
        cells = {column: row[column] for names in columns.values() for column in names}
        if any(not _LINE_ENDS.isdisjoint(cell) for cell in cells.values() if cell):
            raise csv.Error("a cell of several lines")
        yield orjson.dumps({"candidate_id": f"row-{number}", **_members(cells, columns)})


def _members(cells: Mapping[str, str | None], columns: Columns) -> dict[str, str | list[str | None] | None]:
    return {
        f"obs_{member}": [cells[each] for each in names] if member == STUDENT_IDS else cells[names[0]]
        for member, names in columns.items()
    }


def _plain(column: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "_", column.strip().lower()).strip("_")
    return _PREFIX.sub("", plain)


def _unclear(came: str) -> ColumnsUnclear:
    return ColumnsUnclear(
        expected="columns for first name, last name, birth date, school and IDs",
        came=came,
        remedy="name the columns as the file's first line does",
    )
