"""``break`` and ``mend``: mishaps on the embedded stack, to practise the runbooks of docs/operations.md with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.results import json_option, print_result
from runway_pipelines.cli.target import Target, local_parts
from runway_pipelines.operations.wording import first_few

if TYPE_CHECKING:
    from runway_pipelines.local.breakage import Mended, Practice
    from runway_pipelines.local.partners import Partner, Tenant

MOST_NAMES = 10
REFRESH = "materialize rosters/partner_roster_index, partition {}, in the Dagster UI"
ROTATED = "wait a minute for edu_credentials_rotated_sensor, or " + REFRESH


@click.group(short_help="Break the embedded stack, to practise.", name="break")
def break_() -> None:
    """Make something go wrong in the embedded stack that `make dev` runs, for practice. `mend` undoes it."""


@break_.command(
    short_help="Most students vanish from the warehouse.",
    name="mass-loss",
    epilog=examples("runway-pipelines --local break mass-loss acme/ashford"),
)
@click.argument("name", metavar="PARTNER/TENANT")
@json_option
@click.pass_obj
def mass_loss(target: Target, name: str, is_json: bool) -> None:
    """Most students of PARTNER/TENANT vanish from the partner's warehouse: one in twenty is left."""
    partner, tenant = _tenant(target, name)
    with _practice(target) as practice:
        from runway_pipelines.local import breakage

        left = breakage.mass_loss(practice, partner, tenant)
    done = f"{name}: {left:,} of its {tenant.students:,} students are left in the local warehouse"
    see = f"{REFRESH.format(partner.partner_id)}: {tenant.code} is held"
    _print_broken(target, name, done, see, is_json=is_json)


@break_.command(
    short_help="All students vanish from the warehouse.",
    epilog=examples("runway-pipelines --local break empty acme/ashford"),
)
@click.argument("name", metavar="PARTNER/TENANT")
@json_option
@click.pass_obj
def empty(target: Target, name: str, is_json: bool) -> None:
    """All students of PARTNER/TENANT vanish from the partner's warehouse."""
    partner, tenant = _tenant(target, name)
    with _practice(target) as practice:
        from runway_pipelines.local import breakage

        breakage.empty(practice, partner, tenant)
    done = f"{name}: none of its {tenant.students:,} students is left in the local warehouse"
    see = f"{REFRESH.format(partner.partner_id)}: {tenant.code} is held"
    _print_broken(target, name, done, see, is_json=is_json)


@break_.command(
    short_help="The secret gets a key that nobody knows.", epilog=examples("runway-pipelines --local break rotate acme")
)
@click.argument("name", metavar="PARTNER[/TENANT]")
@json_option
@click.pass_obj
def rotate(target: Target, name: str, is_json: bool) -> None:
    """The partner's secret gets a new private key that the partner's warehouse does not know."""
    partner, _ = _named(target, name)
    with _practice(target) as practice:
        from runway_pipelines.local import breakage

        version = breakage.unknown_key(practice, partner)
    partner_id = partner.partner_id
    done = f"{partner_id}: version {version} of its secret has a key that the local warehouse does not know"
    see = f"{ROTATED.format(partner_id)}: can_connect of credentials/edu_connection is red"
    _print_broken(target, name, done, see, is_json=is_json)


@break_.command(
    short_help="The secret opens another partner's warehouse.",
    name="wrong-warehouse",
    epilog=examples(
        "runway-pipelines --local break wrong-warehouse acme",
        "runway-pipelines --local break wrong-warehouse acme/ashford",
    ),
)
@click.argument("name", metavar="PARTNER[/TENANT]")
@json_option
@click.pass_obj
def wrong_warehouse(target: Target, name: str, is_json: bool) -> None:
    """The partner's secret opens another partner's warehouse, which has students of its own under the same codes.

    With TENANT, under that code alone; without, under all of the partner's codes.
    """
    partner, tenant = _named(target, name)
    with _practice(target) as practice:
        from runway_pipelines.local import breakage
        from runway_pipelines.local.mishaps import tenants_with_students

        tenants = (tenant,) if tenant else tenants_with_students(partner)
        other = breakage.wrong_warehouse(practice, partner, tenants)
    codes = f"the code {tenant.code}" if tenant else f"all {len(tenants)} of its codes"
    done = (
        f"{partner.partner_id}: its secret opens the warehouse of {other.partner_id}, which has students of its own "
        f"under {codes}"
    )
    _print_broken(target, name, done, f"{ROTATED.format(partner.partner_id)}: its tenants are held", is_json=is_json)


@click.command(
    short_help="Undo what `break` did.",
    epilog=examples("runway-pipelines --local mend", "runway-pipelines --local mend acme/ashford"),
)
@click.argument("name", metavar="[PARTNER[/TENANT]]", required=False)
@json_option
@click.pass_obj
def mend(target: Target, name: str | None, is_json: bool) -> None:
    """Undo what `break` did to PARTNER/TENANT, to PARTNER, or everywhere: the data and the secret are as before."""
    named = _named(target, name) if name else None
    with _practice(target) as practice:
        from runway_pipelines.local import breakage
        from runway_pipelines.local.mishaps import partners_with_rosters

        everywhere = [(partner, None) for partner in partners_with_rosters(practice.partners)]
        mended = sum(
            (breakage.mend(practice, partner, tenant) for partner, tenant in ([named] if named else everywhere)),
            breakage.Mended(),
        )
    print_result(mended, lambda: _say_mended(mended), is_json=is_json)


def _say_mended(mended: Mended) -> None:
    parts = []
    if mended.tenants:
        parts.append(f"the rows of {first_few(mended.tenants, MOST_NAMES)}")
    if mended.secrets:
        parts.append(f"the secret of {', '.join(mended.secrets)}")
    if mended.lent_codes:
        parts.append(f"{len(mended.lent_codes)} codes in another partner's warehouse, gone now")
    if not parts:
        click.echo("Nothing was broken.")
        return
    click.echo(f"Mended: {'; '.join(parts)}.")
    if mended.partner_ids:
        click.echo(f"See it: {REFRESH.format(', '.join(mended.partner_ids))}.")


def _named(target: Target, name: str) -> tuple[Partner, Tenant | None]:
    """The synthetic partner, and the tenant if there is one in the name. A real system's are never looked up."""
    _only_local(target)
    with local_parts():
        from runway_pipelines.local.mishaps import named
        from runway_pipelines.local.partners import synthetic_partners
    return named(synthetic_partners(), name)


def _tenant(target: Target, name: str) -> tuple[Partner, Tenant]:
    partner, tenant = _named(target, name)
    if tenant is None:
        raise click.UsageError(f"Expected PARTNER/TENANT; got {name} alone.")
    return partner, tenant


def _only_local(target: Target) -> None:
    if not target.is_local:
        raise click.ClickException(
            "Expected --local, because this is for practice, on the embedded stack alone; got none. To do: say "
            "runway-pipelines --local ..."
        )


@contextmanager
def _practice(target: Target) -> Iterator[Practice]:
    """Join the running stack. A stack started for this command would end with it, which mends everything."""
    _only_local(target)
    with local_parts():
        from runway_pipelines.local.breakage import Practice, is_stack_running, local_secrets
        from runway_pipelines.local.partners import synthetic_partners
    if not is_stack_running(target.state):
        raise click.ClickException(
            f"Expected a stack that runs in {target.state}; got none. To do: run {target.make_dev} in another "
            "terminal, then say this again."
        )
    with target.stack() as services:
        yield Practice(
            state_dir=target.state.resolve(),
            secrets_client=local_secrets(os.environ),
            envlabel=services.secrets.envlabel or "",
            partners=synthetic_partners(),
        )


def _print_broken(target: Target, name: str, done: str, see: str, *, is_json: bool) -> None:
    """Say what the command did, where it shows, and how to undo it."""
    undo = f"{target.command} mend {name}"
    print_result(
        {"name": name, "done": done, "see": see, "undo": undo},
        lambda: click.echo(f"{done}.\nSee it: {see}. Undo it: {undo}"),
        is_json=is_json,
    )
