"""The codec between (partner, tenant) and a partition key: pure.

``acme/district-12``. The slash lets the Dagster UI select one partner's tenants with ``acme/*``. Dagster validates
nothing, and a key becomes part of an S3 key and of a secret's name, so each part is checked before a key is added and
again before it is used.
"""

import re
from dataclasses import dataclass
from typing import Self

from runway_pipelines.errors import InvalidKey

SEPARATOR = "/"
_PART = re.compile(r"[A-Za-z0-9_@-]{1,64}")
_ALLOWED = "1 to 64 characters of A-Z a-z 0-9 _ @ -"


def is_valid_part(part: str) -> bool:
    """Whether ``part`` may be a partner id or a tenant code in a key."""
    return _PART.fullmatch(part) is not None


def checked_part(name: str, part: str) -> str:
    """``part`` unchanged, or an `InvalidKey` that calls it ``name``."""
    if not is_valid_part(part):
        raise InvalidKey(
            expected=f"a {name} of {_ALLOWED}",
            came=shown(part),
            remedy="correct it in the application's partner or tenant table",
        )
    return part


def shown(text: str, limit: int = 60) -> str:
    """``text`` fit for a log line: escaped, and cut at ``limit`` characters."""
    return ascii(text) if len(text) <= limit else f"{text[:limit]!a}... ({len(text)} characters)"


@dataclass(frozen=True, order=True)
class PartnerTenant:
    """One tenant of one partner; constructing it checks both parts (`InvalidKey`)."""

    partner_id: str
    tenant_code: str

    def __post_init__(self) -> None:
        checked_part("partner_id", self.partner_id)
        checked_part("tenant_code", self.tenant_code)

    @classmethod
    def parse(cls, key: str) -> Self:
        """Read a partition key; raises `InvalidKey`."""
        partner_id, separator, tenant_code = key.partition(SEPARATOR)
        if not separator:
            raise InvalidKey(
                expected=f"a partition key partner{SEPARATOR}tenant",
                came=shown(key),
                remedy="choose a key from the partner_tenants partitions",
            )
        return cls(partner_id, tenant_code)

    @property
    def key(self) -> str:
        """The partition key."""
        return f"{self.partner_id}{SEPARATOR}{self.tenant_code}"

    def __str__(self) -> str:
        return self.key
