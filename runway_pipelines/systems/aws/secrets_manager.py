"""AWS Secrets Manager, as dagster-aws configures it: reading a secret's version, and which version is current."""

from collections.abc import Mapping
from typing import Any

from dagster_aws.secretsmanager import SecretsManagerResource

from runway_pipelines.errors import RunwayError, SecretMalformed
from runway_pipelines.systems.aws.clients import new_client
from runway_pipelines.systems.aws.errors import aws_errors
from runway_pipelines.systems.aws.secret_versions import (
    CURRENT_STAGE,
    Current,
    Gone,
    Observation,
    SecretVersion,
    Unreadable,
)

LIST_PAGE = 100  # ListSecrets' maximum
_NO_SUCH_SECRET = ("ResourceNotFoundException",)


def client_of(resource: SecretsManagerResource) -> Any:
    """The resource's client with our timeouts: dagster-aws cannot set them, and boto3's outlast a sensor's tick."""
    with aws_errors("speak to Secrets Manager"):
        return new_client(
            "secretsmanager",
            region=resource.region_name,
            attempts=resource.max_attempts,
            profile=resource.profile_name,
            endpoint_url=resource.endpoint_url,
            aws_access_key_id=resource.aws_access_key_id,
            aws_secret_access_key=resource.aws_secret_access_key,
        )


def read_secret(client: Any, name: str, stage: str = CURRENT_STAGE) -> SecretVersion | None:
    """The secret's version at this stage, or None if there is none.

    Raises `SecretMalformed` for a binary value, `Permanent` if access is refused or the secret is pending deletion, and
    `Unavailable` if the service cannot be reached.
    """
    with aws_errors(f"read secret {name}", absent=_NO_SUCH_SECRET):
        answer = client.get_secret_value(SecretId=name, VersionStage=stage)
        if "SecretString" not in answer:
            raise SecretMalformed(
                expected=f"a text in secret {name}", came="a binary value", remedy=f"put the text into secret {name}"
            )
        return SecretVersion(name, answer["VersionId"], answer["SecretString"], answer.get("CreatedDate"))
    return None


def list_current(client: Any, prefix: str) -> tuple[dict[str, Observation], Unreadable | None]:
    """The current version of every secret whose name begins with ``prefix``, by name.

    It takes one list call per 100 secrets, and reads no values. If a page cannot be read, the second member says why,
    and the first holds what was seen before.
    """
    listed: dict[str, Observation] = {}
    try:
        with aws_errors(f"list the secrets {prefix}*"):
            for page in client.get_paginator("list_secrets").paginate(
                Filters=[{"Key": "name", "Values": [prefix]}],
                IncludePlannedDeletion=True,  # hidden by default, which looks like deleted
                PaginationConfig={"PageSize": LIST_PAGE},
            ):
                listed |= {entry.get("Name", ""): _observation(entry) for entry in page["SecretList"]}
    except RunwayError as error:
        return listed, Unreadable(str(error))
    return listed, None


def look_at(client: Any, name: str) -> Observation | None:
    """The secret's current version, asked directly because a listing may lag; None if there is no secret."""
    try:
        with aws_errors(f"describe secret {name}", absent=_NO_SUCH_SECRET):
            return _observation(client.describe_secret(SecretId=name))
    except RunwayError as error:
        return Unreadable(str(error))
    return None


def _observation(entry: Mapping[str, Any]) -> Observation:
    """What an entry of a listing, or a description, says about the current version."""
    if entry.get("DeletedDate"):
        return Gone("it is pending deletion")
    stages = entry.get("SecretVersionsToStages") or entry.get("VersionIdsToStages") or {}
    if not stages:
        return Gone("it has no value yet")
    current = [version for version, names in stages.items() if CURRENT_STAGE in names]
    if len(current) == 1:
        return Current(current[0])
    return Unreadable(f"{len(current)} of its {len(stages)} versions carry {CURRENT_STAGE}")
