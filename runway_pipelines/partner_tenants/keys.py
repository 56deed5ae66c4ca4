"""The codec between (partner, tenant) and a partition key: pure.

``acme/district-12``. The slash lets the Dagster UI select one partner's tenants with ``acme/*``. Each part is checked
before a key is added and again before it is used. A partner id becomes part of a secret's name, and is plain. A tenant
code is whatever the application has, as long as an S3 key and a Dagster partition can hold it; it is compared and
written as it is, whatever its Unicode form.
"""

import re
import shlex
import unicodedata
from dataclasses import dataclass
from typing import Self

from runway_pipelines.errors import InvalidKey

SEPARATOR = "/"
_PART = re.compile(r"[A-Za-z0-9_@-]{1,64}")
_ALLOWED = "1 to 64 characters of A-Z a-z 0-9 _ @ -"


LONGEST_CODE = 128
# Letters, decimal digits, and the marks that are combined with them.
_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Mn", "Mc"})
_ALSO = frozenset(" ._-@+()&'")
# It belongs to emoji; Han characters use other variation selectors.
_EMOJI_SELECTOR = "\ufe0f"
_RANGE = "..."  # Dagster separates the ends of a range of partitions with it, and refuses it in a key


def is_valid_part(part: str) -> bool:
    """Whether ``part`` may be a partner id in a key."""
    return _PART.fullmatch(part) is not None


def why_unusable(tenant_code: str) -> str | None:
    """Why the code cannot be part of a key, without quoting it; None if it can be (rosters contract, section 5)."""
    if not tenant_code:
        return "the code is empty"
    if len(tenant_code) > LONGEST_CODE:
        return f"the code has {len(tenant_code)} characters, and at most {LONGEST_CODE} are possible"
    if tenant_code != tenant_code.strip(" "):
        return "the code begins or ends with a space"
    if tenant_code in (".", ".."):
        return "the code is the name of a folder"
    wrong = next((one for one in tenant_code if not _may_be_in_a_code(one)), None)
    if wrong is not None:
        possible = "letters, digits, spaces and . _ - @ + ( ) & '"
        return f"the code has the character U+{ord(wrong):04X}; possible are {possible}"
    return f"the code has {_RANGE}, which separates partitions" if _RANGE in tenant_code else None


def _may_be_in_a_code(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character in _ALSO
    return unicodedata.category(character) in _CATEGORIES and character != _EMOJI_SELECTOR


def checked_code(tenant_code: str) -> str:
    """The code unchanged, or an `InvalidKey` that says why it is unusable."""
    reason = why_unusable(tenant_code)
    if reason is not None:
        raise InvalidKey(
            expected=f"a tenant_code of 1 to {LONGEST_CODE} letters, digits, spaces and . _ - @ + ( ) & '",
            came=f"{shown(tenant_code)}: {reason}",
            remedy="correct it in the application's tenant table",
        )
    return tenant_code


def checked_part(name: str, part: str) -> str:
    """``part`` unchanged, or an `InvalidKey` that calls it ``name``."""
    if not is_valid_part(part):
        raise InvalidKey(
            expected=f"a {name} of {_ALLOWED}",
            came=shown(part),
            remedy="correct it in the application's partner table",
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
        checked_code(self.tenant_code)

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

    @property
    def quoted(self) -> str:
        """The key as one types it in a shell: a code may have spaces, quotes and ``&``."""
        return shlex.quote(self.key)

    def __str__(self) -> str:
        return self.key
