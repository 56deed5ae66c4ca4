"""The secrets and parameters that locate a data store, read afresh each time."""

from threading import Lock
from typing import Any

from runway_pipelines.systems.aws.clients import new_client
from runway_pipelines.systems.aws.errors import aws_errors
from runway_pipelines.systems.aws.secrets_manager import read_secret


class StoreLookups:
    """The `Lookups` of an account and region, from any thread. Clients are made at first use.

    Every method raises `Permanent`, `Unavailable` and `ConfigurationError`, as `aws_errors` maps them.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._clients: dict[str, Any] = {}
        self._making = Lock()

    def get_secret(self, name: str) -> str | None:
        """The text of the secret's current version, or None if there is no such secret."""
        secret = read_secret(self._client("secretsmanager"), name)
        return None if secret is None else secret.text

    def get_parameter(self, path: str) -> str | None:
        """The parameter's text, or None if there is no such parameter."""
        with aws_errors(f"read parameter {path}", absent=("ParameterNotFound",)):
            answer = self._client("ssm").get_parameter(Name=path, WithDecryption=True)
            return str(answer["Parameter"]["Value"])
        return None

    def database_token(self, host: str, port: int, username: str) -> str:
        """An RDS IAM password for the next 15 minutes, signed here without a call."""
        with aws_errors(f"sign a database token for {username}"):
            return str(
                self._client("rds").generate_db_auth_token(
                    DBHostname=host, Port=port, DBUsername=username, Region=self._region
                )
            )

    def _client(self, service: str) -> Any:
        with self._making:
            if service not in self._clients:
                self._clients[service] = new_client(service, region=self._region)
            return self._clients[service]
