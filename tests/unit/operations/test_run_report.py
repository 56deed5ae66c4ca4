"""A run report survives Dagster's metadata, and nothing else is taken for one."""

from datetime import timedelta
from typing import Any

import dagster as dg
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.operations.run_report import CredentialsFailure, Problem, RunReport, Straggler

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
OPTIONAL = st.none() | TEXT
REPORTS = st.builds(
    RunReport,
    counts=st.dictionaries(TEXT, st.integers(0, 2**53)),
    problems=st.dictionaries(TEXT, st.builds(Problem, TEXT, OPTIONAL)),
    credentials_failure=st.none() | st.builds(CredentialsFailure, OPTIONAL, OPTIONAL, TEXT),
    stragglers=st.lists(
        st.builds(Straggler, TEXT, st.none() | st.timedeltas(timedelta(), timedelta(days=10**5)), TEXT, TEXT)
    ).map(tuple),
)


@given(REPORTS)
def test_a_report_comes_back_as_it_was_from_json_and_from_dagsters_metadata(report: RunReport) -> None:
    assert RunReport.parse(orjson.loads(orjson.dumps(report.document()))) == report
    packed = dg.serialize_value(dg.MetadataValue.json(report.document()))
    assert RunReport.parse(dg.deserialize_value(packed, dg.JsonMetadataValue).data) == report


@pytest.mark.parametrize(
    "document",
    [
        None,
        "held: no students",
        7,
        ["counts"],
        {"counts": {"new": "many"}},
        {"counts": None},
        {"problems": {"acme/north": "held: no students"}},
        {"problems": {"acme/north": {"status": "held"}}},
        {"credentials_failure": {"code": "JWT"}},
        {"stragglers": [{"tenant_code": "north", "age": "long", "status": "new", "reason": ""}]},
    ],
)
def test_damaged_and_foreign_metadata_is_no_report(document: object) -> None:
    assert RunReport.parse(document) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
        lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    )
)
def test_any_json_is_a_report_or_none(document: Any) -> None:
    report = RunReport.parse(document)
    assert report is None or isinstance(report, RunReport)


def test_members_of_a_later_version_are_ignored() -> None:
    assert RunReport.parse({"counts": {"new": 1}, "later": True}) == RunReport({"new": 1})


def test_a_problem_and_a_straggler_read_as_operators_know_them() -> None:
    assert str(Problem("no students", "held")) == "held: no students"
    assert str(Problem("the key is refused")) == "the key is refused"
    late = timedelta(hours=49.6)
    assert str(Straggler("north", late, "held", "no students")) == "50 hours old; last try: held, no students"
    assert str(Straggler("north", late, "back in the registry", "")) == "50 hours old; last try: back in the registry"
    assert str(Straggler("north", None, "failed", "late")) == "never refreshed; last try: failed, late"
