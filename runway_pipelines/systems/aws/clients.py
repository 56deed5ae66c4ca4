"""How every AWS client is made: with timeouts that a sensor's tick (60 s) survives, and a session of its own."""

from typing import Any

import boto3
from botocore.config import Config

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
ATTEMPTS = 3


def new_client(
    service: str,
    *,
    region: str | None,
    read_seconds: float = READ_SECONDS,
    attempts: int = ATTEMPTS,
    profile: str | None = None,
    **client_arguments: Any,
) -> Any:
    """A client of this service, safe to share between threads.

    The session is new each time, because boto3's default session is not safe to use from several threads.
    ``client_arguments`` go to boto3 unchanged (``endpoint_url``, access keys).
    """
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
    )
    session = boto3.Session(profile_name=profile)
    return session.client(service, region_name=region, config=config, **client_arguments)
