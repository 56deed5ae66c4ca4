"""``rosters``: what is published, and its history."""

from __future__ import annotations

from pathlib import Path

import click

from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import console, history_table
from runway_pipelines.errors import RunwayError
from runway_pipelines.partner_tenants.keys import PartnerTenant


class TenantArgument(click.ParamType[PartnerTenant]):
    """PARTNER/TENANT on the command line."""

    name = "PARTNER/TENANT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> PartnerTenant:
        """Parse and check both parts."""
        try:
            return PartnerTenant.parse(value)
        except RunwayError as error:
            self.fail(str(error), param, ctx)


@click.group()
def rosters() -> None:
    """Published rosters and their history."""


@rosters.command()
@click.argument("tenant", type=TenantArgument())
@click.pass_obj
def show(target: Target, tenant: PartnerTenant) -> None:
    """What is published for PARTNER/TENANT: its manifest, and the snapshots before it."""
    from runway_pipelines.rosters.publication import list_manifests, read_published

    with target.services() as services:
        published = read_published(services.store, tenant)
        manifests = list_manifests(services.store, tenant)
    if published is None:
        raise click.ClickException(f"Nothing was ever published for {tenant}.")
    if published.manifest is not None:
        console.print_json(published.manifest.to_json().decode())
    console.print_json(published.pointer.to_json().decode())
    console.print(history_table(manifests, published.pointer.sha256))


@rosters.command()
@click.argument("tenant", type=TenantArgument())
@click.option("--to", "file", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@click.option("--sha256", help="A snapshot of the history instead of the published one.")
@click.pass_obj
def load(target: Target, tenant: PartnerTenant, file: Path, sha256: str | None) -> None:
    """Write PARTNER/TENANT's roster to a file: .parquet or .csv as a table of codes, anything else as it is stored.

    The file holds student identifiers: it is readable for you alone.
    """
    from runway_pipelines.rosters.frames import save_roster

    with target.services() as services:
        students = save_roster(services.store, tenant, file, sha256)
    console.print(f"{students:,} students of {tenant} in {file}")


@rosters.command()
@click.argument("what", metavar="PARTNER[/TENANT]")
@click.option("--with-snapshots", is_flag=True, help="Delete the snapshots and manifests too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def purge(target: Target, what: str, with_snapshots: bool, yes: bool) -> None:
    """Delete what is published for a PARTNER whose toggle went off, or for a TENANT that left: it stays until then."""
    from runway_pipelines.rosters.index import forget_tenant
    from runway_pipelines.rosters.manifest import index_key
    from runway_pipelines.rosters.publication import published_keys

    of = PartnerTenant.parse(what) if "/" in what else what
    with target.services() as services:
        registry = services.registry()
        if what in registry.partner_keys | registry.tenant_keys:
            raise click.ClickException(
                f"{what} still has cross-year matching: the next run would publish again. Switch it off first."
            )
        keys = list(published_keys(services.store, of, with_snapshots=with_snapshots))
        if keys and not yes:
            click.confirm(f"Delete {len(keys)} objects of {what}?", abort=True)
        services.store.delete(keys)
        if isinstance(of, PartnerTenant):
            forget_tenant(services.store, of)
        else:
            services.store.delete([index_key(of)])
    console.print(f"{len(keys)} objects of {what} deleted.")
