"""The statement's parameters, and what consumers see of a descriptor."""

from datetime import date

import pytest

from runway_pipelines.rosters.query import id_type_of, roster_parameters


@pytest.mark.parametrize(
    ("today", "last_plausible_year"),
    [
        (date(2026, 1, 1), 2027),  # in the school year 2025-26, the next one ends in 2027
        (date(2026, 6, 30), 2027),
        (date(2026, 7, 1), 2028),
        (date(2026, 12, 31), 2028),
    ],
)
def test_the_next_school_year_is_the_last_plausible_one(today: date, last_plausible_year: int) -> None:
    assert roster_parameters("north", today) == {"tenant_code": "north", "last_plausible_year": last_plausible_year}


@pytest.mark.parametrize(
    ("id_system", "id_type"), [("Local", "Local"), ("uri://x#Local", "Local"), ("a#b#c", "c"), ("Local#", ""), ("", "")]
)
def test_an_id_type_is_what_follows_the_last_hash(id_system: str, id_type: str) -> None:
    assert id_type_of(id_system) == id_type
