"""A partner's keys and their age: pure. All that may be shown of a key is the fingerprint of its public half."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
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


UNKNOWN = "unknown"
NEVER_ROTATED = "never"
_DAYS_AGO = re.compile(r"(\d+) days ago")


@dataclass(frozen=True)
class KeyFacts:
    """What is known of a partner's key without reading its secret. ``age_days`` is None if the age is unknown.

    ``last_rotation`` is for people: "never", "12 days ago", or "unknown". ``trouble`` says why there is no key.
    """

    age_days: int | None = None
    last_rotation: str = UNKNOWN
    trouble: str = ""

    @property
    def age_in_words(self) -> str:
        """The age, for a person."""
        return UNKNOWN if self.age_days is None else f"{self.age_days} days"

    def later(self, passed: timedelta) -> KeyFacts:
        """The same facts after some time has passed."""
        days = max(passed.days, 0)
        ago = _DAYS_AGO.fullmatch(self.last_rotation)
        return replace(
            self,
            age_days=None if self.age_days is None else self.age_days + days,
            last_rotation=rotated_in_words(int(ago[1]) + days) if ago else self.last_rotation,
        )


NO_KEY_FACTS = KeyFacts()


def rotated_in_words(days_ago: int | None) -> str:
    """When the key was last rotated; None if it never was."""
    return NEVER_ROTATED if days_ago is None else f"{days_ago} days ago"


def facts_of(report: KeyReport) -> KeyFacts:
    """The facts of a key that was read."""
    if report.keys is None:
        return KeyFacts(trouble=report.trouble)
    if report.keys.age_days is None:  # a stand-in of development has no date, and so no rotation
        return NO_KEY_FACTS
    return KeyFacts(report.keys.age_days, rotated_in_words(report.keys.rotated_days_ago))
