"""``runway-pipelines``: the pipeline from a terminal."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console
from rich.markup import escape

from runway_pipelines.data_stores.vocabulary import Role
from runway_pipelines.errors import ConfigurationError, RunwayError
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.terminal import findings_table, history_table, keys_table

if TYPE_CHECKING:
    from runway_pipelines.doctor import OtherStores
    from runway_pipelines.identity.services import IdentityServices
    from runway_pipelines.resources.postgres import CatalogueDatabase
    from runway_pipelines.rosters.services import RosterServices

console = Console()


@dataclass(frozen=True)
class Target:
    """What a command works on: the systems that the environment names, or the embedded stack of a folder."""

    is_local: bool
    state: Path

    @contextmanager
    def services(self) -> Iterator[RosterServices]:
        """The services, ready to use."""
        if self.is_local:
            with self.stack() as services:
                yield services
        else:
            with _services() as services:
                yield services

    @contextmanager
    def stack(self) -> Iterator[RosterServices]:
        """The embedded stack, started with its data (or joined, where it runs already); SIGTERM ends it in order."""
        try:
            from runway_pipelines.local.processes import LocalServerError, exit_on_termination
            from runway_pipelines.local.session import local_session
        except ImportError as error:
            raise click.ClickException(
                f"The embedded stack is not installed ({error.name}): install the extra runway-pipelines[local]."
            ) from None
        try:
            with exit_on_termination(), local_session(self.state), _services() as services:
                yield services
        except LocalServerError as error:
            raise click.ClickException(str(error)) from None


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
@click.option("--local", is_flag=True, help="Use the embedded stack instead of the systems that the environment names.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".runway"),
    show_default=True,
    help="The embedded stack's folder.",
)
@click.pass_context
def main(context: click.Context, local: bool, state: Path) -> None:
    """Cross-year rosters: from each partner's Snowflake to where Runway reads them."""
    context.obj = Target(local, state)


@main.command()
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the results here too."
)
@click.pass_obj
def demo(target: Target, json_file: Path | None) -> None:
    """Start the embedded stack, take and publish every roster, show the results.

    Then resolve the library's identity, and rotate a partner's key.

    Exit code 1 when a tenant ended otherwise than the data set means it to.
    """
    with target.stack() as services:
        from runway_pipelines.local.demo import (
            print_identity,
            print_results,
            print_rotation,
            results_document,
            run_demo,
            run_identity,
            run_rotation,
        )

        results = list(run_demo(services, console))
        print_results(results, console)
        identity = run_identity()
        print_identity(identity, console)
        rotation = run_rotation(services, target.state, console)
        print_rotation(rotation, console)
    document = results_document(results, identity, rotation)
    if json_file:
        json_file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    console.print(f"Published files: [bold]{target.state / 'aws' / 's3'}[/]. The runs: [bold]make dev[/].")
    sys.exit(0 if document["is_success"] else 1)


@main.command()
@click.option("--port", default=3000, show_default=True, help="First port to try for the Dagster UI.")
@click.pass_obj
def dev(target: Target, port: int) -> None:
    """Keep the embedded stack running with the Dagster UI and daemon, until Ctrl-C."""
    with target.stack() as services:
        import dagster as dg

        from runway_pipelines.local.dagster_services import dagster_services
        from runway_pipelines.partner_tenants.partitions import sync_partitions

        with dg.DagsterInstance.get() as instance:
            sync_partitions(instance, services.registry())
        with dagster_services(target.state, _free_port_from(port)) as running:
            console.print(f"Dagster UI: [bold]{running.url}[/]  (Ctrl-C ends everything)")
            console.print(f"Logs: {target.state / 'logs'}")
            running.wait()


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8080, show_default=True, help="The port; 0 takes a free one.")
@click.pass_obj
def serve(target: Target, host: str, port: int) -> None:
    """Stream rosters to executors over HTTP, until SIGTERM or Ctrl-C (see docs/roster-stream.md)."""
    try:
        from runway_pipelines.api.server import serve as serve_stream
    except ImportError as error:
        raise click.ClickException(
            f"The roster stream is not installed ({error.name}): install the extra runway-pipelines[api]."
        ) from None
    from runway_pipelines.api.example import example_call, with_a_key
    from runway_pipelines.settings import load_settings

    with target.services() as services:
        settings = load_settings()
        if target.is_local:
            settings = with_a_key(settings)

        def ready(bound: int) -> None:
            # flush: whoever starts us waits for this line.
            click.echo(f"READY {bound}")
            if target.is_local:
                click.echo(example_call(settings, f"http://{host}:{bound}"))
            sys.stdout.flush()

        serve_stream(settings, services, host=host, port=port, on_ready=ready)


@main.command()
def settings() -> None:
    """Every setting as a Markdown table, as docs/configuration.md has it."""
    from runway_pipelines.settings import settings_markdown

    click.echo(settings_markdown(), nl=False)


@main.command()
def data_contracts() -> None:
    """Every name and path by which data and data stores are found, as docs/data-contracts.md has them."""
    from runway_pipelines.data_contracts import page

    click.echo(page(), nl=False)


@main.command()
@click.option("--account", required=True, help="The AWS account's id.")
@click.option("--partition", default="aws", show_default=True, help="aws, aws-us-gov or aws-cn.")
@click.option("--partner", "partners", multiple=True, metavar="PARTNER", help="Only this partner's secret; repeatable.")
@click.option("--db-resource-id", "db_resource_ids", multiple=True, help="RDS' id of an instance (db-...); repeatable.")
@click.option("--db-user", "more_db_users", multiple=True, help="Another IAM user, such as Dagster's; repeatable.")
@click.option("--secret-arn", "more_secrets", multiple=True, help="A secret that no name leads to; repeatable.")
@click.option("--kms-key", "kms_keys", multiple=True, metavar="ARN", help="A key of your own; repeatable.")
@click.option("--with-owner", is_flag=True, help="For whoever runs `identity migrate --apply`.")
def iam_policy(**options: Any) -> None:
    """What the pipeline's role may do in AWS, and nothing more: a policy made from the settings' names."""
    from runway_pipelines.data_contracts import PolicyOptions, policy
    from runway_pipelines.settings import load_settings

    document = policy(load_settings(), PolicyOptions(**options))
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


@main.command()
@click.option("--partner", "partner_id", metavar="PARTNER", help="Examine this partner alone.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document, and nothing else.")
@click.pass_obj
def doctor(target: Target, partner_id: str | None, is_json: bool) -> None:
    """Try everything that the pipeline depends on, and say what to do about what does not work.

    Exit code 1 when something failed.
    """
    from runway_pipelines.doctor import diagnose, document, is_healthy

    findings = []
    with Console(stderr=True).status("Examining ...") as status:
        for finding in diagnose(lambda: _services_or_error(target), partner_id, _other_stores):
            findings.append(finding)
            status.update(f"Examining ... {escape(finding.subject)}: {finding.check} {finding.status}")
    if is_json:
        click.echo(orjson.dumps(document(findings), option=orjson.OPT_INDENT_2).decode())
    else:
        console.print(findings_table(findings))
    sys.exit(0 if is_healthy(findings) else 1)


@main.group()
def partitions() -> None:
    """Partition keys of partners and tenants."""


@partitions.command()
@click.option("--allow-mass-removal", is_flag=True, help="Remove more than a quarter of the keys at once.")
@click.pass_obj
def sync(target: Target, allow_mass_removal: bool) -> None:
    """Add and remove partition keys so that they match the application's database. Exit code 1 when it refuses."""
    import dagster as dg

    from runway_pipelines.partner_tenants.partitions import sync_partitions
    from runway_pipelines.partner_tenants.reconciliation import approval_of

    with target.services() as services, dg.DagsterInstance.get() as instance:
        registry = services.registry()
        plan = sync_partitions(instance, registry, allow_mass_removal=allow_mass_removal)
    for skipped in registry.skipped:
        console.print(f"Skipped {skipped}: it cannot be a partition key.", markup=False)
    for name, changes in plan.items():
        console.print(f"{name}: {changes.summary}.")
    if approval_of(plan) is not None:
        console.print("Nothing was removed. If it is meant, say --allow-mass-removal.")
    sys.exit(1 if any(changes.refused for changes in plan.values()) else 0)


@main.group()
def credentials() -> None:
    """Partners' credentials."""


@credentials.command()
@click.option("--json", "is_json", is_flag=True, help="Print one JSON document, and nothing else.")
@click.pass_obj
def report(target: Target, is_json: bool) -> None:
    """Each partner's current and previous key, by their public fingerprints, and their age.

    Exit code 1 when a key is older than RUNWAY_KEY_AGE_WARNING_DAYS, or a secret cannot be used.
    """
    from runway_pipelines.credentials.trial import report_keys

    with target.services() as services:
        days = services.policy.key_age_warning_days
        partners = sorted(services.registry().partners)
        now = datetime.now(UTC)
        rows = [report_keys(services.secrets, partner_id, now=now).document(days) for partner_id in partners]
    if is_json:
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    else:
        console.print(keys_table(rows))
    sys.exit(0 if all(row["is_fine"] for row in rows) else 1)


@main.group()
def identity() -> None:
    """The library's identity in the catalogue."""


@identity.command()
@click.option("--check", "is_check", is_flag=True, help="Only say which columns are missing: exit code 1 when any is.")
@click.option("--apply", "is_apply", is_flag=True, help="Add the columns that are missing; needs the tables' owner.")
@click.pass_obj
def migrate(target: Target, is_check: bool, is_apply: bool) -> None:
    """The optional columns of the artist-level ids: check for them, or add them."""
    from runway_pipelines.identity.migration import apply, missing_columns

    if is_check is is_apply:
        raise click.UsageError("Say either --check or --apply.")
    role = Role.OWNER if is_apply else Role.APP
    with target.services(), _catalogue(role) as (catalogue, schema), catalogue.connection() as connection:
        if is_apply:
            added = apply(connection, schema)
            console.print(f"Added {', '.join(added)}." if added else "Nothing is missing.")
            return
        missing = missing_columns(connection, schema)
    console.print(f"Missing: {', '.join(missing)}." if missing else "Nothing is missing.")
    sys.exit(1 if missing else 0)


@main.group()
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


@contextmanager
def _services_or_error(target: Target) -> Iterator[tuple[RosterServices, IdentityServices]]:
    """All services; that the embedded stack does not start is an error of ours, for the doctor to report."""
    try:
        with target.services() as services, _identity() as identity:
            yield services, identity
    except click.ClickException as error:
        # The lines after the first are a server's log.
        raise ConfigurationError(
            expected="the embedded stack to start",
            came=error.message.splitlines()[0].rstrip("."),
            remedy=f"look into {target.state / 'logs'}",
        ) from None


@contextmanager
def _services() -> Iterator[RosterServices]:
    from runway_pipelines.definitions import build_services
    from runway_pipelines.settings import load_settings

    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        yield services


@contextmanager
def _identity() -> Iterator[IdentityServices]:
    from runway_pipelines.definitions import build_identity
    from runway_pipelines.settings import load_settings

    with build_identity(load_settings()).process_config_and_initialize_cm() as services:
        yield services


def _other_stores() -> OtherStores:
    """Redis and MongoDB, where the settings have them."""
    from runway_pipelines.definitions import build_mongo, build_redis
    from runway_pipelines.doctor import OtherStores
    from runway_pipelines.settings import load_settings

    settings = load_settings()
    return OtherStores(build_redis(settings), build_mongo(settings))


@contextmanager
def _catalogue(role: Role) -> Iterator[tuple[CatalogueDatabase, str]]:
    """The catalogue's database in a role, and its schema."""
    from runway_pipelines.definitions import build_catalogue
    from runway_pipelines.settings import load_settings

    settings = load_settings()
    with build_catalogue(settings, role).process_config_and_initialize_cm() as catalogue:
        yield catalogue, settings.catalogue_schema


def _free_port_from(first: int) -> int:
    """The first port from ``first`` on that nobody listens on."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise click.ClickException(f"Ports {first} to {first + 99} are all taken: say another one with --port.")


if __name__ == "__main__":
    main()
