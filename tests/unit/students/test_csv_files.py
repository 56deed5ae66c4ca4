"""A CSV file becomes candidates by the columns that are named, and plain names are guessed."""

import pytest

from runway_pipelines.students.csv_files import ColumnsUnclear, candidate_lines, choose_columns
from runway_pipelines.students.observables import read_candidates
from tests.unit.students.world import TODAY


def test_plain_names_are_guessed() -> None:
    header = ["First Name", "student_last_name", "DOB", "School Code", "Local ID", "State ID", "Score"]
    assert choose_columns(header, {}) == {
        "first_name": ("First Name",),
        "last_name": ("student_last_name",),
        "birth_date": ("DOB",),
        "school_id": ("School Code",),
        "student_ids": ("Local ID", "State ID"),
    }


def test_a_named_column_is_taken() -> None:
    chosen = choose_columns(["A", "last", "DOB"], {"first_name": ["A"], "birth_date": ["DOB"]})
    assert chosen == {"first_name": ("A",), "birth_date": ("DOB",), "last_name": ("last",)}


def test_two_columns_for_one_member_are_an_error_that_naming_ends() -> None:
    with pytest.raises(ColumnsUnclear, match="DOB and birthdate"):
        choose_columns(["DOB", "birthdate"], {})
    assert choose_columns(["DOB", "birthdate"], {"birth_date": ["DOB"]}) == {"birth_date": ("DOB",)}


@pytest.mark.parametrize("header", [["Score"], []])
def test_a_file_without_known_columns_is_an_error(header: list[str]) -> None:
    with pytest.raises(ColumnsUnclear):
        choose_columns(header, {})


def test_a_named_column_that_is_not_there_is_named() -> None:
    with pytest.raises(ColumnsUnclear, match="Vorname"):
        choose_columns(["first_name"], {"first_name": ["Vorname"]})


def test_rows_become_candidates() -> None:
    rows = [
        "\ufefffirst_name,last_name,DOB,Local ID,State ID\n",
        '"Ana, M",Lopez,1/31/2010,605003,none\n',
        "Eva,Quist\n",
    ]
    ana, eva = read_candidates(candidate_lines(rows, {}), TODAY).valid
    assert (ana.candidate_id, ana.first_name, str(ana.birth_date)) == ("row-1", "ANA", "2010-01-31")
    assert ana.student_ids == ((0, "605003"),)
    assert (eva.candidate_id, eva.birth_date, eva.student_ids) == ("row-2", None, ())
