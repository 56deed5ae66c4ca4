"""How a command prints its result: for people, or with ``--json`` as one document for machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from runway_pipelines.partner_tenants.keys import PartnerTenant

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """``--json``, the parameter ``is_json`` of every command that prints a result."""
    return click.option("--json", "is_json", is_flag=True, help="Print one JSON document, and nothing else.")(command)


def print_result(
    document: object, for_people: Callable[[], object], *, is_json: bool, on_one_line: bool = False
) -> None:
    """Print the document as JSON, or call what prints it for people.

    The document may have dataclasses, enums and moments in it: those are ISO 8601. It never has a student's identifier.
    """
    if not is_json:
        for_people()
        return
    import orjson

    click.echo(orjson.dumps(document, option=0 if on_one_line else orjson.OPT_INDENT_2).decode())


def name_of(tenant: PartnerTenant) -> dict[str, str]:
    """A tenant as every document names it."""
    return {"partner_id": tenant.partner_id, "tenant_code": tenant.tenant_code}
