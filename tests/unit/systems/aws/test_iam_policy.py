"""A policy grants what the names need, and nothing else."""

import fnmatch
from dataclasses import replace

import pytest

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.systems.aws.iam_policy import Scope, policy_document

ACCOUNT = "123456789012"
SCOPE = Scope(
    account=ACCOUNT,
    region="us-west-2",
    partner_secrets=("prod-edu-connection-info-*",),
    secrets=("prod/redis/pipelines", "prod/mongodb-shared/chat-api-password"),
    parameters=(
        "/prod/postgres-rds/endpoint",
        "/prod/postgres-rds/port",
        "/shared/infra/prod/redis-endpoint",
        "/shared/infra/prod/mongodb-hosts",
    ),
    db_users=("runway_app_ro", "writer"),
    db_resource_ids=("db-ABC",),
    bucket="runway-prod",
    bucket_prefixes=("__rosters", "__roster_snapshots"),
    event_bus="operators",
)


def grants(scope: Scope, action: str, resource: str) -> bool:
    """Whether the policy allows it, as IAM matches."""
    return any(
        any(fnmatch.fnmatchcase(action, pattern) for pattern in statement["Action"])
        and any(fnmatch.fnmatchcase(resource, pattern) for pattern in statement["Resource"])
        for statement in policy_document(scope)["Statement"]
    )


def secret(name: str) -> str:
    return f"arn:aws:secretsmanager:us-west-2:{ACCOUNT}:secret:{name}-aBc123"


def parameter(path: str) -> str:
    return f"arn:aws:ssm:us-west-2:{ACCOUNT}:parameter{path}"


def db_user(user: str, instance: str = "db-ABC") -> str:
    return f"arn:aws:rds-db:us-west-2:{ACCOUNT}:dbuser:{instance}/{user}"


READ, DESCRIBE = "secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        (READ, secret("prod-edu-connection-info-acme")),
        (DESCRIBE, secret("prod-edu-connection-info-acme")),
        ("secretsmanager:ListSecrets", "*"),
        (READ, secret("prod/redis/pipelines")),
        (READ, secret("prod/mongodb-shared/chat-api-password")),
        ("ssm:GetParameter", parameter("/prod/postgres-rds/endpoint")),
        ("ssm:GetParameter", parameter("/prod/postgres-rds/port")),
        ("ssm:GetParameter", parameter("/shared/infra/prod/redis-endpoint")),
        ("ssm:GetParameter", parameter("/shared/infra/prod/mongodb-hosts")),
        ("rds-db:connect", db_user("runway_app_ro")),
        ("rds-db:connect", db_user("writer")),
        ("s3:ListBucket", "arn:aws:s3:::runway-prod"),
        ("s3:ListBucketMultipartUploads", "arn:aws:s3:::runway-prod"),
        ("s3:PutObject", "arn:aws:s3:::runway-prod/__rosters/acme/ashford/2026/x.jsonl"),
        ("s3:AbortMultipartUpload", "arn:aws:s3:::runway-prod/__roster_snapshots/acme/ashford/1.jsonl"),
        ("events:PutEvents", f"arn:aws:events:us-west-2:{ACCOUNT}:event-bus/operators"),
    ],
)
def test_a_needed_action_is_granted(action: str, resource: str) -> None:
    assert grants(SCOPE, action, resource)


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        (READ, secret("stg-edu-connection-info-acme")),
        ("secretsmanager:PutSecretValue", secret("prod-edu-connection-info-acme")),
        (DESCRIBE, secret("prod/redis/pipelines")),
        (READ, secret("prod/redis/pipelines-of-another")),
        (READ, secret("prod/redis/another")),
        (READ, secret("dev/postgres-shared/runway-app/ro")),
        ("ssm:GetParameter", parameter("/mirror/current/postgres-rds/endpoint")),
        ("ssm:GetParameter", parameter("/prod/postgres-rds/endpoint/more")),
        ("ssm:GetParametersByPath", parameter("/prod/postgres-rds/endpoint")),
        ("rds-db:connect", db_user("runway_app_owner")),
        ("rds-db:connect", db_user("runway_app_app")),
        ("rds-db:connect", db_user("runway_app_ro", "db-XYZ")),
        ("s3:GetObject", "arn:aws:s3:::runway-prod/other/file"),
        ("s3:GetObject", "arn:aws:s3:::runway-prod/__rosters_of_others/file"),
        ("s3:GetObject", "arn:aws:s3:::another/__rosters/acme/x"),
        ("s3:DeleteBucket", "arn:aws:s3:::runway-prod"),
        ("events:PutEvents", f"arn:aws:events:us-west-2:{ACCOUNT}:event-bus/default"),
        ("kms:Decrypt", "*"),
    ],
)
def test_any_other_action_is_not_granted(action: str, resource: str) -> None:
    assert not grants(SCOPE, action, resource)


def test_an_unused_name_has_no_statement_and_only_listing_is_granted_on_everything() -> None:
    assert policy_document(Scope(account=ACCOUNT, region="us-west-2")) == {"Version": "2012-10-17", "Statement": []}
    everything = [statement["Sid"] for statement in policy_document(SCOPE)["Statement"] if "*" in statement["Resource"]]
    assert everything == ["ListSecrets"]
    assert all("*" not in "".join(statement["Action"]) for statement in policy_document(SCOPE)["Statement"])


def test_a_reader_changes_no_object_and_lists_no_secrets_if_it_needs_one() -> None:
    key = f"arn:aws:kms:us-west-2:{ACCOUNT}:key/1"
    reader = replace(SCOPE, only_reads=True, lists_secrets=False, kms_keys=(key,))
    roster = "arn:aws:s3:::runway-prod/__roster_snapshots/acme/ashford/1.jsonl"
    for action, resource in (
        ("s3:GetObject", roster),
        ("s3:ListBucket", "arn:aws:s3:::runway-prod"),
        ("kms:Decrypt", key),
    ):
        assert grants(reader, action, resource)
    for action in ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"):
        assert not grants(reader, action, roster)
    assert not grants(reader, "s3:ListBucketMultipartUploads", "arn:aws:s3:::runway-prod")
    assert not grants(reader, "kms:GenerateDataKey", key)
    assert not grants(reader, "secretsmanager:ListSecrets", "*")
    assert grants(reader, READ, secret("prod-edu-connection-info-acme"))


def test_below_a_record_nothing_is_deleted() -> None:
    scope = replace(SCOPE, record_prefixes=("__roster_audit",))
    entry = "arn:aws:s3:::runway-prod/__roster_audit/acme/ashford/1.json"
    assert grants(scope, "s3:GetObject", entry)
    assert grants(scope, "s3:PutObject", entry)
    assert not grants(scope, "s3:DeleteObject", entry)


def test_keys_and_secrets_can_be_named_by_their_arns() -> None:
    key, ca = f"arn:aws:kms:us-west-2:{ACCOUNT}:key/1", secret("ca")
    scope = replace(SCOPE, kms_keys=(key,), secret_arns=(ca,))
    assert grants(scope, "kms:Decrypt", key)
    assert grants(scope, READ, ca)


def test_a_bus_of_another_account_is_named_by_its_arn() -> None:
    bus = "arn:aws:events:us-west-2:210987654321:event-bus/operators"
    assert grants(replace(SCOPE, event_bus=bus), "events:PutEvents", bus)


@pytest.mark.parametrize(
    "change",
    [
        {"account": "12345678901"},
        {"account": "*"},
        {"region": ""},
        {"event_bus": "a b"},
        {"bucket": 'b"'},
        {"parameters": ('/"',)},
        {"db_users": ("a b",)},
        {"secrets": ("a\\",)},
    ],
)
def test_a_name_that_cannot_stand_in_an_arn_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        policy_document(replace(SCOPE, **change))  # type: ignore[arg-type]
