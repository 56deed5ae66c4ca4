"""Bundles of certificates in files: checked before a driver meets them, and written where only their owner reads."""

from __future__ import annotations

import os
from pathlib import Path

from runway_pipelines.data_stores.ca import checked_ca
from runway_pipelines.errors import StoreMissing


def read_ca_file(path: str, variable: str) -> str:
    """``path``, where there is a bundle of certificates in it; raises `StoreMissing`, `StoreMalformed`."""
    place = f"the file that {variable} names"
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreMissing(
            expected=f"certificates in {place}", came=type(error).__name__, remedy="set it to a readable file"
        ) from None
    checked_ca(text, place)
    return path


def write_ca_file(path: Path, text: str) -> None:
    """A file of its owner alone, that nobody writes to; a stale one is removed first, so that a restart works."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
        file.write(text)
