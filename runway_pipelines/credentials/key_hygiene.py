"""A partner's keys and their age: pure. All that may be shown of a key is the fingerprint of its public half."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from runway_pipelines.systems.snowflake.connection import EduConnection


@dataclass(frozen=True)
class KeyHygiene:
    """The current key and the previous one; None where a date or a key is unknown.

    ``age_days`` is the age of the current version. ``rotated_days_ago`` is the same, but None if there is no previous
    version, because the key was never rotated.
    """

    fingerprint: str | None
    previous_fingerprint: str | None
    age_days: int | None
    rotated_days_ago: int | None

    def is_old(self, days: int) -> bool:
        """Whether the current key is older than that."""
        return self.age_days is not None and self.age_days > days


def key_hygiene(
    current: EduConnection | None,
    created_at: datetime | None,
    previous: EduConnection | None,
    *,
    has_previous: bool,
    now: datetime,
) -> KeyHygiene:
    """One partner's keys. Either connection is None if its secret cannot be read or parsed."""
    age_days = (now - created_at).days if created_at else None
    return KeyHygiene(
        fingerprint=current.fingerprint if current else None,
        previous_fingerprint=previous.fingerprint if previous else None,
        age_days=age_days,
        rotated_days_ago=age_days if has_previous else None,
    )


@dataclass(frozen=True)
class KeyReport:
    """One partner's line in the report; ``trouble`` says why it has no keys."""

    partner_id: str
    keys: KeyHygiene | None = None
    trouble: str = ""

    def document(self, warning_days: int) -> dict[str, Any]:
        """The line as JSON values; ``is_fine`` if there is a key that is not too old."""
        keys = self.keys or KeyHygiene(None, None, None, None)
        is_fine = self.keys is not None and not keys.is_old(warning_days)
        return {"partner": self.partner_id, "is_fine": is_fine, **asdict(keys), "trouble": self.trouble}
