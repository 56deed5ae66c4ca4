"""What Dagster is told of a trial."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from runway_pipelines.credentials.connection_asset import connection_metadata, events_of_trial
from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.credentials.key_hygiene import KeyReport, key_hygiene
from runway_pipelines.credentials.trial import Trial
from runway_pipelines.errors import AuthenticationRefused, RunwayError, Unavailable
from runway_pipelines.operations.run_report import RUN_REPORT
from tests.factories import base64_text, pem, secret_text

NOW = datetime(2026, 11, 21, tzinfo=UTC)
CONNECTION = parse_connection("a-secret", secret_text())


def trial(*, age_days: int = 10, has_previous: bool = True, error: RunwayError | None = None) -> Trial:
    previous = CONNECTION if has_previous else None
    created_at = NOW - timedelta(days=age_days)
    keys = key_hygiene(CONNECTION, created_at, previous, has_previous=has_previous, now=NOW)
    return Trial("acme", error, "v1", CONNECTION, "version v0 still works", keys)


def evaluations(of: Trial) -> dict[str, dg.AssetCheckEvaluation]:
    with dg.DagsterInstance.ephemeral() as instance:
        events = list(events_of_trial(instance, of, 90))
    return {event.check_name: event for event in events if isinstance(event, dg.AssetCheckEvaluation)}


@pytest.mark.parametrize(("age_days", "passed"), [(0, True), (90, True), (91, False)])
def test_a_key_older_than_the_setting_is_a_warning(age_days: int, passed: bool) -> None:
    check = evaluations(trial(age_days=age_days))["key_age"]
    assert (check.passed, check.severity) == (passed, dg.AssetCheckSeverity.WARN)
    assert check.metadata["age days"].value == age_days
    assert f"{age_days} days old" in str(check.description)
    assert ("rotate it" in str(check.description)) is not passed
    assert KeyReport("acme", trial(age_days=age_days).hygiene).document(90)["is_fine"] is passed


def test_the_age_check_passes_without_a_key() -> None:
    error = AuthenticationRefused(expected="a secret", came="none", remedy="make one")
    keys = key_hygiene(None, None, None, has_previous=False, now=NOW)
    check = evaluations(replace(trial(error=error), connection=None, hygiene=keys))["key_age"]
    assert check.passed and not check.metadata
    assert str(check.description).startswith("not judged")


@pytest.mark.parametrize(("has_previous", "said"), [(True, "10 days ago"), (False, "never")])
def test_a_key_without_a_previous_one_was_never_rotated(has_previous: bool, said: str) -> None:
    assert connection_metadata(trial(has_previous=has_previous))["last rotation"] == said


def test_a_failure_has_the_drivers_code_and_materializes_nothing() -> None:
    error = AuthenticationRefused(expected="a session", came="a refused login", remedy="mend it", code="390144")
    failed = trial(error=error)
    with dg.DagsterInstance.ephemeral() as instance:
        events = list(events_of_trial(instance, failed, 90))
    assert not any(isinstance(event, dg.AssetMaterialization) for event in events)
    check = evaluations(failed)["can_connect"]
    assert not check.passed
    assert check.metadata["code"].value == "390144"
    assert "version v0 still works" in str(check.description)


def test_a_connection_that_broke_off_is_no_verdict_on_the_key_and_operators_hear_of_none() -> None:
    failed = trial(error=Unavailable(expected="a session", came="a connection that broke off", remedy="try again"))
    check = evaluations(failed)["can_connect"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(check.description).startswith("No verdict on the credentials. ")
    assert check.metadata[RUN_REPORT].value["credentials_failure"] is None


def test_no_event_holds_the_key() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        said = repr(list(events_of_trial(instance, trial(), 90))) + repr(trial())
    assert CONNECTION.private_key not in said
    assert base64_text(pem())[100:160] not in said
