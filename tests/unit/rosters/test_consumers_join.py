"""The consumer's join, as Runway's bundles do it, over the roster's lines: who gets an assessment row with which ID.

For each ID type a column is made of the first code of that type in a line, and what is missing is filled with ''. A row
of an assessment file is joined by equality on the column of the type that matched most rows; the job says success
whatever comes of it.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference_roster import reference_roster
from tests.unit.rosters.test_roster_bytes import TENANT, association, code, encoded, warehouse_rows

Holders = Mapping[str, Mapping[str, set[str]]]  # by ID type and code: student ids in lower case


def joined(file: bytes) -> Holders:
    """Whom each code of each type reaches, among them ''."""
    lines = [json.loads(line) for line in file.split(b"\n")[:-1]]
    rows = []
    for line in lines:
        columns: dict[str, str] = {}
        for entry in line["studentIdentificationCodes"]:
            system = entry["studentIdentificationSystemDescriptor"].rsplit("#", 1)[-1]
            columns.setdefault(system, re.sub(r"\.0$", "", entry["identificationCode"]))
        rows.append((line["studentReference"]["studentUniqueId"].lower(), columns))
    holders: dict[str, dict[str, set[str]]] = {}
    for id_type in {id_type for _, columns in rows for id_type in columns}:
        of_type = holders[id_type] = defaultdict(set)
        for student, columns in rows:
            of_type[columns.get(id_type, "")].add(student)
    return holders


def file_of(rows: pa.Table, *, fillers: bool) -> bytes:
    return encoded(rows, 1000, fillers=fillers)[0]


@given(st.lists(association, max_size=14), st.lists(code, max_size=20))
def test_a_blank_id_reaches_nobody_and_every_code_whom_it_reached(
    associations: list[dict[str, Any]], codes: list[dict[str, Any]]
) -> None:
    rows = warehouse_rows(associations, codes)
    with_fillers, without = (joined(file_of(rows, fillers=fillers)) for fillers in (True, False))
    assert with_fillers.keys() == without.keys()
    for id_type, of_type in with_fillers.items():
        real = {text: students for text, students in of_type.items() if not text.startswith("no-code:")}
        assert "" not in real
        assert real == {text: students for text, students in without[id_type].items() if text}
        fillers = [students for text, students in of_type.items() if text.startswith("no-code:")]
        assert all(len(students) == 1 for students in fillers)


@given(st.lists(association, max_size=14), st.lists(code, max_size=20))
def test_no_code_reaches_two_students(associations: list[dict[str, Any]], codes: list[dict[str, Any]]) -> None:
    # Two ids with one key are one student, so they count as one here.
    same_key = {"z": "a"}
    for of_type in joined(file_of(warehouse_rows(associations, codes), fillers=True)).values():
        for students in of_type.values():
            assert len({same_key.get(student, student) for student in students}) == 1


@pytest.mark.parametrize("fillers", [False, True])
def test_without_fillers_one_blank_row_is_written_to_every_student_without_a_code(fillers: bool) -> None:
    associations = [one_association(str(number)) for number in range(200)]
    codes = [one_code(str(number), f"L{number}") for number in range(181)]
    reached = joined(file_of(warehouse_rows(associations, codes), fillers=fillers))["Local"].get("", set())
    assert len(reached) == (0 if fillers else 19)
    assert reference_roster(TENANT, associations, codes).students == 200


def one_association(student: str) -> dict[str, Any]:
    return {
        "tenant_code": TENANT,
        "api_year": 2026,
        "k_student": student,
        "k_student_xyear": f"x{student}",
        "student_unique_id": student,
        "ed_org_id": 1,
        "ed_org_type": "School",
    }


def one_code(student: str, text: str) -> dict[str, Any]:
    return {
        "tenant_code": TENANT,
        "api_year": 2026,
        "k_student": student,
        "k_student_xyear": f"x{student}",
        "ed_org_id": 1,
        "id_system": "Local",
        "assigning_org": None,
        "id_code": text,
    }
