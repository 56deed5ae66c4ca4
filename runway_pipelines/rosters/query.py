"""The one statement that reads a tenant's roster from the warehouse, and the shape of its rows: pure.

The warehouse does the work: it filters, takes each student's latest year, finds colliding codes and sorts. The result
has one row for each code of each record and is encoded in bounded memory as it arrives. It is relational because
Snowflake's connectors return OBJECT and ARRAY as text, with SQL nulls as ``undefined``.

``tenant_code`` is a parameter, which the connector quotes. Both tables return it, so that every row can be compared.
"""

import pyarrow as pa

ASSOCIATIONS_TABLE = "stg_ef3__student_education_organization_associations"
CODES_TABLE = "stg_ef3__stu_ed_org__identification_codes"

# Notes on the statement:
# - latest: each k_student_xyear in its latest api_year; the codes of earlier years are no longer the district's.
# - A student is a student_unique_id. If two k_student_xyear share one, they are one student with both sets of codes.
# - Without a k_student_xyear, the student_unique_id takes its place.
# - A row without a student, an ed org or a year never decides which year is a student's latest. Such rows are returned
#   as they are, to be counted instead of lost in a where clause.
# - collision_rank: 0 for a code that only one student of the tenant holds, else the number of the holder, from 1.
#   Counting the ones counts the colliding codes without remembering them.
ROSTER_SQL = f"""
with association as (
    select tenant_code, api_year, coalesce(k_student_xyear, student_unique_id) as k_student_xyear, ed_org_id,
           nullif(student_unique_id, '') as student_unique_id, nullif(ed_org_type, '') as ed_org_type
    from {ASSOCIATIONS_TABLE}
    where tenant_code = %(tenant_code)s
), identified as (
    select *, max(api_year) over (partition by k_student_xyear) as latest_year
    from association
    where student_unique_id is not null and ed_org_id is not null and api_year is not null
), latest as (
    select tenant_code, api_year, k_student_xyear, student_unique_id, ed_org_id, ed_org_type
    from identified
    where api_year = latest_year
), record as (
    select tenant_code, student_unique_id, ed_org_id, min(ed_org_type) as ed_org_type, max(api_year) as api_year
    from latest
    group by tenant_code, student_unique_id, ed_org_id
), student_year as (
    select distinct student_unique_id, k_student_xyear, api_year
    from latest
), student_code as (
    select distinct student_year.student_unique_id, code.tenant_code as code_tenant_code, code.id_system, code.id_code
    from {CODES_TABLE} as code
    join student_year
      on student_year.k_student_xyear = code.k_student_xyear and student_year.api_year = code.api_year
    where code.tenant_code = %(tenant_code)s and code.id_system <> '' and code.id_code <> ''
), marked_code as (
    select student_unique_id, code_tenant_code, id_system, id_code,
           case when count(*) over (partition by id_system, id_code) = 1 then 0
                else row_number() over (partition by id_system, id_code order by student_unique_id)
           end as collision_rank
    from student_code
)
select record.tenant_code, record.student_unique_id, record.ed_org_id, record.ed_org_type, record.api_year,
       marked_code.code_tenant_code, marked_code.id_system, marked_code.id_code, marked_code.collision_rank
from record
left join marked_code on marked_code.student_unique_id = record.student_unique_id
union all
select tenant_code, student_unique_id, ed_org_id, ed_org_type, api_year, null, null, null, 0
from association
where student_unique_id is null or ed_org_id is null or api_year is null
order by student_unique_id, ed_org_id, id_system, id_code
"""

# Proves, without reading a row, that a session sees both tables and every column that a roster needs.
READABLE_SQL = f"""
select (select count(*) from (
            select tenant_code, api_year, k_student_xyear, student_unique_id, ed_org_id, ed_org_type
            from {ASSOCIATIONS_TABLE} limit 0) as association),
       (select count(*) from (
            select tenant_code, api_year, k_student_xyear, id_system, id_code from {CODES_TABLE} limit 0) as code)
"""

ROW_SCHEMA = pa.schema(
    [
        ("tenant_code", pa.string()),
        ("student_unique_id", pa.string()),
        ("ed_org_id", pa.int64()),
        ("ed_org_type", pa.string()),
        ("api_year", pa.int64()),
        ("code_tenant_code", pa.string()),
        ("id_system", pa.string()),
        ("id_code", pa.string()),
        ("collision_rank", pa.int64()),
    ]
)
