"""The warehouse's rows become students, whatever their order; a missing column is named, and no value is."""

from __future__ import annotations

import random
from typing import Any

import pytest

from runway_pipelines.errors import Permanent, RowsUnreadable
from runway_pipelines.students.persons import Persons, prepare_persons
from tests.unit.students.world import persons, student, tables

ANA = student("1001", "Ana María", "López", "2010-01-31", codes=("77.0", " 88 ", "none", ""))


def people(district: Persons) -> list[dict[str, Any]]:
    return district.people.to_pylist()


def test_a_student_is_one_person_with_all_its_ids() -> None:
    district = persons(ANA)
    assert district.count == 1
    assert people(district)[0]["student_unique_id"] == "1001"
    assert sorted((row["id_type"], row["student_id"]) for row in district.codes.to_pylist()) == [
        ("Local", "77"),
        ("Local", "88"),
        ("studentUniqueId", "1001"),
    ]


def test_each_way_of_writing_a_student_is_kept_once() -> None:
    earlier = {**ANA, "api_year": 2025, "last_name": "Quist", "school_id": "66", "grade": "Eighth grade"}
    same = {**ANA, "api_year": 2024}
    district = persons(ANA, earlier, same)
    assert sorted(row["last_name"] for row in district.variants.to_pylist()) == ["LOPEZ", "QUIST"]
    assert (people(district)[0]["school_ids"], people(district)[0]["grade"]) == (["66", "77"], 9)


def test_a_maiden_name_is_a_way_of_writing() -> None:
    district = persons({**ANA, "maiden_name": "Quist"})
    assert sorted(row["last_name"] for row in district.variants.to_pylist()) == ["LOPEZ", "QUIST"]


def test_the_latest_years_id_is_the_students() -> None:
    before = {**ANA, "api_year": 2025, "student_unique_id": "0999"}
    district = persons(before, ANA)
    assert [row["student_unique_id"] for row in people(district)] == ["1001"]
    assert not people(district)[0]["is_divided"]
    assert people(persons({**before, "first_name": "Beto"}, ANA))[0]["is_divided"]


def test_a_default_birth_date_is_none() -> None:
    usual = persons({**ANA, "birth_date": None}, student("2", "Eva", "Quist", "1900-01-01"))
    assert [row["birth_date"] for row in usual.variants.to_pylist()] == [None, None]
    many = persons(*(student(f"3{i}", f"{'abcdefgh'[i]}va", "Quist", "2010-05-05") for i in range(6)))
    assert {row["birth_date"] for row in many.variants.to_pylist()} == {None}


def test_rows_without_a_key_or_an_id_are_nobody() -> None:
    assert persons({**ANA, "k_student_xyear": None}, {**ANA, "k_student_xyear": " "}).count == 0
    assert persons({**ANA, "student_unique_id": " "}).count == 0


def test_a_code_of_nobody_is_left_out() -> None:
    students, schools, codes = tables(ANA)
    _, other_schools, other_codes = tables(student("2", "Eva", "Quist", "2010-05-05", codes=("5",)))
    district = prepare_persons(students, other_schools, other_codes)
    assert district.codes.num_rows == 1
    assert people(district)[0]["school_ids"] is None
    assert schools.num_rows == codes.num_rows - 3


def test_the_order_of_rows_changes_nothing() -> None:
    chance = random.Random(1)
    rows = [
        student(
            f"{i % 20}",
            chance.choice(["Ana", "Eva", None]),
            "Quist",
            "2010-01-31",
            api_year=2020 + i % 3,
            codes=(f"{i}",),
        )
        for i in range(60)
    ]
    usual = persons(*rows)
    chance.shuffle(rows)
    again = persons(*rows)
    assert (again.people, again.variants, again.codes) == (usual.people, usual.variants, usual.codes)
    assert again.nbytes == usual.nbytes > 0


@pytest.mark.parametrize("column", ["birth_date", "k_student_xyear", "is_multiple_birth"])
def test_a_missing_column_is_named(column: str) -> None:
    students, schools, codes = tables(ANA)
    with pytest.raises(RowsUnreadable, match=column):
        prepare_persons(students.drop_columns([column]), schools, codes)


def test_a_value_that_cannot_be_read_is_not_quoted() -> None:
    students, schools, codes = tables(ANA)
    place = students.column_names.index("birth_date")
    with pytest.raises(Permanent) as raised:
        prepare_persons(students.set_column(place, "birth_date", [["canary"]]), schools, codes)
    assert "canary" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
