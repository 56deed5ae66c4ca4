"""The integration tests' servers and worlds; CONTRIBUTING.md says which fixture gives what."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import psycopg
import pytest

from runway_pipelines.local.catalogue import create_tables
from runway_pipelines.local.seed import seed_application_database
from runway_pipelines.local.stack import APP_DATABASE, CATALOGUE_DATABASE, EmbeddedStack
from runway_pipelines.settings import Settings
from tests.integration.identity_job_world import fill, point_at
from tests.integration.identity_world import TestCatalogue, new_catalogue
from tests.integration.lml_control import WITH_FAULTS, LmlControl
from tests.integration.world import World, world_of

if TYPE_CHECKING:
    from tests.integration.stream_server import Big, StreamServer

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """A running stack for each worker, its tables empty. Use accounts, buckets, secrets and databases of your own."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack") / "state", WITH_FAULTS) as running:
        with psycopg.connect(running.postgres.dsn(APP_DATABASE)) as connection:
            seed_application_database(connection, partners=[])
        with psycopg.connect(running.postgres.dsn(CATALOGUE_DATABASE), autocommit=True) as connection:
            create_tables(connection, Settings().catalogue.schema_name)
        yield running


@pytest.fixture
def world(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The stack, with this process's settings pointed at it: `world.partner(...)` makes a partner in every system."""
    with world_of(stack, monkeypatch) as one:
        yield one


# Dagster


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of the test's own, in memory: a run costs half of what it costs with SQLite on disk."""
    with dg.DagsterInstance.ephemeral() as one:
        yield one


@pytest.fixture
def postgres_instance(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster as the checkout's dagster.yaml configures it: the storage that production uses, shared by all tests."""
    shutil.copy(CHECKOUT / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as one:
        yield one


# the library's identity


@pytest.fixture
def lml(stack: EmbeddedStack) -> Iterator[LmlControl]:
    """The stack's LML, without faults before and after."""
    control = LmlControl(stack.lml_url)
    control.script()
    yield control
    control.script()


@pytest.fixture
def catalogue(stack: EmbeddedStack) -> Iterator[TestCatalogue]:
    """An empty catalogue of the test's own, with every optional column."""
    with new_catalogue(stack.postgres) as one:
        yield one


@pytest.fixture(scope="module")
def _shared_tables(stack: EmbeddedStack) -> Iterator[TestCatalogue]:
    with new_catalogue(stack.postgres, artist_columns=False) as one:
        yield one


@pytest.fixture
def tables(
    world: World, lml: LmlControl, _shared_tables: TestCatalogue, monkeypatch: pytest.MonkeyPatch
) -> TestCatalogue:
    """A catalogue of artists and compilations that nobody has verified; runs work in it."""
    fill(_shared_tables)
    return point_at(_shared_tables, monkeypatch)


@pytest.fixture
def own_tables(world: World, lml: LmlControl, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestCatalogue]:
    """The same, for a test that alters the tables themselves."""
    with new_catalogue(world.stack.postgres, artist_columns=False) as one:
        fill(one)
        yield point_at(one, monkeypatch)


# the roster stream


@pytest.fixture(scope="module")
def server(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamServer]:
    """The roster stream in a thread of this process."""
    from tests.integration.stream_server import stream_server

    with (
        pytest.MonkeyPatch.context() as patch,
        world_of(stack, patch),
        stream_server(tmp_path_factory.mktemp("stream") / "server.log") as running,
    ):
        yield running


@pytest.fixture(scope="module")
def big(stack: EmbeddedStack) -> Iterator[Big]:
    """A published roster of 13 MB, more than any buffer on the way to a client holds."""
    from tests.integration.stream_server import published_big

    with pytest.MonkeyPatch.context() as patch, world_of(stack, patch) as world:
        yield published_big(world)
