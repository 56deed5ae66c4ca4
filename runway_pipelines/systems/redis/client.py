"""Redis, found by environment and service (credentials contract, section 3); the driver is in the extra ``redis``.

``redis`` is imported at first use, so that whoever has no Redis needs no driver. redis-py's texts name hosts and
commands, so none is passed on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr

from runway_pipelines.errors import AuthenticationRefused, ConfigurationError, Permanent, RunwayError, Unavailable
from runway_pipelines.systems.aws.lookups import StoreLookups
from runway_pipelines.systems.certificate_files import read_ca_file
from runway_pipelines.systems.opening import ATTEMPTS, answering
from runway_pipelines.systems.redis.names import RedisConnection, load_redis
from runway_pipelines.systems.vocabulary import DEFAULT_REGION, parse_env

if TYPE_CHECKING:
    from redis import Redis

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 3.0
# A connection that stood idle for longer is tried before it is used: a firewall may have forgotten it.
IDLE_CHECK_SECONDS = 30

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


class RedisResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A client of the service's Redis; found and connected at first use, closed when the run ends.

    Without ``service`` there is none. ``ca_file`` is a bundle of certificates in PEM in place of the system's.
    """

    env: str | None = None
    service: str | None = None
    region: str = DEFAULT_REGION
    ca_file: str | None = None
    attempts: int = Field(default=ATTEMPTS, ge=1)

    _client: Any = PrivateAttr(default=None)
    _opening: Lock = PrivateAttr(default_factory=Lock)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; opening them again is possible."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def open(self) -> None:
        """Connect, so that what is wrong is known; does nothing where that was done.

        Raises `AuthenticationRefused` at once, `Unavailable` after the last attempt, `SecretMissing`,
        `SecretMalformed` and `ConfigurationError`, also where the driver is not installed.
        """
        self._opened()

    def ping(self) -> bool:
        """Whether it answers now: a round trip, which raises nothing."""
        try:
            return bool(self.call(lambda client: client.ping()))
        except RunwayError as error:
            _log.warning("Redis does not answer: %s", error)
            return False

    def call(self, ask: Callable[[Redis], Answer]) -> Answer:
        """What the client answers; raises what `open` does, and `Permanent` for what the server refuses."""
        client = self._opened()
        try:
            with _mapping(self._whereabouts()):
                return ask(client)
        except (AuthenticationRefused, Unavailable):
            self.close()  # the next one looks up anew where it is, and as whom
            raise

    def destination(self) -> RedisConnection:
        """Where connections go now; raises what the lookups raise."""
        if not self.env or not self.service:
            raise ConfigurationError(
                expected="the stores' environment and a service",
                came="none of one of them",
                remedy="set RUNWAY_STORES_ENV and RUNWAY_REDIS_SERVICE",
            )
        lookups = StoreLookups(self.region)
        return load_redis(lookups.get_secret, lookups.get_parameter, env=parse_env(self.env), service=self.service)

    def _opened(self) -> Redis:
        with self._opening:
            if self._client is None:
                self._client = self._connected()
            return self._client  # type: ignore[no-any-return]

    def _connected(self) -> Redis:
        return answering(new_client(self.destination(), self.ca_file), self._ask, self.attempts)

    def _ask(self, client: Redis) -> None:
        with _mapping(self._whereabouts()):
            client.ping()

    def _whereabouts(self) -> str:
        return f"the Redis of {self.service} in {self.env}"


def driver() -> ModuleType:
    """redis-py; raises `ConfigurationError` where it is not installed."""
    try:
        import redis
    except ImportError:
        raise ConfigurationError(
            expected="the driver of Redis", came="no package redis", remedy="install the extra runway-pipelines[redis]"
        ) from None
    return redis


def new_client(goal: RedisConnection, ca_file: str | None) -> Redis:
    """A client that has not connected yet; certificates are verified, and so is the host's name in them."""
    redis = driver()
    tls = {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True} if goal.is_tls else {}
    if goal.is_tls and ca_file:
        tls["ssl_ca_certs"] = read_ca_file(ca_file, "RUNWAY_REDIS_CA_FILE")
    client: Redis = redis.Redis(
        host=goal.host,
        port=goal.port,
        username=goal.username,
        password=goal.password,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        socket_keepalive=True,
        health_check_interval=IDLE_CHECK_SECONDS,
        retry=_once_more(),
        decode_responses=True,
        **tls,
    )
    return client


def _once_more() -> Any:
    """Once more, on a new connection, for what broke may have stood idle; a refused login, which redis-py counts among
    the broken connections, is not tried again.
    """
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    refused = _refusals()

    class OnceMore(Retry):
        def call_with_retry(self, do: Any, fail: Any, is_retryable: Any = None, *args: Any, **options: Any) -> Any:
            def may_pass(error: Exception) -> bool:
                return not isinstance(error, refused) and (is_retryable is None or is_retryable(error))

            return super().call_with_retry(do, fail, may_pass, *args, **options)

    return OnceMore(NoBackoff(), 1)


def _refusals() -> tuple[type[Exception], ...]:
    """What redis-py raises where the server does not let us in."""
    exceptions = driver().exceptions
    return (
        exceptions.AuthenticationError,
        exceptions.AuthorizationError,
        exceptions.AuthenticationWrongNumberOfArgsError,
    )


@contextmanager
def _mapping(place: str) -> Iterator[None]:
    """What redis-py raises, made into ours."""
    redis = driver()
    try:
        yield
    except _refusals():
        raise AuthenticationRefused(
            expected=f"{place} to let us in", came="a refused login", remedy="correct the service's secret"
        ) from None
    except redis.exceptions.NoPermissionError:
        raise Permanent(
            expected=f"{place} to allow what is asked of it",
            came="a refusal (NOPERM)",
            remedy="give the ACL user the commands and keys that docs/data-contracts.md lists",
            code="NOPERM",
        ) from None
    except redis.exceptions.ConnectionError as error:
        raise _unreachable(place, error) from None
    except (redis.exceptions.TimeoutError, redis.exceptions.ReadOnlyError, redis.exceptions.OutOfMemoryError) as error:
        raise Unavailable(expected=f"{place} to answer", came=type(error).__name__, remedy="try again") from None
    except redis.exceptions.RedisError as error:
        raise Permanent(
            expected=f"{place} to answer",
            came=type(error).__name__,
            remedy="see that it is a Redis of version 6 or later",
        ) from None


def _unreachable(place: str, error: Exception) -> RunwayError:
    if "certificate" in str(error).lower():
        return Permanent(
            expected=f"{place} to prove over TLS that it is the one",
            came="a certificate that nothing here vouches for",
            remedy="set RUNWAY_REDIS_CA_FILE to the bundle that its certificate is made from",
        )
    return Unavailable(expected=f"{place} to answer", came="no connection", remedy="see whether the server is up")
