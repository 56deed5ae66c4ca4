"""``rosters holds|diff|approve|reject|rollback|unpin|expect|audit``: what waits for a person, and what one decides."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from runway_pipelines.cli.arguments import PartnerArgument, PartnerOrTenantArgument, TenantArgument
from runway_pipelines.cli.output import OutputFile
from runway_pipelines.cli.rosters import COMMAND_LINE, MOST_NAMES, why_nothing
from runway_pipelines.cli.signature import WHY, decided_by_option, signed_command
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import SHA256_SHOWN, console
from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.wording import first_few, minute
from runway_pipelines.partner_tenants.keys import PartnerTenant

if TYPE_CHECKING:
    from runway_pipelines.rosters.comparison import Kind
    from runway_pipelines.rosters.decisions import What
    from runway_pipelines.rosters.holds import Hold
    from runway_pipelines.rosters.services import RosterServices

LEAST_SHOWN = 8  # digits of a digest: as many as a decision needs


@click.command()
@click.argument("partner", metavar="[PARTNER]", type=PartnerArgument(), required=False)
@click.pass_obj
def holds(target: Target, partner: str | None) -> None:
    """The rosters that wait for a person, of all partners or of one."""
    with target.services() as services:
        found = _holds(services, partner)
    if not found:
        console.print("No roster is held.")
        return
    console.print(_holds_table(found))
    for tenant, hold in found:
        _say(target.adapted(f"\n{tenant}: {hold.said_of(tenant)}"))


def _holds(services: RosterServices, partner_id: str | None) -> list[tuple[PartnerTenant, Hold]]:
    from runway_pipelines.rosters.holds import read_holds

    registry = services.registry()
    partners = [registry.partner(partner_id)] if partner_id else [registry.partners[each] for each in registry.partners]
    return list(read_holds(services.store, [tenant for each in partners for tenant in each.tenants]))


def _holds_table(found: list[tuple[PartnerTenant, Hold]]) -> Table:
    table = Table(title="Held rosters", title_justify="left")
    for name in ("tenant", "since (UTC)", "guards", "students", "candidate"):
        table.add_column(name, overflow="fold", justify="right" if name == "students" else "left")
    for tenant, hold in found:
        rejected = " (rejected)" if hold.rejected else ""
        table.add_row(
            str(tenant),
            minute(hold.since),
            ", ".join(hold.guards),
            f"{hold.students:,}",
            hold.sha256[:SHA256_SHOWN] + rejected,
        )
    return table


@click.command()
@click.argument("tenant", type=TenantArgument())
@click.argument("a", required=False)
@click.argument("b", required=False)
@click.option("--ids", type=OutputFile(), help="Write the student ids of each kind to this file, for you alone.")
@click.pass_obj
def diff(target: Target, tenant: PartnerTenant, a: str | None, b: str | None, ids: Path | None) -> None:
    """What changes from snapshot A to B of PARTNER/TENANT, in students.

    By default A is what is published, and B the candidate that is held; without one, A is what was published before.
    """
    from runway_pipelines.rosters.comparison import Kind, differences
    from runway_pipelines.rosters.manifest import snapshot_key
    from runway_pipelines.rosters.publication import read_manifest

    with target.services() as services:
        store = services.store
        old, new = _two_snapshots(services, tenant, a, b)
        changes = differences(store.lines(snapshot_key(tenant, old)), store.lines(snapshot_key(tenant, new)))
        counted: Counter[Kind] = Counter()
        by_kind: list[tuple[Kind, str]] = []
        for kind, student in changes:
            counted[kind] += 1
            if ids is not None:
                by_kind.append((kind, student))
        before, after = read_manifest(store, tenant, old), read_manifest(store, tenant, new)
    console.print(f"{tenant}: from {old[:SHA256_SHOWN]} to {new[:SHA256_SHOWN]}", highlight=False)
    table = Table("", "students", show_header=True)
    table.columns[1].justify = "right"
    for each in Kind:
        table.add_row(each.value, f"{counted[each]:,}")
    console.print(table)
    if before and after:
        types = Table("", "before", "after", title="students", title_justify="left")
        for name, was, now in (
            ("all", before.students, after.students),
            *(
                (system, before.students_by_id_system.get(system, 0), after.students_by_id_system.get(system, 0))
                for system in sorted({*before.students_by_id_system, *after.students_by_id_system})
            ),
            ("codes left out as shared", before.colliding_codes, after.colliding_codes),
        ):
            types.add_row(name, f"{was:,}", f"{now:,}")
        console.print(types)
    if ids is not None:
        _write_ids(ids, by_kind)
        console.print(f"The student ids of each kind are in {ids}, readable for you alone.", soft_wrap=True)


def _two_snapshots(services: RosterServices, tenant: PartnerTenant, a: str | None, b: str | None) -> tuple[str, str]:
    from runway_pipelines.rosters.holds import read_hold
    from runway_pipelines.rosters.publication import read_published, whole_sha256

    published, hold = read_published(services.store, tenant), read_hold(services.store, tenant)
    if published is None:
        raise click.ClickException(
            f"Nothing is published for {tenant}, so there is nothing to compare with."
            if hold
            else why_nothing(services.registry(), tenant)
        )
    pointer = published.pointer
    if a is None and hold and hold.sha256 == pointer.sha256:
        raise click.ClickException(
            f"The candidate of {tenant} has the bytes that are published; it is held for its warehouse alone."
        )
    if b is None:
        b = hold.sha256 if hold and hold.sha256 else pointer.sha256
    if a is None:
        a = pointer.sha256 if b != pointer.sha256 else pointer.previous_sha256
    if a is None:
        raise click.ClickException(f"No candidate of {tenant} is held, and nothing was published before.")
    return whole_sha256(services.store, tenant, a), whole_sha256(services.store, tenant, b)


def _write_ids(file: Path, by_kind: list[tuple[Kind, str]]) -> None:
    # A temporary file is its owner's alone.
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.", newline="", delete=False) as text:
        try:
            csv.writer(text).writerows([("kind", "student_unique_id"), *((kind.value, one) for kind, one in by_kind)])
            text.flush()
            Path(text.name).replace(file)
        except BaseException:
            Path(text.name).unlink()
            raise


@click.command()
@click.argument("of", metavar="PARTNER/TENANT", type=PartnerOrTenantArgument())
@click.argument("sha256", required=False)
@click.option("--all", "of_all", is_flag=True, help="All held rosters of a PARTNER, after a known event; asks first.")
@click.option("--guard", "guards", multiple=True, help="With --all: only rosters that no other guard holds.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@signed_command
@click.pass_obj
def approve(
    target: Target,
    of: str | PartnerTenant,
    sha256: str | None,
    of_all: bool,
    guards: tuple[str, ...],
    yes: bool,
    decided_by: str,
    reason: str,
) -> None:
    """Publish the held candidate SHA256 (at least 8 digits of it) of PARTNER/TENANT, as it is kept."""
    from runway_pipelines.rosters.decisions import What

    if of_all:
        if sha256:
            raise click.UsageError("--all approves what the table shows: leave out the digits.")
        if isinstance(of, PartnerTenant):
            raise click.UsageError(f"--all is of a PARTNER: expected {of.partner_id}; got {of}.")
        _approve_all(target, of, guards, yes=yes, decided_by=decided_by, reason=reason)
        return
    if guards or yes:
        raise click.UsageError("--guard and --yes go with --all.")
    if isinstance(of, str):
        raise click.UsageError(f"Expected PARTNER/TENANT; got {of} alone. For all of its held rosters, add --all.")
    _decide(target, of, What.APPROVE, sha256, decided_by, reason)


def _approve_all(
    target: Target, partner_id: str, guards: tuple[str, ...], *, yes: bool, decided_by: str, reason: str
) -> None:
    """Approve what the table showed, but for what was rejected. A candidate that came meanwhile is refused."""
    from runway_pipelines.rosters.decisions import Decision, What

    failed: list[str] = []
    with target.services() as services:
        waiting = [each for each in _holds(services, partner_id) if each[1].rejected is None]
        found = [each for each in waiting if not guards or set(each[1].guards) <= set(guards)]
        if not found:
            console.print(f"No roster of {partner_id} is held{' by these guards alone' if waiting else ''}.")
            return
        console.print(_holds_table(found))
        if not yes:
            click.confirm(f"Publish these {len(found)} rosters?", abort=True)
        for tenant, hold in found:
            try:
                outcome = services.decide(tenant, Decision(What.APPROVE, decided_by, reason, hold.sha256), COMMAND_LINE)
            except RunwayError as error:
                failed.append(tenant.key)
                _say(f"{tenant}: not published: {error}")
            else:
                _say(f"{tenant}: {outcome.reason}")
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(found)} were not published: {first_few(failed, MOST_NAMES)}."
        )


@click.command()
@click.argument("tenant", type=TenantArgument())
@click.argument("sha256")
@signed_command
@click.pass_obj
def reject(target: Target, tenant: PartnerTenant, sha256: str, decided_by: str, reason: str) -> None:
    """Leave the held candidate SHA256 of PARTNER/TENANT unpublished, and be told of these bytes no more."""
    from runway_pipelines.rosters.decisions import What

    _decide(target, tenant, What.REJECT, sha256, decided_by, reason)


@click.command()
@click.argument("tenant", type=TenantArgument())
@click.option("--to", "sha256", help="The snapshot, at least 8 digits of it; left out, the one published before.")
@signed_command
@click.pass_obj
def rollback(target: Target, tenant: PartnerTenant, sha256: str | None, decided_by: str, reason: str) -> None:
    """Publish an older snapshot of PARTNER/TENANT, and pin it: refreshes publish nothing until `rosters unpin`."""
    from runway_pipelines.rosters.decisions import What

    _decide(target, tenant, What.ROLLBACK, sha256, decided_by, reason)


@click.command()
@click.argument("tenant", type=TenantArgument())
@signed_command
@click.pass_obj
def unpin(target: Target, tenant: PartnerTenant, decided_by: str, reason: str) -> None:
    """Let the next refresh of PARTNER/TENANT publish again, if the guards let it."""
    from runway_pipelines.rosters.decisions import What

    _decide(target, tenant, What.UNPIN, None, decided_by, reason)


def _decide(
    target: Target, tenant: PartnerTenant, what: What, sha256: str | None, decided_by: str, reason: str
) -> None:
    from runway_pipelines.rosters.decisions import Decision

    with target.services() as services:
        outcome = services.decide(tenant, Decision(what, decided_by, reason, sha256), COMMAND_LINE)
    _say(f"{tenant}: {outcome.reason}")


def _say(text: str) -> None:
    """Print it as it is: a name or a reason may look like the terminal's markup."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


@click.command()
@click.argument("of", metavar="PARTNER[/TENANT]", type=PartnerOrTenantArgument())
@click.option("--guard", "guards", multiple=True, help="A guard that will fail; may be given more than once.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="The last day (UTC), at most 60 days from now.")
@click.option("--end", "ended", metavar="ID", help="End this expectation now.")
@decided_by_option
@click.option("--reason", help=WHY)
@click.pass_obj
def expect(
    target: Target,
    of: str | PartnerTenant,
    guards: tuple[str, ...],
    until: datetime | None,
    ended: str | None,
    decided_by: str,
    reason: str | None,
) -> None:
    """Approve ahead a change that is known to come, of one tenant or a whole partner; alone, list what is expected."""
    from runway_pipelines.rosters import expecting
    from runway_pipelines.rosters.holds import read_expectations

    partner_id, tenant_code = (of, None) if isinstance(of, str) else (of.partner_id, of.tenant_code)
    with target.services() as services:
        context = services.decisions(COMMAND_LINE)
        services.registry().partner(partner_id)
        if ended:
            _require(reason, "--reason")
            expecting.end_expectation(context, partner_id, ended, decided_by, reason or "")
        elif guards or until:
            _require(reason, "--reason")
            _require(until, "--until")
            end = _end_of(until, longest=expecting.MOST_EXPECTED) if until else datetime.now(UTC)
            expecting.expect(context, partner_id, tenant_code, guards, end, decided_by, reason or "")
        expected, _ = read_expectations(services.store, partner_id)
    table = Table("id", "of", "guards", "until (UTC)", "who, and why", title="Expected", title_justify="left")
    for each in expected.expectations:
        table.add_row(
            each.id,
            each.tenant_code or "all tenants",
            ", ".join(each.guards),
            minute(each.until),
            Text(str(each.signature)),
        )
    console.print(table if expected.expectations else f"Nothing is expected of {partner_id}.")


def _end_of(day: datetime, *, longest: timedelta) -> datetime:
    """The end of a day (UTC); of the last possible one, as much as may be expected of it."""
    last = datetime.now(UTC) + longest
    return last if day.date() == last.date() else day.replace(tzinfo=UTC) + timedelta(days=1)


def _require(value: object, option: str) -> None:
    if not value:
        raise click.UsageError(f"Expected {option}; got none. To do: say it, with --guard, --until and --reason.")


@click.command()
@click.argument("of", metavar="PARTNER[/TENANT]", type=PartnerOrTenantArgument())
@click.pass_obj
def audit(target: Target, of: str | PartnerTenant) -> None:
    """Everything on record of a partner's or a tenant's rosters: holds, decisions, releases, prunings, purges."""
    from runway_pipelines.rosters.audit import changes
    from runway_pipelines.rosters.record import State, what_finishes

    with target.services() as services:
        found = changes(services.store, of, datetime.now(UTC))
    if not found:
        console.print(f"Nothing is on record of {of}.")
        return
    table = Table("at (UTC)", "tenant", "what", "from", "to", "who, and why", title="On record", title_justify="left")
    for change in found:
        begun, state = change.begun, change.state
        table.add_row(
            minute(begun.at),
            begun.tenant_code or "all",
            begun.what if state is State.COMPLETED else Text(f"{begun.what}, {state}", style="bold red"),
            (begun.from_sha256 or "")[:LEAST_SHOWN],
            (begun.to_sha256 or "")[:LEAST_SHOWN],
            Text(begun.why),
        )
    console.print(table)
    for each in (change.begun for change in found if change.state is State.UNFINISHED):
        _say(
            target.adapted(
                f"\n{each.of}: the {each.what} of {minute(each.at)} UTC was begun and never completed. "
                f"To do: {what_finishes(each)}"
            )
        )
