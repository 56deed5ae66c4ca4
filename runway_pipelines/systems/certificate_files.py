"""Bundles of certificates in files: checked before a driver meets them, and written where only their owner reads."""

from __future__ import annotations

import os
from pathlib import Path

from runway_pipelines.errors import SecretMissing
from runway_pipelines.systems.certificates import checked_ca


def read_ca_file(path: str, variable: str) -> str:
    """``path``, where there is a bundle of certificates in it; raises `SecretMissing`, `SecretMalformed`."""
    place = f"the file that {variable} names"
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretMissing(
            expected=f"certificates in {place}", came=type(error).__name__, remedy="set it to a readable file"
        ) from None
    checked_ca(text, place)
    return path


def write_ca_file(path: Path, text: str) -> None:
    """A file of its owner alone, that nobody writes to; a stale one is removed first, so that a restart works."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
        file.write(text)
