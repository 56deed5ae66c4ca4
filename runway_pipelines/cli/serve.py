"""``serve``: the live roster stream and, on the embedded stack, an example of a call."""

from __future__ import annotations

import secrets
import sys
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.target import Target, local_parts

if TYPE_CHECKING:
    from runway_pipelines.settings import Settings
    from runway_pipelines.systems.postgres.databases import ApplicationDatabase

_FIRST_RUN = 1  # of the synthetic data set


@click.command(
    short_help="Stream rosters to executors over HTTP.",
    epilog=examples(
        "runway-pipelines serve --host 0.0.0.0 --port 8080",
        "runway-pipelines --local serve   # with a command that pulls from it",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The port; 0 takes a free one."
)
@click.pass_obj
def serve(target: Target, host: str, port: int) -> None:
    """Stream rosters to executors over HTTP, until SIGTERM or Ctrl-C (see docs/roster-stream.md)."""
    if not target.is_local:
        # uvicorn waits for the pulls in flight, and then passes the signal on.
        with suppress(KeyboardInterrupt):
            _serve_until_stopped(target, host, port)
        return
    with local_parts():
        from runway_pipelines.local.signals import end_on_interrupt
    with end_on_interrupt("Stopping ..."):
        _serve_until_stopped(target, host, port)
    click.echo(f"Stopped; the state is in {target.state}.")


def _serve_until_stopped(target: Target, host: str, port: int) -> None:
    try:
        from runway_pipelines.stream.server import serve as serve_stream
    except ImportError as error:
        raise click.ClickException(
            f"The roster stream is not installed ({error.name}): install the extra runway-pipelines[api]."
        ) from None
    from runway_pipelines.settings import load_settings

    with target.services() as services:
        settings = load_settings()
        if target.is_local:
            settings = _with_a_key(settings)

        def ready(bound: int) -> None:
            # flushed below: whoever started us waits for this line.
            click.echo(f"READY {bound}")
            if target.is_local:
                click.echo(_example_call(settings, services.database, f"http://{host}:{bound}"))
            sys.stdout.flush()

        serve_stream(settings, services, host=host, port=port, on_ready=ready)


def _with_a_key(settings: Settings) -> Settings:
    """The settings, with a random key for this process if they have none."""
    if settings.stream.token_key or settings.stream.token_secret:
        return settings
    from pydantic import SecretStr

    stream = settings.stream.model_copy(update={"token_key": SecretStr(secrets.token_urlsafe(32))})
    return settings.model_copy(update={"stream": stream})


def _example_call(settings: Settings, database: ApplicationDatabase, base_url: str) -> str:
    """A command that shows the first run's roster; empty if it has none, or the tokens' key is in a secret."""
    from runway_pipelines.stream.runs import ROSTER_PATH, find_run
    from runway_pipelines.stream.tokens import TokenRules

    run = find_run(database, str(_FIRST_RUN))
    if settings.stream.token_key is None or run is None or run.tenant is None:
        return ""
    rules = TokenRules(settings.stream.token_audience, settings.stream.token_run_claim)
    key = settings.stream.token_key.get_secret_value().encode()
    token = rules.mint(_FIRST_RUN, key, valid_for=timedelta(days=1))
    url = f"{base_url}{ROSTER_PATH.format(run_id=_FIRST_RUN)}"
    # Silent: curl would complain when head stops reading.
    return f"The roster of {run.tenant}, its first lines:\ncurl -s -H 'Authorization: Bearer {token}' {url} | head -3"
