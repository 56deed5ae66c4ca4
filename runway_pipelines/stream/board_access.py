"""Who may see the board: whoever shows its token, as a bearer or as the password that a browser asks for. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from runway_pipelines.errors import ConfigurationError

# It guards a page that anybody with the address may try to open, as often as they like.
LEAST_CHARACTERS = 20
_LONGEST_HEADER = 4096


def checked_token(token: str) -> str:
    """The token unchanged; raises `ConfigurationError` for one that could be guessed."""
    if len(token) < LEAST_CHARACTERS or not token.isascii() or not token.isprintable() or token.strip() != token:
        raise ConfigurationError(
            expected=f"a RUNWAY_BOARD_TOKEN of {LEAST_CHARACTERS} ASCII characters or more, with no space at its ends",
            came=f"another one, of {len(token)} characters",
            remedy='make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    return token


def opens(authorization: str | None, token: str) -> bool:
    """Whether the header holds the token: ``Bearer TOKEN``, or ``Basic`` with any user and the token as password.

    Compared by digest and in constant time, so that neither its length nor its beginning shows.
    """
    shown = _shown(authorization)
    return shown is not None and hmac.compare_digest(_digest(shown), _digest(token.encode()))


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _shown(authorization: str | None) -> bytes | None:
    if authorization is None or len(authorization) > _LONGEST_HEADER:
        return None
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip().encode(errors="replace")
    if scheme.lower() == "basic":
        try:
            _, separator, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return None
        return password if separator else None
    return None
