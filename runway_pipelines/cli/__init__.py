"""``runway-pipelines``: the pipeline from a terminal.

`app` lists the commands; each is in the module of its own name, or of its group's. `local` has those that need the
embedded stack, `documents` those that print a page or a policy made from the settings. `target` is what they work on,
`terminal` how their results look. Dagster, and whatever else is slow to import, is imported by the command that
needs it, so that help and a mistyped option come at once.
"""

from runway_pipelines.cli.app import main

__all__ = ["main"]
