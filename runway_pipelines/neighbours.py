"""The systems around this code location, as external assets: where rosters and identities come from and go.

We materialize none of them. The lineage shows where an asset's data comes from, and who is harmed when it is wrong.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from runway_pipelines.operations.tags import OWNERS, domain

GROUP = "neighbours"

ASSOCIATIONS = dg.AssetKey(["edu", "stg_ef3__student_education_organization_associations"])
ID_CODES = dg.AssetKey(["edu", "stg_ef3__stu_ed_org__identification_codes"])
STUDENTS = dg.AssetKey(["edu", "stg_ef3__students"])
SCHOOLS = dg.AssetKey(["edu", "stg_ef3__student_school_associations"])
CANDIDATES = dg.AssetKey(["runway", "match_candidates"])
REGISTRY = dg.AssetKey(["runway", "registry"])
EDU_SECRET = dg.AssetKey(["secrets", "edu_snowflake"])
LIBRARY = dg.AssetKey(["catalogue", "library"])
LML = dg.AssetKey(["lml", "verdicts"])
EXECUTOR = dg.AssetKey(["runway", "executor"])

WAREHOUSE: Sequence[dg.AssetKey] = (ASSOCIATIONS, ID_CODES)
PERSONS: Sequence[dg.AssetKey] = (STUDENTS, SCHOOLS, ID_CODES)


def columns(**descriptions: str) -> dict[str, dg.TableSchema]:
    """An asset's metadata: its columns, as ``name="type: what it means"``."""
    found = []
    for name, text in descriptions.items():
        type_, _, description = text.partition(": ")
        found.append(dg.TableColumn(name, type_, description))
    return {"dagster/column_schema": dg.TableSchema(found)}


def neighbours(published_roster: dg.AssetKey) -> Iterator[dg.AssetSpec]:
    """The specs of all of them; ``published_roster`` is what the executor reads."""
    yield _external(
        ASSOCIATIONS,
        "A row for each student, education organization and school year that the partner's EDU warehouse has ever had. "
        "Each partner has a warehouse of its own; its secret says where. docs/contracts/rosters.md, section 1.",
        {"snowflake"},
        columns(
            tenant_code="varchar: the district",
            api_year="int: the school year, by its end",
            k_student_xyear="varchar: the student in one tenant, across years",
            student_unique_id="varchar: Ed-Fi's studentUniqueId",
            ed_org_id="int: the education organization",
            ed_org_type="varchar: LocalEducationAgency or School",
        ),
    )
    yield _external(
        ID_CODES,
        "A row for each ID code of a student. docs/contracts/rosters.md, section 1.",
        {"snowflake"},
        columns(
            tenant_code="varchar: the district",
            api_year="int: the school year, by its end",
            k_student_xyear="varchar: the student in one tenant, across years",
            id_system="varchar: the kind of ID: Local, State, District",
            id_code="varchar: the ID; leading zeros count",
        ),
    )
    yield _external(
        STUDENTS,
        "A row for each student and school year, with the names and the birth date that the student had then. Read for "
        "student resolution alone, and only of partners that agreed. docs/contracts/student_resolution.md, section 4.",
        {"snowflake"},
        columns(
            tenant_code="varchar: the district",
            api_year="int: the school year, by its end",
            k_student_xyear="varchar: the student in one tenant, across years",
            student_unique_id="varchar: Ed-Fi's studentUniqueId",
            first_name="varchar: the first name; also middle_name, last_name, maiden_name, generation_code_suffix",
            birth_date="date: the birth date; also birth_sex and is_multiple_birth",
        ),
    )
    yield _external(
        SCHOOLS,
        "A row for each student and school, of the two latest school years. Read for student resolution alone.",
        {"snowflake"},
        columns(
            tenant_code="varchar: the district",
            api_year="int: the school year, by its end",
            k_student_xyear="varchar: the student in one tenant, across years",
            school_id="int: the school",
            entry_grade_level="varchar: the grade, a descriptor",
        ),
    )
    yield _external(
        CANDIDATES,
        "The students of an assessment file as a producer observed them, a line each: candidates.jsonl in the tenant's "
        "folder of the bucket, or the body of a request. docs/contracts/student_resolution.md, section 1.",
        {"s3"},
        columns(
            candidate_id="text: the line's own key, unique in the file",
            obs_first_name="text: also obs_last_name, obs_middle_name",
            obs_birth_date="text: in the file's own notation",
            obs_school_id="text: the school",
            obs_student_ids="list: the IDs that the file has for the student",
            record_count="int: how many rows of the file it stands for",
        ),
    )
    yield _external(
        REGISTRY,
        "Runway's application database: the partners, their districts (tenants), and the enabled school years. "
        "partner_tenants_sync_sensor makes the partitions from it.",
        {"postgres"},
    )
    yield _external(
        EDU_SECRET,
        "Each partner's credentials for its warehouse, in Secrets Manager. edu_credentials_rotated_sensor sees a "
        "rotation within a tick. docs/contracts/credentials.md.",
        {"aws", "secretsmanager"},
    )
    yield _external(
        EXECUTOR,
        "Runway's executor, which matches the IDs of assessment files: first against the district's students of this "
        "year, then against the published roster, which it reads from S3 or from the roster stream.",
        {"aws"},
        deps=[published_roster],
    )
    yield _external(
        LIBRARY,
        "The catalogue's table of libraries: which there are, and which are due. docs/contracts/library_identity.md.",
        {"postgres"},
    )
    yield _external(
        LML,
        "The HTTP service that says which artist a library is of, and how it knows. It is asked in batches.",
        {"http"},
    )


def _external(
    key: dg.AssetKey,
    description: str,
    kinds: set[str],
    metadata: dict[str, dg.TableSchema] | None = None,
    deps: Sequence[dg.AssetKey] = (),
) -> dg.AssetSpec:
    return dg.AssetSpec(
        key,
        description=description,
        group_name=GROUP,
        owners=OWNERS,
        tags=domain(GROUP),
        kinds=kinds,
        metadata=metadata or {},
        deps=deps,
    )
