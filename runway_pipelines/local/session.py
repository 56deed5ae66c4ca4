"""The embedded stack with the data set in it, and this process pointed at it: for the local commands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import psycopg

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.local.seed import seed
from runway_pipelines.local.stack import APP_DATABASE, EmbeddedStack
from runway_pipelines.settings import load_settings

CHECKOUT = Path(__file__).parents[2]


@contextmanager
def local_session(state_dir: Path) -> Iterator[EmbeddedStack]:
    """Start the stack, bring the data set into it, and set this process's environment to use both.

    DAGSTER_HOME becomes a folder of the state folder, with the checkout's ``dagster.yaml``.
    """
    with EmbeddedStack(state_dir) as stack:
        os.environ.update(stack.environment())
        os.environ["DAGSTER_HOME"] = str(dagster_home(stack.state_dir))
        load_settings.cache_clear()
        with psycopg.connect(stack.postgres.dsn(APP_DATABASE)) as connection:
            seed(
                stack.state_dir,
                connection=connection,
                secrets_client=boto3.client("secretsmanager"),
                envlabel=load_settings().envlabel or "",
            )
        yield stack


def dagster_home(state_dir: Path) -> Path:
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
