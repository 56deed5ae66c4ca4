"""The doctor on the real stack: a working stack passes, and each failure has its fix."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from runway_pipelines.cli.app import main
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.doctor.bucket import PROBE_FOLDER
from runway_pipelines.doctor.findings import CheckStatus
from runway_pipelines.doctor.partners import PARTNER_CHECKS, examine_partners
from runway_pipelines.local import session
from runway_pipelines.local.dataset import IDENTIFICATION_CODES
from runway_pipelines.local.session import CHECKOUT
from runway_pipelines.local.stack import BUCKET
from runway_pipelines.partner_tenants.registry import Registry
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services
from tests.integration.fault_proxy import fault_proxy
from tests.integration.world import TestPartner, Warehouse, World, run_partner

Checks = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture
def partner(world: World, monkeypatch: pytest.MonkeyPatch) -> TestPartner:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    warehouse = Warehouse()
    warehouse.students("north", 3)
    return world.partner(warehouse, ["north"])


def doctor(*arguments: str) -> tuple[Result, Checks]:
    """`runway-pipelines doctor --json`, with the environment as it is now; findings by (subject, check)."""
    load_settings.cache_clear()
    result = CliRunner().invoke(main, ["doctor", "--json", *arguments])
    document = json.loads(result.stdout)
    assert result.exit_code == ExitCode.of(is_well=document["is_healthy"]), result.output
    for finding in document["findings"]:
        assert set(finding) == {"subject", "check", "status", "detail", "fix", "seconds"}
        assert bool(finding["fix"]) == (finding["status"] in ("failed", "warning")), finding
    return result, {(finding["subject"], finding["check"]): finding for finding in document["findings"]}


def with_status(checks: Checks, status: str) -> list[tuple[str, str]]:
    return [names for names, finding in checks.items() if finding["status"] == status]


def left_behind(world: World) -> list[str]:
    """The probes of any doctor that are in the bucket."""
    return [
        entry["Key"]
        for prefix in ("__rosters", "__roster_snapshots")
        for entry in world.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/{PROBE_FOLDER}/").get("Contents", ())
    ]


def test_a_working_stack_passes_every_check(partner: TestPartner, world: World) -> None:
    result, checks = doctor("--partner", partner.partner_id)
    assert result.exit_code == 0, result.output
    assert with_status(checks, "failed") == []
    assert with_status(checks, "skipped") == [
        *(("Redis", "answer"), ("MongoDB", "answer")),  # not configured
        *(("Dagster", "storage"), ("Dagster", "daemons")),
    ]
    assert checks[("LML", "answer")]["status"] == "ok"
    assert checks[("catalogue", "tables")]["status"] == "ok"
    subject = f"partner {partner.partner_id}"
    assert [check for name, check in checks if name == subject] == list(PARTNER_CHECKS)
    assert "1 tenant, published for 2026" in checks[(subject, "registry")]["detail"]
    assert "no previous version" in checks[(subject, "secret")]["detail"]
    assert left_behind(world) == []


def test_a_previous_version_of_the_secret_is_mentioned(partner: TestPartner) -> None:
    version = partner.rotate()
    _, checks = doctor("--partner", partner.partner_id)
    detail = checks[(f"partner {partner.partner_id}", "secret")]["detail"]
    assert version in detail
    assert "a previous version exists" in detail


def damage_the_key(partner: TestPartner) -> None:
    secret = current_secret(partner)
    pem = base64.b64decode(secret["privateKey"]).decode()
    damaged = pem[:200] + "x" + pem[202:]
    partner.put_secret(json.dumps(secret | {"privateKey": base64.b64encode(damaged.encode()).decode()}))


def current_secret(partner: TestPartner) -> dict[str, str]:
    answer = partner.world.secrets.get_secret_value(SecretId=partner.secret_name)
    return dict(json.loads(answer["SecretString"]))


@pytest.mark.parametrize(
    ("spoil", "check", "detail", "fix"),
    [
        (lambda p: p.delete_secret(), "secret", "no secret of that name", "create it"),
        (lambda p: p.put_secret("{not json"), "fields", "not JSON", "put a corrected value into secret"),
        (lambda p: p.rotate(username=None), "fields", "the field username", "put a corrected value into secret"),
        (damage_the_key, "fields", "not an RSA key", "put a corrected value into secret"),
        (lambda p: p.rotate(register_key=False), "login", "error 390144", "RSA_PUBLIC_KEY"),
        (lambda p: p.rotate(database="NOWHERE"), "tables", "error 90105", "correct database and schema"),
        (lambda p: p.drop_table(IDENTIFICATION_CODES), "tables", "error 2003", "SELECT"),
    ],
    ids=["no secret", "malformed", "no user", "bad key", "wrong key", "unknown database", "missing table"],
)
def test_a_partners_first_failure_has_a_reason_and_a_fix_and_skips_the_rest(
    partner: TestPartner, spoil: Callable[[TestPartner], object], check: str, detail: str, fix: str
) -> None:
    spoil(partner)
    result, checks = doctor("--partner", partner.partner_id)
    assert result.exit_code == ExitCode.NOT_WELL
    subject = f"partner {partner.partner_id}"
    assert with_status(checks, "failed") == [(subject, check)]
    assert detail in checks[(subject, check)]["detail"]
    assert fix in checks[(subject, check)]["fix"]
    later = PARTNER_CHECKS[PARTNER_CHECKS.index(check) + 1 :]
    assert [checks[(subject, name)]["detail"] for name in later] == [f"{check} failed"] * len(later)


def test_another_partners_key_is_no_good_key(world: World, instance: dg.DagsterInstance) -> None:
    ours, theirs = world.partner(students(), ["north"]), world.partner(students(), ["north"])
    assert run_partner(instance, ours).success
    ours.put_secret(theirs.secret_text())
    result, checks = doctor("--partner", ours.partner_id)
    assert result.exit_code == ExitCode.NOT_WELL
    check = checks[(f"partner {ours.partner_id}", "warehouse")]
    assert f"the secret opens {theirs.account}/EDU.PROD" in check["detail"]
    assert f"came from {ours.account}/EDU.PROD" in check["detail"]
    assert "another partner's key" in check["fix"]


def students() -> Warehouse:
    warehouse = Warehouse()
    warehouse.students("north", 3)
    return warehouse


@pytest.mark.slow
def test_an_unreachable_warehouse_is_reported_as_such(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_SNOWFLAKE_PORT", "1")
    monkeypatch.setenv("RUNWAY_SNOWFLAKE_LOGIN_TIMEOUT", "1")
    _, checks = doctor("--partner", partner.partner_id)
    login = checks[(f"partner {partner.partner_id}", "login")]
    assert login["status"] == "failed"
    assert "no session after" in login["detail"]


@pytest.mark.slow
def test_a_database_that_is_down_does_not_stop_the_partners_examination(
    partner: TestPartner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNWAY_APP_DB_PORT", "1")
    result, checks = doctor("--partner", partner.partner_id)
    assert result.exit_code == ExitCode.NOT_WELL
    assert with_status(checks, "failed") == [("application database", "connection")]
    assert "127.0.0.1:1" in checks[("application database", "connection")]["detail"]
    assert checks[("application database", "registry")]["status"] == "skipped"
    assert checks[(f"partner {partner.partner_id}", "registry")]["status"] == "skipped"
    assert checks[(f"partner {partner.partner_id}", "tables")]["status"] == "ok"


def test_without_a_registry_there_are_no_partners_to_examine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_APP_DB_PASSWORD", "wrong-canary")
    result, checks = doctor()
    assert "RUNWAY_APP_DB_PASSWORD" in checks[("application database", "connection")]["fix"]
    assert checks[("partners", "all")]["status"] == "skipped"
    assert "wrong-canary" not in result.output


@pytest.mark.slow
def test_a_database_without_the_registrys_tables_says_so(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_APP_DB_NAME", "postgres")
    _, checks = doctor("--partner", partner.partner_id)
    assert checks[("application database", "connection")]["status"] == "ok"
    assert "UndefinedTable" in checks[("application database", "registry")]["detail"]


def test_a_missing_bucket_names_its_variable(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_BUCKET", "runway-nowhere")
    _, checks = doctor("--partner", partner.partner_id)
    assert with_status(checks, "failed") == [("bucket", "write")]
    assert "NoSuchBucket" in checks[("bucket", "write")]["detail"]
    assert "RUNWAY_BUCKET" in checks[("bucket", "write")]["fix"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_refused", "failed"),
    [
        (lambda method, path: method == "PUT", ["write"]),
        (lambda method, path: method == "GET" and "list-type=2" in path, ["list"]),
        (lambda method, path: method == "PUT" and "/__rosters/" in path, ["copy"]),
        (lambda method, path: "?uploads" in path, ["pending uploads"]),
        (lambda method, path: method == "PUT" and "/__roster_audit/" in path, ["record"]),
    ],
    ids=["PutObject", "ListObjects", "CopyObject", "ListMultipartUploads", "PutObject of the record"],
)
def test_an_s3_refusal_has_its_fix_and_leaves_nothing_behind(
    partner: TestPartner,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    is_refused: Callable[[str, str], bool],
    failed: list[str],
) -> None:
    with fault_proxy(world.stack.aws_endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        proxy.fault = lambda method, path: 403 if is_refused(method, path) else None
        _, checks = doctor("--partner", partner.partner_id)
    assert with_status(checks, "failed") == [("bucket", check) for check in failed]
    for check in failed:
        assert "docs/operations.md" in checks[("bucket", check)]["fix"]
    assert left_behind(world) == []


def test_a_secrets_manager_refusal_has_its_fix(
    partner: TestPartner, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_proxy(world.stack.aws_endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", proxy.url)
        proxy.fault = lambda method, path: 403
        _, checks = doctor("--partner", partner.partner_id)
    subject = f"partner {partner.partner_id}"
    assert with_status(checks, "failed") == [("Secrets Manager", "list"), (subject, "secret")]
    for names in with_status(checks, "failed"):
        assert "docs/operations.md" in checks[names]["fix"]


@pytest.mark.slow
def test_a_label_without_secrets_is_a_warning_and_no_label_a_failure(
    partner: TestPartner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVLABEL", "nowhere")
    _, checks = doctor("--partner", partner.partner_id)
    assert checks[("Secrets Manager", "list")]["status"] == "warning"
    assert "ENVLABEL" in checks[("Secrets Manager", "list")]["fix"]
    monkeypatch.delenv("ENVLABEL")
    _, checks = doctor("--partner", partner.partner_id)
    assert checks[("Secrets Manager", "list")]["status"] == "failed"
    assert "ENVLABEL" in checks[("Secrets Manager", "list")]["fix"]


def test_a_partner_outside_the_registry_is_a_warning_and_its_credentials_are_examined(
    partner: TestPartner, world: World
) -> None:
    world.partner(Warehouse(), ["north"])  # an empty registry would be a warning of its own
    with world.connect() as connection:
        connection.execute("update partner set cross_year_matching_enabled = false where id = %s", [partner.partner_id])
    result, checks = doctor("--partner", partner.partner_id)
    assert result.exit_code == 0
    subject = f"partner {partner.partner_id}"
    assert with_status(checks, "warning") == [(subject, "registry")]
    assert "switched off" in checks[(subject, "registry")]["detail"]
    assert checks[(subject, "tables")]["status"] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../x", "[red]", "a b", ""])
def test_a_partner_id_that_cannot_be_a_key_is_a_failure(partner: TestPartner, name: str) -> None:
    result, checks = doctor("--partner", name)
    assert result.exit_code == ExitCode.NOT_WELL
    assert with_status(checks, "failed") == [(f"partner {name!r}", "registry")]
    shown = CliRunner().invoke(main, ["doctor", "--partner", name])
    assert f"partner {name!r}" in shown.output


def test_unreadable_settings_are_the_only_failure_and_skip_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNWAY_APP_DB_PORT", "canary-port")
    result, checks = doctor()
    assert result.exit_code == ExitCode.NOT_WELL
    assert with_status(checks, "failed") == [("settings", "load")]
    assert "RUNWAY_APP_DB_PORT" in checks[("settings", "load")]["detail"]
    assert len(with_status(checks, "skipped")) == len(checks) - 1
    assert "canary-port" not in result.output


def test_an_embedded_stack_that_does_not_start_is_reported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_CHANGE_SECONDS", 0)
    result = CliRunner().invoke(main, ["--local", "--state", str(world.stack.state_dir), "doctor", "--json"])
    assert result.exit_code == ExitCode.NOT_WELL
    settings = json.loads(result.stdout)["findings"][0]
    assert settings["status"] == "failed"
    assert "already runs" in settings["detail"]


@pytest.mark.slow
def test_partners_are_examined_concurrently_and_reported_in_order(world: World, partner: TestPartner) -> None:
    others = [world.partner(Warehouse(), ["south"]) for _ in range(5)]
    others[0].delete_secret()
    wanted = {partner.partner_id, *(other.partner_id for other in others)}
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        partners = {key: value for key, value in services.registry().partners.items() if key in wanted}
        findings = list(examine_partners(services, Registry(partners)))
    assert [f.subject for f in findings[:: len(PARTNER_CHECKS)]] == [f"partner {name}" for name in sorted(wanted)]
    failed = [(f.subject, f.check) for f in findings if f.status is CheckStatus.FAILED]
    assert failed == [(f"partner {others[0].partner_id}", "secret")]


@pytest.mark.slow
def test_dagsters_storage_is_tried_and_its_failure_shows_no_password(
    partner: TestPartner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copyfile(CHECKOUT / "dagster.yaml", tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    _, checks = doctor("--partner", partner.partner_id)
    assert checks[("Dagster", "storage")]["detail"] == "PostgresRunStorage"
    assert checks[("Dagster", "daemons")]["status"] == "warning"
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "canary-password")
    result, checks = doctor("--partner", partner.partner_id)
    assert with_status(checks, "failed") == [("Dagster", "storage")]
    assert "DAGSTER_PG_" in checks[("Dagster", "storage")]["fix"]
    assert "canary-password" not in result.output + caplog.text
    assert "Retrying" not in caplog.text, "dagster-postgres logs what the driver says"


@pytest.mark.parametrize("arguments", [["--json"], []], ids=["json", "table"])
@pytest.mark.parametrize(
    "spoil",
    [lambda p: None, damage_the_key, lambda p: p.rotate(register_key=False)],
    ids=["good", "damaged", "refused"],
)
def test_no_key_and_no_password_is_printed_or_logged(
    partner: TestPartner,
    arguments: list[str],
    spoil: Callable[[TestPartner], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", logger="runway_pipelines")
    spoil(partner)
    key = current_secret(partner)["privateKey"]
    result = CliRunner().invoke(main, ["doctor", "--partner", partner.partner_id, *arguments])
    # A table breaks what is long into several lines of a column.
    text = re.sub(r"[\s│]", "", result.output + caplog.text)
    assert partner.partner_id in text
    pem = base64.b64decode(key).decode().splitlines()[1:-1]
    for canary in (os.environ["RUNWAY_APP_DB_PASSWORD"], key[100:130], key[-60:-30], *(line[:30] for line in pem)):
        assert canary not in text


def test_the_table_shows_the_fix_of_a_failure(partner: TestPartner) -> None:
    partner.delete_secret()
    result = CliRunner().invoke(main, ["doctor", "--partner", partner.partner_id])
    assert result.exit_code == ExitCode.NOT_WELL
    details = " ".join(line.split("│")[3].strip() for line in result.output.splitlines() if line.startswith("│"))
    assert "To do: create it as docs/operations.md says" in details
    assert f"partner {partner.partner_id}: login" in result.output
