"""Seeding twice is seeding once: secrets (against moto), warehouse files and keys; the database needs the stack."""

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from moto import mock_aws

from runway_pipelines.local import dataset, seed
from runway_pipelines.local.partners import Partner, Tenant, synthetic_partners
from runway_pipelines.local.stack import EmbeddedStack

PARTNERS = {partner.partner_id: partner for partner in synthetic_partners()}
WITH_SECRET = ("acme", "borealis", "cascade", "eventide", "foxglove")
KEYS = {
    partner_id: f"-----BEGIN PRIVATE KEY-----\n{partner_id}\n-----END PRIVATE KEY-----\n" for partner_id in PARTNERS
}
FEW = (
    Partner("one", "One", "synth-one", "reader", "Edu", "stage", None, None, (Tenant("a", 60), Tenant("b", 0))),
    Partner("two", "Two", "synth-two", "READER", "EDU", "STAGE", None, None, (Tenant("a", 40),), has_secret=False),
)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it would keep these keys for the tests after this one
    with mock_aws():
        yield boto3.client("secretsmanager", region_name="us-west-2")


def secret_versions(client: Any) -> dict[str, str]:
    return {
        entry["Name"]: client.get_secret_value(SecretId=entry["Name"], VersionStage="AWSCURRENT")["VersionId"]
        for page in client.get_paginator("list_secrets").paginate()
        for entry in page["SecretList"]
    }


def test_each_partner_that_has_one_gets_the_secret_of_the_contract(secrets: Any) -> None:
    assert seed.seed_secrets(secrets, "dev", KEYS) == WITH_SECRET
    assert set(secret_versions(secrets)) == {f"dev-edu-connection-info-{partner_id}" for partner_id in WITH_SECRET}

    acme = json.loads(secrets.get_secret_value(SecretId="dev-edu-connection-info-acme")["SecretString"])
    assert base64.b64decode(acme.pop("privateKey")).decode() == KEYS["acme"]
    assert acme == {
        "username": "RUNWAY_ROSTER_ACME",
        "account": "synth-acme",
        "database": "ACME_EDU",
        "schema": "PROD_STAGE",
        "warehouse": "ROSTER_WH",
        "role": "ROSTER_READER",
    }
    borealis = json.loads(secrets.get_secret_value(SecretId="dev-edu-connection-info-borealis")["SecretString"])
    assert set(borealis) == {"username", "account", "database", "schema", "privateKey"}


def test_a_second_run_makes_no_new_version_of_any_secret(secrets: Any) -> None:
    seed.seed_secrets(secrets, "dev", KEYS)
    before = secret_versions(secrets)
    assert seed.seed_secrets(secrets, "dev", KEYS) == ()
    assert secret_versions(secrets) == before


def test_only_a_secret_that_differs_or_is_pending_deletion_is_written(secrets: Any) -> None:
    seed.seed_secrets(secrets, "dev", KEYS)
    before = secret_versions(secrets)
    secrets.put_secret_value(SecretId="dev-edu-connection-info-cascade", SecretString="not what it was")
    secrets.delete_secret(SecretId="dev-edu-connection-info-foxglove")
    assert seed.seed_secrets(secrets, "dev", KEYS) == ("cascade",)
    after = secret_versions(secrets)
    assert {name for name in before if before[name] != after[name]} == {"dev-edu-connection-info-cascade"}
    assert seed.seed_secrets(secrets, "stg", KEYS) == WITH_SECRET


def test_the_warehouse_has_one_file_for_each_table_of_a_partner_and_is_written_once(tmp_path: Path) -> None:
    assert seed.write_warehouse(tmp_path, partners=FEW) is True
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    tables = (dataset.ASSOCIATIONS, dataset.IDENTIFICATION_CODES, dataset.STUDENTS, dataset.SCHOOLS)
    folders = ("SYNTH-ONE/EDU/STAGE", "SYNTH-TWO/EDU/STAGE")
    expected = {f"{folder}/{table}.parquet" for folder in folders for table in tables} | {"data_set_version"}
    assert {str(path.relative_to(tmp_path)) for path in files} == expected

    table = pq.read_table(tmp_path / folders[0] / f"{dataset.ASSOCIATIONS}.parquet")
    assert table.equals(dataset.associations(FEW[0], FEW[0].tenants[0]))
    codes = pq.read_table(tmp_path / folders[1] / f"{dataset.IDENTIFICATION_CODES}.parquet")
    assert codes.equals(dataset.identification_codes(FEW[1], FEW[1].tenants[0]))

    before = {path: path.stat().st_mtime_ns for path in files}
    assert seed.write_warehouse(tmp_path, partners=FEW) is False
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert seed.write_warehouse(tmp_path, partners=FEW[:1]) is True


def test_an_interrupted_write_is_done_again_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(dataset, "identification_codes", fails)
        with pytest.raises(RuntimeError, match="interrupted"):
            seed.write_warehouse(tmp_path, partners=FEW)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{dataset.ASSOCIATIONS}.parquet"]
    assert seed.write_warehouse(tmp_path, partners=FEW) is True


def test_keys_are_made_once_private_and_registered_under_upper_case_names(tmp_path: Path) -> None:
    keys = seed.partner_keys(tmp_path / "keys", partners=FEW)
    assert set(keys) == {"one", "two"}
    assert len(set(keys.values())) == 2
    registered = json.loads((tmp_path / "keys" / "public_keys.json").read_text())
    assert set(registered) == {"SYNTH-ONE.READER", "SYNTH-TWO.READER"}
    for partner_id, pem in keys.items():
        path = tmp_path / "keys" / f"{partner_id}.pem"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert pem == path.read_text()
        assert pem.startswith("-----BEGIN PRIVATE KEY-----\n")
        key = serialization.load_pem_private_key(pem.encode(), password=None)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assert registered[f"SYNTH-{partner_id.upper()}.READER"] == [public.decode()]
    assert seed.partner_keys(tmp_path / "keys", partners=FEW) == keys


def test_keys_that_somebody_else_registered_stay(tmp_path: Path) -> None:
    public_keys_file = tmp_path / "public_keys.json"
    public_keys_file.write_text("{}\n")
    seed.partner_keys(tmp_path / "keys", public_keys_file=public_keys_file, partners=FEW)
    registered = json.loads(public_keys_file.read_text())
    registered["SYNTH-ONE.READER"].append("the next key")
    registered["OTHER.READER"] = ["another"]
    public_keys_file.write_text(json.dumps(registered))
    seed.partner_keys(tmp_path / "keys", public_keys_file=public_keys_file, partners=FEW)
    assert json.loads(public_keys_file.read_text()) == registered


def test_the_rows_of_the_application_say_what_the_partners_say() -> None:
    rows = seed.application_rows(tuple(PARTNERS.values()))
    assert [(row[0], row[2], row[3] is not None) for row in rows["partner"]] == [
        ("acme", True, False), ("borealis", True, False), ("cascade", True, False), ("driftwood", True, False),
        ("eventide", False, False), ("foxglove", True, True),
    ]  # fmt: skip
    assert rows["school_year"][3] == ("2526", 2025, 2026)
    assert [row[1:] for row in rows["school_year_config"] if row[0] == "acme"] == [
        ("2223", True, True), ("2324", True, False), ("2425", True, False), ("2526", True, False),
    ]  # fmt: skip
    assert [row[1:] for row in rows["school_year_config"] if row[0] == "cascade"] == [
        ("2223", False, False), ("2324", False, False), ("2425", False, False), ("2526", True, True),
    ]  # fmt: skip
    assert len(rows["tenant"]) == len({row[:2] for row in rows["tenant"]}) == len(rows["job"]) == len(rows["run"])
    assert {(row[1], row[2]) for row in rows["job"]} == {(row[1], row[0]) for row in rows["tenant"]}


def test_seeding_the_application_database_twice_changes_nothing(stack: EmbeddedStack) -> None:
    stack.postgres.create_database("seeded")
    with psycopg.connect(stack.postgres.dsn("seeded")) as conn:
        rows = seed.application_rows(synthetic_partners())
        assert seed.seed_application_database(conn) == sum(map(len, rows.values()))
        assert seed.seed_application_database(conn) == 0
        conn.execute("update partner set cross_year_matching_enabled = false where id = 'acme'")
        conn.execute("insert into tenant (code, partner_id) values ('somebody-elses', 'acme')")
        assert seed.seed_application_database(conn) == 1
        assert conn.execute("select count(*) from tenant where code = 'somebody-elses'").fetchone() == (1,)
