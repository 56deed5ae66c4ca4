"""A CSV file becomes candidates by the columns that are named, and plain names are guessed."""

import csv

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
    with pytest.raises(ColumnsUnclear, match=f"got {len(header)}, of which none has a plain name"):
        choose_columns(header, {})


@pytest.mark.parametrize("named", [{}, {"first_name": ["first_name"]}])
def test_a_file_without_a_header_is_refused_without_a_word_of_its_first_student(named: dict[str, list[str]]) -> None:
    with pytest.raises(ColumnsUnclear) as refused:
        choose_columns(["605003", "Ann", "Smithers", "2010-05-12"], named)
    assert not any(word in str(refused.value) for word in ("605003", "Ann", "Smithers", "2010"))


def test_a_column_that_comes_twice_is_an_error_only_where_it_is_taken() -> None:
    for named in ({}, {"first_name": ["A"]}):
        with pytest.raises(ColumnsUnclear, match="several called"):
            choose_columns(["A", "Local ID", "A", "Local ID", "last_name"], named)
    assert choose_columns(["Score", "Score", "last_name"], {}) == {"last_name": ("last_name",)}


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


@pytest.mark.parametrize(
    "rows",
    [
        ['Ann,"Smith,1\n', "Eva,Quist,2\n", "Ida,Moss,3\n"],
        ['Ann,"Smith,1\n', "Eva,Quist,2\n", 'Ida,"Moss,3\n'],
        ['Ann,"Smith,1\n', 'Eva,Quist",2\n', "Ida,Moss,3\n"],
    ],
)
def test_a_stray_quote_swallows_no_rows(rows: list[str]) -> None:
    with pytest.raises(csv.Error):
        list(candidate_lines(["first_name,last_name,Local ID\n", *rows], {}))


def test_a_note_of_two_lines_is_none_of_our_business() -> None:
    rows = ["first_name,last_name,Note\n", 'Ann,Smith,"moved\n', 'in May"\n', "Eva,Quist,\n"]
    assert [each.candidate_id for each in read_candidates(candidate_lines(rows, {}), TODAY).valid] == ["row-1", "row-2"]
