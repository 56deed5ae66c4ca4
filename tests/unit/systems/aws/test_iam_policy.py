"""The policy grants what the names say, and nothing beside it."""

import fnmatch
from dataclasses import replace

import pytest

from runway_pipelines.cli.iam_policy import PolicyOptions, Process, policy
from runway_pipelines.errors import ConfigurationError
from runway_pipelines.settings import Settings
from runway_pipelines.systems.aws.iam_policy import PostgresUser, Scope, policy_document
from runway_pipelines.systems.mongo.names import MongoEnv
from runway_pipelines.systems.vocabulary import Env, Role

ACCOUNT = "123456789012"
SCOPE = Scope(
    account=ACCOUNT,
    partner_secrets=("prod-edu-connection-info-*",),
    bucket="runway-prod",
    bucket_prefixes=("__rosters", "__roster_snapshots"),
    event_bus="operators",
    env=Env.PROD,
    postgres_users=(PostgresUser("runway-app", Role.RO), PostgresUser("catalogue", Role.APP, username="writer")),
    db_resource_ids=("db-ABC",),
    redis_service="pipelines",
    mongo_env=MongoEnv.PROD,
    mongo_project="chat-api",
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
def test_what_is_needed_is_granted(action: str, resource: str) -> None:
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
def test_what_is_not_needed_is_not(action: str, resource: str) -> None:
    assert not grants(SCOPE, action, resource)


def test_in_dev_it_is_the_secret_that_is_granted_and_no_instance() -> None:
    dev = replace(SCOPE, env=Env.DEV)
    assert grants(dev, READ, secret("dev/postgres-shared/runway-app/ro"))
    assert not grants(dev, "rds-db:connect", db_user("runway_app_ro"))
    assert not grants(dev, "ssm:GetParameter", parameter("/prod/postgres-rds/endpoint"))


def test_what_is_not_used_has_no_statement_and_nothing_is_granted_on_everything_but_listing() -> None:
    assert policy_document(Scope(account=ACCOUNT)) == {"Version": "2012-10-17", "Statement": []}
    everything = [statement["Sid"] for statement in policy_document(SCOPE)["Statement"] if "*" in statement["Resource"]]
    assert everything == ["ListSecrets"]
    assert all("*" not in "".join(statement["Action"]) for statement in policy_document(SCOPE)["Statement"])


def test_who_only_reads_changes_no_object_and_who_looks_at_one_secret_lists_none() -> None:
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


STREAM = {
    "ENVLABEL": "prod",
    "RUNWAY_BUCKET": "runway-prod",
    "RUNWAY_EVENT_BUS": "operators",
    "RUNWAY_STORES_ENV": "prod",
    "RUNWAY_APP_DB_SERVICE": "runway-app",
    "RUNWAY_CATALOGUE_DB_SERVICE": "catalogue",
    "RUNWAY_REDIS_SERVICE": "pipelines",
    "RUNWAY_STREAM_TOKEN_SECRET": "prod/stream-key",
}


def of_process(process: Process) -> dict[str, list[str]]:
    """What is granted to a process where everything is set: resources by statement."""
    document = policy(Settings(), PolicyOptions(ACCOUNT, process))
    return {statement["Sid"]: statement["Resource"] for statement in document["Statement"]}


def test_the_stream_gets_the_key_of_its_tokens_and_nothing_that_only_runs_use(
    clean_environment: pytest.MonkeyPatch,
) -> None:
    for name, value in STREAM.items():
        clean_environment.setenv(name, value)
    stream = of_process(Process.STREAM)
    key = [secret("prod/stream-key").replace("aBc123", "??????")]
    assert stream["OtherSecrets"] == key
    assert stream["ConnectToPostgres"] == [db_user("runway_app_ro", "*")]
    assert stream["Objects"] == ["arn:aws:s3:::runway-prod/__roster_snapshots/*"]
    assert not {"ListSecrets", "OperatorEvents"} & stream.keys()
    pipeline = of_process(Process.PIPELINE)
    assert key[0] not in pipeline["OtherSecrets"]
    assert set(of_process(Process.ALL)["OtherSecrets"]) == {*pipeline["OtherSecrets"], *key}


def test_keys_and_secrets_that_no_name_leads_to_are_named_by_the_caller() -> None:
    key, ca = f"arn:aws:kms:us-west-2:{ACCOUNT}:key/1", secret("ca")
    scope = replace(SCOPE, kms_keys=(key,), more_secrets=(ca,), more_db_users=("dagster",))
    assert grants(scope, "kms:Decrypt", key)
    assert grants(scope, READ, ca)
    assert grants(scope, "rds-db:connect", db_user("dagster"))


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
        {"redis_service": "*"},
        {"mongo_project": "a/b"},
    ],
)
def test_what_cannot_stand_in_an_arn_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        policy_document(replace(SCOPE, **change))  # type: ignore[arg-type]
