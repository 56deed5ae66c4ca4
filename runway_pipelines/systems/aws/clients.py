"""How AWS clients are made: with their own session, and timeouts shorter than a sensor's tick (60 s)."""

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

    Each client gets a new session, because boto3's default one is not thread-safe. ``client_arguments``
    (``endpoint_url``, access keys) go to boto3 unchanged.
    """
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
    )
    session = boto3.Session(profile_name=profile)
    return session.client(service, region_name=region, config=config, **client_arguments)
