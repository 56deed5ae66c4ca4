"""Partners' secrets in AWS Secrets Manager, read fresh each time (credentials contract, section 1)."""

from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import orjson
from botocore.exceptions import BotoCoreError, ClientError
from dagster_aws.secretsmanager import SecretsManagerResource

from runway_pipelines.credentials.edu_connection import secret_name
from runway_pipelines.errors import ConfigurationError, CredentialsMalformed
from runway_pipelines.partner_tenants.keys import checked_part
from runway_pipelines.resources.aws_errors import error_code, raise_mapped
from runway_pipelines.settings import load_settings

DEVELOPMENT_VERSION = "development"


@dataclass(frozen=True)
class SecretVersion:
    """One version of a partner's secret; the version id is not secret, the text is."""

    name: str
    version_id: str
    text: str = field(repr=False)


class PartnerSecrets(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The secrets that hold partners' EDU connection info; nothing is cached, a rotated key needs no restart."""

    secrets_manager: dg.ResourceDependency[SecretsManagerResource]
    envlabel: str | None = None

    def read(self, partner_id: str, stage: str = "AWSCURRENT") -> SecretVersion | None:
        """The partner's secret at a stage, or None when there is no such secret.

        The stage is always asked for by name. In development, ``EDU_SNOWFLAKE_*`` stands in for a secret that does not
        exist. Raises `ConfigurationError` without ENVLABEL, `Permanent` when access is refused or the secret is
        pending deletion, `Unavailable` when the service cannot be reached.
        """
        name = self.name(partner_id)
        client: Any = self.secrets_manager.get_client()
        try:
            answer = client.get_secret_value(SecretId=name, VersionStage=stage)
        except ClientError as error:
            if error_code(error) == "ResourceNotFoundException":
                return _development_secret(name) if stage == "AWSCURRENT" else None
            raise_mapped(f"read secret {name}", error)
        except BotoCoreError as error:
            raise_mapped(f"read secret {name}", error)
        if "SecretString" not in answer:
            raise CredentialsMalformed(
                expected=f"a text in secret {name}", came="a binary value", remedy=f"put the JSON into secret {name}"
            )
        return SecretVersion(name=name, version_id=answer["VersionId"], text=answer["SecretString"])

    def name(self, partner_id: str) -> str:
        """The secret's name; raises `ConfigurationError` when ENVLABEL is not set."""
        if not self.envlabel:
            raise ConfigurationError(
                expected="the variable ENVLABEL (dev, stg or prod)",
                came="no value",
                remedy="set ENVLABEL: it keeps environments apart in one AWS account",
            )
        return secret_name(self.envlabel, checked_part("partner_id", partner_id))


def _development_secret(missing_name: str) -> SecretVersion | None:
    members = load_settings().development_secret()
    if members is None:
        return None
    return SecretVersion(
        name=f"EDU_SNOWFLAKE_* (there is no {missing_name})",
        version_id=DEVELOPMENT_VERSION,
        text=orjson.dumps(members).decode(),
    )
