"""``rosters approve|reject|rollback|unpin|expect|audit``: what a person decides, and what is on record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from runway_pipelines.cli.arguments import PartnerOrTenantArgument, TenantArgument
from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.holds import held_rosters, holds_table
from runway_pipelines.cli.registry import MOST_NAMES, known_partner, known_tenant
from runway_pipelines.cli.results import json_option, name_of, print_result
from runway_pipelines.cli.signature import WHY, decided_by_option, signed_command
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import console, say
from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.wording import LEAST_SHA256, first_few, how_many, minute, utc_minute
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.advice import COMMAND_LINE

if TYPE_CHECKING:
    from runway_pipelines.partner_tenants.registry import Registry
    from runway_pipelines.rosters.decisions import What
    from runway_pipelines.rosters.holds import Expectation, Hold
    from runway_pipelines.rosters.outcome import TenantOutcome
    from runway_pipelines.rosters.record import Change
    from runway_pipelines.rosters.services import RosterServices


@click.command(
    short_help="Publish what is held.",
    epilog=examples(
        'runway-pipelines rosters approve acme/ashford 1a2b3c4d --reason "Elm closed"',
        'runway-pipelines rosters approve acme --all --reason "they moved"',
    ),
)
@click.argument("of", metavar="PARTNER/TENANT", type=PartnerOrTenantArgument())
@click.argument("sha256", required=False)
@click.option("--all", "of_all", is_flag=True, help="All held rosters of a PARTNER, after a known event; asks first.")
@click.option("--guard", "guards", multiple=True, help="With --all: only rosters that no other guard holds.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@signed_command
@json_option
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
    is_json: bool,
) -> None:
    """Publish the held candidate SHA256 (at least 8 digits of it) of PARTNER/TENANT, as it is kept."""
    from runway_pipelines.rosters.decisions import What

    if of_all:
        if sha256:
            raise click.UsageError("--all approves what the table shows: leave out the digits.")
        if isinstance(of, PartnerTenant):
            raise click.UsageError(f"--all takes a PARTNER: expected {of.partner_id}; got {of}.")
        if is_json and not yes:
            raise click.UsageError("--json cannot ask for confirmation: add --yes.")
        _approve_all(target, of, guards, yes=yes, decided_by=decided_by, reason=reason, is_json=is_json)
        return
    if guards or yes:
        raise click.UsageError("--guard and --yes go with --all.")
    if isinstance(of, str):
        raise click.UsageError(f"Expected PARTNER/TENANT; got {of} alone. For all of its held rosters, add --all.")
    _decide(target, of, What.APPROVE, sha256, decided_by, reason, is_json=is_json)


def _approve_all(
    target: Target, partner_id: str, guards: tuple[str, ...], *, yes: bool, decided_by: str, reason: str, is_json: bool
) -> None:
    """Approve what the table showed, except what was rejected. A candidate that came meanwhile is refused."""
    with target.services() as services:
        waiting = [each for each in held_rosters(services, partner_id) if each[1].rejected is None]
        found = [each for each in waiting if not guards or set(each[1].guards) <= set(guards)]
        others = [each for each in waiting if each not in found]
        if not found:
            nothing = f"No roster of {partner_id} is held{' by these guards alone' if waiting else ''}."
            print_result([], lambda: say(" ".join([nothing, *_held_by_others(others, guards)])), is_json=is_json)
            return
        if not is_json:
            console.print(holds_table(found))
            for line in _held_by_others(others, guards):
                say(line)
        if not yes:
            click.confirm(f"Publish {how_many(len(found), 'roster')}?", abort=True)
        done = []
        for tenant, hold in found:
            done.append(_approved(services, tenant, hold, decided_by, reason))
            if not is_json:
                say(f"{tenant}: {done[-1]['reason']}")
    print_result(done, lambda: None, is_json=is_json)
    failed = [f"{each['partner_id']}/{each['tenant_code']}" for each in done if not each["is_published"]]
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(found)} were not published: {first_few(failed, MOST_NAMES)}."
        )


def _held_by_others(left: Sequence[tuple[PartnerTenant, Hold]], guards: Iterable[str]) -> Iterator[str]:
    """A sentence on what ``--guard`` leaves out, with the guards that it did not name; none if it leaves none out."""
    if left:
        named = (f"{tenant} ({', '.join(sorted(set(hold.guards) - set(guards)))})" for tenant, hold in left)
        yield f"Other guards hold {first_few(named, MOST_NAMES)}."


def _approved(
    services: RosterServices, tenant: PartnerTenant, hold: Hold, decided_by: str, reason: str
) -> dict[str, Any]:
    """The result of approving one of several rosters; a refusal does not stop the others."""
    from runway_pipelines.rosters.decisions import Decision, What

    try:
        outcome = services.decide(tenant, Decision(What.APPROVE, decided_by, reason, hold.sha256), COMMAND_LINE)
    except RunwayError as error:
        return name_of(tenant) | {"is_published": False, "reason": f"not published: {error}"}
    return _document(outcome)


@click.command(
    short_help="Leave what is held unpublished.",
    epilog=examples('runway-pipelines rosters reject acme/ashford 1a2b3c4d --reason "half a load"'),
)
@click.argument("tenant", type=TenantArgument())
@click.argument("sha256")
@signed_command
@json_option
@click.pass_obj
def reject(target: Target, tenant: PartnerTenant, sha256: str, decided_by: str, reason: str, is_json: bool) -> None:
    """Leave the held candidate SHA256 of PARTNER/TENANT unpublished, and hear no more of these bytes."""
    from runway_pipelines.rosters.decisions import What

    _decide(target, tenant, What.REJECT, sha256, decided_by, reason, is_json=is_json)


@click.command(
    short_help="Publish an older roster, and pin it.",
    epilog=examples(
        'runway-pipelines rosters rollback acme/ashford --reason "wrong year"',
        'runway-pipelines rosters rollback acme/ashford --to 1a2b3c4d --reason "..."',
    ),
)
@click.argument("tenant", type=TenantArgument())
@click.option("--to", "sha256", help="The snapshot, at least 8 digits of it; left out, the one published before.")
@signed_command
@json_option
@click.pass_obj
def rollback(
    target: Target, tenant: PartnerTenant, sha256: str | None, decided_by: str, reason: str, is_json: bool
) -> None:
    """Publish an older snapshot of PARTNER/TENANT, and pin it: refreshes publish nothing until `rosters unpin`."""
    from runway_pipelines.rosters.decisions import What

    _decide(target, tenant, What.ROLLBACK, sha256, decided_by, reason, is_json=is_json)


@click.command(
    short_help="Let refreshes publish again.",
    epilog=examples('runway-pipelines rosters unpin acme/ashford --reason "the load is mended"'),
)
@click.argument("tenant", type=TenantArgument())
@signed_command
@json_option
@click.pass_obj
def unpin(target: Target, tenant: PartnerTenant, decided_by: str, reason: str, is_json: bool) -> None:
    """Let the next refresh of PARTNER/TENANT publish again, if the guards let it."""
    from runway_pipelines.rosters.decisions import What

    _decide(target, tenant, What.UNPIN, None, decided_by, reason, is_json=is_json)


def _decide(
    target: Target,
    tenant: PartnerTenant,
    what: What,
    sha256: str | None,
    decided_by: str,
    reason: str,
    *,
    is_json: bool,
) -> None:
    from runway_pipelines.rosters.decisions import Decision

    with target.services() as services:
        known_tenant(services.registry(), tenant)
        outcome = services.decide(tenant, Decision(what, decided_by, reason, sha256), COMMAND_LINE)
    print_result(_document(outcome), lambda: say(f"{tenant}: {outcome.reason}"), is_json=is_json)


def _document(outcome: TenantOutcome) -> dict[str, Any]:
    """The published roster after the decision, as JSON values."""
    return {
        **name_of(outcome.tenant),
        "is_published": outcome.status.is_published,
        "status": outcome.status,
        "reason": outcome.reason,
        "sha256": outcome.manifest and outcome.manifest.sha256,
    }


@click.command(
    short_help="Approve ahead, or list what is expected.",
    epilog=examples(
        "runway-pipelines rosters expect acme",
        "runway-pipelines rosters expect acme/ashford --guard students_added \\",
        '  --until 2026-12-24 --reason "merger with brookdale"',
        'runway-pipelines rosters expect acme --end 1a2b3c4d --reason "called off"',
    ),
)
@click.argument("of", type=PartnerOrTenantArgument())
@click.option("--guard", "guards", multiple=True, help="A guard that will fail; may be given more than once.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="The last day (UTC), at most 60 days from now.")
@click.option("--end", "ended", metavar="ID", help="End this expectation now.")
@decided_by_option
@click.option("--reason", help=WHY)
@json_option
@click.pass_obj
def expect(
    target: Target,
    of: str | PartnerTenant,
    guards: tuple[str, ...],
    until: datetime | None,
    ended: str | None,
    decided_by: str,
    reason: str | None,
    is_json: bool,
) -> None:
    """Approve a known change in advance, for one tenant or a whole partner; without options, list what is expected."""
    from runway_pipelines.rosters import expecting
    from runway_pipelines.rosters.holds import read_expectations

    partner_id, tenant_code = (of, None) if isinstance(of, str) else (of.partner_id, of.tenant_code)
    with target.services() as services:
        _require_known(services.registry(), of)
        context = services.decisions(COMMAND_LINE)
        if ended:
            _require(reason, "--reason")
            expecting.end_expectation(context, partner_id, ended, decided_by, reason or "")
        elif guards or until:
            _require(reason, "--reason")
            _require(until, "--until")
            end = _end_of(until, longest=expecting.MOST_EXPECTED) if until else datetime.now(UTC)
            expecting.expect(context, partner_id, tenant_code, guards, end, decided_by, reason or "")
        expected = read_expectations(services.store, partner_id)[0].expectations
    nothing = f"Nothing is expected of {partner_id}."
    print_result(expected, lambda: console.print(_expected_table(expected) if expected else nothing), is_json=is_json)


def _expected_table(expected: Iterable[Expectation]) -> Table:
    table = Table("id", "of", "guards", "until (UTC)", "who, and why", title="Expected", title_justify="left")
    for each in expected:
        table.add_row(
            each.id,
            each.tenant_code or "all tenants",
            ", ".join(each.guards),
            minute(each.until),
            Text(str(each.signature)),
        )
    return table


def _end_of(day: datetime, *, longest: timedelta) -> datetime:
    """The end of a day (UTC); on the last possible day, the latest moment that an expectation may have."""
    last = datetime.now(UTC) + longest
    return last if day.date() == last.date() else day.replace(tzinfo=UTC) + timedelta(days=1)


def _require(value: object, option: str) -> None:
    if not value:
        raise click.UsageError(f"Expected {option}; got none. To do: add it; the examples in --help have it.")


@click.command(
    short_help="What is on record: holds, decisions, purges.",
    epilog=examples(
        "runway-pipelines rosters audit acme/ashford",
        "runway-pipelines rosters audit acme --json | jq -r '.[].what'",
    ),
)
@click.argument("of", type=PartnerOrTenantArgument())
@json_option
@click.pass_obj
def audit(target: Target, of: str | PartnerTenant, is_json: bool) -> None:
    """Everything on record of a partner's or a tenant's rosters: holds, decisions, releases, prunings, purges."""
    from runway_pipelines.rosters.audit import changes
    from runway_pipelines.rosters.record import State, what_finishes

    with target.services() as services:
        found = changes(services.store, of, datetime.now(UTC))
        if not found:  # a partner or tenant that left still has a record
            _require_known(services.registry(), of)
    to_finish = {
        change.begun.id: target.adapted(what_finishes(change.begun))
        for change in found
        if change.state is State.UNFINISHED
    }

    def for_people() -> None:
        console.print(_record_table(found) if found else f"Nothing is on record of {of}.")
        for each in (change.begun for change in found if change.begun.id in to_finish):
            begun = f"\n{each.of}: the {each.what} of {utc_minute(each.at)} was begun and never completed."
            say(f"{begun} To do: {to_finish[each.id]}")

    document = [{**asdict(each.begun), "state": each.state, "to_do": to_finish.get(each.begun.id)} for each in found]
    print_result(document, for_people, is_json=is_json)


def _require_known(registry: Registry, of: str | PartnerTenant) -> None:
    if isinstance(of, PartnerTenant):
        known_tenant(registry, of)
    else:
        known_partner(registry, of)


def _record_table(found: Iterable[Change]) -> Table:
    from runway_pipelines.rosters.record import State

    table = Table("at (UTC)", "tenant", "what", "from", "to", "who, and why", title="On record", title_justify="left")
    for change in found:
        begun, state = change.begun, change.state
        table.add_row(
            minute(begun.at),
            begun.tenant_code or "all",
            begun.what if state is State.COMPLETED else Text(f"{begun.what}, {state}", style="bold red"),
            (begun.from_sha256 or "")[:LEAST_SHA256],
            (begun.to_sha256 or "")[:LEAST_SHA256],
            Text(begun.why),
        )
    return table
