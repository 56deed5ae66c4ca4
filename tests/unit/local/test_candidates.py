"""The demo's file is the same everywhere, and has what real ones have wrong."""

from __future__ import annotations

import orjson

from runway_pipelines.local.candidates import candidate_file
from runway_pipelines.local.partners import RESOLVED_PARTNER, synthetic_partners

PARTNER = next(one for one in synthetic_partners() if one.partner_id == RESOLVED_PARTNER)
TENANT = next(one for one in PARTNER.tenants if one.code == "juniper")


def test_the_same_file_every_time_with_its_truth() -> None:
    made = candidate_file(PARTNER, TENANT, 100)
    assert made.lines == candidate_file(PARTNER, TENANT, 100).lines
    rows = [orjson.loads(line) for line in made.lines]
    assert [row["candidate_id"] for row in rows] == list(made.truth)
    assert len(set(made.truth)) == 100
    assert sum(row["obs_student_ids"] == "['none']" for row in rows) == 10
    assert sum(student is None for student in made.truth.values()) == 7
    wrong = [one for one, student in made.by_id_alone.items() if student not in (None, made.truth[one])]
    assert len(wrong) >= 9


def test_a_district_of_fewer_students_has_a_shorter_file() -> None:
    assert 100 < len(candidate_file(PARTNER, TENANT, 5_000).lines) < 200
