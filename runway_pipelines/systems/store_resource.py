"""What the stores' resources share: connecting at first use, trying again, closing, and naming a missing driver."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Lock
from types import ModuleType
from typing import Any, Protocol, TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from runway_pipelines.errors import ConfigurationError, RunwayError, Unavailable
from runway_pipelines.systems.vocabulary import DEFAULT_REGION

ATTEMPTS = 3
FIRST_WAIT_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Closable(Protocol):
    """A client that has connections to close."""

    def close(self) -> object:
        """Close them."""


Client = TypeVar("Client", bound=Closable)


class StoreResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A store that is located and connected at first use, from any thread, and closed when the run ends."""

    region: str = DEFAULT_REGION

    _client: Any = PrivateAttr(default=None)
    _opening: Lock = PrivateAttr(default_factory=Lock)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the connections."""
        self.close()

    @property
    def is_connected(self) -> bool:
        """Whether it was opened and not closed since: a flag, not a probe."""
        return self._client is not None

    def open(self) -> None:
        """Connect now, so that what is wrong is known; does nothing while connected.

        Raises `AuthenticationRefused` at once, `Unavailable` after the last attempt, and `SecretMissing`,
        `SecretMalformed` or `ConfigurationError` for what locates the store, or a driver that is not installed.
        """
        self._opened()

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _opened(self) -> Any:
        with self._opening:
            if self._client is None or self._has_closed_itself(self._client):
                self._client = None
                self._client = self._connected()
            return self._client

    def _has_closed_itself(self, client: Any) -> bool:
        return False

    def _connected(self) -> Any:
        raise NotImplementedError


class ClientResource(StoreResource):
    """A store behind one client that can be pinged."""

    attempts: int = Field(default=ATTEMPTS, ge=1)

    def ping(self) -> bool:
        """Whether it answers now: a round trip that raises nothing."""
        try:
            self._probe(self._opened())
        except RunwayError as error:
            _log.warning("A ping failed: %s", error)
            return False
        return True

    def destination(self) -> Any:
        """Where connections go now; raises what the lookups raise."""
        raise NotImplementedError

    def _connected(self) -> Any:
        destination = self.destination()
        with self._errors():
            client = self._new_client(destination)
        return answering(client, self._probe, self.attempts)

    def _probe(self, client: Any) -> None:
        with self._errors():
            self._ping(client)

    def _new_client(self, destination: Any) -> Any:
        """A client that has not connected yet."""
        raise NotImplementedError

    def _ping(self, client: Any) -> None:
        raise NotImplementedError

    def _errors(self) -> AbstractContextManager[None]:
        """Maps the driver's errors to ours."""
        raise NotImplementedError


def answering(client: Client, ping: Callable[[Client], object], attempts: int) -> Client:
    """The client, once it answered ``ping``; closed if it never does. Only `Unavailable` is worth another attempt."""
    try:
        retrying(lambda error: isinstance(error, Unavailable), attempts)(ping, client)
    except BaseException:
        client.close()
        raise
    return client


def retrying(may_pass: Callable[[BaseException], bool], attempts: int) -> Retrying:
    """Calls a function up to ``attempts`` times, 1 s, 2 s ... apart, while its error may pass; raises the last one."""
    return Retrying(
        retry=retry_if_exception(may_pass),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=FIRST_WAIT_SECONDS, min=FIRST_WAIT_SECONDS),
        reraise=True,
    )


def optional_driver(package: str, extra: str) -> ModuleType:
    """A driver that an extra installs; raises `ConfigurationError` without it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigurationError(
            expected=f"the driver of {extra}",
            came=f"no package {package}",
            remedy=f"install the extra runway-pipelines[{extra}]",
        ) from None
