"""A tenant's students as they are compared, from the warehouse's tables: pure (student resolution contract, section 4).

A student is a ``k_student_xyear``. Each way in which its name and birth date were ever written is a variant. The tables
hold names and birth dates, so nothing here is ever printed, and no error quotes a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.errors import RowsUnreadable
from runway_pipelines.students.dates import DEFAULT_DATES, FEWEST_OF_ONE_DATE, MOST_OF_ONE_DATE
from runway_pipelines.students.memory_database import USUAL_MEANS, Means, memory_database
from runway_pipelines.students.names import MISSING
from runway_pipelines.students.numbering import lists_by, numbered_texts, read_once, trimmed, whole, without_repeated
from runway_pipelines.students.observables import grade_number
from runway_pipelines.students.written_names import WrittenNames, read_names

UNIQUE_ID = "studentUniqueId"  # the type of the IDs that are Ed-Fi's own

STUDENTS_COLUMNS = (
    "k_student_xyear", "api_year", "student_unique_id", "first_name", "middle_name", "last_name", "maiden_name",
    "generation_code_suffix", "birth_date", "birth_sex", "is_multiple_birth",
)  # fmt: skip
SCHOOLS_COLUMNS = ("k_student_xyear", "api_year", "school_id", "entry_grade_level")
CODES_COLUMNS = ("k_student_xyear", "id_type", "id_code")

_NAMES = ("first_name", "middle_name", "last_name", "maiden_name", "generation_code_suffix", "birth_sex")
_TYPES = {"api_year": pa.int64(), "birth_date": pa.date32(), "is_multiple_birth": pa.bool_()}

_DEFAULT_DATES = """
create table default_date as
    select birth_date from (select birth_date, count(*) as times from student where birth_date is not null group by all)
    where birth_date in (select unnest($usual))
        or (times >= $fewest and times > $share * (select count(birth_date) from student));
"""
_VARIANTS = """
create table variant as
    select * replace (case when birth_date not in (from default_date) then birth_date::varchar end as birth_date)
    from (select distinct * from written);
"""
_COUNTED = """
    select variant.*, first.students as first_name_students, last.students as last_name_students
    from variant left join (
        select first_name, count(distinct person)::int as students from variant group by first_name
    ) as first using (first_name) left join (
        select last_name, count(distinct person)::int as students from variant group by last_name
    ) as last using (last_name)
    order by all;
"""
_CODES = """
    with written as (
        select person, trim(id_type) as id_type, trim(id_code) as id_code from codes_rows where person is not null
    )
    select distinct person, $unique_id as id_type, unique_id as student_id from student
    union all
    select person, id_type, case when ends_with(id_code, '.0') then id_code[:-3] else id_code end
    from written where upper(id_code) not in (select unnest($missing))
    order by all;
"""
_ATTENDED = """
    select distinct person, school_id from attended where person is not null and school_id is not null order by all;
"""
# A student's own ID is the one of the latest year. A key is perhaps two children where it has several IDs, and several
# first names or birth dates; or where an ID was given again, and first name, last name and birth date all differ in two
# rows. It is then `divided`, and nobody is resolved to it without a person's look. Few keys have several of anything.
_PEOPLE = """
    with known as (
        select person, min(unique_id) as unique_id, min(unique_id) <> max(unique_id) as has_several_ids,
            bool_or(is_multiple_birth) as is_multiple_birth
        from student group by person
    ), several as (
        select person, max(api_year) as api_year from student
        where person in (select person from known where has_several_ids) group by person
    ), latest as (
        select person, min(unique_id) as unique_id from student join several using (person, api_year) group by person
    ), divided as (
        select person from variant where person in (select person from several) group by person
        having min(first_name) <> max(first_name) or min(birth_date) <> max(birth_date)
    ), changed as (
        select person from variant group by person
        having min(first_name) <> max(first_name) and min(last_name) <> max(last_name)
            and min(birth_date) <> max(birth_date)
    ), given_again as (
        select distinct one.person
        from (from variant where person in (from changed)) as one join variant as other on one.person = other.person
            and one.first_name <> other.first_name and one.last_name <> other.last_name
            and one.birth_date <> other.birth_date
    ), graded as (
        select person, arg_max(grade, api_year * 100 + grade) as grade from attended group by person
    )
    select person, coalesce(latest.unique_id, known.unique_id) as student_unique_id, grade, is_multiple_birth,
        person in (from divided union from given_again) as is_divided
    from known left join latest using (person) left join graded using (person)
    order by person;
"""


@dataclass(frozen=True, repr=False)
class Persons:
    """A tenant's students: a row each in ``people``, one for each way of writing in ``variants``, IDs in ``codes``."""

    people: pa.Table  # person, student_unique_id, school_ids, grade, is_multiple_birth, is_divided
    # person, first_name, further_name, initials, last_name, surname_tokens, suffix, birth_date, sex, and how many
    # students have its names: first_name_students, last_name_students
    variants: pa.Table
    codes: pa.Table  # person, id_type, student_id

    @property
    def count(self) -> int:
        """How many students there are."""
        return int(self.people.num_rows)

    @property
    def nbytes(self) -> int:
        """What they need in memory."""
        return int(self.people.nbytes + self.variants.nbytes + self.codes.nbytes)


def prepare_persons(students: pa.Table, schools: pa.Table, codes: pa.Table, means: Means = USUAL_MEANS) -> Persons:
    """The students of the warehouse's rows, of all years. Raises `RowsUnreadable`, which names a missing column."""
    _require(students, STUDENTS_COLUMNS, "students")
    _require(schools, SCHOOLS_COLUMNS, "school associations")
    _require(codes, CODES_COLUMNS, "codes")
    known, numbers = _numbered_students(students)
    usable = _usable(students, numbers)
    with memory_database(means) as database, ThreadPoolExecutor(1) as beside:
        database.register("student", usable)
        # DuckDB works on what needs no name while Python reads the names.
        code = beside.submit(_codes, database.cursor(), usable, codes, known)
        attended = beside.submit(_attended, database.cursor(), schools, known)
        variants = _variants(database, read_names(usable))
        return Persons(_people(database, attended.result()), variants, code.result())


def _require(table: pa.Table, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise RowsUnreadable(
            expected=f"{name} with the columns {', '.join(columns)}",
            came=f"none called {', '.join(missing)}",
            remedy="bring the warehouse's staging models up to date",
        )


def _numbered_students(students: pa.Table) -> tuple[pa.Array, pa.Array]:
    """The keys, sorted, and the number of each row's student. No number depends on the order of the rows."""
    written = whole(_keys(students)).dictionary_encode()
    known = written.dictionary.filter(pc.not_equal(written.dictionary, ""))  # a blank is no key
    known = known.take(pc.sort_indices(known))
    return known, pc.index_in(written.dictionary, value_set=known).take(written.indices)


def _numbers(rows: pa.Table, known: pa.Array) -> pa.ChunkedArray:
    """The number of each row's student, null for nobody."""
    return pc.index_in(_keys(rows), value_set=known)


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    return pc.utf8_trim_whitespace(rows["k_student_xyear"].cast(pa.string()))


def _usable(students: pa.Table, numbers: pa.Array) -> pa.Table:
    """The rows that have a key and an ID, as numbers, dates and truth values."""
    unique_ids = trimmed(students["student_unique_id"])
    rows = pa.table(
        {name: students[name] for name in _NAMES}
        | {name: _typed(students, name) for name in ("api_year", "birth_date")}
        | {
            "person": numbers,
            "unique_id": unique_ids,
            "is_multiple_birth": _typed(students, "is_multiple_birth").fill_null(False),
        }
    )
    is_usable = pc.and_(rows["person"].is_valid(), pc.not_equal(unique_ids, "")).fill_null(False)
    return rows if pc.all(is_usable).as_py() else rows.filter(is_usable)


def _typed(rows: pa.Table, name: str) -> pa.ChunkedArray:
    try:
        return rows[name].cast(_TYPES[name])
    except pa.ArrowInvalid:  # its text quotes the value
        raise RowsUnreadable(
            expected="dates in birth_date, numbers in api_year and truth values in is_multiple_birth",
            came="something else",
            remedy="bring the warehouse's staging models up to date",
        ) from None


def _variants(database: duckdb.DuckDBPyConnection, names: WrittenNames) -> pa.Table:
    database.register("written", names.rows)
    database.execute(
        _DEFAULT_DATES, {"usual": sorted(DEFAULT_DATES), "fewest": FEWEST_OF_ONE_DATE, "share": MOST_OF_ONE_DATE}
    )
    database.execute(_VARIANTS)
    return names.restored(database.sql(_COUNTED).to_arrow_table())


def _codes(database: duckdb.DuckDBPyConnection, students: pa.Table, codes: pa.Table, known: pa.Array) -> pa.Table:
    database.register("student", students)
    written = {name: codes[name].cast(pa.string()) for name in ("id_type", "id_code")}
    database.register("codes_rows", pa.table({"person": _numbers(codes, known)} | written))
    sorted_codes = database.sql(_CODES, params={"unique_id": UNIQUE_ID, "missing": sorted(MISSING)}).to_arrow_table()
    return without_repeated(sorted_codes)


class _Attended(NamedTuple):
    """Which student attended which school in which grade; and the schools of each student who attended any."""

    rows: pa.Table  # person, api_year, school_id, grade: numbers all
    persons: pa.Array
    school_ids: pa.ListArray


def _attended(database: duckdb.DuckDBPyConnection, schools: pa.Table, known: pa.Array) -> _Attended:
    ids, id_places = read_once(trimmed(schools["school_id"]), lambda text: text or None)
    grades, grade_places = read_once(schools["entry_grade_level"], grade_number)
    school = numbered_texts(ids).at(id_places)
    rows = pa.table(
        {
            "person": _numbers(schools, known),
            "api_year": _typed(schools, "api_year"),
            "school_id": school.numbers,
            "grade": pa.array(grades, pa.int32()).take(grade_places),
        }
    )
    database.register("attended", rows)
    sorted_rows = database.sql(_ATTENDED).to_arrow_table()
    names = school.values.take(whole(sorted_rows["school_id"]))
    return _Attended(rows, *lists_by(whole(sorted_rows["person"]), names))


def _people(database: duckdb.DuckDBPyConnection, attended: _Attended) -> pa.Table:
    database.register("attended", attended.rows)
    people = database.sql(_PEOPLE).to_arrow_table()
    school_ids = attended.school_ids.take(pc.index_in(people["person"], value_set=attended.persons))
    return people.add_column(2, "school_ids", school_ids)
