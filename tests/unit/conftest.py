"""Fixtures of the unit tests: a clean environment, and the AWS API by moto on loopback."""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dagster_aws.s3 import S3Resource
from dagster_aws.secretsmanager import SecretsManagerResource
from moto.server import ThreadedMotoServer

from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.settings import load_settings
from runway_pipelines.systems.aws.object_store import ObjectStore

REGION = "us-west-2"
CREDENTIALS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
_numbers = itertools.count()


SETTINGS_PREFIXES = ("RUNWAY_", "EDU_SNOWFLAKE_", "AWS_", "ENVLABEL", "DAGSTER_HOME", "LML_", "LIBRARY_")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No variable that the settings read, and settings that are read anew."""
    for name in list(os.environ):
        if name.upper().startswith(SETTINGS_PREFIXES):
            monkeypatch.delenv(name)
    load_settings.cache_clear()
    yield monkeypatch
    load_settings.cache_clear()


@pytest.fixture(scope="session")
def aws_endpoint() -> Iterator[str]:
    """The AWS API. Tests share it: use buckets and partners of your own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def new_store(aws_endpoint: str) -> Callable[..., ObjectStore]:
    """Makes stores, each with a client of its own (half a second), that try once (a retry would wait)."""

    def make(bucket: str | None, endpoint: str = aws_endpoint) -> ObjectStore:
        s3 = S3Resource(region_name=REGION, endpoint_url=endpoint, max_attempts=1, **CREDENTIALS)
        return ObjectStore(s3=s3, bucket=bucket)

    return make


@pytest.fixture(scope="session")
def s3_client(new_store: Callable[..., ObjectStore]) -> Any:
    """The client of all tests' `store`: whoever registers a hook with it takes it off again (`intercept`)."""
    return new_store(None).client


@pytest.fixture
def intercept(s3_client: Any) -> Iterator[Callable[[str, Callable[..., object]], None]]:
    """Registers a hook for one of botocore's events (``before-send.s3.PutObject``), for the time of the test."""
    registered = []

    def register(event: str, hook: Callable[..., object]) -> None:
        s3_client.meta.events.register(event, hook)
        registered.append((event, hook))

    yield register
    for event, hook in registered:
        s3_client.meta.events.unregister(event, hook)


@pytest.fixture
def store(new_store: Callable[..., ObjectStore], s3_client: Any) -> ObjectStore:
    """A store over an empty bucket."""
    store = new_store(f"runway-test-{next(_numbers)}")
    store._client = s3_client
    s3_client.create_bucket(Bucket=store.bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    return store


@pytest.fixture
def partner_id() -> str:
    """A partner of this test's own."""
    return f"partner-{next(_numbers)}"


@pytest.fixture
def secrets(aws_endpoint: str, clean_environment: pytest.MonkeyPatch) -> PartnerSecrets:
    """Partners' secrets of the environment stg, none there yet."""
    return PartnerSecrets(
        secrets_manager=SecretsManagerResource(
            region_name=REGION, endpoint_url=aws_endpoint, max_attempts=1, **CREDENTIALS
        ),
        envlabel="stg",
    )
