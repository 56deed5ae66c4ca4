"""A naive reference of a roster's bytes, to compare the real one with.

Written from the cross-year roster contract, sections 2 and 3, and from nothing else: plain dicts, one rule after the
other, no care for speed or memory. It must stay independent of `runway_pipelines.rosters`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ReferenceRoster:
    """The lines of the file (each ends with a newline), and its numbers.

    `records` counts (ed_org_id, student_unique_id), `students` distinct student_unique_id, `colliding_codes` distinct
    (id_system, id_code) that were dropped.
    """

    lines: list[bytes]
    records: int
    students: int
    colliding_codes: int


def reference_lines(tenant_code: str, associations_rows: Iterable[Row], codes_rows: Iterable[Row]) -> list[bytes]:
    """The lines of the tenant's roster."""
    return reference_roster(tenant_code, associations_rows, codes_rows).lines


def reference_roster(tenant_code: str, associations_rows: Iterable[Row], codes_rows: Iterable[Row]) -> ReferenceRoster:
    """The tenant's roster, from rows of the two source tables as dicts by column name, in any order, of any tenants."""
    # A row that names no student, no ed-org or no year is left out before anything is asked of it.
    associations = [
        row
        for row in associations_rows
        if row["tenant_code"] == tenant_code
        and row["student_unique_id"]
        and row["ed_org_id"] is not None
        and row["api_year"] is not None
    ]

    # A student without a key across years is known by the student_unique_id.
    associations = [
        row | {"k_student_xyear": row["student_unique_id"]} if row["k_student_xyear"] is None else row
        for row in associations
    ]

    latest_year: dict[str, int] = {}
    for row in associations:
        key = row["k_student_xyear"]
        latest_year[key] = max(latest_year.get(key, row["api_year"]), row["api_year"])

    # Two keys with one student_unique_id are one student.
    keys_of_student: dict[str, set[str]] = defaultdict(set)
    types_of_record: dict[tuple[str, int], set[str]] = defaultdict(set)
    for row in associations:
        if row["api_year"] != latest_year[row["k_student_xyear"]]:
            continue
        keys_of_student[row["student_unique_id"]].add(row["k_student_xyear"])
        types = types_of_record[(row["student_unique_id"], row["ed_org_id"])]
        if row["ed_org_type"]:
            types.add(row["ed_org_type"])

    codes_of_key: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in codes_rows:
        if row["tenant_code"] != tenant_code or row["k_student_xyear"] is None:
            continue
        if row["api_year"] is None or row["api_year"] != latest_year.get(row["k_student_xyear"]):
            continue
        if row["id_system"] and row["id_code"]:
            codes_of_key[row["k_student_xyear"]].add((row["id_system"], row["id_code"]))

    codes_of_student = {
        student: set().union(*(codes_of_key[key] for key in keys)) for student, keys in keys_of_student.items()
    }
    holders: dict[tuple[str, str], set[str]] = defaultdict(set)
    for student, codes in codes_of_student.items():
        for code in codes:
            holders[code].add(student)
    colliding = {code for code, students in holders.items() if len(students) > 1}

    lines = []
    records = sorted(types_of_record, key=lambda record: (record[0].encode(), record[1]))
    for student, ed_org_id in records:
        types = types_of_record[(student, ed_org_id)]
        rel = min(types, key=str.encode) if types else "LocalEducationAgency"
        codes = sorted(codes_of_student[student] - colliding, key=lambda code: (code[0].encode(), code[1].encode()))
        lines += [_line(student, ed_org_id, rel, arranged) for arranged in _arrangements(codes)]
    return ReferenceRoster(lines, len(records), len(codes_of_student), len(colliding))


def _arrangements(codes: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """What each line lists: the first code of every system; then each further code, before the other systems' first."""
    first_of_system: dict[str, tuple[str, str]] = {}
    further = []
    for code in codes:
        if code[0] in first_of_system:
            further.append(code)
        else:
            first_of_system[code[0]] = code
    firsts = list(first_of_system.values())
    return [firsts] + [[code] + [first for first in firsts if first[0] != code[0]] for code in further]


def _line(student_unique_id: str, ed_org_id: int, rel: str, codes: list[tuple[str, str]]) -> bytes:
    line = {
        "educationOrganizationReference": {"educationOrganizationId": ed_org_id, "link": {"rel": rel}},
        "studentReference": {"studentUniqueId": student_unique_id},
        "studentIdentificationCodes": [
            {"studentIdentificationSystemDescriptor": system, "identificationCode": code} for system, code in codes
        ],
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
