"""``doctor``: gives `runway_pipelines.doctor` its services, and shows the findings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.cli.results import json_option, print_result
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import console, findings_table
from runway_pipelines.errors import ConfigurationError

if TYPE_CHECKING:
    from runway_pipelines.doctor.findings import Finding
    from runway_pipelines.doctor.stores import OtherStores
    from runway_pipelines.identity.services import IdentityServices
    from runway_pipelines.rosters.services import RosterServices


@click.command(
    short_help="Try everything that is needed, and say what to mend.",
    epilog=examples(
        "runway-pipelines doctor",
        "runway-pipelines doctor --partner acme",
        "runway-pipelines doctor --json | jq .is_healthy",
    ),
)
@click.option("--partner", "partner_id", metavar="PARTNER", help="Examine only this partner.")
@json_option
@click.pass_obj
def doctor(target: Target, partner_id: str | None, is_json: bool) -> None:
    """Try everything that the pipeline depends on, and say how to fix what fails.

    Exit code 3 when something failed.
    """
    from runway_pipelines.doctor import diagnose
    from runway_pipelines.doctor.findings import document, is_healthy

    findings: list[Finding] = []
    with Console(stderr=True).status("Examining ...") as status:
        for finding in diagnose(lambda: _services_or_error(target), partner_id, _other_stores):
            findings.append(replace(finding, fix=target.adapted(finding.fix)))
            status.update(f"Examining ... {escape(finding.subject)}: {finding.check} {finding.status}")
    print_result(document(findings), lambda: console.print(findings_table(findings)), is_json=is_json)
    sys.exit(ExitCode.of(is_well=is_healthy(findings)))


@contextmanager
def _services_or_error(target: Target) -> Iterator[tuple[RosterServices, IdentityServices]]:
    """All services. The doctor reports an embedded stack that does not start like any other failure."""
    try:
        with target.services() as services, _identity() as identity:
            yield services, identity
    except click.ClickException as error:
        # Later lines are a server's log.
        raise ConfigurationError(
            expected="the embedded stack to start",
            came=error.message.splitlines()[0].rstrip("."),
            remedy=f"read the logs in {target.state / 'logs'}",
        ) from None


@contextmanager
def _identity() -> Iterator[IdentityServices]:
    from runway_pipelines.settings import load_settings
    from runway_pipelines.wiring import build_identity

    with build_identity(load_settings()).process_config_and_initialize_cm() as services:
        yield services


def _other_stores() -> OtherStores:
    from runway_pipelines.doctor.stores import OtherStores
    from runway_pipelines.settings import load_settings
    from runway_pipelines.wiring import build_mongo, build_redis

    settings = load_settings()
    return OtherStores(build_redis(settings), build_mongo(settings))
