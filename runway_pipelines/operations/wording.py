"""Lists inside sentences, moments and addresses, as people read them: pure."""

from collections.abc import Iterable
from datetime import UTC, datetime

OPERATIONS = "docs/operations.md"
SHA256_SHOWN = 12  # digits: as many as `rosters load --sha256` needs, and enough for any history
LEAST_SHA256 = 8  # digits: as many as a decision needs
# The embedded stack has another way, which `Target.adapted` puts in its place.
START_DAEMON = "start dagster-daemon run with this DAGSTER_HOME"


def first_few(texts: Iterable[str], most: int, separator: str = ", ", where: str = "") -> str:
    """The first ``most`` texts and the number of the others; ``where`` tells the reader where to find those."""
    known = list(texts)
    more = len(known) - most
    return separator.join(known[:most]) + (f" and {more:,} more{where}" if more > 0 else "")


def how_many(count: int, noun: str) -> str:
    """A count with its noun: ``1 tenant``, ``2,000 tenants``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def minute(moment: str) -> str:
    """An ISO 8601 timestamp in UTC and to the minute; any other text is returned unchanged."""
    try:
        return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M}"
    except ValueError:
        return moment


def utc_minute(moment: str | None) -> str:
    """An ISO 8601 timestamp as ``2026-11-21 19:24 UTC``; any other text unchanged, and "unknown" for none."""
    shown = minute(moment or "unknown")
    return shown if shown in (moment, "unknown") else f"{shown} UTC"


def runbook_path(section: str) -> str:
    """A section of the operations page, by its path in the repository."""
    return f"{OPERATIONS}#{section}"


def hosted(path: str, docs_url: str) -> str:
    """The address of a page, in a repository that is hosted at ``docs_url``."""
    return f"{docs_url.rstrip('/')}/{path}"
