"""What a process may do in AWS, made from the names that it uses: no action and no resource that it does not need."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.systems.mongo import names as mongo
from runway_pipelines.systems.mongo.names import MongoEnv
from runway_pipelines.systems.postgres import names as postgres
from runway_pipelines.systems.redis import names as redis
from runway_pipelines.systems.vocabulary import DEFAULT_REGION, Env, Role

POLICY_VERSION = "2012-10-17"
# Secrets Manager puts a hyphen and six characters behind a secret's name.
SECRET_SUFFIX = "-??????"  # noqa: S105
_ACCOUNT = re.compile(r"[0-9]{12}")
_ARN_PART = re.compile(r"[A-Za-z0-9/_.*?@+=,:-]+")

Statement = dict[str, Any]


@dataclass(frozen=True)
class PostgresUser:
    """A database user that is connected as; ``username`` overrides the convention's."""

    service: str
    role: Role
    db_id: str | None = None
    username: str | None = None


@dataclass(frozen=True)
class Scope:
    """What a process uses.

    ``bucket_prefixes``, ``partner_secrets`` (patterns) and ``named_secrets`` are the pipeline's own.
    ``db_resource_ids`` are RDS's ids of the instances (``db-ABC...``); without one, any instance of the account.
    ``more_secrets`` are ARNs that no name leads to, such as that of MongoDB's CA. ``lists_secrets``: whether it sees
    all partners' secrets at once; ``only_reads``: whether it leaves the bucket as it is.
    """

    account: str
    region: str = DEFAULT_REGION
    partition: str = "aws"
    partner_secrets: tuple[str, ...] = ()
    lists_secrets: bool = True
    named_secrets: tuple[str, ...] = ()
    bucket: str | None = None
    bucket_prefixes: tuple[str, ...] = ()
    only_reads: bool = False
    event_bus: str | None = None
    env: Env | None = None
    postgres_users: tuple[PostgresUser, ...] = ()
    more_db_users: tuple[str, ...] = ()
    db_resource_ids: tuple[str, ...] = ()
    redis_service: str | None = None
    mongo_env: MongoEnv | None = None
    mongo_project: str | None = None
    more_secrets: tuple[str, ...] = ()
    kms_keys: tuple[str, ...] = field(default=())


def policy_document(scope: Scope) -> dict[str, Any]:
    """The policy; raises `ConfigurationError` for an account, a region or a name that cannot stand in an ARN."""
    if not _ACCOUNT.fullmatch(scope.account):
        raise ConfigurationError(
            expected="an AWS account id of 12 digits", came="something else", remedy="say --account 123456789012"
        )
    statements = [
        *_partner_secrets(scope),
        *_other_secrets(scope),
        *_parameters(scope),
        *_databases(scope),
        *_bucket(scope),
        *_events(scope),
        *_keys(scope),
    ]
    return {"Version": POLICY_VERSION, "Statement": statements}


def _partner_secrets(scope: Scope) -> list[Statement]:
    if not scope.partner_secrets:
        return []
    arns = [_secret_arn(scope, name) for name in scope.partner_secrets]
    return [
        _allow("PartnerSecrets", ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"], arns),
        # AWS grants listing on everything or on nothing; a list holds names and version ids, no values.
        *_allowed("ListSecrets", ["secretsmanager:ListSecrets"], ["*"] if scope.lists_secrets else []),
    ]


def _other_secrets(scope: Scope) -> list[Statement]:
    names = list(scope.named_secrets)
    if scope.env is Env.DEV:
        names += [postgres.secret_name(user.service, user.role, user.db_id) for user in scope.postgres_users]
    if scope.env is not None and scope.redis_service:
        names.append(redis.secret_name(scope.env, scope.redis_service))
    if scope.mongo_env is not None and scope.mongo_project:
        names.append(mongo.secret_name(scope.mongo_env, scope.mongo_project))
    arns = [*(_secret_arn(scope, name) for name in names), *scope.more_secrets]
    return _allowed("OtherSecrets", ["secretsmanager:GetSecretValue"], arns)


def _parameters(scope: Scope) -> list[Statement]:
    paths: list[str] = []
    if scope.env in postgres.RDS_PARAMETERS and scope.postgres_users:
        paths += [postgres.endpoint_path(scope.env), postgres.port_path(scope.env)]
    if scope.env is not None and scope.redis_service:
        paths.append(redis.endpoint_path(scope.env))
    if scope.mongo_env is not None and scope.mongo_project:
        paths += mongo.parameter_paths(scope.mongo_env)
    return _allowed("StoreParameters", ["ssm:GetParameter"], [_arn(scope, "ssm", f"parameter{path}") for path in paths])


def _databases(scope: Scope) -> list[Statement]:
    users = list(scope.more_db_users)
    if scope.env in postgres.RDS_PARAMETERS:
        users += [user.username or postgres.user_name(user.service, user.role) for user in scope.postgres_users]
    instances = scope.db_resource_ids or ("*",)
    arns = [_arn(scope, "rds-db", f"dbuser:{instance}/{user}") for instance in instances for user in users]
    return _allowed("ConnectToPostgres", ["rds-db:connect"], arns)


def _bucket(scope: Scope) -> list[Statement]:
    if not scope.bucket:
        return []
    bucket = f"arn:{scope.partition}:s3:::{_checked(scope.bucket)}"
    whole, objects = ["s3:ListBucket"], ["s3:GetObject"]
    if not scope.only_reads:
        whole += ["s3:ListBucketMultipartUploads"]
        objects = ["s3:AbortMultipartUpload", "s3:DeleteObject", *objects, "s3:PutObject"]
    return [
        # Without a condition on the prefix: with one, S3 answers 403 instead of 404 for a key that is not there.
        _allow("Bucket", whole, [bucket]),
        _allow("Objects", objects, [f"{bucket}/{_checked(prefix)}/*" for prefix in scope.bucket_prefixes]),
    ]


def _events(scope: Scope) -> list[Statement]:
    if not scope.event_bus:
        return []
    bus = scope.event_bus  # a name, or the ARN of another account's
    arn = _checked(bus) if bus.startswith("arn:") else _arn(scope, "events", f"event-bus/{bus}")
    return [_allow("OperatorEvents", ["events:PutEvents"], [arn])]


def _keys(scope: Scope) -> list[Statement]:
    actions = ["kms:Decrypt"] if scope.only_reads else ["kms:Decrypt", "kms:GenerateDataKey"]
    return _allowed("Keys", actions, list(scope.kms_keys))


def _secret_arn(scope: Scope, name: str) -> str:
    # A pattern that ends in a star covers the suffix.
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
    """The statement, or none where it would grant nothing (IAM refuses one without resources)."""
    return [_allow(sid, actions, resources)] if resources else []


def _allow(sid: str, actions: list[str], resources: Sequence[str]) -> Statement:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": sorted(set(resources))}
