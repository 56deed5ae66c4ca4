"""The statements that read a tenant's students from the warehouse, and the shape of their answers: pure.

``tenant_code`` is a parameter, and every row returns it, so that each can be compared. Every row also says how many
rows the answer has (``row_count``). Implausible years are left out as in rosters (student resolution contract,
section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from runway_pipelines.rosters.query import CODES_TABLE, FIRST_PLAUSIBLE_YEAR

STUDENTS_TABLE = "stg_ef3__students"
SCHOOLS_TABLE = "stg_ef3__student_school_associations"
# A code that more students share identifies none of them, and each row with it would be compared with them all.
MOST_HOLDERS: Final = 10

_TEXT, _NUMBER = pa.string(), pa.int64()
# Columns that every answer has besides, to prove that it is the tenant's, and whole.
PROOF = pa.schema([("tenant_code", _TEXT), ("row_count", _NUMBER)])
_PLAUSIBLE = f"api_year between {FIRST_PLAUSIBLE_YEAR} and %(last_plausible_year)s"


@dataclass(frozen=True)
class Source:
    """A table, the columns that it must have, and the statement with what it returns beside `PROOF`."""

    table: str
    needed: tuple[str, ...]
    statement: str
    returned: pa.Schema


# All years, so that earlier names count. A name that stays comes once, with its latest year.
STUDENTS = Source(
    STUDENTS_TABLE,
    (
        "tenant_code", "api_year", "k_student_xyear", "student_unique_id", "first_name", "middle_name", "last_name",
        "maiden_name", "generation_code_suffix", "birth_date", "birth_sex", "is_multiple_birth",
    ),
    f"""
select *, count(*) over () as row_count
from (
    select s.tenant_code,
           coalesce(nullif(s.k_student_xyear, ''), lower(cast(s.student_unique_id as varchar))) as k_student_xyear,
           max(s.api_year) as api_year, s.student_unique_id, s.first_name, s.middle_name, s.last_name, s.maiden_name,
           s.generation_code_suffix, s.birth_date, s.birth_sex, s.is_multiple_birth
    from {STUDENTS_TABLE} as s
    where s.tenant_code = %(tenant_code)s and s.{_PLAUSIBLE}
    group by s.tenant_code, s.k_student_xyear, s.student_unique_id, s.first_name, s.middle_name, s.last_name,
             s.maiden_name, s.generation_code_suffix, s.birth_date, s.birth_sex, s.is_multiple_birth
) as written
""",
    pa.schema(
        [
            ("k_student_xyear", _TEXT),
            ("api_year", _NUMBER),
            ("student_unique_id", _TEXT),
            *((name, _TEXT) for name in ("first_name", "middle_name", "last_name", "maiden_name")),
            ("generation_code_suffix", _TEXT),
            ("birth_date", pa.date32()),
            ("birth_sex", _TEXT),
            ("is_multiple_birth", pa.bool_()),
        ]
    ),
)  # fmt: skip
SCHOOLS = Source(
    SCHOOLS_TABLE,
    ("tenant_code", "api_year", "k_student_xyear", "school_id", "entry_grade_level"),
    f"""
select tenant_code, k_student_xyear, api_year, cast(school_id as varchar) as school_id, entry_grade_level,
       count(*) over () as row_count
from (
    select distinct tenant_code, k_student_xyear, api_year, school_id, entry_grade_level
    from {SCHOOLS_TABLE}
    where tenant_code = %(tenant_code)s and {_PLAUSIBLE}
      and api_year >= (
          select max(api_year) - 1 from {SCHOOLS_TABLE} where tenant_code = %(tenant_code)s and {_PLAUSIBLE}
      )
) as attended
""",
    pa.schema([("k_student_xyear", _TEXT), ("api_year", _NUMBER), ("school_id", _TEXT), ("entry_grade_level", _TEXT)]),
)
# All years: a file from last year has last year's codes.
CODES = Source(
    CODES_TABLE,
    ("tenant_code", "k_student_xyear", "id_system", "id_code"),
    f"""
select tenant_code, k_student_xyear, id_type, id_code, count(*) over () as row_count
from (
    select *, count(*) over (partition by id_type, id_code) as holders
    from (
        select distinct tenant_code, k_student_xyear, split_part(id_system, '#', -1) as id_type, id_code
        from {CODES_TABLE}
        where tenant_code = %(tenant_code)s and id_system <> '' and id_code <> '' and k_student_xyear <> ''
    ) as written
) as code
where holders <= {MOST_HOLDERS}
""",
    pa.schema([("k_student_xyear", _TEXT), ("id_type", _TEXT), ("id_code", _TEXT)]),
)


def readable_sql(table: str, what: str = "1") -> str:
    """A statement that compiles if the table can be read and has the column, where one is given; the names are ours."""
    return f"select {what} from {table} limit 0"
