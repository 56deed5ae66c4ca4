"""What Secrets Manager says of a secret, as plain values."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class SecretVersion:
    """One version of a secret. Its ``version_id`` may be shown; its ``text`` may not."""

    name: str
    version_id: str
    text: str = field(repr=False)
    created_at: datetime | None = None


@dataclass(frozen=True)
class Current:
    """The version that carries AWSCURRENT."""

    secret_version: str


@dataclass(frozen=True)
class Gone:
    """No secret can be read: it was deleted, is pending deletion, or never existed."""

    reason: str


@dataclass(frozen=True)
class Unreadable:
    """AWS gave no answer this time; the last observation still holds."""

    reason: str


Observation = Current | Gone | Unreadable
