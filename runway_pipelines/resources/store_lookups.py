"""Secrets and parameters by which data stores are found: two calls of AWS, read anew each time."""

from threading import Lock
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from runway_pipelines.data_stores.lookup import malformed
from runway_pipelines.resources.aws_errors import error_code, raise_mapped

CONNECT_SECONDS = 3
READ_SECONDS = 10
ATTEMPTS = 3


class StoreLookups:
    """What the loaders of `data_stores` ask; clients are made at first use. Its methods may be called from any thread.

    They raise `Permanent`, `Unavailable` and `ConfigurationError` as `aws_errors` maps them.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._clients: dict[str, Any] = {}
        self._making = Lock()

    def get_secret(self, name: str) -> str | None:
        """The text of the secret's current version, or None when there is no such secret."""
        try:
            answer = self._client("secretsmanager").get_secret_value(SecretId=name, VersionStage="AWSCURRENT")
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return None
            raise_mapped(f"read secret {name}", error)
        except BotoCoreError as error:
            raise_mapped(f"read secret {name}", error)
        if "SecretString" not in answer:
            raise malformed("a text", f"secret {name}", "a binary value")
        return str(answer["SecretString"])

    def get_parameter(self, path: str) -> str | None:
        """The parameter's text, or None when there is no such parameter."""
        try:
            answer = self._client("ssm").get_parameter(Name=path, WithDecryption=True)
        except ClientError as error:
            if error_code(error) == "ParameterNotFound":
                return None
            raise_mapped(f"read parameter {path}", error)
        except BotoCoreError as error:
            raise_mapped(f"read parameter {path}", error)
        return str(answer["Parameter"]["Value"])

    def database_token(self, host: str, port: int, username: str) -> str:
        """A token that RDS takes for this user's password for 15 minutes; signed here, without a call."""
        try:
            token = self._client("rds").generate_db_auth_token(
                DBHostname=host, Port=port, DBUsername=username, Region=self._region
            )
        except BotoCoreError as error:
            raise_mapped(f"sign a database token for {username}", error)
        return str(token)

    def _client(self, service: str) -> Any:
        with self._making:
            if service not in self._clients:
                config = Config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=READ_SECONDS,
                    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                )
                # A session of its own: boto3's default one may not be used from several threads.
                session = boto3.Session(region_name=self._region)
                self._clients[service] = session.client(service, config=config)
            return self._clients[service]
