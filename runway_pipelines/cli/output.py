"""The type of every option that names a file to write: checked before any work is done for it."""

from __future__ import annotations

import os
from pathlib import Path

import click


class OutputFile(click.Path):
    """A file to write, in a folder that exists and can be written to; any other is one line, and exit code 1."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Check it; raises `click.ClickException`, which is shorter than a usage error."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        option = "the file" if param is None else param.opts[0]
        if trouble := _trouble(path.parent):
            raise click.ClickException(
                f"Expected a folder for {option} to write in; got {path.parent}, {trouble}. "
                "To do: make the folder first, or name another one."
            )
        return path


def _trouble(folder: Path) -> str | None:
    try:
        if folder.is_dir():
            return None if os.access(folder, os.W_OK | os.X_OK) else "which cannot be written to"
        return "which is a file" if folder.exists() else "which does not exist"
    except OSError as error:  # a name that is too long, a part that may not be entered
        return f"which cannot be looked at ({type(error).__name__})"
