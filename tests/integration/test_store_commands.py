"""The commands on stores that are found by their names: who connects as what, and what the doctor says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from click.testing import CliRunner, Result

from runway_pipelines.cli.app import main
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.identity.migration import missing_columns
from runway_pipelines.local.catalogue import create_tables
from runway_pipelines.settings import Settings, load_settings
from tests.integration.world import World
from tests.servers.rds import LocalRds, local_rds

CATALOGUE = "store_commands"
OWNER, APP = "store_commands_owner", "store_commands_app"
PLAIN = ("HOST", "PORT", "NAME", "USER", "PASSWORD")


@pytest.fixture
def catalogue(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalRds]:
    """A catalogue of its owner's, found by its service; the application's user may only use it."""
    server = world.stack.postgres
    server.create_database(CATALOGUE)
    for name in PLAIN:
        monkeypatch.delenv(f"RUNWAY_CATALOGUE_DB_{name}")
    with local_rds(
        server,
        world.stack.state_dir / "postgres",
        tmp_path / "tls",
        users=[OWNER, APP],
        region="us-west-2",
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    ) as rds:
        schema = Settings().catalogue.schema_name
        with psycopg.connect(server.dsn(CATALOGUE), autocommit=True) as connection:
            connection.execute(f"drop schema if exists {schema} cascade")
            create_tables(connection, schema)
            connection.execute(f"alter schema {schema} owner to {OWNER}")
            tables = connection.execute("select tablename from pg_tables where schemaname = %s", [schema])
            for (table,) in tables.fetchall():
                connection.execute(f'alter table {schema}."{table}" owner to {OWNER}')
            connection.execute(f"grant usage on schema {schema} to {APP}")
            connection.execute(f"grant select, insert, update on all tables in schema {schema} to {APP}")
            connection.execute(f"grant usage on all sequences in schema {schema} to {APP}")
        ssm = boto3.client("ssm")
        for part, value in (("endpoint", "localhost"), ("port", str(rds.front.port))):
            ssm.put_parameter(Name=f"/prod/postgres-rds/{part}", Value=value, Type="String", Overwrite=True)
        monkeypatch.setenv("RUNWAY_STORES_ENV", "prod")
        monkeypatch.setenv("RUNWAY_CATALOGUE_DB_SERVICE", CATALOGUE)
        monkeypatch.setenv("RUNWAY_DB_CA_FILE", str(rds.ca_file))
        yield rds


def run(*arguments: str) -> Result:
    load_settings.cache_clear()
    return CliRunner().invoke(main, list(arguments))


def users(rds: LocalRds) -> set[str]:
    return {token.partition("DBUser=")[2].partition("&")[0] for token in rds.tokens}


@pytest.mark.slow
def test_only_what_adds_columns_connects_as_their_owner(catalogue: LocalRds, world: World) -> None:
    checked = run("identity", "migrate", "--check")
    assert checked.exit_code == ExitCode.NOT_WELL, checked.output
    assert users(catalogue) == {APP}
    assert run("identity", "migrate", "--apply").exit_code == 0
    assert users(catalogue) == {APP, OWNER}
    with psycopg.connect(world.stack.postgres.dsn(CATALOGUE)) as connection:
        assert missing_columns(connection, Settings().catalogue.schema_name) == ()
    assert run("identity", "migrate", "--check").exit_code == 0


def doctor() -> dict[str, dict[str, Any]]:
    result = run("doctor", "--partner", "nobody", "--json")
    return {finding["subject"]: finding for finding in json.loads(result.stdout)["findings"]}


def test_the_doctor_examines_the_stores_as_they_are_found(catalogue: LocalRds) -> None:
    found = doctor()
    assert found["catalogue"]["status"] == "ok", found["catalogue"]
    assert users(catalogue) == {APP}
    assert (found["Redis"]["status"], found["MongoDB"]["status"]) == ("skipped", "skipped")


@pytest.mark.slow
def test_the_doctor_says_what_a_store_cannot_be_found_by(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_STORES_ENV", "prod")
    monkeypatch.setenv("RUNWAY_REDIS_SERVICE", "nobody")
    monkeypatch.setenv("RUNWAY_MONGO_PROJECT", "nobody")
    found = doctor()
    assert "secret prod/redis/nobody" in found["Redis"]["detail"]
    assert "parameter /shared/infra/prod/mongodb-hosts" in found["MongoDB"]["detail"]
    assert {found["Redis"]["status"], found["MongoDB"]["status"]} == {"failed"}
    monkeypatch.setenv("RUNWAY_MONGO_ENV", "dev")
    assert "dev, which has no MongoDB" in doctor()["MongoDB"]["detail"]
