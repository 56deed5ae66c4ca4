"""``partitions``: Dagster's partition keys, brought in line with the application's database."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.cli.results import json_option, print_result
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import console
from runway_pipelines.errors import ConfigurationError

if TYPE_CHECKING:
    import dagster as dg

    from runway_pipelines.partner_tenants.reconciliation import PartitionChanges
    from runway_pipelines.partner_tenants.registry import Registry


@click.group()
def partitions() -> None:
    """Partition keys of partners and tenants."""


@partitions.command(
    short_help="Match the keys to the database.",
    epilog=examples("runway-pipelines partitions sync", "runway-pipelines partitions sync --allow-mass-removal"),
)
@click.option("--allow-mass-removal", is_flag=True, help="Remove more than a quarter of the keys at once.")
@json_option
@click.pass_obj
def sync(target: Target, allow_mass_removal: bool, is_json: bool) -> None:
    """Add and remove partition keys so that they match the application's database.

    Exit code 1 when it refuses to remove more than a quarter of them.
    """
    from runway_pipelines.partner_tenants.partitions import sync_partitions
    from runway_pipelines.partner_tenants.reconciliation import approval_of

    with target.services() as services, _instance() as instance:
        registry = services.registry()
        plan = sync_partitions(instance, registry, allow_mass_removal=allow_mass_removal)
    document = {"skipped": registry.skipped, "partitions": plan}
    print_result(document, lambda: _print_plan(registry, plan), is_json=is_json)
    if approval_of(plan) is not None:
        raise click.ClickException("Nothing was removed. To remove these keys, add --allow-mass-removal.")
    if any(changes.refused for changes in plan.values()):
        sys.exit(ExitCode.REFUSED)


@contextmanager
def _instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's instance, once its storage has answered."""
    import dagster as dg

    from runway_pipelines.doctor.dagster_instance import without_logs

    with ExitStack() as until_closed:
        try:
            with without_logs():
                instance = until_closed.enter_context(dg.DagsterInstance.get())
                instance.get_run_ids(limit=1)
        except Exception as error:  # noqa: BLE001 - of any storage; its text may quote a DSN
            raise ConfigurationError(
                expected="Dagster's storage to answer",
                came=type(error).__name__,
                remedy="set DAGSTER_HOME to the folder with dagster.yaml, and compare its DAGSTER_PG_* with the server",
            ) from None
        yield instance


def _print_plan(registry: Registry, plan: Mapping[str, PartitionChanges]) -> None:
    for skipped in registry.skipped:
        console.print(f"Skipped {skipped}: it cannot be a partition key.", markup=False)
    for name, changes in plan.items():
        console.print(f"{name}: {changes.summary}.")
