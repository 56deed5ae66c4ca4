"""Run-scoped bearer tokens: who may pull which run's roster. Pure, but for the clock inside PyJWT.

A token is an HS256 JWT of the application with an expiry, our audience and the run's id in a claim; it is good for that
run alone. No token, and nothing of one, leaves this module.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt

ALGORITHM = "HS256"
# Shorter than the digest, a key is the weakest part (RFC 7518, section 3.2).
LEAST_KEY_BYTES = 32
LONGEST_HEADER = 8192
_TYPE_CLAIM = "type"
_ACCESS = "access"


class TokenRefused(Exception):
    """The request does not prove that it may see the run; ``reason`` is a word for the metrics, not for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class TokenRules:
    """What a token must hold."""

    audience: str
    run_claim: str

    def check(self, authorization: str | None, runway_run_id: str, keys: Sequence[bytes]) -> None:
        """Raise `TokenRefused` unless ``authorization`` (the header) holds a token for the run of the path.

        The signature is compared in constant time by PyJWT, the run id here. Of the two kinds of token that the
        application makes, only the one for access opens anything.
        """
        claims = self._claims(_bearer(authorization), keys)
        if claims.get(_TYPE_CLAIM, _ACCESS) != _ACCESS:
            raise TokenRefused("type")
        claimed = claims[self.run_claim]
        if isinstance(claimed, bool) or not isinstance(claimed, int | str):
            raise TokenRefused("claims")
        # backslashreplace: JSON may hold half a surrogate pair, which UTF-8 cannot.
        if not hmac.compare_digest(str(claimed).encode(errors="backslashreplace"), runway_run_id.encode()):
            raise TokenRefused("run")

    def _claims(self, token: str, keys: Sequence[bytes]) -> dict[str, object]:
        refusal = "signature"
        for key in keys:
            try:
                return jwt.decode(
                    token,
                    key,
                    algorithms=[ALGORITHM],
                    audience=self.audience,
                    # iat says when a token was made, not when it is good; two clocks a second apart must not matter.
                    options={"require": ["exp", "aud", self.run_claim], "verify_iat": False},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                refusal = "expired"
            except jwt.InvalidAudienceError:
                refusal = "audience"
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
                refusal = "claims"
            break
        # Outside of the handlers: what PyJWT raised may quote the token.
        raise TokenRefused(refusal)

    def mint(self, runway_run_id: int, key: bytes, *, valid_for: timedelta) -> str:
        """A token as the application makes it; for local use and tests."""
        claims = {
            self.run_claim: runway_run_id,
            _TYPE_CLAIM: _ACCESS,
            "aud": self.audience,
            "exp": datetime.now(UTC) + valid_for,
        }
        return jwt.encode(claims, key, algorithm=ALGORITHM)


def _bearer(authorization: str | None) -> str:
    if authorization is None:
        raise TokenRefused("none")
    scheme, _, token = authorization.partition(" ")
    if len(authorization) > LONGEST_HEADER or scheme.lower() != "bearer" or not token.strip():
        raise TokenRefused("no bearer token")
    return token.strip()
