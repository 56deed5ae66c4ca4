"""The one statement that reads a tenant's roster from the warehouse, and the shape of its answer: pure.

The warehouse does the work: it filters, takes each student's latest year, drops the codes that must not be matched, and
sorts. The answer is relational because Snowflake's connectors return OBJECT and ARRAY as text, with SQL nulls as
``undefined``. It is encoded in bounded memory as it arrives, so what must be known before the first line comes first:
the **announcements**, which say how many rows and students follow, which ID types there are, and what was left out. The
announced numbers prove that nothing, such as a user's ROWS_PER_RESULTSET, cut the answer short.

``tenant_code`` is a parameter, which the connector quotes. Both tables return it, so that every row can be compared.
"""

from datetime import date
from typing import Final

import pyarrow as pa

ASSOCIATIONS_TABLE = "stg_ef3__student_education_organization_associations"
CODES_TABLE = "stg_ef3__stu_ed_org__identification_codes"

FIRST_PLAUSIBLE_YEAR = 1990
_JULY: Final = 7

# The announcements, by name; each has a number. ID_TYPE is announced once for each type, as id_system, with the number
# of students who have a code of that type.
ROWS = "rows"
STUDENTS = "students"
ASSOCIATION_ROWS = "association_rows"
ROWS_WITHOUT_IDENTITY = "rows_without_identity"
IMPLAUSIBLE_ROWS = "implausible_rows"
COLLIDING_CODES = "colliding_codes"
PLACEHOLDER_CODES = "placeholder_codes"
MASKED_VALUES = "masked_values"
CODE_ROWS = "code_rows"
IMPLAUSIBLE_CODES = "implausible_codes"
MERGED_IDS = "merged_ids"
ID_TYPE = "id_type"

# What people and spreadsheets write where there is no ID: in upper case, without the punctuation that they write around
# and into it, as in (none), n / a, T.B.D. and #DIV/0!.
_NO_ID = (
    "NA|NULL|NIL|NONE|NAN|UNKNOWN|UNK|UNKN|TBD|TBA|MISSING|BLANK|EMPTY|UNDEFINED|PENDING|NOID|NOCODE|NOTAVAILABLE"
    "|NOTAPPLICABLE|NOTASSIGNED|NOTKNOWN|NONEASSIGNED|#NA|#NANA|#REF|#VALUE|#NAME|#NULL|#NUM|#DIV0|#ERROR"
)
_NO_ID_LIST = "'" + _NO_ID.replace("|", "', '") + "'"
_PUNCTUATION = " \u00a0.,:;()<>[]\"''!?/-–—_"  # as SQL writes it

# Blanks around a code. SQL's trim removes only spaces, Snowflake's and DuckDB's trim differ beyond that, and a line of
# a CSV file may leave its \r.
_BLANKS = " \t\r\n\v\f\u00a0\u2002\u2003\u2007\u2009\u200b\u202f\u3000\ufeff"

# Notes on the statement:
# - A student is a k_student_xyear (if that is null or empty, the student_unique_id in lower case). Ids that differ only
#   in case are one student, and so are two k_student_xyear with one student_unique_id. Each record keeps its spelling
#   of the id and has all of the student's codes, and a student never collides with itself. Chains of keys and ids that
#   name one student are followed for three steps; beyond that, codes that they share are dropped as colliding.
# - latest: each k_student_xyear in its latest api_year; the codes of earlier years are no longer the district's.
# - Rows without a student, an ed org or a year, and rows of an implausible year, never decide which year is a
#   student's latest. They are counted.
# - Codes are compared as the consumers compare them: the system by what follows its last #, the code without one
#   trailing ".0".
ROSTER_SQL = f"""
with association as (
    select tenant_code, api_year, ed_org_id, nullif(student_unique_id, '') as student_unique_id,
           nullif(ed_org_type, '') as ed_org_type, nullif(k_student_xyear, '') as given_key,
           coalesce(nullif(k_student_xyear, ''), lower(student_unique_id)) as student_key,
           api_year between {FIRST_PLAUSIBLE_YEAR} and %(last_plausible_year)s as is_plausible
    from {ASSOCIATIONS_TABLE}
    where tenant_code = %(tenant_code)s
), identified as (
    select *, max(api_year) over (partition by student_key) as latest_year
    from association
    where student_unique_id is not null and ed_org_id is not null and is_plausible
), latest as (
    select *, min(student_key) over (partition by lower(student_unique_id)) as first_key
    from identified
    where api_year = latest_year
), of_key as (
    select *, min(first_key) over (partition by student_key) as key_student
    from latest
), of_student as (
    select *, min(key_student) over (partition by lower(student_unique_id)) as student
    from of_key
), record as (
    select tenant_code, student, student_unique_id, ed_org_id, min(ed_org_type) as ed_org_type,
           max(api_year) as api_year
    from of_student
    group by tenant_code, student, student_unique_id, ed_org_id
), student_year as (
    select distinct student, student_key, api_year
    from of_student
), code as (
    select tenant_code, nullif(k_student_xyear, '') as given_key, api_year, id_system, id_code,
           split_part(id_system, '#', -1) as id_type,
           case when id_code like '%%.0' then left(id_code, length(id_code) - 2) else id_code end as compared
    from {CODES_TABLE}
    where tenant_code = %(tenant_code)s and id_system <> '' and id_code <> ''
), student_code as (
    select student_year.student, code.tenant_code, code.id_type, code.compared,
           min(code.id_system) as id_system, min(code.id_code) as id_code,
           upper(trim(code.compared, '{_BLANKS}')) as shouted,
           translate(trim(code.compared, '{_BLANKS}'), ' -+.,/''_#–—', '') as bare
    from code
    join student_year
      on student_year.student_key = code.given_key and student_year.api_year = code.api_year
    group by student_year.student, code.tenant_code, code.id_type, code.compared
), worded_code as (
    -- Most codes begin with a digit, which no word does: they are spared the translation.
    select *, case when left(shouted, 1) between '0' and '9' then shouted
                   else translate(shouted, '{_PUNCTUATION}', '') end as word
    from student_code
), judged_code as (
    select *, count(*) over (partition by id_type, compared) as holders,
           word in ('N\\\\A', {_NO_ID_LIST}) or replace(word, 'X', '') = '' or shouted in ('-1', '\\\\N')
               or replace(bare, '0', '') = ''
               or (length(shouted) >= 4 and left(shouted, 1) between '1' and '9'
                   and replace(shouted, left(shouted, 1), '') = '')
               or (length(bare) >= 7 and left(bare, 1) between '1' and '9' and replace(bare, left(bare, 1), '') = '')
               or (shouted like '%%E+%%' and try_cast(replace(shouted, ',', '.') as double) is not null)
               or shouted like 'NO-CODE:%%'
           as is_placeholder
    from worded_code
), roster_code as (
    select student, tenant_code, id_type, id_system, id_code
    from judged_code
    where holders = 1 and not is_placeholder
), answer as (
    select record.tenant_code, record.student_unique_id, record.ed_org_id, record.ed_org_type, record.api_year,
           case when record.student_unique_id = min(record.student_unique_id) over (partition by record.student)
                then 0 else 1 end as is_further_spelling,
           roster_code.tenant_code as code_tenant_code, roster_code.id_type, roster_code.id_system,
           roster_code.id_code
    from record
    left join roster_code on roster_code.student = record.student
), announcement as (
    select '{ROWS}' as name, cast(null as varchar) as id_system, count(*) as number from answer
    union all
    select '{STUDENTS}', null, count(distinct student) from record
    union all
    select '{ASSOCIATION_ROWS}', null, count(*) from association
    union all
    select '{ROWS_WITHOUT_IDENTITY}', null, count(*) from association
    where student_unique_id is null or ed_org_id is null or api_year is null
    union all
    select '{IMPLAUSIBLE_ROWS}', null, count(*) from association
    where student_unique_id is not null and ed_org_id is not null and not is_plausible
    union all
    select '{CODE_ROWS}', null, count(*) from code
    union all
    select '{IMPLAUSIBLE_CODES}', null, count(*) from code
    where not (api_year between {FIRST_PLAUSIBLE_YEAR} and %(last_plausible_year)s)
    union all
    select '{MERGED_IDS}', null, count(distinct lower(student_unique_id)) - count(distinct student) from record
    union all
    select '{COLLIDING_CODES}', null, count(distinct id_type, compared) from judged_code
    where holders > 1 and not is_placeholder
    union all
    select '{PLACEHOLDER_CODES}', null, count(*) from judged_code where is_placeholder
    union all
    select '{MASKED_VALUES}', null, count(*) from association
    where replace(student_unique_id, '*', '') = '' or replace(given_key, '*', '') = ''
    union all
    select '{MASKED_VALUES}', null, count(*) from code
    where replace(id_code, '*', '') = '' or replace(given_key, '*', '') = ''
    union all
    select '{ID_TYPE}', min(id_system), count(*) from (
        select id_type, student, min(id_system) as id_system from roster_code group by id_type, student
    ) as of_type
    group by id_type
)
select tenant_code, student_unique_id, ed_org_id, ed_org_type, api_year, is_further_spelling, code_tenant_code,
       id_system, id_code, announcement, number
from (
    select *, cast(null as varchar) as announcement, cast(null as int) as number
    from answer
    union all
    select %(tenant_code)s, null, null, null, null, null, null, null, id_system, null, name, number
    from announcement
) as answered
order by student_unique_id nulls first, ed_org_id, id_type, id_code
"""

# Proves that a session sees both tables and every column that a roster needs, and that its user has a warehouse to
# compute with. It has to read a row: an answer from the tables' metadata, or with limit 0, would need no warehouse.
READABLE_SQL = f"""
select (select count(*) from (
            select tenant_code, api_year, k_student_xyear, student_unique_id, ed_org_id, ed_org_type
            from {ASSOCIATIONS_TABLE} limit 1) as association),
       (select count(*) from (
            select tenant_code, api_year, k_student_xyear, id_system, id_code from {CODES_TABLE} limit 1) as code)
"""

ROW_SCHEMA = pa.schema(
    [
        ("tenant_code", pa.string()),
        ("student_unique_id", pa.string()),
        ("ed_org_id", pa.int64()),
        ("ed_org_type", pa.string()),
        ("api_year", pa.int64()),
        ("is_further_spelling", pa.int64()),
        ("code_tenant_code", pa.string()),
        ("id_system", pa.string()),
        ("id_code", pa.string()),
        ("announcement", pa.string()),
        ("number", pa.int64()),
    ]
)


def roster_parameters(tenant_code: str, today: date) -> dict[str, str | int]:
    """The statement's parameters. A school year is its end year and begins in July; the next one is still plausible."""
    return {"tenant_code": tenant_code, "last_plausible_year": today.year + (today.month >= _JULY) + 1}


def id_type_of(id_system: str) -> str:
    """The part of a descriptor that consumers see: what follows its last #."""
    return id_system.rpartition("#")[2]
