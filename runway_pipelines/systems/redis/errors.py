"""redis-py's errors mapped to ours. Its texts name hosts and commands, so none is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from runway_pipelines.errors import AuthenticationRefused, Permanent, RunwayError, Unavailable
from runway_pipelines.systems.store_resource import optional_driver


def driver() -> ModuleType:
    """redis-py; raises `ConfigurationError` if it is not installed."""
    return optional_driver("redis", "redis")


def login_refusals() -> tuple[type[Exception], ...]:
    """What redis-py raises when the server refuses the user."""
    exceptions = driver().exceptions
    return (
        exceptions.AuthenticationError,
        exceptions.AuthorizationError,
        exceptions.AuthenticationWrongNumberOfArgsError,
    )


@contextmanager
def redis_errors(place: str) -> Iterator[None]:
    """Map what redis-py raises within the block; ``place`` is the server's name in messages."""
    exceptions = driver().exceptions
    try:
        yield
    except login_refusals():
        raise AuthenticationRefused(
            expected=f"{place} to accept the login", came="a refusal", remedy="correct the service's secret"
        ) from None
    except exceptions.NoPermissionError:
        raise Permanent(
            expected=f"{place} to allow the command",
            came="a refusal (NOPERM)",
            remedy="give the ACL user the commands and keys that docs/data-contracts.md lists",
            code="NOPERM",
        ) from None
    except exceptions.ConnectionError as error:
        raise _unreachable(place, error) from None
    except (exceptions.TimeoutError, exceptions.ReadOnlyError, exceptions.OutOfMemoryError) as error:
        raise Unavailable(expected=f"{place} to answer", came=type(error).__name__, remedy="try again") from None
    except exceptions.RedisError as error:
        raise Permanent(
            expected=f"{place} to answer", came=type(error).__name__, remedy="check that it is Redis 6 or later"
        ) from None


def _unreachable(place: str, error: Exception) -> RunwayError:
    if "certificate" in str(error).lower():
        return Permanent(
            expected=f"{place} to identify itself over TLS",
            came="a certificate that no trusted authority issued for it",
            remedy="set RUNWAY_REDIS_CA_FILE to the bundle of the authority that issued it",
        )
    return Unavailable(expected=f"{place} to answer", came="no connection", remedy="check that the server is up")
