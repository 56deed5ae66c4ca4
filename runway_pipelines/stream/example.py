"""A first call of the stream on the embedded stack: a key for this process alone, and a token made with it."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import SecretStr

from runway_pipelines.settings import Settings
from runway_pipelines.stream.payload import ROSTER_PATH
from runway_pipelines.stream.runs import find_run
from runway_pipelines.stream.tokens import TokenRules

if TYPE_CHECKING:
    from runway_pipelines.systems.postgres.databases import ApplicationDatabase

_FIRST_RUN = 1  # of the synthetic data set


def with_a_key(settings: Settings) -> Settings:
    """The settings, with a random key where they have none."""
    if settings.stream.token_key or settings.stream.token_secret:
        return settings
    return settings.model_copy(
        update={"stream": settings.stream.model_copy(update={"token_key": SecretStr(secrets.token_urlsafe(32))})}
    )


def example_call(settings: Settings, database: ApplicationDatabase, base_url: str) -> str:
    """A command that shows the first run's roster (all of it is 2 MB), and whose it is; empty where there is none.

    There is none where the key is in a secret, or the run has no roster.
    """
    run = find_run(database, str(_FIRST_RUN))
    if settings.stream.token_key is None or run is None or run.tenant is None:
        return ""
    rules = TokenRules(settings.stream.token_audience, settings.stream.token_run_claim)
    key = settings.stream.token_key.get_secret_value().encode()
    token = rules.mint(_FIRST_RUN, key, valid_for=timedelta(days=1))
    url = f"{base_url}{ROSTER_PATH.format(run_id=_FIRST_RUN)}"
    # Silent: curl would complain that head has seen enough.
    return f"The roster of {run.tenant}, its first lines:\ncurl -s -H 'Authorization: Bearer {token}' {url} | head -3"
