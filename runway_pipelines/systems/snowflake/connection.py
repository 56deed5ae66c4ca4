"""How to connect to a partner's Snowflake, as a value."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

_MOST_NAMED = 3


@dataclass(frozen=True)
class Place:
    """Where a partner's tables are. Case does not matter in Snowflake's names."""

    account: str
    database: str
    schema: str

    def is_same(self, other: Place) -> bool:
        """Whether both name one schema."""
        return self._folded() == other._folded()

    def __str__(self) -> str:
        return f"{self.account}/{self.database}.{self.schema}"

    def _folded(self) -> tuple[str, str, str]:
        return self.account.casefold(), self.database.casefold(), self.schema.casefold()


def is_elsewhere(place: Place | None, known: Collection[Place]) -> bool:
    """Whether a place is none of the known ones; False if the place is None or none is known."""
    return place is not None and bool(known) and not any(place.is_same(one) for one in known)


def known_as(places: Collection[Place]) -> str:
    """Some of the places, for people."""
    return " and ".join(sorted({str(place) for place in places})[:_MOST_NAMED])


@dataclass(frozen=True)
class EduConnection:
    """Where a partner's warehouse is, and the key that opens it (``private_key``: base64 of PEM, never shown)."""

    username: str
    account: str
    database: str
    schema: str
    private_key: str = field(repr=False)
    warehouse: str | None = None
    role: str | None = None

    @property
    def place(self) -> Place:
        """Where its tables are."""
        return Place(self.account, self.database, self.schema)

    @property
    def fingerprint(self) -> str:
        """The public key's digest as ``DESC USER`` shows it in ``RSA_PUBLIC_KEY_FP``: ``SHA256:`` and base64."""
        key = load_pem_private_key(base64.b64decode("".join(self.private_key.split())), password=None)
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()
