"""``runway-pipelines``: the pipeline from a terminal.

`app` lists the commands. Each command is in the module of its own name or of its group. `local` holds those that run
the embedded stack, `documents` those that print a page or a policy generated from the settings. `target` says which
systems a command works on.

All commands share these modules. `arguments` and `files` check what is given. `registry` names the partners and
districts that there are. `results` prints for people or as JSON, and `terminal` makes the tables. `examples` ends the
help. `exit_codes` says how a command ended.

Slow imports, such as Dagster, happen inside the command that needs them, so that help and a mistyped option answer at
once.
"""

import os
import signal
from types import FrameType

from runway_pipelines.cli.exit_codes import ExitCode


def main() -> None:
    """Run the command line. Ctrl-C ends it with a line even while its modules are imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup, or a shell's `&`, has it ignored
        signal.signal(signal.SIGINT, leave)  # until the command begins
    from runway_pipelines.cli.app import main as command

    command()


def leave(number: int, frame: FrameType | None) -> None:
    """Say so and exit. An exception could be caught by the module that is being imported; nothing is to be unwound."""
    os.write(2, b"\nStopped.\n")
    os._exit(ExitCode.INTERRUPTED)
