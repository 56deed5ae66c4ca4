"""Reports a defect of ours, or a library's error that we do not map.

The report has its place and type, and never its text, which may quote a row.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping


def logged_defect(
    log: logging.Logger, subject: str, error: Exception, *, extra: Mapping[str, str] | None = None
) -> str:
    """Log where the error happened, while the work on other subjects goes on; returns the reason for people."""
    place = "".join(traceback.format_tb(error.__traceback__))
    log.error(f"{subject}: {type(error).__name__} at\n{place}", extra=extra)
    return f"an unexpected {type(error).__name__}: report it, with the run's log"
