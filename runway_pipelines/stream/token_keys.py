"""The key that tokens are signed with: of the settings, or of a secret that is read anew from time to time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import Protocol

from runway_pipelines.errors import ConfigurationError, RunwayError
from runway_pipelines.settings import Settings
from runway_pipelines.stream.tokens import LEAST_KEY_BYTES
from runway_pipelines.systems.aws.secret_versions import SecretVersion

log = logging.getLogger(__name__)
READ_AGAIN_SECONDS = 60


class TokenKeys(Protocol):
    """Where keys come from."""

    def __call__(self) -> tuple[bytes, ...]:
        """The keys that are good now, the newest first."""
        ...


ReadSecret = Callable[[str, str], SecretVersion | None]  # by name and stage


def token_keys(settings: Settings, read_secret: ReadSecret) -> TokenKeys:
    """The keys that the settings name; raises `ConfigurationError` when they name none, or one that is too short."""
    if settings.stream.token_secret:
        keys = SecretKeys(settings.stream.token_secret, read_secret)
        keys()
        return keys
    if settings.stream.token_key:
        key = _checked("RUNWAY_STREAM_TOKEN_KEY", settings.stream.token_key.get_secret_value())
        return lambda: (key,)
    raise ConfigurationError(
        expected="RUNWAY_STREAM_TOKEN_SECRET or RUNWAY_STREAM_TOKEN_KEY",
        came="neither",
        remedy="name the secret that holds the key which the application signs its runs' tokens with",
    )


class SecretKeys:
    """The keys of a secret: the current one, and the one before it, for tokens that were signed before a rotation.

    While the secret cannot be read, what was read last is used; while somebody reads it, nobody else waits for that.
    """

    def __init__(self, name: str, read_secret: ReadSecret, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._read_secret = read_secret
        self._clock = clock
        self._lock = Lock()
        self._keys: tuple[bytes, ...] = ()
        self._read_at = 0.0

    def __call__(self) -> tuple[bytes, ...]:
        """The keys; raises our errors only while none could ever be read."""
        # A service that hangs would else hold up every request, a minute of each two.
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
            log.warning("the key of the tokens stays as it was read before: %s", error)
        self._read_at = self._clock()

    def _read(self) -> tuple[bytes, ...]:
        current = self._read_secret(self._name, "AWSCURRENT")
        if current is None:
            raise ConfigurationError(
                expected=f"the secret {self._name}", came="no secret of that name", remedy="create it"
            )
        key = _checked(f"secret {self._name}", current.text)
        previous = self._read_secret(self._name, "AWSPREVIOUS")
        # Too short, it is what a secret is created with before it gets its first key: no token was signed with it.
        return (key,) if previous is None or not _is_long_enough(previous.text) else (key, _bytes(previous.text))


def _bytes(text: str) -> bytes:
    return text.strip().encode()


def _is_long_enough(text: str) -> bool:
    return len(_bytes(text)) >= LEAST_KEY_BYTES


def _checked(where: str, text: str) -> bytes:
    key = _bytes(text)
    if not _is_long_enough(text):
        raise ConfigurationError(
            expected=f"a key of at least {LEAST_KEY_BYTES} bytes in {where}",
            came=f"{len(key)} bytes",
            remedy="put a random one there, and into the application",
        )
    return key
