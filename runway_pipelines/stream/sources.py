"""Where a pull is served from: a pure decision of what is published, the secret's version and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from runway_pipelines.rosters.manifest import Pointer


class Source(StrEnum):
    """What ``?source=`` may say, and (without ``auto``) what ``X-Roster-Source`` does."""

    SNAPSHOT = "snapshot"
    WAREHOUSE = "warehouse"
    AUTO = "auto"


@dataclass(frozen=True)
class Choice:
    """Serve this snapshot, or (None) ask the warehouse; ``reason`` is for the log."""

    snapshot: Pointer | None
    reason: str


def choose(
    requested: Source, published: Pointer | None, secret_version: str | None, *, now: datetime, fresh_for: timedelta
) -> Choice:
    """Which of the two serves a pull.

    ``published`` is None when there is nothing that can be read; ``secret_version`` is the secret's version now, None
    when there is none or nobody knows. An operator who asks for the snapshot gets it however old it is.
    """
    if requested is Source.WAREHOUSE:
        return Choice(None, "it was asked for")
    if published is None:
        return Choice(None, "nothing is published")
    if requested is Source.SNAPSHOT:
        return Choice(published, "it was asked for")
    verified_at = _moment(published.verified_at)
    if verified_at is None or now - verified_at > fresh_for:
        return Choice(None, "the snapshot is older than the setting allows")
    if published.secret_version_id != secret_version:
        return Choice(None, "the snapshot was made with other credentials than today's")
    return Choice(published, "the snapshot is fresh")


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
