"""A tenant's students as they are compared, from the warehouse's tables: pure (student resolution contract, section 4).

A student is a ``k_student_xyear``. Each way in which its name and birth date were ever written is a variant. The tables
hold names and birth dates, so nothing here is ever printed, and no error quotes a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.errors import RowsUnreadable
from runway_pipelines.students.dates import DEFAULT_DATES, FEWEST_OF_ONE_DATE, MOST_OF_ONE_DATE
from runway_pipelines.students.memory_database import USUAL_MEANS, Means, memory_database
from runway_pipelines.students.names import MISSING, given_names, suffix_of, surname
from runway_pipelines.students.observables import grade_number, sex_letter

UNIQUE_ID = "studentUniqueId"  # the type of the IDs that are Ed-Fi's own

STUDENTS_COLUMNS = (
    "k_student_xyear", "api_year", "student_unique_id", "first_name", "middle_name", "last_name", "maiden_name",
    "generation_code_suffix", "birth_date", "birth_sex", "is_multiple_birth",
)  # fmt: skip
SCHOOLS_COLUMNS = ("k_student_xyear", "api_year", "school_id", "entry_grade_level")
CODES_COLUMNS = ("k_student_xyear", "id_type", "id_code")

_STUDENTS = """
create table student as
    select person, api_year::int as api_year, trim(student_unique_id::varchar) as unique_id,
        trim(first_name) as first_name, trim(middle_name) as middle_name, trim(last_name) as last_name,
        nullif(trim(maiden_name), '') as maiden_name, generation_code_suffix as suffix, birth_date::date as birth_date,
        birth_sex as sex, coalesce(is_multiple_birth::bool, false) as is_multiple_birth
    from students_rows where person is not null and trim(student_unique_id::varchar) <> '';
"""
_DEFAULT_DATES = """
create table default_date as
    select birth_date from (select birth_date, count(*) as times from student where birth_date is not null group by all)
    where birth_date in (select unnest($usual))
        or (times >= $fewest and times > $share * (select count(birth_date) from student));
"""
_VARIANTS = """
create table variant as
    with named as (
        select person, first_name, middle_name, last_name, suffix, birth_date, sex from student
        union
        select person, first_name, middle_name, maiden_name, suffix, birth_date, sex from student
        where maiden_name <> ''
    )
    select distinct person, given.first as first_name, coalesce(given.is_compound, false) as is_compound,
        nullif(list_sort(list_distinct(list_concat(coalesce(given.initials, []), coalesce(middle.initials, [])))), [])
            as initials,
        surnames.joined as last_name, surnames.tokens as surname_tokens,
        coalesce(suffixes.value, surnames.suffix, given.suffix) as suffix,
        case when birth_date not in (from default_date) then birth_date::varchar end as birth_date,
        sexes.value as sex
    from named
    left join given_names as given on given.raw = first_name
    left join middle_names as middle on middle.raw = middle_name
    left join surnames on surnames.raw = last_name
    left join suffixes on suffixes.raw = named.suffix
    left join sexes on sexes.raw = sex;
"""
_CODES = """
create table code as
    with written as (
        select person, trim(id_type::varchar) as id_type, trim(id_code::varchar) as id_code
        from codes_rows where person is not null
    )
    select person, $unique_id as id_type, unique_id as student_id from student
    union
    select person, id_type, case when ends_with(id_code, '.0') then id_code[:-3] else id_code end
    from written where upper(id_code) not in (select unnest($missing));
"""
_ATTENDED = """
create table attended as
    select person, list_sort(list(distinct trim(school_id::varchar)) filter (trim(school_id::varchar) <> ''))
        as school_ids, arg_max(value, api_year::int * 100 + value) as grade
    from schools_rows left join grades on raw = entry_grade_level::varchar where person is not null group by person;
"""
# A student's own ID is the one of the latest year. A key with several IDs, and several first names or birth dates, is
# perhaps two children: it is `divided`, and nobody is resolved to it without a person's look.
_PEOPLE = """
create table people as
    with known as (
        select person, min(unique_id) filter (api_year = latest) as student_unique_id,
            min(unique_id) <> max(unique_id) as has_several_ids, bool_or(is_multiple_birth) as is_multiple_birth
        from student join (select person, max(api_year) as latest from student group by person) using (person)
        group by person
    ), written as (
        select person, min(first_name) <> max(first_name) or min(birth_date) <> max(birth_date) as differs
        from variant group by person
    )
    select person, student_unique_id, school_ids, grade, is_multiple_birth,
        has_several_ids and coalesce(differs, false) as is_divided
    from known join written using (person) left join attended using (person);
"""


@dataclass(frozen=True, repr=False)
class Persons:
    """A tenant's students: a row each in ``people``, one for each way of writing in ``variants``, IDs in ``codes``."""

    people: pa.Table  # person, student_unique_id, school_ids, grade, is_multiple_birth, is_divided
    variants: pa.Table  # person, first_name, is_compound, initials, last_name, surname_tokens, suffix, birth_date, sex
    codes: pa.Table  # person, id_type, student_id

    @property
    def count(self) -> int:
        """How many students there are."""
        return int(self.people.num_rows)

    @property
    def nbytes(self) -> int:
        """What they need in memory."""
        return int(self.people.nbytes + self.variants.nbytes + self.codes.nbytes)


class _Values(NamedTuple):
    """Distinct values, what Python makes of each, and the table's columns after ``raw``, the value itself."""

    name: str
    query: str
    read: Callable[[str], tuple[Any, ...]]
    schema: pa.Schema


def prepare_persons(students: pa.Table, schools: pa.Table, codes: pa.Table, means: Means = USUAL_MEANS) -> Persons:
    """The students of the warehouse's rows, of all years. Raises `RowsUnreadable`, which names a missing column."""
    _require(students, STUDENTS_COLUMNS, "students")
    _require(schools, SCHOOLS_COLUMNS, "school associations")
    _require(codes, CODES_COLUMNS, "codes")
    with memory_database(means) as database:
        known = _known_keys(students)
        try:
            _make_tables(database, *(_numbered(rows, known) for rows in (students, schools, codes)))
        except duckdb.ConversionException:  # its text quotes the value
            raise RowsUnreadable(
                expected="dates in birth_date, numbers in api_year and truth values in is_multiple_birth",
                came="something else",
                remedy="bring the warehouse's staging models up to date",
            ) from None
        return Persons(*(_table(database, name) for name in ("people", "variant", "code")))


def _require(table: pa.Table, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise RowsUnreadable(
            expected=f"{name} with the columns {', '.join(columns)}",
            came=f"none called {', '.join(missing)}",
            remedy="bring the warehouse's staging models up to date",
        )


def _known_keys(students: pa.Table) -> pa.Array:
    """The students' keys in their order, so that no number depends on the order of the rows. A blank one is none."""
    keys = pc.unique(_keys(students).drop_null())
    keys = keys.filter(pc.not_equal(keys, ""))
    return keys.take(pc.sort_indices(keys))


def _numbered(rows: pa.Table, known: pa.Array) -> pa.Table:
    """The rows with the number of their student, null for nobody: DuckDB joins numbers faster than texts."""
    return rows.append_column("person", pc.index_in(_keys(rows), value_set=known))


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    return pc.utf8_trim_whitespace(rows["k_student_xyear"].cast(pa.string()))


def _make_tables(database: duckdb.DuckDBPyConnection, students: pa.Table, schools: pa.Table, codes: pa.Table) -> None:
    """DuckDB works beside Python: what needs no name is made while the names are read, a third of the time."""
    database.register("students_rows", students)
    database.execute(_STUDENTS)
    with ThreadPoolExecutor(1) as beside:
        others = beside.submit(_make_nameless_tables, database.cursor(), schools, codes)
        database.execute(
            _DEFAULT_DATES, {"usual": sorted(DEFAULT_DATES), "fewest": FEWEST_OF_ONE_DATE, "share": MOST_OF_ONE_DATE}
        )
        for values in _NAMES:
            _read_once(database, values)
        database.execute(_VARIANTS)
        others.result()
    database.execute(_PEOPLE)


def _make_nameless_tables(database: duckdb.DuckDBPyConnection, schools: pa.Table, codes: pa.Table) -> None:
    database.register("schools_rows", schools)
    database.register("codes_rows", codes)
    _read_once(database, _GRADES)
    database.execute(_ATTENDED)
    database.execute(_CODES, {"unique_id": UNIQUE_ID, "missing": sorted(MISSING)})


def _read_once(database: duckdb.DuckDBPyConnection, values: _Values) -> None:
    """Let Python read each distinct value once: names repeat, and reading one takes 10 microseconds."""
    found = [value for (value,) in database.execute(values.query).fetchall()]
    rows = [(value, *values.read(value)) for value in found]
    columns = zip(*rows, strict=True) if rows else ((),) * len(values.schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, values.schema, strict=True)]
    database.register(values.name, pa.table(arrays, schema=values.schema))


def _table(database: duckdb.DuckDBPyConnection, name: str) -> pa.Table:
    return database.table(name).order(", ".join(database.table(name).columns)).to_arrow_table()


# What Python reads.


def _given(text: str) -> tuple[str | None, list[str], str | None, bool]:
    name = given_names(text)
    return name.first, [word[0] for word in name.middle], name.suffix, name.is_compound


def _middle(text: str) -> tuple[list[str]]:
    name = given_names(text)
    return ([word[0] for word in (name.first, *name.middle) if word],)


def _surname(text: str) -> tuple[str | None, list[str] | None, str | None]:
    name = surname(text)
    return name.joined, list(name.tokens) or None, name.suffix


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([("raw", pa.string()), *columns.items()])


_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
_NAMES = (
    _Values(
        "given_names",
        "select distinct first_name from student where first_name is not null",
        _given,
        _schema(first=_TEXT, initials=_TEXTS, suffix=_TEXT, is_compound=pa.bool_()),
    ),
    _Values(
        "middle_names",
        "select distinct middle_name from student where middle_name is not null",
        _middle,
        _schema(initials=_TEXTS),
    ),
    _Values(
        "surnames",
        "select last_name from student where last_name is not null "
        "union select maiden_name from student where maiden_name is not null",
        _surname,
        _schema(joined=_TEXT, tokens=_TEXTS, suffix=_TEXT),
    ),
    _Values(
        "suffixes",
        "select distinct suffix from student where suffix is not null",
        lambda text: (suffix_of(text),),
        _schema(value=_TEXT),
    ),
    _Values(
        "sexes",
        "select distinct sex from student where sex is not null",
        lambda text: (sex_letter(text),),
        _schema(value=_TEXT),
    ),
)
_GRADES = _Values(
    "grades",
    "select distinct entry_grade_level::varchar from schools_rows where entry_grade_level is not null",
    lambda text: (grade_number(text),),
    _schema(value=pa.int32()),
)
