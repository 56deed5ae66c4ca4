"""``runway-pipelines``: the pipeline from a terminal.

`app` lists the commands. Each command is in the module of its own name or of its group. `local` holds those that run
the embedded stack, `documents` those that print a page or a policy generated from the settings. `target` says which
systems a command works on.

What all commands share: `arguments` and `files` check what is given, `registry` names what there is, `results` prints
for people or as JSON, `terminal` makes the tables, `examples` ends the help, and `exit_codes` says how a command ended.

Slow imports, such as Dagster, happen inside the command that needs them, so that help and a mistyped option answer at
once.
"""

from runway_pipelines.cli.app import main

__all__ = ["main"]
