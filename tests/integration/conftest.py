"""Fixtures of the integration tests: real servers, started once for each test session (with xdist: for each worker)."""

from collections.abc import Iterator

import dagster as dg
import psycopg
import pytest

from runway_pipelines.local.catalogue import create_tables
from runway_pipelines.local.seed import seed_application_database
from runway_pipelines.local.stack import APP_DATABASE, CATALOGUE_DATABASE, EmbeddedStack
from runway_pipelines.settings import Settings, load_settings
from tests.integration.world import World


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """A running, empty stack. Tests share it: use names of your own for accounts, buckets, secrets and databases."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack") / "state") as running:
        yield running


@pytest.fixture(scope="session")
def _tables(stack: EmbeddedStack) -> None:
    with psycopg.connect(stack.postgres.dsn(APP_DATABASE)) as connection:
        seed_application_database(connection, partners=[])
    with psycopg.connect(stack.postgres.dsn(CATALOGUE_DATABASE), autocommit=True) as connection:
        create_tables(connection, Settings().catalogue.schema_name)


@pytest.fixture
def world(stack: EmbeddedStack, _tables: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The stack, with this process's settings pointed at it."""
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    yield World(stack)
    load_settings.cache_clear()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of the test's own."""
    with dg.instance_for_test() as one:
        yield one
