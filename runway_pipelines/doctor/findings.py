"""Findings, and running checks so that a failing one never stops the others.

A finding never contains a library's text, which may quote a secret.
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


class CheckStatus(StrEnum):
    """A check's result."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Seen:
    """A check's observation; ``fix`` says what to do about a warning or a failure."""

    status: CheckStatus
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Finding:
    """The finding of one check of one subject ("partner acme"), and its duration."""

    subject: str
    check: str
    status: CheckStatus
    detail: str
    fix: str = ""
    seconds: float = 0.0


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Whether no check failed; warnings and skipped checks are fine."""
    return all(finding.status is not CheckStatus.FAILED for finding in findings)


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as one JSON document."""
    return {"is_healthy": is_healthy(findings), "findings": [asdict(finding) for finding in findings]}


def in_turn(subject: str, checks: Sequence[str], steps: Generator[Seen, None, None]) -> Iterator[Finding]:
    """A finding for each check; each takes one step. A failure skips the rest."""
    with closing(steps):
        for position, check in enumerate(checks):
            found = examined(subject, check, steps.__next__)
            yield found
            if found.status is CheckStatus.FAILED:
                yield from (skipped(subject, later, f"{check} failed") for later in checks[position + 1 :])
                return


def examined(subject: str, check: str, look: Callable[[], Seen]) -> Finding:
    """The finding of one check, whatever it raises."""
    started = time.monotonic()
    try:
        seen = look()
    except Exception as error:  # noqa: BLE001 - a broken check must not hide the other findings
        seen = seen_error(error)
    return finding(subject, check, seen, started)


def seen_error(error: Exception) -> Seen:
    """An error's text if it is ours, otherwise its type alone."""
    if isinstance(error, RunwayError):
        return Seen(CheckStatus.FAILED, f"expected {error.expected}; got {error.came}", error.remedy)
    return Seen(
        CheckStatus.FAILED,
        f"an unexpected error: {type(error).__name__}",
        "try again; if it persists, report the check and the error to the pipeline's maintainers",
    )


def finding(subject: str, check: str, seen: Seen, started: float) -> Finding:
    """The finding for an observation that began at ``started``."""
    return Finding(subject, check, seen.status, seen.detail, seen.fix, round(time.monotonic() - started, 2))


def skipped(subject: str, check: str, reason: str) -> Finding:
    """The finding for a check that was not run."""
    return Finding(subject, check, CheckStatus.SKIPPED, reason)
