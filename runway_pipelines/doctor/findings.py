"""What a check saw, and how checks are run so that one that fails never stops the others.

No library's text becomes part of a finding: it may quote a secret.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from runway_pipelines.errors import RunwayError

ALL_CHECKS = "all"


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Seen:
    """What a check saw; ``fix`` says what to do about a warning or a failure."""

    status: Status
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Finding:
    """One check of one subject ("partner acme"), and how long it took."""

    subject: str
    check: str
    status: Status
    detail: str
    fix: str = ""
    seconds: float = 0.0


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed; warnings and what was skipped do not count."""
    return all(finding.status is not Status.FAILED for finding in findings)


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings for machines."""
    return {"is_healthy": is_healthy(findings), "findings": [asdict(finding) for finding in findings]}


def in_turn(subject: str, checks: Sequence[str], steps: Generator[Seen, None, None]) -> Iterator[Finding]:
    """A finding for each check, which takes one step; after one that failed, the others are skipped."""
    with closing(steps):
        for position, check in enumerate(checks):
            found = examined(subject, check, steps.__next__)
            yield found
            if found.status is Status.FAILED:
                yield from (skipped(subject, later, f"{check} failed") for later in checks[position + 1 :])
                return


def examined(subject: str, check: str, look: Callable[[], Seen]) -> Finding:
    """The finding of one check, whatever it meets."""
    started = time.monotonic()
    try:
        seen = look()
    except Exception as error:  # noqa: BLE001 - one check that breaks must not hide what the others find
        seen = seen_error(error)
    return finding(subject, check, seen, started)


def seen_error(error: Exception) -> Seen:
    """What an error says: of ours all, of others the type alone."""
    if isinstance(error, RunwayError):
        return Seen(Status.FAILED, f"expected {error.expected}; got {error.came}", error.remedy)
    return Seen(
        Status.FAILED,
        f"an error that was not foreseen: {type(error).__name__}",
        "try again; if it stays, report the name of this check and of the error to who maintains the pipeline",
    )


def finding(subject: str, check: str, seen: Seen, started: float) -> Finding:
    """What was seen, and how long it took since ``started``."""
    return Finding(subject, check, seen.status, seen.detail, seen.fix, round(time.monotonic() - started, 2))


def skipped(subject: str, check: str, reason: str) -> Finding:
    """A check that was not done, and why."""
    return Finding(subject, check, Status.SKIPPED, reason)
