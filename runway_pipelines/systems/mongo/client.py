"""MongoDB, found by environment and project (credentials contract, section 3); the driver is in the extra ``mongo``.

The pipeline keeps nothing in it: it is for the services that share this vocabulary, and for the doctor. ``pymongo`` is
imported at first use, and none of its texts is passed on.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, PrivateAttr

from runway_pipelines.errors import AuthenticationRefused, ConfigurationError, Permanent, RunwayError, Unavailable
from runway_pipelines.systems.aws.lookups import StoreLookups
from runway_pipelines.systems.certificate_files import write_ca_file
from runway_pipelines.systems.mongo.names import MongoConnection, database_name, load_mongo, parse_env
from runway_pipelines.systems.opening import ATTEMPTS, answering
from runway_pipelines.systems.vocabulary import DEFAULT_REGION

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.database import Database

CONNECT_MS = 5_000
ANSWER_MS = 10_000
# MongoDB's codes AuthenticationFailed and Unauthorized: trying again gives the same.
REFUSALS = (18, 13)

_log = logging.getLogger(__name__)


class MongoResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A client of the project's MongoDB; found and connected by `open`, closed when the run ends."""

    env: str | None = None
    project: str | None = None
    region: str = DEFAULT_REGION
    attempts: int = Field(default=ATTEMPTS, ge=1)

    _client: Any = PrivateAttr(default=None)
    _opening: Lock = PrivateAttr(default_factory=Lock)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the connections."""
        self.close()

    @property
    def is_connected(self) -> bool:
        """Whether it was opened and not closed since: a flag; `ping` asks."""
        return self._client is not None

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
            self._ask(self._opened())
        except RunwayError as error:
            _log.warning("MongoDB does not answer: %s", error)
            return False
        return True

    def database(self) -> Database[dict[str, Any]]:
        """The project's database, connected; what is done with it raises the driver's own errors."""
        return self._opened()[database_name(self.project or "")]

    def destination(self) -> MongoConnection:
        """Where connections go now; raises what the lookups raise. A deprecated environment is warned of."""
        if not self.env or not self.project:
            raise ConfigurationError(
                expected="MongoDB's environment and a project",
                came="none of one of them",
                remedy="set RUNWAY_MONGO_PROJECT, and RUNWAY_MONGO_ENV or RUNWAY_STORES_ENV",
            )
        lookups = StoreLookups(self.region)
        goal = load_mongo(lookups.get_secret, lookups.get_parameter, env=parse_env(self.env), project=self.project)
        if goal.deprecation:
            _log.warning("%s", goal.deprecation)
        return goal

    def _opened(self) -> MongoClient[dict[str, Any]]:
        with self._opening:
            if self._client is None:
                self._client = self._connected(self.destination())
            return self._client  # type: ignore[no-any-return]

    def _connected(self, goal: MongoConnection) -> MongoClient[dict[str, Any]]:
        with _mapping(self._whereabouts()):
            client = new_client(goal)
        return answering(client, self._ask, self.attempts)

    def _ask(self, client: MongoClient[dict[str, Any]]) -> None:
        with _mapping(self._whereabouts()):
            client.admin.command("ping")

    def _whereabouts(self) -> str:
        return f"the MongoDB of {self.project} in {self.env}"


def driver() -> ModuleType:
    """pymongo; raises `ConfigurationError` where it is not installed."""
    try:
        import pymongo
        import pymongo.errors
    except ImportError:
        raise ConfigurationError(
            expected="the driver of MongoDB",
            came="no package pymongo",
            remedy="install the extra runway-pipelines[mongo]",
        ) from None
    return pymongo


def new_client(goal: MongoConnection) -> MongoClient[dict[str, Any]]:
    """A client that has not connected yet; certificates are verified with the CA that was looked up.

    The driver wants it in a file, which it reads while the client is made: so it is there no longer than that.
    """
    pymongo = driver()
    with tempfile.TemporaryDirectory(prefix="runway-ca-") as folder:  # for its owner alone
        path = Path(folder) / "ca.pem"
        write_ca_file(path, goal.ca)
        client: MongoClient[dict[str, Any]] = pymongo.MongoClient(
            host=[f"{host}:{port}" for host, port in goal.hosts],
            replicaSet=goal.replica_set,
            username=goal.username,
            password=goal.password,
            authSource=goal.database,
            tls=True,
            tlsCAFile=str(path),
            appname="runway_pipelines",
            connectTimeoutMS=CONNECT_MS,
            serverSelectionTimeoutMS=CONNECT_MS,
            socketTimeoutMS=ANSWER_MS,
            connect=False,
        )
    return client


@contextmanager
def _mapping(place: str) -> Iterator[None]:
    """What pymongo raises, made into ours."""
    errors = driver().errors
    try:
        yield
    except errors.OperationFailure as error:
        if error.code in REFUSALS:
            raise AuthenticationRefused(
                expected=f"{place} to let us in",
                came=f"a refusal (code {error.code})",
                remedy="correct the project's secret, or the user's roles",
                code=str(error.code),
            ) from None
        raise Permanent(
            expected=f"{place} to answer",
            came=f"a refusal (code {error.code})",
            remedy="look the code up in MongoDB's documentation",
            code=str(error.code),
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
            expected=f"{place} to prove over TLS that it is the one",
            came="a certificate that its CA does not vouch for",
            remedy="correct the CA's secret, or the host to the name in the certificate",
        )
    return Unavailable(
        expected=f"{place} to answer",
        came=f"no server ({type(error).__name__})",
        remedy="see whether the servers are up, and the replica set's name is theirs",
    )
