"""The statement and the encoder together give the bytes of the naive reference, for any warehouse content."""

from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from runway_pipelines.local.dataset import ASSOCIATIONS, IDENTIFICATION_CODES, SCHEMAS
from runway_pipelines.rosters import encoding
from runway_pipelines.rosters.encoding import RosterCounts, encode_roster
from runway_pipelines.rosters.query import ROSTER_SQL
from tests.properties import examples
from tests.reference_roster import reference_roster

TENANT = "district-12"
Rows = list[dict[str, Any]]

CONNECTION = duckdb.connect()
(STATEMENT,) = sqlglot.transpile(ROSTER_SQL % {"tenant_code": f"'{TENANT}'"}, "snowflake", "duckdb")

# Few values, so that everything meets everything; among them what JSON escapes, and what sorts differently by locale.
tenant_codes = st.sampled_from([TENANT, TENANT, TENANT, "district-1"])
years = st.sampled_from([2023, 2024, 2025, 2025, None])
student_keys = st.sampled_from(["x1", "x2", "x3", "x4", None])
student_ids = st.sampled_from(["0604921", "604921", "é'1", 'a"b\\', "Z", "a", " 7 ", "", None, "\x01"])
ed_orgs = st.sampled_from([370001, 9, 10, None])
ed_org_types = st.sampled_from(["School", "LocalEducationAgency", "", None])
id_systems = st.sampled_from(["Local", "State", "District", 'uri://x#"State"', "", None])
id_codes = st.sampled_from(["0012", "12", "ä\\", "A-1", "", None])

association = st.fixed_dictionaries(
    {
        "tenant_code": tenant_codes,
        "api_year": years,
        "k_student": student_keys,
        "k_student_xyear": student_keys,
        "student_unique_id": student_ids,
        "ed_org_id": ed_orgs,
        "ed_org_type": ed_org_types,
    }
)
code = st.fixed_dictionaries(
    {
        "tenant_code": tenant_codes,
        "api_year": years,
        "k_student": student_keys,
        "k_student_xyear": student_keys,
        "ed_org_id": ed_orgs,
        "id_system": id_systems,
        "assigning_org": st.none(),
        "id_code": id_codes,
    }
)


def warehouse_rows(associations: Rows, codes: Rows) -> pa.Table:
    """What the statement gives on these tables, in duckdb's dialect."""
    for name, rows in ((ASSOCIATIONS, associations), (IDENTIFICATION_CODES, codes)):
        CONNECTION.register(name, pa.Table.from_pylist(rows, schema=SCHEMAS[name]))
    return CONNECTION.sql(STATEMENT).to_arrow_table()


def encoded(rows: pa.Table, batch_rows: int) -> tuple[bytes, RosterCounts]:
    counts = RosterCounts()
    batches = rows.to_batches(max_chunksize=batch_rows)
    return b"".join(encode_roster(batches, TENANT, counts)), counts


@settings(max_examples=examples(250))
@given(st.lists(association, max_size=14), st.lists(code, max_size=20), st.integers(1, 7))
def test_any_content_gives_the_bytes_and_numbers_of_the_reference(
    associations: Rows, codes: Rows, batch_rows: int
) -> None:
    expected = reference_roster(TENANT, associations, codes)
    file, counts = encoded(warehouse_rows(associations, codes), batch_rows)
    assert file == b"".join(expected.lines)
    assert (counts.records, counts.students, counts.lines) == (
        expected.records,
        expected.students,
        len(expected.lines),
    )
    assert counts.colliding_codes == expected.colliding_codes


def test_the_order_of_rows_in_the_warehouse_makes_no_difference() -> None:
    associations = [
        {"tenant_code": TENANT, "api_year": 2025, "k_student": "k", "k_student_xyear": "x" + number}
        | {"student_unique_id": number, "ed_org_id": 370001, "ed_org_type": "School"}
        for number in ("3", "1", "2")
    ]
    codes = [
        {"tenant_code": TENANT, "api_year": 2025, "k_student": "k", "k_student_xyear": "x" + number}
        | {"ed_org_id": 370001, "id_system": system, "assigning_org": None, "id_code": number + text}
        for number in ("1", "2")
        for system, text in (("State", "b"), ("Local", "b"), ("Local", "a"))
    ]
    first, _ = encoded(warehouse_rows(associations, codes), 2)
    second, _ = encoded(warehouse_rows(associations[::-1], codes[::-1]), 3)
    assert first == second
    assert first.count(b"\n") == 5


@pytest.mark.parametrize("slice_rows", [1, 2, 1000])
def test_slices_do_not_change_the_bytes(monkeypatch: pytest.MonkeyPatch, slice_rows: int) -> None:
    from benchmarks.big_tenant import big_tenant

    whole = b"".join(encode_roster(big_tenant(300, tenant_code=TENANT), TENANT, RosterCounts()))
    monkeypatch.setattr(encoding, "SLICE_ROWS", slice_rows)
    assert b"".join(encode_roster(big_tenant(300, tenant_code=TENANT), TENANT, RosterCounts())) == whole
