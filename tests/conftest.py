"""What all tests share: hypothesis' profiles (50 examples, 20 with `-m "not slow"`), and libraries that cost less."""

import functools
import os
import signal
import threading
from collections.abc import Iterator

import botocore.session
import httpx
import pytest
import sqlalchemy
from cryptography.hazmat.primitives import serialization
from dagster._core.storage.event_log import in_memory as events_in_memory
from dagster._core.storage.runs import in_memory as runs_in_memory
from hypothesis import HealthCheck, settings

from runway_pipelines.local.clean import remove_state

# A slow machine fails no property: there is no deadline, and generating may take its time.
_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("full", _patient, max_examples=50)
settings.register_profile("fast", _patient, max_examples=20)


def _engine(url: str, **_: object) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url, poolclass=sqlalchemy.QueuePool, connect_args={"check_same_thread": False})


# One set of AWS's service models for all sessions: each of a run's clients takes 0.02 CPU-seconds instead of 0.1.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)
# One set of trusted certificates for all of httpx's clients, for 0.05 CPU-seconds each; no test alters one.
httpx._transports.default.create_ssl_context = functools.cache(httpx._transports.default.create_ssl_context)  # type: ignore[attr-defined]
# A login reads its RSA key four times, and each time checks its primes for 0.03 CPU-seconds.
serialization.load_pem_private_key = functools.cache(serialization.load_pem_private_key)  # type: ignore[assignment]
serialization.load_der_private_key = functools.cache(serialization.load_der_private_key)  # type: ignore[assignment]
# Dagster's instances in memory open a connection for each statement, and note in a table which migration they are at,
# for which they read all of them: together a sixth of a run.
for storage in (events_in_memory, runs_in_memory):
    storage.create_engine = _engine  # type: ignore[attr-defined]
    storage.stamp_alembic_rev = lambda *_: None  # type: ignore[attr-defined]
# Snowflake's driver asks at each login which cloud it is in, with a thread for each answer.
os.environ["SNOWFLAKE_DISABLE_PLATFORM_DETECTION"] = "true"

# What a shell starts in the background ignores Ctrl-C, and so would the processes that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Before the test modules are imported: `@settings` takes its defaults from the profile of that moment."""
    settings.load_profile("fast" if config.option.markexpr == "not slow" else "full")


@pytest.fixture(scope="session", autouse=True)
def _no_data_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As root, Postgres' data are outside of pytest's folders, which only root may enter: remove what links there."""
    yield
    for data in list(tmp_path_factory.getbasetemp().glob("**/postgres")):
        if data.is_symlink():
            remove_state(data.parent)
