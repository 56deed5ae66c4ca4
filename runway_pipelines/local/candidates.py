"""A small file of candidates of a synthetic district, to try `students resolve` on: it is known whose row each is.

Pure: the same names give the same file. It is written as the assessment bundles write one, with what goes wrong in real
ones: no ID, a mistyped one, the next student's, and children who are not in the roster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from runway_pipelines.local import dataset
from runway_pipelines.local.draws import Draws
from runway_pipelines.local.partners import Partner, Tenant

# How many of a hundred rows there are of each kind, in this order; all others are right.
_NO_ID, _MISTYPED, _NEXT_ONES, _NEWCOMERS, _BROTHERS = 10, 5, 6, 4, 3


@dataclass(frozen=True, repr=False)
class CandidateFile:
    """The file's lines; for each candidate the student's ID, and the ID of the student whose code the row has.

    None stands for a child who is not in the roster, and for a code that is nobody's.
    """

    lines: tuple[bytes, ...]
    truth: dict[str, str | None]
    by_id_alone: dict[str, str | None]


def candidate_file(partner: Partner, tenant: Tenant, rows: int) -> CandidateFile:
    """At most ``rows`` candidates of this year's students of the tenant, who have a local code."""
    students = _students(partner, tenant)
    draws = Draws(f"{dataset.SEED}/candidates/{partner.partner_id}/{tenant.code}")
    order = draws.order("student", len(students))[:rows]
    chosen = [students[number] for number in order]
    owners = {student["code"]: student["student_unique_id"].strip() for student in students}
    lines, truth, by_id_alone = [], {}, {}
    for place, student in enumerate(chosen):
        other = chosen[(place + 1) % len(chosen)]
        row, ids, student_unique_id = _row(place % 100, student, other)
        candidate_id = draws.keys("candidate_id", np.array([place]))[0].as_py()
        truth[candidate_id] = student_unique_id
        by_id_alone[candidate_id] = owners.get(ids[0]) if ids else None
        lines.append(
            orjson.dumps({"candidate_id": candidate_id, **_observables(row, ids), "record_count": "1"}) + b"\n"
        )
    return CandidateFile(tuple(lines), truth, by_id_alone)


def _row(kind: int, student: dict[str, Any], other: dict[str, Any]) -> tuple[dict[str, Any], list[str], str | None]:
    """A row of one of the kinds: the child that it describes, its IDs, and whose it is."""
    code, own = student["code"], student["student_unique_id"].strip()  # resolution answers without blanks
    if (kind := kind - _NO_ID) < 0:
        return student, [], own
    if (kind := kind - _MISTYPED) < 0:
        return student, [code[:-1] + str((int(code[-1]) + 1) % 10)], own
    if (kind := kind - _NEXT_ONES) < 0:
        return student, [other["code"]], own
    if (kind := kind - _NEWCOMERS) < 0:
        return _stranger(student, other), ["7" + code], None
    if kind - _BROTHERS < 0:
        return _stranger(student, other), [code], None
    return student, [code], own


def _stranger(student: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A brother or sister of the student, a year older, who is not in the roster."""
    born = student["birth_date"]
    return student | {
        "first_name": next(name for name in (other["first_name"], "Quentin") if name != student["first_name"]),
        "birth_date": born.replace(year=born.year - 1, day=min(born.day, 28)),
    }


def _observables(student: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """As the bundles write them: names in lower case, the date without separators, the list of IDs as a text."""
    return {
        "obs_first_name": student["first_name"].lower(),
        "obs_last_name": student["last_name"].lower(),
        "obs_birth_date": f"{student['birth_date']:%m%d%Y}",
        "obs_school_id": str(student["school_id"]),
        "obs_student_ids": f"{ids or ['none']}",
    }


def _students(partner: Partner, tenant: Tenant) -> list[dict[str, Any]]:
    """The students who have a local code of plain digits this year, by their IDs."""
    year = dataset.SCHOOL_YEARS[-1]
    codes = {
        row["k_student_xyear"]: row["id_code"]
        for row in dataset.identification_codes(partner, tenant).to_pylist()
        if row["api_year"] == year and row["id_system"] == "Local" and (row["id_code"] or "").isdigit()
    }
    schools = {
        row["k_student_xyear"]: row["school_id"]
        for row in dataset.schools(partner, tenant).to_pylist()
        if row["api_year"] == year
    }
    found = {
        row["student_unique_id"]: row
        | {"code": codes[row["k_student_xyear"]], "school_id": schools[row["k_student_xyear"]]}
        for row in dataset.students(partner, tenant).to_pylist()
        if row["api_year"] == year and row["k_student_xyear"] in codes and row["student_unique_id"]
    }
    return [found[student_unique_id] for student_unique_id in sorted(found)]
