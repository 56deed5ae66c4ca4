"""A district whose students have names, and files about them: what student resolution is tried on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from runway_pipelines.local.dataset import SCHEMAS, SCHOOLS, STUDENTS
from tests.integration.world import TestPartner, Warehouse, World, write_parquet

SCHOOL = 370001
FIRST_NAMES = ("Ana", "Bruno", "Carla", "Diego", "Edith", "Felix", "Greta", "Hugo", "Irene", "Jonas")
LAST_NAMES = ("Abbott", "Bishop", "Castillo", "Dominguez", "Ellison", "Fitzgerald", "Granger", "Holloway", "Ibarra")
BORN = date(2010, 1, 5)


@dataclass(frozen=True)
class Child:
    """A student of the warehouse."""

    student_unique_id: str
    first_name: str
    last_name: str
    birth_date: date
    code: str


def children(count: int, prefix: str = "S", *, first: int = 0) -> list[Child]:
    """Children of whom no two have a name or a birth date in common; at most 90."""
    return [
        Child(
            f"{prefix}{number:05d}",
            FIRST_NAMES[number % len(FIRST_NAMES)],
            LAST_NAMES[number % len(LAST_NAMES)],
            BORN + timedelta(days=13 * number),
            f"{prefix}7{number:04d}",
        )
        for number in range(first, first + count)
    ]


def resolved_partner(world: World, district: Sequence[Child], tenants: Iterable[str] = ("north",)) -> TestPartner:
    """A partner whose every tenant has these children."""
    warehouse = Warehouse()
    codes = tuple(tenants)
    for tenant in codes:
        for child in district:
            warehouse.student(tenant, child.student_unique_id, ("Local", child.code))
    partner = world.partner(warehouse, codes)
    write_students(partner, dict.fromkeys(codes, district))
    return partner


def write_students(partner: TestPartner, of_tenant: dict[str, Sequence[Child]]) -> None:
    """The two tables that resolution reads besides the rosters'; the server loads them at the next login."""
    folder = partner.world.stack.warehouse_dir / partner.account / "EDU" / "PROD"
    students, schools = [], []
    for tenant, district in of_tenant.items():
        for child in district:
            key = f"x-{tenant}-{child.student_unique_id}"
            head = {"tenant_code": tenant, "api_year": 2026, "k_student": f"{key}-2026", "k_student_xyear": key}
            students.append(
                head
                | {
                    "student_unique_id": child.student_unique_id,
                    "first_name": child.first_name,
                    "last_name": child.last_name,
                    "birth_date": child.birth_date,
                    "is_multiple_birth": False,
                }
            )
            schools.append(head | {"school_id": SCHOOL, "entry_grade_level": "Ninth grade"})
    for name, rows in ((STUDENTS, students), (SCHOOLS, schools)):
        write_parquet(folder / f"{name}.parquet", pa.Table.from_pylist(rows, schema=SCHEMAS[name]))


def candidate(child: Child, candidate_id: str | None = None, **members: Any) -> dict[str, Any]:
    """The child as a bundle writes it; ``members`` replace some."""
    return {
        "candidate_id": candidate_id or f"c-{child.student_unique_id}",
        "obs_first_name": child.first_name.lower(),
        "obs_last_name": child.last_name.lower(),
        "obs_birth_date": child.birth_date.strftime("%m%d%Y"),
        "obs_school_id": str(SCHOOL),
        "obs_student_ids": f"['{child.code}', 'none']",
        "record_count": "2",
    } | members


def of_another_district(district: Sequence[Child], strangers: Sequence[Child]) -> bytes:
    """A file whose IDs are known here and belong to somebody else."""
    pairs = zip(district, strangers, strict=True)
    return file_of(candidate(replace(stranger, code=child.code)) for child, stranger in pairs)


def file_of(candidates: Iterable[dict[str, Any]]) -> bytes:
    """A file of candidates."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in candidates)


def answers(content: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The resolutions and the summary of an answer; fails for one that is not whole."""
    *resolutions, last = [json.loads(line) for line in content.splitlines()]
    return resolutions, last["summary"]
