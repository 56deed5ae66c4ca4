"""``serve``: the live roster stream."""

from __future__ import annotations

import sys
from contextlib import suppress

import click

from runway_pipelines.cli.target import Target, local_parts


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8080, show_default=True, help="The port; 0 takes a free one.")
@click.pass_obj
def serve(target: Target, host: str, port: int) -> None:
    """Stream rosters to executors over HTTP, until SIGTERM or Ctrl-C (see docs/roster-stream.md)."""
    if not target.is_local:
        # uvicorn waits for the pulls in flight, and then passes the signal on.
        with suppress(KeyboardInterrupt):
            _serve_until_stopped(target, host, port)
        return
    with local_parts():
        from runway_pipelines.local.processes import end_on_interrupt
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
    from runway_pipelines.stream.example import example_call, with_a_key

    with target.services() as services:
        settings = load_settings()
        if target.is_local:
            settings = with_a_key(settings)

        def ready(bound: int) -> None:
            # flush: whoever starts us waits for this line.
            click.echo(f"READY {bound}")
            if target.is_local:
                click.echo(example_call(settings, services.database, f"http://{host}:{bound}"))
            sys.stdout.flush()

        serve_stream(settings, services, host=host, port=port, on_ready=ready)
