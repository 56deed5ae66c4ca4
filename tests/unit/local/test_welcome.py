"""What `make dev` says at the end: true of the data set, and commands that the real parser takes."""

import shlex
from dataclasses import replace

import click
import pytest

from runway_pipelines.cli.app import main
from runway_pipelines.local.partners import Tenant, synthetic_partners
from runway_pipelines.local.welcome import Welcome

PARTNERS = synthetic_partners()
URL = "http://127.0.0.1:3000"
BOARD = "http://127.0.0.1:4566/runway-local/board.html"


def test_a_newcomer_is_told_where_to_look_what_is_wrong_and_what_to_try() -> None:
    lines = Welcome(URL, BOARD, ".venv/bin/runway-pipelines --local", PARTNERS).lines()
    look, wrong, try_it = (line for line in lines if not line.startswith(" "))
    assert look.startswith(f"Look: {URL}/assets/rosters/board") and BOARD in look
    assert wrong == (
        "Wrong on purpose: acme/kestrel has no students, so the run of acme ends red; cascade has no school year to "
        "publish to, so its rosters are kept, not published; driftwood has no credentials, so it has no run."
    )
    assert try_it.startswith("Try, once the run of acme has ended: take most students of a district away")


def test_what_is_wrong_is_what_the_data_set_has() -> None:
    acme, *others = PARTNERS
    healthy = replace(acme, tenants=(Tenant("ashford", 10),))
    assert "kestrel" not in " ".join(Welcome(URL, BOARD, "x", [healthy, *others]).lines())


@pytest.mark.parametrize("command", [".venv/bin/runway-pipelines --local", "runway-pipelines --local --state '/a b'"])
def test_each_command_to_copy_is_one(command: str) -> None:
    typed = [line for line in Welcome(URL, BOARD, command, PARTNERS).lines() if line.startswith(" ")]
    assert len(typed) == 4
    for line in typed:
        _, *words = shlex.split(line)
        context = main.make_context("runway-pipelines", words)
        while isinstance(context.command, click.Group):
            name, inner, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
            assert name is not None and inner is not None
            context = inner.make_context(name, rest, parent=context)
