"""``runway-pipelines``: the pipeline from a terminal."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson
from rich.console import Console
from rich.table import Table

from runway_pipelines.errors import RunwayError
from runway_pipelines.partner_tenants.keys import PartnerTenant

if TYPE_CHECKING:
    from runway_pipelines.rosters.services import RosterServices

STATE_DIR = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".runway"),
    show_default=True,
    help="The embedded stack's folder.",
)
console = Console()


class TenantArgument(click.ParamType[PartnerTenant]):
    """PARTNER/TENANT on the command line."""

    name = "PARTNER/TENANT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> PartnerTenant:
        """Parse and check both parts."""
        try:
            return PartnerTenant.parse(value)
        except RunwayError as error:
            self.fail(str(error), param, ctx)


class Commands(click.Group):
    """Our own errors end a command with their text instead of a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except RunwayError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Commands)
def main() -> None:
    """Cross-year rosters: from each partner's Snowflake to where Runway reads them."""


@main.command()
@STATE_DIR
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the results here too."
)
def demo(state: Path, json_file: Path | None) -> None:
    """Start the embedded stack, take and publish every roster, show the results.

    Exit code 1 when a tenant ended otherwise than the data set means it to.
    """
    with _local_services(state) as services:
        from runway_pipelines.local.demo import print_results, results_document, run_demo

        results = list(run_demo(services, console))
        print_results(results, console)
    document = results_document(results)
    if json_file:
        json_file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    published = state / "aws" / "s3"
    console.print(f"Published files are under [bold]{published}[/]. To look at the runs: [bold]make dev[/].")
    sys.exit(0 if document["is_success"] else 1)


@main.command()
@STATE_DIR
@click.option("--port", default=3000, show_default=True, help="First port to try for the Dagster UI.")
def dev(state: Path, port: int) -> None:
    """Keep the embedded stack running with the Dagster UI and daemon, until Ctrl-C."""
    with _local_services(state) as services:
        import dagster as dg

        from runway_pipelines.local.dagster_services import dagster_services
        from runway_pipelines.partner_tenants.partitions import sync_partitions

        with dg.DagsterInstance.get() as instance:
            sync_partitions(instance, services.registry())
        with dagster_services(state, _free_port_from(port)) as running:
            console.print(f"Dagster UI: [bold]{running.url}[/]   (logs in {state / 'logs'}; Ctrl-C ends everything)")
            running.wait()


@main.group()
def rosters() -> None:
    """Published rosters and their history."""


@rosters.command()
@click.argument("tenant", type=TenantArgument())
def show(tenant: PartnerTenant) -> None:
    """What is published for PARTNER/TENANT: its manifest, and the snapshots before it."""
    from runway_pipelines.rosters.publication import list_manifests, read_published

    with _services() as services:
        store = services.store
        published = read_published(store, tenant)
        manifests = list_manifests(store, tenant)
    if published is None:
        raise click.ClickException(f"Nothing was ever published for {tenant} in {store.bucket_name}.")
    if published.manifest is not None:
        console.print_json(published.manifest.to_json().decode())
    console.print_json(published.pointer.to_json().decode())
    history = Table(title="Snapshots, newest first", title_justify="left")
    for name in ("created", "sha256", "students", "rows", "added", "removed", "changed"):
        history.add_column(name)
    for manifest in manifests:
        mark = " (published)" if manifest.sha256 == published.pointer.sha256 else ""
        changes = (manifest.students_added, manifest.students_removed, manifest.students_changed)
        history.add_row(
            manifest.created_at,
            manifest.sha256[:12] + mark,
            str(manifest.students),
            str(manifest.lines),
            *("-" if count is None else str(count) for count in changes),
        )
    console.print(history)


@rosters.command()
@click.argument("tenant", type=TenantArgument())
@click.option(
    "--to", "target", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write."
)
@click.option("--sha256", help="A snapshot of the history instead of the published one.")
def load(tenant: PartnerTenant, target: Path, sha256: str | None) -> None:
    """Write PARTNER/TENANT's roster to a file: .parquet or .csv as a table of codes, anything else as it is stored.

    The file holds student identifiers: it is readable for you alone.
    """
    from runway_pipelines.rosters.frames import save_roster

    with _services() as services:
        students = save_roster(services.store, tenant, target, sha256)
    console.print(f"{students:,} students of {tenant} in {target}")


@contextmanager
def _local_services(state: Path) -> Iterator[RosterServices]:
    """The embedded stack with its data, and the services wired to it; SIGTERM ends both in order."""
    try:
        from runway_pipelines.local.processes import LocalServerError, exit_on_termination
        from runway_pipelines.local.session import local_session
    except ImportError as error:
        raise click.ClickException(
            f"The embedded stack is not installed ({error.name}): install the extra runway-pipelines[local]."
        ) from None
    try:
        with exit_on_termination(), local_session(state), _services() as services:
            yield services
    except LocalServerError as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def _services() -> Iterator[RosterServices]:
    from runway_pipelines.definitions import build_services
    from runway_pipelines.settings import load_settings

    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        yield services


def _free_port_from(first: int) -> int:
    """The first port from ``first`` on that nobody listens on."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise click.ClickException(f"Ports {first} to {first + 99} are all taken: say another one with --port.")


if __name__ == "__main__":
    main()
