"""pymongo's errors mapped to ours, by code. None of its texts is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from runway_pipelines.errors import AuthenticationRefused, Permanent, RunwayError, Unavailable
from runway_pipelines.systems.store_resource import optional_driver

# AuthenticationFailed and Unauthorized: another attempt fails the same way.
LOGIN_REFUSALS = (18, 13)


def driver() -> ModuleType:
    """pymongo; raises `ConfigurationError` if it is not installed."""
    return optional_driver("pymongo", "mongo")


@contextmanager
def mongo_errors(place: str) -> Iterator[None]:
    """Map what pymongo raises within the block; ``place`` is the server's name in messages."""
    errors = driver().errors
    try:
        yield
    except errors.OperationFailure as error:
        refusal, code = f"a refusal (code {error.code})", str(error.code)
        if error.code in LOGIN_REFUSALS:
            raise AuthenticationRefused(
                expected=f"{place} to accept the login",
                came=refusal,
                remedy="correct the project's secret, or the user's roles",
                code=code,
            ) from None
        raise Permanent(
            expected=f"{place} to answer",
            came=refusal,
            remedy="look the code up in MongoDB's documentation",
            code=code,
        ) from None
    except errors.ConnectionFailure as error:
        raise _unreachable(place, error) from None
    except (errors.PyMongoError, OSError) as error:
        raise Permanent(
            expected=f"{place} to answer",
            came=type(error).__name__,
            remedy="compare the parameters that docs/data-contracts.md lists with the server",
        ) from None


def _unreachable(place: str, error: Exception) -> RunwayError:
    if "certificate verify failed" in str(error):
        return Permanent(
            expected=f"{place} to identify itself over TLS",
            came="a certificate that its CA did not issue",
            remedy="correct the CA's secret, or set the host to the name in the certificate",
        )
    return Unavailable(
        expected=f"{place} to answer",
        came=f"no server ({type(error).__name__})",
        remedy="check that the servers are up, and that the replica set's name is theirs",
    )
