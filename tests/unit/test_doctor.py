"""The doctor's findings: no failure hides another check, and no library's text is quoted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runway_pipelines.doctor import SUBJECTS, diagnose
from runway_pipelines.doctor.bucket import examine_bucket
from runway_pipelines.doctor.clock import seen_clock
from runway_pipelines.doctor.dagster_instance import examine_dagster, seen_daemons
from runway_pipelines.doctor.findings import CheckStatus, Finding, document, is_healthy, seen_error
from runway_pipelines.doctor.partners import seen_partner, seen_registry
from runway_pipelines.errors import ConfigurationError, Permanent
from runway_pipelines.partner_tenants.registry import Registry, RosterPartner
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.systems.aws.object_store import ObjectStore

CANARY = "c4n4ry"
ACME = RosterPartner("acme", "Acme", ("north", "south"), (2025, 2026))
Intercept = Callable[[str, Callable[..., object]], None]


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_our_own_error_gives_detail_and_fix() -> None:
    seen = seen_error(Permanent(expected="bread", came="a stone", remedy="ask again"))
    assert (seen.status, seen.detail, seen.fix) == (CheckStatus.FAILED, "expected bread; got a stone", "ask again")


def test_a_foreign_error_shows_its_type_alone() -> None:
    seen = seen_error(ValueError(CANARY))
    assert seen.status is CheckStatus.FAILED
    assert "ValueError" in seen.detail
    assert seen.fix
    assert CANARY not in f"{seen}"


@pytest.mark.parametrize(
    ("statuses", "healthy"),
    [
        ([CheckStatus.OK, CheckStatus.WARNING, CheckStatus.SKIPPED], True),
        ([CheckStatus.OK, CheckStatus.FAILED], False),
        ([], True),
    ],
)
def test_only_a_failure_is_unhealthy(statuses: list[CheckStatus], healthy: bool) -> None:
    findings = [Finding("bucket", "write", status, "") for status in statuses]
    assert is_healthy(findings) is healthy
    assert document(findings)["is_healthy"] is healthy


def test_the_document_has_every_member_of_a_finding() -> None:
    finding = Finding("bucket", "write", CheckStatus.WARNING, "slow", "wait", 1.5)
    assert document([finding])["findings"] == [
        {
            "subject": "bucket",
            "check": "write",
            "status": "warning",
            "detail": "slow",
            "fix": "wait",
            "seconds": 1.5,
        }
    ]


def test_the_registry_is_counted() -> None:
    seen = seen_registry(Registry({"acme": ACME}))
    assert (seen.status, seen.detail) == (CheckStatus.OK, "1 partner, 2 tenants")


def test_an_empty_registry_is_a_warning() -> None:
    seen = seen_registry(Registry({}))
    assert seen.status is CheckStatus.WARNING
    assert "cross_year_matching_enabled" in seen.fix


def test_ids_that_cannot_be_keys_are_a_warning_that_names_a_few() -> None:
    seen = seen_registry(Registry({"acme": ACME}, skipped=tuple(f"partner '{n}/'" for n in range(7))))
    assert seen.status is CheckStatus.WARNING
    assert "partner '4/' and 2 more" in seen.detail
    assert seen.fix


def test_a_partner_is_described_as_the_registry_has_it() -> None:
    seen = seen_partner(Registry({"acme": ACME}), "acme")
    assert (seen.status, seen.detail) == (CheckStatus.OK, "2 tenants, published for 2025, 2026")


@pytest.mark.parametrize(("switched_off", "expected"), [(("nova",), "switched off"), ((), "unknown")])
def test_a_partner_that_is_not_in_the_registry_is_a_warning(switched_off: tuple[str, ...], expected: str) -> None:
    seen = seen_partner(Registry({"acme": ACME}, switched_off=switched_off), "nova")
    assert seen.status is CheckStatus.WARNING
    assert expected in seen.detail
    assert seen.fix


def test_without_a_registry_a_partner_is_not_looked_up() -> None:
    assert seen_partner(None, "acme").status is CheckStatus.SKIPPED


def test_daemons_without_a_heartbeat_are_named() -> None:
    seen = seen_daemons({"SENSOR": False, "SCHEDULER": True, "BACKFILL": False})
    assert seen.status is CheckStatus.WARNING
    assert "BACKFILL, SENSOR" in seen.detail
    assert "SCHEDULER" not in seen.detail
    assert seen_daemons({"SENSOR": True}).status is CheckStatus.OK


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigurationError(expected="settings", came="RUNWAY_X: too short", remedy="make it longer"), "RUNWAY_X"),
        (KeyError(CANARY), "KeyError"),
    ],
)
def test_services_that_cannot_be_built_fail_the_settings_and_skip_the_rest(error: Exception, expected: str) -> None:
    @contextmanager
    def refuse() -> Iterator[RosterServices]:
        raise error
        yield

    settings, *others = diagnose(refuse, "acme")
    assert (settings.subject, settings.status) == ("settings", CheckStatus.FAILED)
    assert expected in settings.detail
    assert settings.fix
    assert {finding.status for finding in others} == {CheckStatus.SKIPPED}
    assert tuple(finding.subject for finding in others) == SUBJECTS
    assert CANARY not in str([settings, *others])


# What stays of every examination: nothing of ours may delete where decisions are recorded.
ON_RECORD = ["__roster_audit/.doctor/probe.json"]


def test_a_good_bucket_passes_and_keeps_one_object_however_often(store: ObjectStore) -> None:
    for _ in range(2):
        findings = examine_bucket(store)
        assert [finding for finding in findings if finding.status is not CheckStatus.OK] == []
        assert list(store.list_keys("")) == ON_RECORD


def test_a_missing_bucket_is_reported_once_with_its_fix(new_store: Callable[..., ObjectStore]) -> None:
    written, *others = examine_bucket(new_store("runway-test-nowhere"))
    assert written.status is CheckStatus.FAILED
    assert "NoSuchBucket" in written.detail
    assert "RUNWAY_BUCKET" in written.fix
    assert {finding.status for finding in others} == {CheckStatus.SKIPPED}


def test_an_unset_bucket_names_its_variable(new_store: Callable[..., ObjectStore]) -> None:
    written = examine_bucket(new_store(None))[0]
    assert written.status is CheckStatus.FAILED
    assert "RUNWAY_BUCKET" in written.fix or "RUNWAY_BUCKET" in written.detail


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_server_that_ignores_conditions_is_detected(store: ObjectStore, intercept: Intercept, header: str) -> None:
    def drop(request: Any, **_: Any) -> None:
        request.headers.pop(header, None)

    intercept("before-send.s3.PutObject", drop)
    checks = by_check(examine_bucket(store))
    assert checks["conditional write"].status is CheckStatus.FAILED
    assert "Amazon S3" in checks["conditional write"].fix
    assert checks["delete"].status is CheckStatus.OK
    assert list(store.list_keys("")) == ON_RECORD


def test_a_broken_check_hides_nothing_and_is_cleaned_up_after(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_object(self: ObjectStore, source: str, target: str) -> None:
        raise KeyError(CANARY)

    monkeypatch.setattr(ObjectStore, "copy_object", copy_object)
    findings = examine_bucket(store)
    assert [f.check for f in findings if f.status is CheckStatus.FAILED] == ["copy"]
    assert "KeyError" in by_check(findings)["copy"].detail
    assert CANARY not in str(findings)
    assert list(store.list_keys("")) == ON_RECORD


def test_an_interrupted_examination_leaves_nothing(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy_object(self: ObjectStore, source: str, target: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ObjectStore, "copy_object", copy_object)
    with pytest.raises(KeyboardInterrupt):
        examine_bucket(store)
    assert list(store.list_keys("")) == []


def test_an_object_that_cannot_be_removed_is_a_failure(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectStore, "delete", lambda self, keys: None)
    removal = by_check(examine_bucket(store))["delete"]
    assert removal.status is CheckStatus.FAILED
    assert "still there" in removal.detail


def test_without_a_dagster_home_its_storage_is_skipped() -> None:
    findings = list(examine_dagster(None))
    assert {(finding.status, finding.detail) for finding in findings} == {
        (CheckStatus.SKIPPED, "DAGSTER_HOME is not set")
    }


def test_the_storage_is_named_and_silent_daemons_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    checks = by_check(list(examine_dagster(str(tmp_path))))
    assert (checks["storage"].status, checks["storage"].detail) == (CheckStatus.OK, "SqliteRunStorage")
    assert checks["daemons"].status is CheckStatus.WARNING
    assert "SENSOR" in checks["daemons"].detail


def test_a_storage_that_cannot_be_opened_is_reported_without_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: '{CANARY}'}}}}\n")
    storage, daemons = examine_dagster(str(tmp_path))
    assert (storage.status, daemons.status) == (CheckStatus.FAILED, CheckStatus.SKIPPED)
    assert "Error" in storage.detail
    assert "DAGSTER_PG_" in storage.fix
    assert CANARY not in str([storage, daemons])


@pytest.mark.parametrize(
    ("theirs", "status", "said"),
    [
        (timedelta(), CheckStatus.OK, "within 60 s"),
        (timedelta(seconds=-60), CheckStatus.OK, "within 60 s"),
        (timedelta(seconds=62), CheckStatus.OK, "within 60 s"),  # asked at 0, answered at 2
        (timedelta(seconds=63), CheckStatus.WARNING, "61 s behind"),
        (timedelta(hours=-3), CheckStatus.WARNING, "3:00:00 ahead of"),
        (timedelta(days=365), CheckStatus.WARNING, "364 days, 23:59:58 behind"),
    ],
)
def test_a_clock_beyond_the_tolerance_is_a_warning(theirs: timedelta, status: CheckStatus, said: str) -> None:
    asked = datetime(2026, 3, 8, 12, tzinfo=UTC)
    moments = iter([asked, asked + timedelta(seconds=2)])
    seen = seen_clock("Postgres'", lambda: asked + theirs, lambda: next(moments))
    assert seen.status is status
    assert said in seen.detail and "Postgres'" in seen.detail
    assert bool(seen.fix) is (status is CheckStatus.WARNING)


def test_a_server_that_tells_no_time_is_no_warning() -> None:
    assert seen_clock("S3's", lambda: None, lambda: datetime.now(UTC)).status is CheckStatus.SKIPPED
