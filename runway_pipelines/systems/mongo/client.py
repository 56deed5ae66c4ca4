"""MongoDB, located by environment and project (credentials contract, section 3); the driver is in the extra ``mongo``.

``pymongo`` is imported at first use: without a MongoDB, no driver is needed.
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.systems.aws.lookups import StoreLookups
from runway_pipelines.systems.certificates import write_ca_file
from runway_pipelines.systems.mongo.errors import driver, mongo_errors
from runway_pipelines.systems.mongo.names import MongoConnection, load_mongo, parse_mongo_env, project_database
from runway_pipelines.systems.store_resource import ClientResource

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.database import Database

CONNECT_MS = 5_000
ANSWER_MS = 10_000

_log = logging.getLogger(__name__)


class MongoResource(ClientResource):
    """A client of the project's MongoDB."""

    env: str | None = None
    project: str | None = None

    def database(self) -> Database[dict[str, Any]]:
        """The project's database, connected; using it raises the driver's own errors."""
        database: Database[dict[str, Any]] = self._opened()[project_database(self.project or "")]
        return database

    def destination(self) -> MongoConnection:
        """Where connections go now; raises what the lookups raise. Logs a warning for a deprecated environment."""
        if not self.env or not self.project:
            raise ConfigurationError(
                expected="MongoDB's environment and a project",
                came="at least one unset",
                remedy="set RUNWAY_MONGO_PROJECT, and RUNWAY_MONGO_ENV or RUNWAY_STORES_ENV",
            )
        destination = load_mongo(StoreLookups(self.region), env=parse_mongo_env(self.env), project=self.project)
        if destination.deprecation:
            _log.warning("%s", destination.deprecation)
        return destination

    def _new_client(self, destination: MongoConnection) -> MongoClient[dict[str, Any]]:
        """The driver reads the CA from a file while the client is made; the file exists only for that long."""
        pymongo = driver()
        with tempfile.TemporaryDirectory(prefix="runway-ca-") as folder:  # readable by its owner alone
            path = Path(folder) / "ca.pem"
            write_ca_file(path, destination.ca)
            client: MongoClient[dict[str, Any]] = pymongo.MongoClient(
                host=[f"{host}:{port}" for host, port in destination.hosts],
                replicaSet=destination.replica_set,
                username=destination.username,
                password=destination.password,
                authSource=destination.database,
                tls=True,
                tlsCAFile=str(path),
                appname="runway_pipelines",
                connectTimeoutMS=CONNECT_MS,
                serverSelectionTimeoutMS=CONNECT_MS,
                socketTimeoutMS=ANSWER_MS,
                connect=False,
            )
        return client

    def _ping(self, client: MongoClient[dict[str, Any]]) -> None:
        client.admin.command("ping")

    def _errors(self) -> AbstractContextManager[None]:
        return mongo_errors(f"the MongoDB of {self.project} in {self.env}")
