"""What the roles of permissions.yaml may do: what the process needs, by the code's own names, and nothing beside it."""

import re
import runpy
from typing import Any

import pytest

from runway_pipelines.cli.iam_policy import PolicyOptions, Process, policy
from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.manifest import (
    AUDIT_PREFIX,
    BOARD_KEY,
    hold_key,
    index_key,
    manifest_key,
    pointer_key,
    snapshot_key,
    stable_key,
)
from runway_pipelines.settings import Settings
from runway_pipelines.students.files import RESOLUTIONS_PREFIX
from runway_pipelines.systems.postgres import names as postgres
from runway_pipelines.systems.redis import names as redis
from runway_pipelines.systems.vocabulary import Env, Role
from tests.cloudformation import Stack, allows, granted
from tests.templates import CLUSTER, ECS, ENVLABEL, PERMISSIONS, container, given, task_definition

ROLES = ("DagsterRole", "CodeServerRole", "RunRole", "RosterStreamRole")
ACCOUNT, KEY = "123456789012", "arn:aws:kms:us-west-2:123456789012:key/1"
READ = "secretsmanager:GetSecretValue"
STORES = {"AppDbService": "runway-app", "RedisService": "pipelines", "AppDbPasswordSecretArn": ""}


def statements(role: str, **parameters: str) -> list[dict[str, Any]]:
    stack = Stack("permissions.yaml", **PERMISSIONS | parameters)
    assert stack.refusals() == []
    return stack.statements(role)


def allowed(role: str, action: str, **parameters: str) -> set[str]:
    """The resources on which a role may do something."""
    return {resource for name, resource in granted(statements(role, **parameters)) if name == action}


def secret(name: str) -> str:
    return f"arn:aws:secretsmanager:us-west-2:{ACCOUNT}:secret:{name}-AbCdEf"


def parameter(path: str) -> str:
    return f"arn:aws:ssm:us-west-2:{ACCOUNT}:parameter{path}"


def test_only_runs_and_the_stream_may_read_a_partners_secret(secrets: PartnerSecrets) -> None:
    arn = secret(secrets.name("acme"))
    readers = {role for role in ROLES if allows(statements(role), READ, arn)}
    assert readers == {"RunRole", "RosterStreamRole"}
    watchers = {role for role in ROLES if allows(statements(role), "secretsmanager:DescribeSecret", arn)}
    assert watchers == {*readers, "CodeServerRole"}
    assert not any(allows(statements(role), READ, arn.replace("stg-", "prod-")) for role in ROLES)


def test_only_the_stream_may_read_the_key_of_its_tokens() -> None:
    arn = secret(PERMISSIONS["StreamTokenSecretName"])
    assert {role for role in ROLES if allows(statements(role), READ, arn)} == {"RosterStreamRole"}


def test_without_a_stream_there_is_no_role_for_one() -> None:
    stack = Stack("permissions.yaml", **PERMISSIONS | {"StreamTokenSecretName": ""})
    assert set(ROLES) - stack.resources("AWS::IAM::Role").keys() == {"RosterStreamRole"}
    assert "RosterStreamRoleArn" not in stack.outputs()
    assert "RosterStreamRoleArn" in Stack("permissions.yaml", **PERMISSIONS).outputs()


def test_runs_may_write_where_rosters_and_snapshots_are_and_nobody_else_may() -> None:
    tenant = PartnerTenant("acme", "north")
    written = {
        stable_key(tenant, 2026).split("/")[0],
        index_key("acme").split("/")[0],
        AUDIT_PREFIX,
        RESOLUTIONS_PREFIX,
    }
    targets = {one for one in allowed("RunRole", "s3:PutObject") if ":::rosters/" in one}
    assert targets == {f"arn:aws:s3:::rosters/{prefix}/*" for prefix in written}
    deleted = {one for one in allowed("RunRole", "s3:DeleteObject") if ":::rosters/" in one}
    assert deleted == targets - {f"arn:aws:s3:::rosters/{AUDIT_PREFIX}/*"}, "the record is for good"
    for role in ROLES:
        for action in ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"):
            others = {one for one in allowed(role, action) if ":::rosters" in one}
            is_board = (role, action) == ("CodeServerRole", "s3:PutObject")
            assert role == "RunRole" or others == ({f"arn:aws:s3:::rosters/{BOARD_KEY}"} if is_board else set())


@pytest.mark.parametrize("code", ["north", "index.json", "current.json", "a.manifest.json"])
def test_of_rosters_the_code_server_reads_numbers_and_no_student(code: str) -> None:
    may, tenant = statements("CodeServerRole"), PartnerTenant("acme", code)
    for key in (index_key("acme"), pointer_key(tenant), manifest_key(tenant, "0" * 64)):
        assert allows(may, "s3:GetObject", f"arn:aws:s3:::rosters/{key}")
    for key in (snapshot_key(tenant, "0" * 64), stable_key(tenant, 2026), hold_key(tenant)):
        assert not allows(may, "s3:GetObject", f"arn:aws:s3:::rosters/{key}")


def test_the_stream_changes_nothing_anywhere() -> None:
    actions = {
        action for action, _ in granted(statements("RosterStreamRole", KeyArn=KEY, **STORES, StoresEnvironment="prod"))
    }
    assert all(re.match(r"\w+(-db)?:(Get|Describe|List|Decrypt|connect)", action) for action in actions)


def test_dagster_may_start_runs_of_the_one_definition_and_pass_them_the_two_roles() -> None:
    (definition,) = allowed("DagsterRole", "ecs:RunTask")
    family = task_definition("RunTask")["Family"]["Fn::Sub"].replace("${EnvLabel}", ENVLABEL)
    assert definition == f"arn:aws:ecs:us-west-2:{ACCOUNT}:task-definition/{family}:*"
    assert allowed("DagsterRole", "iam:PassRole") == {"<RunRole.Arn>", "<ExecutionRole.Arn>"}
    assert allowed("DagsterRole", "ecs:StopTask") == {f"arn:aws:ecs:us-west-2:{ACCOUNT}:task/{CLUSTER}/*"}


def test_only_what_cannot_be_granted_for_less_is_granted_for_everything() -> None:
    everything = {action for role in ROLES for action, resource in granted(statements(role)) if resource == "*"}
    assert everything == {"ecs:DescribeTaskDefinition", "ec2:DescribeNetworkInterfaces", "secretsmanager:ListSecrets"}


@pytest.mark.parametrize("env", [*Env])
@pytest.mark.parametrize("role", ["CodeServerRole", "RunRole", "RosterStreamRole"])
def test_the_applications_database_is_the_one_that_its_service_finds_read_only(role: str, env: Env) -> None:
    may = statements(role, **STORES, StoresEnvironment=env)
    for each in Role:
        is_ours = env is Env.DEV and each is Role.RO
        assert allows(may, READ, secret(postgres.role_secret("runway-app", each))) is is_ours
        user = f"arn:aws:rds-db:us-west-2:{ACCOUNT}:dbuser:db-X/{postgres.user_name('runway-app', each)}"
        assert allows(may, "rds-db:connect", user) is (env is not Env.DEV and each is Role.RO)
    for other in {Env.MIRROR, Env.PROD}:
        for path in (postgres.endpoint_path(other), postgres.port_path(other)):
            assert allows(may, "ssm:GetParameter", parameter(path)) is (other is env)
    assert not allows(may, READ, secret(postgres.role_secret("pipelines", Role.RO)))


@pytest.mark.parametrize("env", [*Env])
def test_redis_is_that_of_its_own_service_and_the_runs_alone_use_it(env: Env) -> None:
    for role in ROLES:
        may = statements(role, **STORES, StoresEnvironment=env)
        assert allows(may, READ, secret(redis.service_secret(env, "pipelines"))) is (role == "RunRole")
        assert allows(may, "ssm:GetParameter", parameter(redis.endpoint_path(env))) is (role == "RunRole")
        assert not allows(may, READ, secret(redis.service_secret(env, "runway-app")))
        assert not allows(may, READ, secret(redis.service_secret(env, "pipelines-other")))


@pytest.mark.parametrize("service", ["AppDbService", "RedisService"])
def test_a_service_without_an_environment_is_refused(service: str) -> None:
    stack = Stack("permissions.yaml", **PERMISSIONS | {service: "runway"})
    assert stack.refusals() == ["Services are found in StoresEnvironment."]


def own(statements: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """What concerns the application, and not Dagster's storage and the runs' logs."""
    return {
        (action, resource)
        for action, resource in granted(statements)
        if "run-logs" not in resource and not resource.endswith("/dagster")
    }


@pytest.mark.parametrize(
    ("role", "process"),
    [
        ("RunRole", Process.PIPELINE),
        ("CodeServerRole", Process.CODE_SERVER),
        ("RosterStreamRole", Process.STREAM),
    ],
)
@pytest.mark.parametrize("env", [*Env])
def test_a_role_is_what_iam_policy_prints_for_its_process(
    role: str, process: Process, env: Env, clean_environment: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "ENVLABEL": ENVLABEL,
        "RUNWAY_BUCKET": PERMISSIONS["Bucket"],
        "RUNWAY_STORES_ENV": env.value,
        "RUNWAY_APP_DB_SERVICE": "runway-app",
        "RUNWAY_REDIS_SERVICE": "pipelines",
        "RUNWAY_STREAM_TOKEN_SECRET": PERMISSIONS["StreamTokenSecretName"],
    }.items():
        clean_environment.setenv(name, value)
    printed = policy(Settings(), PolicyOptions(ACCOUNT, process, kms_keys=[KEY]))["Statement"]
    assert own(statements(role, **STORES, StoresEnvironment=env, KeyArn=KEY)) == granted(printed)


def test_every_password_that_ecs_injects_it_may_read() -> None:
    passwords = {"AppDbPasswordSecretArn", "CatalogueDbPasswordSecretArn", "LmlApiKeySecretArn", "BoardTokenSecretArn"}
    readable = allowed("ExecutionRole", READ, **{name: f"arn:{name}" for name in passwords})
    assert readable == {f"arn:{name}" for name in passwords}
    for task in ("CodeServerTask", "RunTask", "StreamTask"):
        assert {given(entry)["ValueFrom"]["Ref"] for entry in container(task)["Secrets"]} <= passwords


def test_the_statements_are_those_that_the_policy_generator_writes() -> None:
    template = (ECS / "permissions.yaml").read_text()
    assert runpy.run_path(str(ECS / "render_permissions.py"))["rendered"](template) == template
