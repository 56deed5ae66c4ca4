"""Run-scoped bearer tokens, and the keys that sign them. Pure, but for clocks and the log.

A token is the application's own HS256 JWT: an expiry, a type, and a Runway run's id in a claim. It opens only that
run's roster. No token, and no part of one, leaves this module.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Literal

import jwt

from runway_pipelines.errors import ConfigurationError, RunwayError
from runway_pipelines.systems.aws.secret_versions import CURRENT_STAGE, PREVIOUS_STAGE, SecretVersion

log = logging.getLogger(__name__)
READ_AGAIN_SECONDS = 60
_ALGORITHM = "HS256"
# A key shorter than the digest would be the weakest part (RFC 7518, section 3.2).
_LEAST_KEY_BYTES = 32
_LONGEST_HEADER = 8192
_TYPE_CLAIM = "type"
_ACCESS = "access"
# How far ``nbf`` may be ahead of our clock: AWS refuses requests of machines whose clocks are further off.
NOT_BEFORE_LEEWAY_SECONDS = 300
_BASE64_URL = str.maketrans("-_", "+/")

Encoding = Literal["base64", "text"]  # of the key in its secret
TokenKeys = Callable[[], tuple[bytes, ...]]  # the keys that are valid now, the newest first
ReadSecret = Callable[[str, str], SecretVersion | None]  # by name and stage


class TokenRefused(Exception):
    """The request does not prove that it may see the run; ``reason`` is a word for the metrics, not for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TokenOfAnotherRun(TokenRefused):
    """The token is good, and opens another run."""

    def __init__(self) -> None:
        super().__init__("run")


@dataclass(frozen=True)
class TokenRules:
    """What a token must contain. With an empty ``audience``, a token's audience is ignored, as in the application."""

    audience: str
    run_claim: str

    def check(self, authorization: str | None, runway_run_id: str, keys: Sequence[bytes]) -> None:
        """Raise `TokenRefused` unless ``authorization`` (the header) holds a token for the run of the path.

        Raises `TokenOfAnotherRun` if it holds a good token for another run. PyJWT compares the signature in constant
        time, and this method the run's id. The application makes two types of token; only an access token is accepted.
        """
        claims = self._claims(_bearer(authorization), keys)
        if claims.get(_TYPE_CLAIM, _ACCESS) != _ACCESS:
            raise TokenRefused("type")
        claimed = claims[self.run_claim]
        if isinstance(claimed, bool) or not isinstance(claimed, int | str):
            raise TokenRefused("claims")
        # backslashreplace: JSON may hold half a surrogate pair, which UTF-8 cannot encode.
        if not hmac.compare_digest(str(claimed).encode(errors="backslashreplace"), runway_run_id.encode()):
            raise TokenOfAnotherRun

    def _claims(self, token: str, keys: Sequence[bytes]) -> dict[str, object]:
        refusal = "signature"
        for key in keys:
            try:
                claims: dict[str, object] = jwt.decode(
                    token,
                    key,
                    algorithms=[_ALGORITHM],
                    audience=self.audience or None,
                    options={
                        "require": ["exp", self.run_claim, *(["aud"] if self.audience else [])],
                        "verify_aud": bool(self.audience),
                        # iat says when a token was made, and limits nothing. PyJWT has one leeway for nbf and exp.
                        "verify_iat": False,
                        "verify_nbf": False,
                    },
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                refusal = "expired"
            except jwt.InvalidAudienceError:
                refusal = "audience"
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
                refusal = "claims"
            else:
                if _is_valid_by_now(claims.get("nbf")):
                    return claims
                refusal = "not yet"
            break
        # Outside the handlers: PyJWT's error may quote the token.
        raise TokenRefused(refusal)

    def mint(self, runway_run_id: int, key: bytes, *, valid_for: timedelta) -> str:
        """A token as the application makes it; for local use and tests."""
        claims = {
            self.run_claim: runway_run_id,
            _TYPE_CLAIM: _ACCESS,
            "iat": datetime.now(UTC),
            "exp": datetime.now(UTC) + valid_for,
            **({"aud": self.audience} if self.audience else {}),
        }
        return jwt.encode(claims, key, algorithm=_ALGORITHM)


def _is_valid_by_now(not_before: object) -> bool:
    """Whether ``nbf`` is absent or a time that has come, by a clock that may be `NOT_BEFORE_LEEWAY_SECONDS` behind."""
    if not_before is None:
        return True
    if isinstance(not_before, bool) or not isinstance(not_before, int | float):
        return False
    return not_before <= time.time() + NOT_BEFORE_LEEWAY_SECONDS


def _bearer(authorization: str | None) -> str:
    if authorization is None:
        raise TokenRefused("none")
    scheme, _, token = authorization.partition(" ")
    if len(authorization) > _LONGEST_HEADER or scheme.lower() != "bearer" or not token.strip():
        raise TokenRefused("no bearer token")
    return token.strip()


def token_keys(secret_name: str | None, key: str | None, read_secret: ReadSecret, *, encoding: Encoding) -> TokenKeys:
    """The keys in the secret, else ``key``; raises `ConfigurationError` without a key, or if one is too short.

    ``encoding`` is that of the secret; ``key`` is text. The application reads its own secret and key the same way.
    """
    if secret_name:
        keys = SecretKeys(secret_name, read_secret, encoding=encoding)
        keys()
        return keys
    if key:
        checked = _checked("RUNWAY_STREAM_TOKEN_KEY", key.strip().encode())
        return lambda: (checked,)
    raise ConfigurationError(
        expected="RUNWAY_STREAM_TOKEN_SECRET or RUNWAY_STREAM_TOKEN_KEY",
        came="neither",
        remedy="name the secret with the key that signs the application's tokens",
    )


class SecretKeys:
    """A secret's current key, and the previous one for tokens signed before a rotation.

    While the secret cannot be read, the last keys stay valid; while one request reads it, no other waits.
    """

    def __init__(
        self,
        name: str,
        read_secret: ReadSecret,
        *,
        encoding: Encoding,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._read_secret = read_secret
        self._encoding = encoding
        self._clock = clock
        self._lock = Lock()
        self._keys: tuple[bytes, ...] = ()
        self._read_at = 0.0

    def __call__(self) -> tuple[bytes, ...]:
        """The keys; raises our errors only until the first successful read."""
        # Waits only while there are no keys: a service that hangs must not hold up every request for one minute in two.
        if self._lock.acquire(blocking=not self._keys):
            try:
                self._refresh()
            finally:
                self._lock.release()
        return self._keys

    def _refresh(self) -> None:
        if self._keys and self._clock() - self._read_at < READ_AGAIN_SECONDS:
            return
        try:
            self._keys = self._read()
        except RunwayError as error:
            if not self._keys:
                raise
            log.warning("the tokens' key could not be read again, and the last one stays: %s", error)
        self._read_at = self._clock()

    def _read(self) -> tuple[bytes, ...]:
        current = self._read_secret(self._name, CURRENT_STAGE)
        if current is None:
            raise ConfigurationError(
                expected=f"the secret {self._name}", came="no secret of that name", remedy="create it"
            )
        where = f"secret {self._name}"
        decoded = _bytes(current.text, self._encoding)
        if decoded is None:
            raise ConfigurationError(
                expected=f"a key in base64 in {where}, as the application keeps it",
                came="text that is not base64",
                remedy="put the application's own key there, or set RUNWAY_STREAM_TOKEN_SECRET_ENCODING to text",
            )
        key = _checked(where, decoded)
        previous = self._read_secret(self._name, PREVIOUS_STAGE)
        before = previous and _bytes(previous.text, self._encoding)
        # A short one is the placeholder that the secret was created with: it never signed a token.
        return (key, before) if before and _is_long_enough(before) else (key,)


def _bytes(text: str, encoding: Encoding) -> bytes | None:
    """The key; None if it should be base64 and is not.

    The application's decoder takes both of base64's alphabets, with padding or without, and skips white space. It skips
    anything else too; here that is refused, because a password would make some key.
    """
    if encoding == "text":
        return text.strip().encode()
    # The application reads a secret that is JSON as JSON, so quotes around a string are not part of the key.
    digits = "".join(text.strip().removeprefix('"').removesuffix('"').split()).rstrip("=").translate(_BASE64_URL)
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _is_long_enough(key: bytes) -> bool:
    return len(key) >= _LEAST_KEY_BYTES


def _checked(where: str, key: bytes) -> bytes:
    if not _is_long_enough(key):
        raise ConfigurationError(
            expected=f"a key of at least {_LEAST_KEY_BYTES} bytes in {where}",
            came=f"{len(key)} bytes",
            remedy="put a random one there, and into the application",
        )
    return key
