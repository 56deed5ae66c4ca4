"""How one would write the file without thinking of speed: a dict for each line, from the same rows in the same order.

Belongs here: what the encoder is compared with. It must give the same bytes, or the comparison means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import orjson
import pyarrow as pa

from runway_pipelines.rosters.query import ROSTER_SQL, roster_parameters

# Positions in query.ROW_SCHEMA.
_STUDENT_AND_ED_ORG = itemgetter(1, 2)
_ID_SYSTEM, _ID_CODE = 7, 8


def statement_with_binds(tenant_code: str) -> dict[str, Any]:
    """The roster's statement and its binds as Runway's driver wants them."""
    parameters = roster_parameters(tenant_code, datetime.now(UTC).date())
    return {
        "statement": ROSTER_SQL % {**parameters, "tenant_code": "?"},
        "binds": [tenant_code] * ROSTER_SQL.count("%(tenant_code)s"),
    }


def lines_with_orjson(batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """One ``orjson.dumps`` a line."""
    for record in _records(batches):
        yield orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def lines_with_json(batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """One ``json.dumps`` a line."""
    for record in _records(batches):
        yield (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def _records(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    rows = (row for batch in batches for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    id_systems: list[str] = []
    for (student, ed_org), of_record in groupby(rows, key=_STUDENT_AND_ED_ORG):
        rows_of_record = list(of_record)
        if student is None:
            id_systems = sorted(row[_ID_SYSTEM] for row in rows_of_record if row[_ID_SYSTEM])
            continue
        ed_org_type = rows_of_record[0][3]
        codes_by_system: dict[str, list[str]] = {}
        for row in rows_of_record:
            if row[_ID_CODE]:
                codes_by_system.setdefault(row[_ID_SYSTEM], []).append(row[_ID_CODE])
        codes_by_system = {system: codes_by_system.get(system, [f"no-code:{student}"]) for system in id_systems}
        references = {
            "educationOrganizationReference": {
                "educationOrganizationId": ed_org,
                "link": {"rel": ed_org_type or "LocalEducationAgency"},
            },
            "studentReference": {"studentUniqueId": student},
        }
        firsts = [_entry(system, codes[0]) for system, codes in codes_by_system.items()]
        yield {**references, "studentIdentificationCodes": firsts}
        for place, (system, codes) in enumerate(codes_by_system.items()):
            for code in codes[1:]:
                others = firsts[:place] + firsts[place + 1 :]
                yield {**references, "studentIdentificationCodes": [_entry(system, code), *others]}


def _entry(system: str, code: str) -> dict[str, str]:
    return {"studentIdentificationSystemDescriptor": system, "identificationCode": code}
