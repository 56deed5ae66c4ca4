"""Redis, located by environment and service (credentials contract, section 3); the driver is in the extra ``redis``.

``redis`` is imported at first use: without a Redis, no driver is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from runway_pipelines.errors import AuthenticationRefused, ConfigurationError, Unavailable
from runway_pipelines.systems.aws.lookups import StoreLookups
from runway_pipelines.systems.certificates import read_ca_file
from runway_pipelines.systems.redis.errors import driver, login_refusals, redis_errors
from runway_pipelines.systems.redis.names import RedisConnection, load_redis
from runway_pipelines.systems.store_resource import ClientResource
from runway_pipelines.systems.vocabulary import parse_env

if TYPE_CHECKING:
    from redis import Redis

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 3.0
# A connection idle for longer is probed before use: a firewall may have forgotten it.
IDLE_CHECK_SECONDS = 30

Answer = TypeVar("Answer")


class RedisResource(ClientResource):
    """A client of the service's Redis. ``ca_file`` is a PEM bundle that replaces the system's."""

    env: str | None = None
    service: str | None = None
    ca_file: str | None = None

    def call(self, ask: Callable[[Redis], Answer]) -> Answer:
        """What ``ask`` gets from the client; raises what `open` does, and `Permanent` for what the server refuses."""
        client: Redis = self._opened()
        try:
            with self._errors():
                return ask(client)
        except (AuthenticationRefused, Unavailable):
            self.close()  # the next call looks up anew where the store is, and who may enter
            raise

    def destination(self) -> RedisConnection:
        """Where connections go now; raises what the lookups raise."""
        if not self.env or not self.service:
            raise ConfigurationError(
                expected="the stores' environment and a service",
                came="at least one unset",
                remedy="set RUNWAY_STORES_ENV and RUNWAY_REDIS_SERVICE",
            )
        return load_redis(StoreLookups(self.region), env=parse_env(self.env), service=self.service)

    def _new_client(self, destination: RedisConnection) -> Redis:
        """Certificates are verified, and the host's name in them."""
        tls: dict[str, Any] = {}
        if destination.is_tls:
            tls = {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
            if self.ca_file:
                tls["ssl_ca_certs"] = read_ca_file(self.ca_file, "RUNWAY_REDIS_CA_FILE")
        client: Redis = driver().Redis(
            host=destination.host,
            port=destination.port,
            username=destination.username,
            password=destination.password,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            socket_keepalive=True,
            health_check_interval=IDLE_CHECK_SECONDS,
            retry=_once_more(),
            decode_responses=True,
            **tls,
        )
        return client

    def _ping(self, client: Redis) -> None:
        client.ping()

    def _errors(self) -> AbstractContextManager[None]:
        return redis_errors(f"the Redis of {self.service} in {self.env}")


def _once_more() -> Any:
    """One retry on a new connection, because the broken one may have been idle.

    A refused login, which redis-py counts among broken connections, is not retried.
    """
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    refused = login_refusals()

    class OnceMore(Retry):
        def call_with_retry(self, do: Any, fail: Any, is_retryable: Any = None, *args: Any, **options: Any) -> Any:
            def may_pass(error: Exception) -> bool:
                return not isinstance(error, refused) and (is_retryable is None or is_retryable(error))

            return super().call_with_retry(do, fail, may_pass, *args, **options)

    return OnceMore(NoBackoff(), 1)
