"""Fixtures of the integration tests: real servers, started once for each test session (with xdist: for each worker)."""

from collections.abc import Iterator

import pytest

from runway_pipelines.local.stack import EmbeddedStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """A running, empty stack. Tests share it: use names of your own for accounts, buckets, secrets and databases."""
    with EmbeddedStack(tmp_path_factory.mktemp("stack") / "state") as running:
        yield running
