"""``rosters``: what is published, and its history."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from runway_pipelines.cli.arguments import PartnerOrTenantArgument, TenantArgument
from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.cli.files import OutputFile
from runway_pipelines.cli.registry import nothing_published
from runway_pipelines.cli.results import json_option, name_of, print_result
from runway_pipelines.cli.signature import signed_command
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import console, history_table
from runway_pipelines.errors import Permanent
from runway_pipelines.operations.wording import how_many
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.advice import COMMAND_LINE

if TYPE_CHECKING:
    from runway_pipelines.partner_tenants.registry import Registry
    from runway_pipelines.rosters.advice import Advice
    from runway_pipelines.rosters.districts import District
    from runway_pipelines.rosters.holds import Hold
    from runway_pipelines.rosters.manifest import Manifest
    from runway_pipelines.rosters.publication import Published
    from runway_pipelines.rosters.services import RosterServices


@click.group()
def rosters() -> None:
    """Published rosters and their history."""


@rosters.command(
    short_help="What is published of a district, and its history.",
    epilog=examples(
        "runway-pipelines rosters show acme/ashford",
        "runway-pipelines rosters show 'acme/St. Mary' --json | jq .district",
    ),
)
@click.argument("tenant", type=TenantArgument())
@json_option
@click.pass_obj
def show(target: Target, tenant: PartnerTenant, is_json: bool) -> None:
    """Show what is published for PARTNER/TENANT, its snapshots, and why it is held, failed or pinned, if it is.

    Exit code 1 when nothing is published.
    """
    from runway_pipelines.rosters.holds import read_hold
    from runway_pipelines.rosters.publication import list_manifests, read_published

    with target.services() as services:
        published = read_published(services.store, tenant)
        hold = read_hold(services.store, tenant)
        district = _district(services, tenant, target.advice())
        if published is None and not (is_json and district):
            if hold is None and district is None:
                raise nothing_published(services, tenant)
            raise click.ClickException(target.adapted(_why_unpublished(tenant, hold, district)))
        manifests = list_manifests(services.store, tenant)

    def for_people() -> None:
        if published is not None:
            _print_published(target, tenant, published, _standing(tenant, published, hold, district), manifests)

    print_result(_document(published, hold, district, manifests), for_people, is_json=is_json)
    sys.exit(ExitCode.DONE if published else ExitCode.REFUSED)


def _print_published(
    target: Target,
    tenant: PartnerTenant,
    published: Published,
    standing: Iterable[tuple[str, str]],
    manifests: list[Manifest],
) -> None:
    from runway_pipelines.rosters.freshness import ahead_of, moment_of
    from runway_pipelines.rosters.manifest import manifest_key, pointer_key

    for mark, said in standing:
        console.print(mark, escape(target.adapted(said)), "\n", soft_wrap=True, highlight=False)
    if published.manifest is not None:
        key = manifest_key(tenant, published.pointer.sha256)
        console.print(f"[bold]Manifest[/] of the current snapshot: {key}", soft_wrap=True)
        console.print_json(published.manifest.to_json().decode())
    console.print(f"\n[bold]Pointer[/] to it, and since when it is right: {pointer_key(tenant)}", soft_wrap=True)
    console.print_json(published.pointer.to_json().decode())
    pointer = published.pointer
    ahead = ahead_of(datetime.now(UTC), moment_of(pointer.verified_at), moment_of(pointer.query_started_at))
    if ahead is not None:
        console.print(
            f"It is dated {str(ahead).partition('.')[0]} in the future: the clock of its run was fast, or this one is "
            "slow. The next run replaces it.",
            soft_wrap=True,
        )
    console.print()
    console.print(history_table(manifests, published.pointer.sha256))


def _district(services: RosterServices, tenant: PartnerTenant, advice: Advice) -> District | None:
    """The tenant as the partner's index has it; None where no refresh has reached it yet."""
    from runway_pipelines.partner_tenants.registry import RosterPartner
    from runway_pipelines.rosters.districts import district_of
    from runway_pipelines.rosters.index import NEVER, PartnerIndex

    # Whether the registry has it is another question, and another system.
    alone = RosterPartner(tenant.partner_id, tenant.partner_id, (tenant.tenant_code,), ())
    index = PartnerIndex.read(services.store, alone)
    (entry,) = (each for each in index.tenants if each.tenant_code == tenant.tenant_code)
    if entry.status == NEVER:
        return None
    return district_of(entry, tenant.partner_id, datetime.now(UTC), services.policy.most_roster_age, advice)


def _why_unpublished(tenant: PartnerTenant, hold: Hold | None, district: District | None) -> str:
    """Why nothing is published: what waits, or what the last refresh found."""
    nothing = f"Nothing was ever published for {tenant}"
    if hold is not None or district is None:
        return f"{nothing}: {hold.said_of(tenant) if hold else 'no refresh has reached it'}"
    # "held" without a hold means that the roster was refused, and the reason says so.
    said = district.reason if district.status == "held" else f"{district.status}: {district.reason}"
    return f"{nothing}. Its last refresh: {said}. To do: {district.next_step}."


def _standing(
    tenant: PartnerTenant, published: Published, hold: Hold | None, district: District | None
) -> Iterator[tuple[str, str]]:
    """What a person must know first, as pairs of a heading and its text."""
    from runway_pipelines.rosters.publication import NO_SCHOOL_YEAR

    if hold is not None:
        yield "[bold red]Held[/]:", hold.said_of(tenant)
    elif district is not None and district.status in ("held", "failed"):
        said = f"{district.reason}. What was published before stays. To do: {district.next_step}."
        yield f"[bold red]{'Refused' if district.status == 'held' else 'Failed'}[/]:", said
    elif district is not None and district.reason == NO_SCHOOL_YEAR:
        yield "[bold yellow]Kept, and[/]", district.reason
    if published.pointer.pinned is not None:
        ended = f"runway-pipelines rosters unpin {tenant.quoted} --reason '...'"
        yield "[bold yellow]Pinned[/]", f"{published.pointer.pinned}. Nothing else is published until {ended}"


def _document(
    published: Published | None, hold: Hold | None, district: District | None, manifests: list[Manifest]
) -> dict[str, object]:
    pointer = published.pointer if published else None
    return {
        "district": district,
        "hold": hold,
        "pinned": pointer.pinned if pointer else None,
        "pointer": pointer,
        "manifest": published.manifest if published else None,
        "snapshots": manifests,
    }


@rosters.command(
    short_help="Write a roster to a file.",
    epilog=examples(
        "runway-pipelines rosters load acme/ashford --to ashford.parquet",
        "runway-pipelines rosters load acme/ashford --to old.csv --sha256 1a2b3c4d",
    ),
)
@click.argument("tenant", type=TenantArgument())
@click.option("--to", "file", type=OutputFile(), required=True, help="The file to write, in a folder that exists.")
@click.option("--sha256", help="A snapshot of the history: the first digits, as `rosters show` lists them.")
@json_option
@click.pass_obj
def load(target: Target, tenant: PartnerTenant, file: Path, sha256: str | None, is_json: bool) -> None:
    """Write PARTNER/TENANT's roster to a file: .parquet or .csv as a table of codes, anything else as it is stored.

    The file holds student identifiers: it is readable for you alone.
    """
    from runway_pipelines.rosters.frames import save_roster
    from runway_pipelines.rosters.publication import read_published, whole_sha256

    with target.services() as services:
        if sha256 is None and read_published(services.store, tenant) is None:
            raise nothing_published(services, tenant)
        if sha256 is not None:
            sha256 = whole_sha256(services.store, tenant, sha256)
        students = save_roster(services.store, tenant, file, sha256)
    rows = _rows(file)
    unit = "rows (one for each student, organization and code)" if _is_table(file) else "lines (as stored)"
    print_result(
        {**name_of(tenant), "students": students, "rows": rows, "file": str(file)},
        lambda: console.print(f"{tenant}: {students:,} students, {rows:,} {unit}, in {file}", soft_wrap=True),
        is_json=is_json,
    )


def _is_table(file: Path) -> bool:
    return file.suffix in (".parquet", ".csv")


def _rows(file: Path) -> int:
    """What was written, counted in the file: one student has many rows."""
    if file.suffix == ".parquet":
        from pyarrow.parquet import read_metadata

        return int(read_metadata(file).num_rows)
    if file.suffix == ".csv":
        with file.open(newline="") as text:
            return sum(1 for _ in csv.reader(text)) - 1
    with file.open("rb") as stored:
        return sum(1 for _ in stored)


@rosters.command(
    short_help="Delete what is published of a partner or district that left.",
    epilog=examples(
        'runway-pipelines rosters purge acme/ashford --reason "closed in June"',
        'runway-pipelines rosters purge acme --with-snapshots --reason "left in June"',
    ),
)
@click.argument("of", type=PartnerOrTenantArgument())
@click.option("--with-snapshots", is_flag=True, help="Delete the snapshots and manifests too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@signed_command
@json_option
@click.pass_obj
def purge(
    target: Target,
    of: str | PartnerTenant,
    with_snapshots: bool,
    yes: bool,
    decided_by: str,
    reason: str,
    is_json: bool,
) -> None:
    """Delete what is still published for a PARTNER that was switched off, or for a TENANT that left."""
    from runway_pipelines.rosters import purging
    from runway_pipelines.rosters.audit import changes
    from runway_pipelines.rosters.publication import published_keys

    if is_json and not yes:
        raise click.UsageError("--json cannot ask for confirmation: add --yes.")
    what = str(of)
    with target.services() as services:
        _refuse_if_registered(services.registry(), what)
        keys = list(published_keys(services.store, of, with_snapshots=with_snapshots))
        if not keys and not changes(services.store, of, datetime.now(UTC)):
            raise Permanent(
                expected="a partner or a tenant with something published, or on record",
                came=f"{what}, which has neither",
                remedy="correct its name",
            )
        if keys and not yes:
            click.confirm(f"Delete {how_many(len(keys), 'object')} of {what}?", abort=True)
            _refuse_if_registered(services.registry(), what)  # the answer may have taken a while
        deleted = purging.purge(
            services.decisions(COMMAND_LINE), of, with_snapshots=with_snapshots, decided_by=decided_by, reason=reason
        )
    document = (name_of(of) if isinstance(of, PartnerTenant) else {"partner_id": of}) | {"deleted": deleted}
    print_result(document, lambda: console.print(f"{how_many(deleted, 'object')} of {what} deleted."), is_json=is_json)


def _refuse_if_registered(registry: Registry, what: str) -> None:
    if what in registry.partner_keys | registry.tenant_keys:
        raise Permanent(
            expected="a partner whose toggle is off, or a tenant that left",
            came=f"{what}, which still has cross-year matching: the next run would publish again",
            remedy="switch it off in the application's database first",
        )
