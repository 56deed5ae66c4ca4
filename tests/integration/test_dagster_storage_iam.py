"""Dagster's own storage in RDS, as deploy/ecs/dagster.yaml has it: in by signed tokens alone, over verified TLS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import boto3
import dagster as dg
import psycopg
import pytest
import yaml
from dagster_postgres.utils import DagsterPostgresException

from tests.integration.world import World
from tests.servers.rds import LocalRds, local_rds

DEPLOYED = Path(__file__).parents[2] / "deploy" / "ecs" / "dagster.yaml"
USER, DATABASE, REGION = "dagster_app", "dagster_by_token", "us-west-2"


@pytest.fixture
def rds(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalRds]:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # its keys are those of the test that used it first
    server = world.stack.postgres
    server.create_database(DATABASE)
    with local_rds(
        server,
        world.stack.state_dir / "postgres",
        tmp_path / "tls",
        users=[USER],
        region=REGION,
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    ) as one:
        with psycopg.connect(server.dsn(DATABASE), autocommit=True) as connection:
            connection.execute(f'grant all on schema public to "{USER}"')
        yield one


@contextmanager
def instance_of(home: Path, rds: LocalRds, ca_file: Path | None = None) -> Iterator[dg.DagsterInstance]:
    """An instance whose storage is configured as in production; the rest is for ECS."""
    home.mkdir(exist_ok=True)
    storage = yaml.safe_load(DEPLOYED.read_text())["storage"]
    assert storage["postgres"]["auth_provider"] == {"aws_wif": {"region": {"env": "AWS_REGION"}}}
    (home / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage, "telemetry": {"enabled": False}}))
    environment = {
        "DAGSTER_HOME": str(home),
        "DAGSTER_PG_HOST": "localhost",
        "DAGSTER_PG_PORT": str(rds.front.port),
        "DAGSTER_PG_DB": DATABASE,
        "DAGSTER_PG_USERNAME": USER,
        "DAGSTER_PG_PASSWORD": "never-used",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(ca_file or rds.ca_file),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            yield instance


@dg.job
def nothing() -> None:
    """A run with its events."""


@pytest.mark.slow
def test_a_run_and_its_events_are_kept_by_token_alone(rds: LocalRds, tmp_path: Path) -> None:
    with instance_of(tmp_path / "home", rds) as instance:
        result = nothing.execute_in_process(instance=instance)
        assert result.success
        assert instance.get_run_ids() == [result.run_id]
        assert instance.all_logs(result.run_id)
        instance.add_dynamic_partitions("partners", ["acme"])
        assert instance.get_dynamic_partitions("partners") == ["acme"]
    assert rds.refusals == []
    assert rds.front.connections == len(rds.tokens) > 0
    assert rds.front.refused_plaintext == 0
    assert all(token.startswith(f"localhost:{rds.front.port}/?") and f"DBUser={USER}" in token for token in rds.tokens)


def test_a_token_that_expired_lets_nobody_in(
    rds: LocalRds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dagster_postgres.utils.time.sleep", lambda seconds: None)
    rds.ahead = timedelta(minutes=16)
    with pytest.raises(DagsterPostgresException), instance_of(tmp_path / "home", rds) as instance:
        instance.get_run_ids()
    assert set(rds.refusals) == {"expired"}
    # dagster-postgres logs the driver's text: no token may be in it.
    assert "X-Amz-Signature" not in caplog.text


def test_its_tokens_are_renewed_before_they_expire(rds: LocalRds, tmp_path: Path) -> None:
    with instance_of(tmp_path / "home", rds) as instance:
        provider = instance.run_storage._token_provider
        assert provider is not None
        first = provider.get_token()
        assert provider.get_token() == first
        provider._token_expiry -= 10 * 60 + 1  # as if that long had passed: 5 minutes are left of 15
        provider._cached_token = "stale"
        assert provider.get_token() != "stale"


def test_another_authoritys_server_is_not_spoken_to(
    rds: LocalRds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_postgres.utils.time.sleep", lambda seconds: None)
    from tests.servers.certificates import new_authority

    other = new_authority(tmp_path / "other").certificate
    with (
        pytest.raises(DagsterPostgresException),
        instance_of(tmp_path / "home", rds, other) as instance,
    ):
        instance.get_run_ids()
    assert rds.tokens == []
