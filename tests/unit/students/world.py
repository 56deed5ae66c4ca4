"""A small district for tests: whom it has is said in a line each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import date
from typing import Any

import orjson
import pyarrow as pa

from benchmarks.students_world import CODES, SCHOOLS, STUDENTS
from runway_pipelines.students.model import shipped_model
from runway_pipelines.students.observables import Candidates, read_candidates
from runway_pipelines.students.persons import Persons, prepare_persons
from runway_pipelines.students.resolution import Resolution, Resolved, resolve

TODAY = date(2026, 9, 1)


def student(
    student_unique_id: str, first_name: str | None, last_name: str | None, born: str | None, **more: Any
) -> dict[str, Any]:
    """A row of the warehouse's students, with ``school_id``, ``grade`` and ``codes`` beside it."""
    return {
        "k_student_xyear": f"k{student_unique_id}",
        "api_year": 2026,
        "student_unique_id": student_unique_id,
        "first_name": first_name,
        "last_name": last_name,
        "birth_date": date.fromisoformat(born) if born else None,
        "school_id": "77",
        "grade": "Ninth grade",
        "codes": (),
        **more,
    }


def persons(*students: dict[str, Any]) -> Persons:
    """The district of these students."""
    return prepare_persons(*tables(*students))


def tables(*students: dict[str, Any]) -> tuple[pa.Table, pa.Table, pa.Table]:
    """The warehouse's three tables."""
    schools = [{**row, "entry_grade_level": row["grade"]} for row in students]
    codes = [{**row, "id_type": "Local", "id_code": code} for row in students for code in row["codes"]]
    return tuple(
        pa.table({name: [row.get(name) for row in rows] for name in schema.names}, schema=schema)
        for rows, schema in ((students, STUDENTS), (schools, SCHOOLS), (codes, CODES))
    )


_numbers = itertools.count(1)


def candidate(first_name: object, last_name: object, born: object, ids: object = None, **more: Any) -> dict[str, Any]:
    """A line of a file of candidates, as an object."""
    return {
        "candidate_id": f"c{next(_numbers)}",
        "obs_first_name": first_name,
        "obs_last_name": last_name,
        "obs_birth_date": born,
        "obs_student_ids": ids,
        "obs_school_id": "77",
        **more,
    }


def lines(*candidates: dict[str, Any]) -> list[bytes]:
    return [orjson.dumps(each) + b"\n" for each in candidates]


def read(*candidates: dict[str, Any]) -> Candidates:
    return read_candidates(lines(*candidates), TODAY)


def resolved(candidates: Sequence[dict[str, Any]], district: Persons) -> Resolved:
    return resolve(read(*candidates), district, shipped_model())


def answer(one: dict[str, Any], *students: dict[str, Any]) -> Resolution:
    """The answer to one candidate in a district of these students."""
    return resolved([one], persons(*students)).resolutions[0]
