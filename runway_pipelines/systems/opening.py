"""Opening a store's client: tried until it answers, or until it is known why it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from runway_pipelines.errors import Unavailable

ATTEMPTS = 3
FIRST_WAIT_SECONDS = 1.0


class Closable(Protocol):
    """A client that has connections to close."""

    def close(self) -> object:
        """Close them."""


Client = TypeVar("Client", bound=Closable)


def answering(client: Client, ping: Callable[[Client], object], attempts: int) -> Client:
    """The client, once ``ping`` got an answer from it; closed where it gets none.

    Only `Unavailable` is tried again: what else ``ping`` raises is the same the next time.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(Unavailable),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=FIRST_WAIT_SECONDS, min=FIRST_WAIT_SECONDS),
        reraise=True,
    )
    try:
        retrying(ping, client)
    except BaseException:
        client.close()
        raise
    return client
