"""An IAM policy made from the names that a process uses: no action and no resource beyond them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runway_pipelines.errors import ConfigurationError

POLICY_VERSION = "2012-10-17"
# Secrets Manager appends a hyphen and six characters to a secret's name.
SECRET_SUFFIX = "-??????"  # noqa: S105
_ACCOUNT = re.compile(r"[0-9]{12}")
_ARN_PART = re.compile(r"[A-Za-z0-9/_.*?@+=,:-]+")

Statement = dict[str, Any]


@dataclass(frozen=True)
class Scope:
    """What a process uses in an account and region.

    ``partner_secrets`` (names, or patterns that end in ``*``) are described, with ``reads_secrets`` read, and with
    ``lists_secrets`` listed; ``secrets`` (names) and ``secret_arns`` are only read. ``parameters`` are paths,
    ``db_users`` IAM users of Postgres on the instances ``db_resource_ids`` (``db-ABC...``; by default any of the
    account's).
    With ``only_reads``, the bucket is left as it is, but for ``written_keys``; ``read_keys`` may be patterns. Below
    ``record_prefixes`` nothing is deleted. ``event_bus`` is a name, or another account's ARN.
    """

    account: str
    region: str
    partition: str = "aws"
    partner_secrets: Sequence[str] = ()
    lists_secrets: bool = True
    reads_secrets: bool = True
    secrets: Sequence[str] = ()
    secret_arns: Sequence[str] = ()
    parameters: Sequence[str] = ()
    db_users: Sequence[str] = ()
    db_resource_ids: Sequence[str] = ()
    bucket: str | None = None
    bucket_prefixes: Sequence[str] = ()
    record_prefixes: Sequence[str] = ()
    only_reads: bool = False
    read_keys: Sequence[str] = ()
    written_keys: Sequence[str] = ()
    event_bus: str | None = None
    kms_keys: Sequence[str] = ()

    @property
    def writes(self) -> bool:
        """Whether the process writes anything to the bucket."""
        return not self.only_reads or bool(self.written_keys)


def policy_document(scope: Scope) -> dict[str, Any]:
    """The policy; raises `ConfigurationError` for an account, a region or a name that cannot stand in an ARN."""
    if not _ACCOUNT.fullmatch(scope.account):
        raise ConfigurationError(
            expected="an AWS account id of 12 digits", came="something else", remedy="pass --account 123456789012"
        )
    secrets = [*(_secret_arn(scope, name) for name in scope.secrets), *scope.secret_arns]
    parameters = [_arn(scope, "ssm", f"parameter{path}") for path in scope.parameters]
    instances = scope.db_resource_ids or ("*",)
    db_users = [_arn(scope, "rds-db", f"dbuser:{one}/{user}") for one in instances for user in scope.db_users]
    statements = [
        *_partner_secrets(scope),
        *_allowed("OtherSecrets", ["secretsmanager:GetSecretValue"], secrets),
        *_allowed("StoreParameters", ["ssm:GetParameter"], parameters),
        *_allowed("ConnectToPostgres", ["rds-db:connect"], db_users),
        *_bucket(scope),
        *_events(scope),
        *_allowed("Keys", ["kms:Decrypt", *(["kms:GenerateDataKey"] if scope.writes else [])], scope.kms_keys),
    ]
    return {"Version": POLICY_VERSION, "Statement": statements}


def _partner_secrets(scope: Scope) -> list[Statement]:
    arns = [_secret_arn(scope, name) for name in scope.partner_secrets]
    return [
        *_allowed(
            "PartnerSecrets",
            ["secretsmanager:DescribeSecret", *(["secretsmanager:GetSecretValue"] if scope.reads_secrets else [])],
            arns,
        ),
        # AWS grants listing on everything or on nothing; a list holds names and version ids, no values.
        *_allowed("ListSecrets", ["secretsmanager:ListSecrets"], ["*"] if arns and scope.lists_secrets else []),
    ]


def _bucket(scope: Scope) -> list[Statement]:
    if not scope.bucket:
        return []
    bucket = f"arn:{scope.partition}:s3:::{_checked(scope.bucket)}"
    whole, objects = ["s3:ListBucket"], ["s3:GetObject"]
    if not scope.only_reads:
        whole += ["s3:ListBucketMultipartUploads"]
        objects = ["s3:AbortMultipartUpload", "s3:DeleteObject", *objects, "s3:PutObject"]
    return [
        # No condition on the prefix: with one, S3 answers 403 instead of 404 for a key that does not exist.
        *_allowed("Bucket", whole, [bucket]),
        *_allowed("Objects", objects, _below(bucket, scope.bucket_prefixes)),
        *_allowed("Record", ["s3:GetObject", "s3:PutObject"], _below(bucket, scope.record_prefixes)),
        *_allowed("SingleObjects", ["s3:GetObject"], [f"{bucket}/{_checked(key)}" for key in scope.read_keys]),
        *_allowed("WrittenObjects", ["s3:PutObject"], [f"{bucket}/{_checked(key)}" for key in scope.written_keys]),
    ]


def _below(bucket: str, prefixes: Sequence[str]) -> list[str]:
    return [f"{bucket}/{_checked(prefix)}/*" for prefix in prefixes]


def _events(scope: Scope) -> list[Statement]:
    if not scope.event_bus:
        return []
    bus = scope.event_bus
    arn = _checked(bus) if bus.startswith("arn:") else _arn(scope, "events", f"event-bus/{bus}")
    return _allowed("OperatorEvents", ["events:PutEvents"], [arn])


def _secret_arn(scope: Scope, name: str) -> str:
    # A pattern that ends in * covers the suffix.
    return _arn(scope, "secretsmanager", f"secret:{name}{'' if name.endswith('*') else SECRET_SUFFIX}")


def _arn(scope: Scope, service: str, resource: str) -> str:
    return f"arn:{scope.partition}:{service}:{_checked(scope.region)}:{scope.account}:{_checked(resource)}"


def _checked(part: str) -> str:
    if not _ARN_PART.fullmatch(part):
        raise ConfigurationError(
            expected="names that can stand in an ARN", came="another character", remedy="correct the settings' names"
        )
    return part


def _allowed(sid: str, actions: list[str], resources: Sequence[str]) -> list[Statement]:
    """The statement, or none if it would grant nothing (IAM refuses a statement without resources)."""
    statement = {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": sorted(set(resources))}
    return [statement] if resources else []
