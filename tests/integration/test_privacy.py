"""No student identifier, secret or key in anything a run leaves behind, except the rosters themselves."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from runway_pipelines.local.stack import BUCKET
from runway_pipelines.rosters import extraction, gate
from runway_pipelines.rosters.query import ROSTER_SQL
from tests.integration.world import TestPartner, Warehouse, World, everything_logged, run_partner

OUR_LOGGERS = ("runway", "dagster", "snowflake")
CANARIES = ["CANARY-student-7731", "CANARY-code-4242", "CANARYother9", "CANARY-system"]


def a_good_run(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong."""


def rows_of_another_tenant(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "ROSTER_SQL", ROSTER_SQL.replace("%(tenant_code)s", "'other'"))


def a_statement_that_fails_on_a_value(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = ROSTER_SQL.replace("max(api_year) as api_year\n", "max(cast(student_unique_id as int)) as api_year\n")
    monkeypatch.setattr(extraction, "ROSTER_SQL", failing)


def rows_out_of_order(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        extraction,
        "ROSTER_SQL",
        ROSTER_SQL.replace("order by student_unique_id nulls", "order by student_unique_id desc nulls"),
    )


def codes_in_the_column_of_systems(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        partner.warehouse.student("north", f"{CANARIES[0]}-{number}", (f"{CANARIES[3]}{number}", CANARIES[1]))
    partner.write_tables()


def a_defect_of_ours(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError(CANARIES[0])

    monkeypatch.setattr(gate, "keep_snapshot", fail)


def a_refused_key(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    partner.rotate(register_key=False)


def a_malformed_secret(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    text = partner.world.secrets.get_secret_value(SecretId=partner.secret_name)["SecretString"]
    partner.put_secret(text[:-1] + ",")


def a_damaged_key(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = json.loads(partner.world.secrets.get_secret_value(SecretId=partner.secret_name)["SecretString"])
    pem = base64.b64decode(secret["privateKey"]).decode()
    damaged = pem[:200] + "x" + pem[202:]
    partner.put_secret(json.dumps(secret | {"privateKey": base64.b64encode(damaged.encode()).decode()}))


@pytest.mark.parametrize(
    "trouble",
    [
        a_good_run,
        rows_of_another_tenant,
        a_statement_that_fails_on_a_value,
        pytest.param(rows_out_of_order, marks=pytest.mark.slow),
        pytest.param(codes_in_the_column_of_systems, marks=pytest.mark.slow),
        pytest.param(a_defect_of_ours, marks=pytest.mark.slow),
        a_refused_key,
        pytest.param(a_malformed_secret, marks=pytest.mark.slow),
        pytest.param(a_damaged_key, marks=pytest.mark.slow),
    ],
)
def test_what_a_run_leaves_behind_names_nobody_and_opens_nothing(
    world: World,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[TestPartner, pytest.MonkeyPatch], None],
) -> None:
    warehouse = Warehouse()
    warehouse.student("north", CANARIES[0], ("Local", CANARIES[1]), ("Local", "another"))
    warehouse.student("north", f"{CANARIES[0]}-2", ("Local", "4711"))
    warehouse.students("other", 3, prefix=CANARIES[2])
    partner = world.partner(warehouse, ["north"])
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    caplog.set_level(logging.DEBUG)
    trouble(partner, monkeypatch)
    secret = world.secrets.get_secret_value(SecretId=partner.secret_name)["SecretString"]

    result = run_partner(instance, partner)
    assert result.success is (trouble is a_good_run)

    output = capfd.readouterr()
    left = {
        "event log": everything_logged(instance, result),
        "output": output.out + output.err,
        "logging of this project": "\n".join(
            record.getMessage() for record in caplog.records if record.name.startswith(OUR_LOGGERS)
        ),
    }
    for key in partner.object_keys():
        if not key.endswith(".jsonl"):
            left[key] = world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
        head = world.s3.head_object(Bucket=BUCKET, Key=key)
        left[f"metadata of {key}"] = str(head["Metadata"]) + key
    for path in temporary.rglob("*"):
        if path.is_file():
            left[str(path)] = path.read_bytes().decode(errors="replace")

    assert partner.partner_id in left["event log"]
    secrets = [*CANARIES, *_secrets_in(secret), world.stack.postgres.password]
    found = {(place, word[:12]) for place, text in left.items() for word in secrets if word in text}
    assert found == set()


def _secrets_in(secret: str) -> list[str]:
    """The key as it is stored, and a stretch of its PEM text, of which part could be quoted."""
    try:
        key = json.loads(secret)["privateKey"]
    except ValueError:
        key = secret.split('"privateKey": "')[1].split('"')[0]
    return [key[:40], key[200:240], base64.b64decode(key).decode(errors="replace")[100:140]]
