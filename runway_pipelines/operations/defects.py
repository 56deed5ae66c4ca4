"""What is said of a defect of ours, or of a library's error that we do not map.

Its place and its type are told, and never its text, which may quote a row.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any, Protocol


class Log(Protocol):
    """The part of Dagster's logger that is used."""

    def error(self, message: str, *, extra: Mapping[str, str] | None = None) -> Any: ...


def logged_defect(log: Log, subject: str, error: Exception, *, extra: Mapping[str, str] | None = None) -> str:
    """Log where it happened, while the work on other subjects goes on; returns the reason for people."""
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error(f"{subject}: {type(error).__name__} at\n{place}", extra=extra)
    return f"an unexpected {type(error).__name__}: report it, with the run's log"
