"""What a roster's page says of it, beside its numbers."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest

from runway_pipelines.rosters.advice import Advice
from runway_pipelines.rosters.events import (
    PUBLISHED_ROSTER,
    changes_table,
    decision_events,
    events_of,
    index_metadata,
    warehouse_seconds,
)
from runway_pipelines.rosters.holds import UNREADABLE
from runway_pipelines.rosters.index import IndexEntry, PartnerIndex
from runway_pipelines.rosters.manifest import Manifest
from runway_pipelines.rosters.outcome import TenantOutcome, TenantStatus, refused
from runway_pipelines.rosters.quality import NOT_EMPTY, as_refusals, unreadable
from runway_pipelines.systems.aws.object_store import ObjectStore
from tests.factories import TENANT, manifest
from tests.memory_store import MemoryS3, memory_store

SINCE = "2026-07-01T09:30:00+00:00"
REFUSED = "refused by not_empty, and nobody can approve it: no student"
HELD = "640 are gone. To see what would change: look. To publish it all the same: approve"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def store() -> ObjectStore:
    return memory_store(MemoryS3())


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (manifest(previous_sha256=None), "the first snapshot"),
        (manifest(previous_sha256="p", students_added=None), "not compared: the previous snapshot could not be read"),
    ],
)
def test_a_first_snapshot_and_one_that_could_not_be_compared_are_told_apart(of: Manifest, said: str) -> None:
    assert str(changes_table(of).value).startswith(said)


def refreshed(start: str, seconds: float, status: TenantStatus = TenantStatus.NEW) -> TenantOutcome:
    of = manifest(query_started_at=f"2026-01-15T02:{start}+00:00", query_seconds=seconds)
    return TenantOutcome(TENANT, status, "", 0.1, of)


@pytest.mark.parametrize(
    ("outcomes", "seconds"),
    [
        ([refreshed("00:00", 5)], 5),
        ([refreshed("00:02", 5), refreshed("00:00", 5)], 7),  # two sessions at once
        ([refreshed("00:00", 9), refreshed("00:01", 2), refreshed("01:00", 1.5)], 10.5),
        ([refreshed("00:00", 5), refreshed("02:00", 5, TenantStatus.SUPERSEDED)], 5),  # another run's
    ],
)
def test_warehouse_seconds_are_those_in_which_a_statement_was_at_work(
    outcomes: list[TenantOutcome], seconds: float
) -> None:
    assert warehouse_seconds(outcomes) == {"warehouse seconds": seconds}


def test_without_a_refreshed_tenant_nothing_is_said_of_the_warehouse() -> None:
    assert warehouse_seconds([TenantOutcome(TENANT, TenantStatus.FAILED, "", 0.1)]) == {}


def entry(code: str, status: str, since: str | None = None, reason: str = "no table") -> IndexEntry:
    return IndexEntry(code, status, reason, SINCE, "sha", lines=2, students=1, since=since)


def test_a_partners_index_has_its_totals_first_and_then_who_needs_a_person_the_worst_first(store: ObjectStore) -> None:
    tenants = (
        entry("good", "unchanged"),
        entry("failing", "failed"),
        entry("pinned", "pinned", SINCE),
        entry("refused", "held", reason="no student. To do: mend it"),
        entry("guarded", "held", "2026-01-01T00:00:00+00:00", HELD),
    )
    metadata = index_metadata(PartnerIndex("acme", (2026,), tenants), store, timedelta(days=36_500))
    named = ["students", "tenants", "tenants that need a look", "students by district", "problems", "rosters"]
    assert [name for name in metadata if name in named] == named
    problems, rosters = (
        [record.data for record in metadata[name].records]  # type: ignore[union-attr]
        for name in ("problems", "rosters")
    )
    assert [row["tenant"] for row in problems] == ["guarded", "refused", "failing", "pinned"]
    assert all(row["next step"] for row in problems)
    assert str(problems[0]["since"]).startswith("2026-01-01")
    shown = [(row["next step"], row["then"]) for row in problems[:2]]
    assert shown == [("To see what would change: look", "To publish it all the same: approve"), ("mend it", "")]
    assert [(row["tenant"], "reason" in row) for row in rosters] == [("good", False)]


def test_a_district_that_failed_says_why_and_what_to_do(instance: dg.DagsterInstance, store: ObjectStore) -> None:
    failed = TenantOutcome(TENANT, TenantStatus.FAILED, "no table", 0.1)
    (said,) = events_of(instance, failed, store, advice=Advice(docs_url="https://code.example.org/main/"))
    assert isinstance(said, dg.AssetObservation)
    assert (said.partition, said.description) == (TENANT.key, "failed: no table")
    assert said.metadata["state"].value == "failed"
    assert str(said.metadata["failing since"].value).endswith(" UTC, this run is the first that failed")
    (again,) = events_of(instance, failed, store, failing_since=SINCE)
    assert isinstance(again, dg.AssetObservation)
    assert again.metadata["failing since"].value == "2026-07-01 09:30 UTC"
    runbook = said.metadata["runbook"].value
    assert runbook == "https://code.example.org/main/docs/operations.md#a-run-failed-what-now"


def test_a_check_that_dagster_expects_and_nobody_judged_is_a_warning_that_says_so(
    instance: dg.DagsterInstance, store: ObjectStore
) -> None:
    blocks = (unreadable(NOT_EMPTY, "no student"),)
    outcome = refused(TENANT, blocks, as_refusals(blocks), 0.1)
    checks = [
        event
        for event in events_of(instance, outcome, store, planned_checks={NOT_EMPTY, "rows_of_tenant"})
        if isinstance(event, dg.AssetCheckEvaluation)
    ]
    shown = {check.check_name: (check.severity.value, str(check.description)) for check in checks}
    assert shown == {
        NOT_EMPTY: ("ERROR", "refused, and nobody can approve it: no student"),
        "rows_of_tenant": ("WARN", f"not judged: there was no roster to judge ({REFUSED})"),
    }


def test_what_a_check_refused_is_told_apart_from_what_a_guard_holds(
    instance: dg.DagsterInstance, store: ObjectStore
) -> None:
    held = TenantOutcome(TENANT, TenantStatus.HELD, "held since then: many are gone", 0.1, hold=UNREADABLE)
    blocks = (unreadable(NOT_EMPTY, "no student"),)
    shown = []
    for outcome in (held, refused(TENANT, blocks, (), 0.1)):
        (said,) = events_of(instance, outcome, store)
        assert isinstance(said, dg.AssetObservation)
        shown.append((said.metadata["state"].value, said.description))
    assert shown == [("held", "held since then: many are gone"), ("refused", REFUSED)]


def test_a_partner_that_publishes_nowhere_has_no_green_publication(
    instance: dg.DagsterInstance, store: ObjectStore
) -> None:
    nowhere = TenantOutcome(TENANT, TenantStatus.NEW, "no enabled school year", 0.1, manifest())
    *_, said = events_of(instance, nowhere, store)
    assert isinstance(said, dg.AssetObservation)
    assert said.asset_key == PUBLISHED_ROSTER


def test_steps_after_the_first_are_told_apart_where_dagster_shows_no_line_breaks(
    instance: dg.DagsterInstance, store: ObjectStore
) -> None:
    reason = "b is not a. If it is another partner's warehouse: correct the secret. To see what would change: look. "
    held = TenantOutcome(TENANT, TenantStatus.HELD, f"{reason}To publish it all the same: approve", 0.1)
    (said,) = events_of(instance, held, store)
    assert isinstance(said, dg.AssetObservation)
    assert said.metadata["next step"].value == "If it is another partner's warehouse: correct the secret"
    assert said.metadata["then"].value == "To see what would change: look. To publish it all the same: approve"


def test_a_candidates_numbers_are_not_taken_for_those_of_what_is_published(
    instance: dg.DagsterInstance, store: ObjectStore
) -> None:
    """Dagster's page shows an observation's members among those of the newest materialization."""
    published, candidate = manifest(students=3_200), manifest(students=160)
    good = TenantOutcome(TENANT, TenantStatus.NEW, "", 0.1, published, school_years=(2026,))
    held = TenantOutcome(TENANT, TenantStatus.HELD, HELD, 0.1, candidate=candidate)
    materialized, _ = events_of(instance, good, store)
    (observed,) = events_of(instance, held, store)
    assert isinstance(materialized, dg.AssetMaterialization) and isinstance(observed, dg.AssetObservation)
    assert not materialized.metadata.keys() & observed.metadata.keys()
    assert observed.metadata["candidate's students"].value == 160


def test_a_decision_about_a_roster_that_is_published_nowhere_materializes_no_publication(store: ObjectStore) -> None:
    kept = TenantOutcome(TENANT, TenantStatus.NEW, "no enabled school year", 0.1, manifest())
    roster, publication = decision_events(kept, store, {"why": "half a load"})
    assert isinstance(roster, dg.AssetMaterialization)
    assert (roster.tags or {})["dagster/data_version"] == manifest().sha256
    assert isinstance(publication, dg.AssetObservation)
    assert publication.metadata["why"].value == roster.metadata["why"].value == "half a load"
