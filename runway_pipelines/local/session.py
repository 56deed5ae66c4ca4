"""The embedded stack with the data set in it, and this process pointed at it: for the local commands."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
import psycopg

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.local.catalogue import seed_catalogue
from runway_pipelines.local.processes import StackAlreadyRunning
from runway_pipelines.local.seed import seed
from runway_pipelines.local.stack import APP_DATABASE, CATALOGUE_DATABASE, EmbeddedStack
from runway_pipelines.settings import load_settings

CHECKOUT = Path(__file__).parents[2]


@contextmanager
def local_session(state_dir: Path) -> Iterator[None]:
    """Start the stack, bring the data set into it, and point this process's environment at both.

    A stack that runs on this folder already (``make dev`` in another terminal) is joined. DAGSTER_HOME becomes a folder
    of the state folder, with the checkout's ``dagster.yaml``.
    """
    environment_file = state_dir / "environment.json"
    try:
        stack = EmbeddedStack(state_dir)
        stack.start()
    except StackAlreadyRunning:
        if not environment_file.exists():
            raise
        _use(json.loads(environment_file.read_text()))
        yield
        return
    try:
        environment = stack.environment() | {"DAGSTER_HOME": str(_dagster_home(stack.state_dir))}
        _use(environment)
        _seed(stack)
        _write_private(environment_file, json.dumps(environment))
        yield
    finally:
        environment_file.unlink(missing_ok=True)
        stack.stop()


def _use(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    load_settings.cache_clear()


def _seed(stack: EmbeddedStack) -> None:
    with psycopg.connect(stack.postgres.dsn(APP_DATABASE)) as connection:
        seed(
            stack.state_dir,
            connection=connection,
            secrets_client=boto3.client("secretsmanager"),
            envlabel=load_settings().envlabel or "",
        )
    with psycopg.connect(stack.postgres.dsn(CATALOGUE_DATABASE)) as connection:
        seed_catalogue(connection, load_settings().catalogue_schema)


def _dagster_home(state_dir: Path) -> Path:
    """The Dagster home of a state folder, with the checkout's configuration as it is now."""
    configuration = CHECKOUT / "dagster.yaml"
    if not configuration.exists():
        raise ConfigurationError(
            expected="dagster.yaml beside the package", came="none", remedy="run the local commands from a checkout"
        )
    home = state_dir / "dagster_home"
    home.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(configuration, home / "dagster.yaml")
    return home


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
