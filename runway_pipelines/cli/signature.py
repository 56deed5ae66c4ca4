"""Who decides, and why: the options of every command that is kept on record."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from typing import Any

import click

WHY = "Why, in one line, without any student's data. It is kept."


def user() -> str:
    """The user's name on this system; a container's user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


decided_by_option = click.option(
    "--by", "decided_by", default=user, help="Who decides; your name at this system, if left out."
)


def signed_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds both options to a command, which then requires them."""
    return decided_by_option(click.option("--reason", required=True, help=WHY)(command))
