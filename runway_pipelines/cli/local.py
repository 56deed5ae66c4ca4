"""The commands that run the embedded stack: ``demo`` once, ``dev`` until Ctrl-C."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING

import click
from rich.console import Console

from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.cli.results import json_option, print_result
from runway_pipelines.cli.target import Target, local_parts
from runway_pipelines.cli.terminal import console

if TYPE_CHECKING:
    from runway_pipelines.local.processes import StateLock

STOPPED = "Stopped. The next run takes up what is missing."
STARTING = "Starting the embedded stack in {}: synthetic data, servers on loopback alone ..."
STOPPING = "Stopping (runs under way finish first, for up to a minute) ..."


@click.command(
    short_help="Run the main jobs on the embedded stack.",
    epilog=examples("runway-pipelines demo", "runway-pipelines demo --json | jq .is_success"),
)
@json_option
@click.pass_obj
def demo(target: Target, is_json: bool) -> None:
    """Start the embedded stack, take and publish every roster, show the results.

    Then resolve the library's identity, and rotate a partner's key.

    Exit code 3 when a tenant did not end as the data set means it to.
    """
    with local_parts():
        from runway_pipelines.local.signals import aside, exit_on_interrupt
    story = Console(stderr=is_json)
    with exit_on_interrupt(STOPPED) as before_exit:
        click.echo(STARTING.format(target.state), err=is_json)
        with target.stack(on_ready=Progress(err=is_json)) as services:
            from runway_pipelines.local.demo import cancel_runs_under_way, tell_story
            from runway_pipelines.local.session import published_files

            before_exit.append(cancel_runs_under_way)
            document = aside(lambda: tell_story(services, target.state, story))
            where = published_files(target.state)
        print_result(document, lambda: story.print(where), is_json=is_json)
    sys.exit(ExitCode.of(is_well=document["is_success"]))


@click.command(
    short_help="Run the embedded stack and Dagster's UI.",
    epilog=examples("runway-pipelines dev", "runway-pipelines --state /tmp/elsewhere dev --port 3100"),
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=3000,
    show_default=True,
    help="First port to try for the Dagster UI.",
)
@click.pass_obj
def dev(target: Target, port: int) -> None:
    """Keep the embedded stack running with the Dagster UI and daemon, until Ctrl-C.

    If they already run, it says where and ends.
    """
    with local_parts():
        from runway_pipelines.local.dagster_services import DagsterAlreadyRunning, dagster_lock
        from runway_pipelines.local.signals import end_on_interrupt
    try:
        # The lock first: if two are started at once, the second is told.
        with end_on_interrupt(STOPPING), dagster_lock(target.state) as lock:
            _run_dagster(target, port, lock)
    except DagsterAlreadyRunning as running:
        click.echo(str(running))
        return
    click.echo(f"Stopped; the state is in {target.state}.")


def _run_dagster(target: Target, port: int, lock: StateLock) -> None:
    """Run Dagster on a stack of our own: a joined one would end with its owner, under our daemon."""
    progress = Progress()
    click.echo(STARTING.format(target.state))
    with target.stack(must_own=True, on_ready=progress) as services:
        import dagster as dg

        from runway_pipelines.local.dagster_services import dagster_services
        from runway_pipelines.local.partners import synthetic_partners
        from runway_pipelines.local.session import bucket_url
        from runway_pipelines.local.welcome import Welcome
        from runway_pipelines.partner_tenants.partitions import sync_partitions
        from runway_pipelines.rosters.manifest import BOARD_KEY

        with dg.DagsterInstance.get() as instance:
            sync_partitions(instance, services.registry())
        os.environ["RUNWAY_COMMAND"] = target.command_beside  # Dagster's pages show commands to copy
        click.echo("Starting Dagster (code server, daemon, webserver) ...")
        with dagster_services(target.state, _free_port_from(port), lock, progress) as running:
            console.print(f"\nDagster UI: [bold]{running.url}[/]  (Ctrl-C ends everything)")
            console.print(f"Logs: {target.state / 'logs'}", soft_wrap=True)
            board = f"{bucket_url()}/{BOARD_KEY}"
            for line in Welcome(running.url, board, target.command_beside, synthetic_partners()).lines():
                is_command = line.startswith(" ")  # never broken: somebody copies it
                console.print(line if is_command else f"\n{line}", soft_wrap=is_command, highlight=False, markup=False)
            running.wait()


class Progress:
    """Prints a line for each thing that is ready, with the seconds since this object was made."""

    def __init__(self, *, err: bool = False) -> None:
        self._started = time.monotonic()
        self._err = err

    def __call__(self, what: str, state: str) -> None:
        """Print that it is ready."""
        seconds = time.monotonic() - self._started
        click.echo(f"  {seconds:5.1f} s  {what:<20} {state}", err=self._err)


def _free_port_from(first: int) -> int:
    """The first free port at or above ``first``."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise click.ClickException(f"Ports {first} to {first + 99} are all taken: choose another with --port.")
