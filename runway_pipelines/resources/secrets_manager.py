"""Partners' secrets in AWS Secrets Manager, read fresh each time (credentials contract, section 1)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import boto3
import dagster as dg
import orjson
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from dagster_aws.secretsmanager import SecretsManagerResource
from pydantic import PrivateAttr

from runway_pipelines.credentials.edu_connection import secret_name
from runway_pipelines.credentials.rotation import Current, Gone, Observation, Unreadable
from runway_pipelines.errors import ConfigurationError, CredentialsMalformed, CredentialsMissing, RunwayError
from runway_pipelines.partner_tenants.keys import checked_part
from runway_pipelines.resources.aws_errors import error_code, raise_mapped
from runway_pipelines.settings import load_settings

DEVELOPMENT_VERSION = "development"
LIST_PAGE = 100  # the most that ListSecrets gives
# A tick may take 60 s, a direct look 50 ms.
MOST_LOOKS = 100
CONNECT_SECONDS = 3
READ_SECONDS = 10


@dataclass(frozen=True)
class SecretVersion:
    """One version of a partner's secret; the version id is not secret, the text is."""

    name: str
    version_id: str
    text: str = field(repr=False)
    created_at: datetime | None = None


class PartnerSecrets(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The secrets that hold partners' EDU connection info; nothing is cached, a rotated key needs no restart."""

    secrets_manager: dg.ResourceDependency[SecretsManagerResource]
    envlabel: str | None = None
    _opened: Any = PrivateAttr(default=None)

    def read(self, partner_id: str, stage: str = "AWSCURRENT") -> SecretVersion | None:
        """The partner's secret at a stage, or None when there is no such secret.

        The stage is always asked for by name. In development, ``EDU_SNOWFLAKE_*`` stands in for a secret that does not
        exist. Raises `ConfigurationError` without ENVLABEL, `Permanent` when access is refused or the secret is
        pending deletion, `Unavailable` when the service cannot be reached.
        """
        name = self.name(partner_id)
        secret = self.read_named(name, stage)
        return _development_secret(name) if secret is None and stage == "AWSCURRENT" else secret

    def read_named(self, name: str, stage: str) -> SecretVersion | None:
        """The same of any secret, by its whole name, with nothing that stands in for it."""
        client = self._client()
        try:
            answer = client.get_secret_value(SecretId=name, VersionStage=stage)
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return None
            raise_mapped(f"read secret {name}", error)
        except BotoCoreError as error:
            raise_mapped(f"read secret {name}", error)
        if "SecretString" not in answer:
            raise CredentialsMalformed(
                expected=f"a text in secret {name}", came="a binary value", remedy=f"put the JSON into secret {name}"
            )
        return SecretVersion(name, answer["VersionId"], answer["SecretString"], answer.get("CreatedDate"))

    def require(self, partner_id: str) -> SecretVersion:
        """The current version; raises `CredentialsMissing` where there is no secret, and what `read` raises."""
        secret = self.read(partner_id)
        if secret is None:
            raise CredentialsMissing(
                expected=f"the secret {self.name(partner_id)}",
                came="no secret of that name",
                remedy="create it as docs/operations.md says, or switch the partner's cross-year matching off",
            )
        return secret

    def observe(self, partner_ids: Iterable[str]) -> dict[str, Observation]:
        """Which version of each partner's secret is current, by list calls alone (100 secrets a call, no values).

        Where a page cannot be read, whoever was not seen by then is `Unreadable`, nobody is `Gone`. Raises
        `ConfigurationError` without ENVLABEL.
        """
        prefix = secret_name(self._label(), "")
        listed: dict[str, Observation] = {}
        absent = self._absent()
        pages = (
            self._client()
            .get_paginator("list_secrets")
            .paginate(
                Filters=[{"Key": "name", "Values": [prefix]}],
                IncludePlannedDeletion=True,  # hidden by default, and then they look deleted
                PaginationConfig={"PageSize": LIST_PAGE},
            )
        )
        try:
            for page in pages:
                for entry in page["SecretList"]:
                    listed[entry.get("Name", "").removeprefix(prefix)] = _observation(entry)
        except (ClientError, BotoCoreError) as error:
            absent = Unreadable(_reason(f"list the secrets {prefix}*", error))
        return {partner_id: listed.get(partner_id, absent) for partner_id in partner_ids}

    def look(self, partner_id: str) -> Observation:
        """The same for one partner, asked directly: what a listing says may be older."""
        name = self.name(partner_id)
        try:
            return _observation(self._client().describe_secret(SecretId=name))
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error_code(error) == "ResourceNotFoundException":
                return self._absent()
            return Unreadable(_reason(f"describe secret {name}", error))

    def gone(self, partner_ids: Iterable[str]) -> dict[str, str]:
        """The partners that have no secret to be read, with the reason; each was asked for directly.

        Beyond `MOST_LOOKS` of them nobody is asked for, and is not gone: a run that fails says more than none.
        """
        absent = [partner_id for partner_id, seen in self.observe(partner_ids).items() if isinstance(seen, Gone)]
        return {
            partner_id: looked.reason
            for partner_id in absent[:MOST_LOOKS]
            if isinstance(looked := self.look(partner_id), Gone)
        }

    def _absent(self) -> Observation:
        """What a secret is that does not exist."""
        if load_settings().development_secret() is not None:
            return Current(DEVELOPMENT_VERSION)
        return Gone("there is no such secret")

    def name(self, partner_id: str) -> str:
        """The secret's name; raises `ConfigurationError` when ENVLABEL is not set."""
        return secret_name(self._label(), checked_part("partner_id", partner_id))

    def _label(self) -> str:
        if not self.envlabel:
            raise ConfigurationError(
                expected="the variable ENVLABEL (dev, stg or prod)",
                came="no value",
                remedy="set ENVLABEL: it keeps environments apart in one AWS account",
            )
        return self.envlabel

    def _client(self) -> Any:
        if self._opened is None:
            try:
                self._opened = new_client(self.secrets_manager)
            except BotoCoreError as error:
                raise_mapped("speak to Secrets Manager", error)
        return self._opened


def new_client(account: SecretsManagerResource) -> Any:
    """As the resource makes it, with timeouts, for which it has no field: boto3's outlast a tick of a sensor (60 s)."""
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": account.max_attempts},
    )
    return boto3.Session(profile_name=account.profile_name).client(
        "secretsmanager",
        region_name=account.region_name,
        endpoint_url=account.endpoint_url,
        aws_access_key_id=account.aws_access_key_id,
        aws_secret_access_key=account.aws_secret_access_key,
        config=config,
    )


def _observation(entry: Mapping[str, Any]) -> Observation:
    """An entry of a listing, or a description: the version that carries AWSCURRENT."""
    if entry.get("DeletedDate"):
        return Gone("it is pending deletion")
    stages = entry.get("SecretVersionsToStages") or entry.get("VersionIdsToStages") or {}
    if not stages:
        return Gone("it has no value yet")
    current = [version_id for version_id, names in stages.items() if "AWSCURRENT" in names]
    if len(current) == 1:
        return Current(current[0])
    return Unreadable(f"{len(current)} of its {len(stages)} versions carry AWSCURRENT")


def _reason(action: str, error: Exception) -> str:
    try:
        raise_mapped(action, error)
    except RunwayError as mapped:
        return str(mapped)


def _development_secret(missing_name: str) -> SecretVersion | None:
    members = load_settings().development_secret()
    if members is None:
        return None
    return SecretVersion(
        name=f"EDU_SNOWFLAKE_* (there is no {missing_name})",
        version_id=DEVELOPMENT_VERSION,
        text=orjson.dumps(members).decode(),
    )
