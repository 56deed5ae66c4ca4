"""The types of every argument that names a file or a folder: checked before any work is done, each refusal one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import click

_MISSING = "which does not exist"


class _Named(click.Path):
    """A path that we check ourselves: click's usage errors have four lines."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Check it; raises `click.ClickException`."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        named = "it" if param is None else (param.make_metavar(ctx) if ctx and not _is_option(param) else param.opts[0])
        try:
            self.look_at(path, named)
        except OSError as error:  # a name that is too long, a part that may not be entered
            _refuse(f"a path for {named}", path, f"which cannot be looked at ({type(error).__name__})", "name another")
        return path

    def look_at(self, path: Path, named: str) -> None:
        """Refuse a path that is of no use for the argument."""
        raise NotImplementedError


class InputFile(_Named):
    """A file to read."""

    def look_at(self, path: Path, named: str) -> None:
        """Refuse what cannot be read."""
        expected = f"a file for {named} to read"
        if path.is_dir():
            _refuse(expected, path, "which is a folder", "name a file in it")
        if not path.exists():
            _refuse(expected, path, _MISSING, "correct the name")
        if not os.access(path, os.R_OK):
            _refuse(expected, path, "which may not be read", "have it granted, or name another one")


class OutputFile(_Named):
    """A file to write, in a folder that exists and can be written to."""

    def look_at(self, path: Path, named: str) -> None:
        """Refuse what cannot be written."""
        _refuse_unwritable(path.parent, named)
        if path.is_dir():
            _refuse(f"a file for {named} to write", path, "which is a folder", "name a file in it")


class OutputFolder(_Named):
    """A folder to write files in; one that does not exist is made later, in a folder that can be written to."""

    def look_at(self, path: Path, named: str) -> None:
        """Refuse what cannot be made or written."""
        _refuse_unwritable(path if path.exists() else path.parent, named)


def _is_option(param: click.Parameter) -> bool:
    return isinstance(param, click.Option)


def _refuse_unwritable(folder: Path, named: str) -> None:
    trouble = None
    if not folder.exists():
        trouble = _MISSING
    elif not folder.is_dir():
        trouble = "which is a file"
    elif not os.access(folder, os.W_OK | os.X_OK):
        trouble = "which cannot be written to"
    if trouble:
        _refuse(f"a folder for {named} to write in", folder, trouble, "make the folder first, or name another one")


def _refuse(expected: str, path: Path, came: str, remedy: str) -> NoReturn:
    raise click.ClickException(f"Expected {expected}; got {path}, {came}. To do: {remedy}.")
