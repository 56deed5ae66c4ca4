"""``identity``: the library's identity in the catalogue."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.cli.results import json_option, print_result
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import console
from runway_pipelines.systems.vocabulary import Role

if TYPE_CHECKING:
    from runway_pipelines.systems.postgres.databases import CatalogueDatabase


@click.group()
def identity() -> None:
    """The library's identity in the catalogue."""


@identity.command(
    short_help="Check for optional columns, or add them.",
    epilog=examples(
        "runway-pipelines identity migrate --check",
        "runway-pipelines identity migrate --apply   # as the tables' owner",
    ),
)
@click.option("--check", "is_check", is_flag=True, help="Only name the missing columns; exit code 3 when there are.")
@click.option("--apply", "is_apply", is_flag=True, help="Add the missing columns; needs the tables' owner.")
@json_option
@click.pass_obj
def migrate(target: Target, is_check: bool, is_apply: bool, is_json: bool) -> None:
    """Check for the optional columns of the artist-level ids, or add them."""
    from runway_pipelines.identity.migration import apply, missing_columns

    if is_check is is_apply:
        raise click.UsageError("Give either --check or --apply.")
    role = Role.OWNER if is_apply else Role.APP
    with target.services(), _catalogue(role) as (catalogue, schema), catalogue.connection() as connection:
        added = apply(connection, schema) if is_apply else ()
        missing = missing_columns(connection, schema)
    print_result({"added": added, "missing": missing}, lambda: console.print(_said(added, missing)), is_json=is_json)
    sys.exit(ExitCode.of(is_well=not missing))


def _said(added: Sequence[str], missing: Sequence[str]) -> str:
    if added:
        return f"Added {', '.join(added)}."
    return f"Missing: {', '.join(missing)}." if missing else "Nothing is missing."


@contextmanager
def _catalogue(role: Role) -> Iterator[tuple[CatalogueDatabase, str]]:
    """The catalogue's database with the given role, and its schema."""
    from runway_pipelines.settings import load_settings
    from runway_pipelines.wiring import build_catalogue

    settings = load_settings()
    with build_catalogue(settings, role).process_config_and_initialize_cm() as catalogue:
        yield catalogue, settings.catalogue.schema_name
