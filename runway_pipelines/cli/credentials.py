"""``credentials``: the partners' keys."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.cli.results import json_option, print_result
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import console, keys_table


@click.group()
def credentials() -> None:
    """Partners' credentials."""


@credentials.command(
    short_help="Each key's fingerprint and age.",
    epilog=examples(
        "runway-pipelines credentials report",
        "runway-pipelines credentials report --json | jq '.[].is_fine'",
    ),
)
@json_option
@click.pass_obj
def report(target: Target, is_json: bool) -> None:
    """Each partner's current and previous key, by their public fingerprints, and their age.

    Exit code 3 when a key is older than RUNWAY_KEY_AGE_WARNING_DAYS, or a secret cannot be used.
    """
    from runway_pipelines.credentials.trial import report_keys

    with target.services() as services:
        days = services.policy.key_age_warning_days
        partners = sorted(services.registry().partners)
        now = datetime.now(UTC)
        rows = [report_keys(services.secrets, partner_id, now=now).document(days) for partner_id in partners]
    print_result(rows, lambda: console.print(keys_table(rows)), is_json=is_json)
    sys.exit(ExitCode.of(is_well=all(row["is_fine"] for row in rows)))
