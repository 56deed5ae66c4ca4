"""What Secrets Manager says about a secret, as values."""

from dataclasses import dataclass, field
from datetime import datetime

CURRENT_STAGE = "AWSCURRENT"
PREVIOUS_STAGE = "AWSPREVIOUS"


@dataclass(frozen=True)
class SecretVersion:
    """One version of a secret. Its ``secret_version`` may be shown; its ``text`` may not."""

    name: str
    secret_version: str
    text: str = field(repr=False)
    created_at: datetime | None = None


@dataclass(frozen=True)
class Current:
    """The version that carries AWSCURRENT."""

    secret_version: str


@dataclass(frozen=True)
class Gone:
    """There is no secret to read: it was deleted, is pending deletion, or never existed."""

    reason: str


@dataclass(frozen=True)
class Unreadable:
    """AWS did not answer; the last observation still holds."""

    reason: str


Observation = Current | Gone | Unreadable
