"""What deploy/ecs says: Dagster takes it, it agrees with the checkout's dagster.yaml, and its parts fit each other."""

import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster._core.workspace.load_target import WorkspaceFileTarget

from runway_pipelines.data_stores import mongo, postgres, redis
from runway_pipelines.data_stores.mongo import MongoEnv
from runway_pipelines.data_stores.vocabulary import Env, Role
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.resources.secrets_manager import PartnerSecrets
from runway_pipelines.rosters.manifest import index_key, stable_key
from runway_pipelines.settings import Settings
from tests.templates import ECS, container, given, template, variables

ROOT = ECS.parents[1]
LOCAL = yaml.safe_load((ROOT / "dagster.yaml").read_text())
DEPLOYED = yaml.safe_load((ECS / "dagster.yaml").read_text())
# What one machine and production have to have alike: how runs are queued, retried and watched, and what is kept.
ALIKE = ("concurrency", "sensors", "schedules", "run_retries", "retention", "telemetry", "nux")
HOSTS = ("WebserverTask", "DaemonTask")
TASKS = (*HOSTS, "CodeServerTask", "RunTask")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables that dagster.yaml and workspace.yaml name."""
    values = {"DAGSTER_PG_PORT": "5432", "AWS_REGION": "us-west-2"}
    for name in named_variables("dagster.yaml") | named_variables("workspace.yaml"):
        monkeypatch.setenv(name, values.get(name, "127.0.0.1"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it would keep these keys for the tests after this one
    monkeypatch.delenv("DAGSTER_PG_PASSWORD", raising=False)
    return monkeypatch


def named_variables(file: str) -> set[str]:
    return set(re.findall(r"\{env: (\w+)\}", (ECS / file).read_text()))


@pytest.mark.parametrize("section", ALIKE)
def test_production_is_as_one_machine_where_that_matters(section: str) -> None:
    assert DEPLOYED[section] == LOCAL[section]


def test_a_lost_run_is_failed_and_run_again_and_never_resumed_in_place() -> None:
    monitoring = DEPLOYED["run_monitoring"]
    assert monitoring["enabled"]
    assert monitoring["max_resume_run_attempts"] == 0
    assert monitoring["max_runtime_seconds"] == LOCAL["run_monitoring"]["max_runtime_seconds"]
    assert DEPLOYED["run_retries"] == {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False}


def test_dagster_takes_the_deployed_instance(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((ECS / "dagster.yaml").read_text())
    reference = InstanceRef.from_dir(str(tmp_path))
    assert reference.run_launcher_data is not None
    assert reference.run_launcher_data.class_name == "EcsRunLauncher"
    assert reference.compute_logs_data.class_name == "S3ComputeLogManager"
    assert reference.compute_log_manager is not None  # made, with its config checked
    assert reference.settings is not None
    assert reference.settings["run_monitoring"]["enabled"]


def test_dagster_takes_the_deployed_workspace(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RUNWAY_CODE_SERVER_HOST", "code-server.internal")
    (origin,) = WorkspaceFileTarget([str(ECS / "workspace.yaml")]).create_origins()
    assert (origin.host, origin.port, origin.location_name) == ("code-server.internal", 4000, "runway_pipelines")


class TokenTaker:
    """A Postgres that asks for a password in clear text, keeps it, and refuses it."""

    def __init__(self) -> None:
        self.passwords: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                (length,) = struct.unpack("!i", stream.read(4))
                stream.read(length - 4)  # the startup message: user and database
                connection.sendall(b"R" + struct.pack("!ii", 8, 3))  # AuthenticationCleartextPassword
                kind, size = struct.unpack("!ci", stream.read(5))
                assert kind == b"p"
                self.passwords.append(stream.read(size - 4).rstrip(b"\0").decode())
                refusal = b"SFATAL\0C28P01\0Mno\0\0"
                connection.sendall(b"E" + struct.pack("!i", len(refusal) + 4) + refusal)


@pytest.fixture
def token_taker() -> Iterator[TokenTaker]:
    taker = TokenTaker()
    yield taker
    taker.listener.close()


def test_dagsters_storage_logs_in_with_a_token_for_that_host_port_and_user(
    environment: pytest.MonkeyPatch, tmp_path: Path, token_taker: TokenTaker
) -> None:
    environment.setenv("DAGSTER_PG_PORT", str(token_taker.port))
    environment.setenv("DAGSTER_PG_USERNAME", "dagster")
    environment.setenv("PGSSLMODE", "disable")
    (tmp_path / "dagster.yaml").write_text((ECS / "dagster.yaml").read_text())
    with pytest.raises(Exception, match="too many retries"):
        _ = InstanceRef.from_dir(str(tmp_path)).storage
    token = token_taker.passwords[0]
    assert token.startswith(f"127.0.0.1:{token_taker.port}/?Action=connect&DBUser=dagster&")
    assert "X-Amz-Signature=" in token


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_the_variables_that_its_configuration_names(task: str) -> None:
    wanted = named_variables("dagster.yaml")
    if task in HOSTS:
        wanted |= named_variables("workspace.yaml")
    # Only what launches runs asks for their definition; a run does not find itself.
    wanted |= set() if task in HOSTS else {"RUNWAY_BUCKET", "ENVLABEL", "RUNWAY_APP_DB_HOST"}
    launching = set() if task in HOSTS else {"RUNWAY_RUN_TASK_DEFINITION"}
    assert wanted - launching <= variables(task)


@pytest.mark.parametrize("task", TASKS)
def test_every_setting_that_a_task_gets_is_one(task: str) -> None:
    known = {
        field.validation_alias.choices[0]
        if hasattr(field.validation_alias, "choices")
        else field.validation_alias  # type: ignore[union-attr]
        or f"RUNWAY_{name.upper()}"
        for name, field in Settings.model_fields.items()
    }
    dagsters = named_variables("dagster.yaml") | named_variables("workspace.yaml") | {"PGSSLMODE", "PGSSLROOTCERT"}
    assert variables(task) - dagsters <= known


def test_only_what_reads_secrets_is_given_them() -> None:
    for task in HOSTS:
        assert "Secrets" not in container(task)
        assert not any(name.startswith("RUNWAY_APP_DB") for name in variables(task))


def test_a_run_is_launched_from_the_container_that_the_template_defines() -> None:
    launcher = DEPLOYED["run_launcher"]["config"]
    assert container("RunTask")["Name"] == launcher["container_name"]
    properties = template("services.yaml")["Resources"]["RunTask"]["Properties"]
    assert (properties["Cpu"], properties["Memory"]) == tuple(launcher["run_resources"].values())


def test_a_release_that_does_not_start_is_rolled_back_and_there_are_never_two_daemons() -> None:
    services = {
        name: it["Properties"]
        for name, it in template("services.yaml")["Resources"].items()
        if it["Type"] == "AWS::ECS::Service"
    }
    assert services.keys() == {"Webserver", "Daemon", "CodeServer"}
    for properties in services.values():
        breaker = properties["DeploymentConfiguration"]["DeploymentCircuitBreaker"]
        assert breaker == {"Enable": True, "Rollback": True}
    daemon = services["Daemon"]
    assert daemon["DesiredCount"] == 1
    assert daemon["DeploymentConfiguration"]["MaximumPercent"] == 100
    assert daemon["DeploymentConfiguration"]["MinimumHealthyPercent"] == 0


@pytest.mark.parametrize("task", [*HOSTS, "CodeServerTask"])
def test_each_service_has_a_check_of_its_own(task: str) -> None:
    assert container(task)["HealthCheck"]["Command"][0] == "CMD"


def statements(role: str) -> list[dict[str, Any]]:
    """What a role may do, conditions of the template taken as met."""
    (policy,) = template("permissions.yaml")["Resources"][role]["Properties"]["Policies"]
    return [given(entry) for entry in policy["PolicyDocument"]["Statement"]]


def allowed(role: str, action: str) -> list[str]:
    """The resources on which a role may do something, as text."""
    found = []
    for statement in statements(role):
        actions, resources = statement["Action"], statement["Resource"]
        if action in (actions if isinstance(actions, list) else [actions]):
            found += [json.dumps(one) for one in (resources if isinstance(resources, list) else [resources])]
    return found


def test_only_runs_may_read_a_partners_secret_and_nothing_else_of_secrets_manager(secrets: PartnerSecrets) -> None:
    assert secrets.envlabel is not None
    pattern = secrets.name("acme").replace(secrets.envlabel, "${EnvLabel}").replace("acme", "*")
    (readable,) = allowed("RunRole", "secretsmanager:GetSecretValue")
    assert readable.endswith(f':secret:{pattern}"}}')
    for role in ("DagsterRole", "CodeServerRole"):
        assert allowed(role, "secretsmanager:GetSecretValue") == []


def test_runs_may_write_where_rosters_and_snapshots_are_and_nowhere_else() -> None:
    tenant = PartnerTenant("acme", "north")
    written = {stable_key(tenant, 2026).split("/")[0], index_key("acme").split("/")[0]}
    targets = [re.sub(r'^.*\$\{Bucket\}/|"\}$', "", one) for one in allowed("RunRole", "s3:PutObject")]
    assert set(targets) == {f"{prefix}/*" for prefix in written}
    for role in ("DagsterRole", "CodeServerRole"):
        assert allowed(role, "s3:PutObject") == []


def test_dagster_may_start_runs_of_the_one_definition_and_pass_them_the_two_roles() -> None:
    (definition,) = allowed("DagsterRole", "ecs:RunTask")
    family = template("services.yaml")["Resources"]["RunTask"]["Properties"]["Family"]["Fn::Sub"]
    assert f":task-definition/{family}:*" in definition
    assert len(allowed("DagsterRole", "iam:PassRole")) == 2
    assert "*" not in str(allowed("DagsterRole", "iam:PassRole"))


def test_only_what_cannot_be_granted_for_less_is_granted_for_everything() -> None:
    broad = {
        action
        for role in ("DagsterRole", "CodeServerRole", "RunRole")
        for statement in statements(role)
        if statement["Resource"] == "*"
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    assert broad == {"ecs:DescribeTaskDefinition", "ec2:DescribeNetworkInterfaces", "secretsmanager:ListSecrets"}


@pytest.mark.parametrize("task", ["CodeServerTask", "RunTask"])
def test_a_password_is_injected_where_its_secret_is_given(task: str) -> None:
    """ECS refuses a task whose secret has no ARN, whatever else was given."""
    conditions = template("services.yaml")["Conditions"]
    for entry in container(task)["Secrets"]:
        condition, injected, _ = entry["Fn::If"]
        assert conditions[condition] == {"Fn::Not": [{"Fn::Equals": [injected["ValueFrom"], ""]}]}


def test_runs_can_be_told_of_what_they_share() -> None:
    assert {"RUNWAY_REDIS_SERVICE", "RUNWAY_LML_CALLS_PER_SECOND"} <= variables("RunTask")


def shared(env: str, action: str) -> list[str]:
    """The resources of the shared stores' policy in an environment, for the service runway."""
    document = template("permissions.yaml")["Resources"]["SharedStores"]["Properties"]["PolicyDocument"]
    holds = {"HasStoresCa": False, "HasIamStores": env != "dev"}
    holds |= {f"Has{each.capitalize()}Stores": each == env for each in ("dev", "mirror", "prod")}

    def chosen(entry: Any) -> Any:
        if isinstance(entry, dict) and "Fn::If" in entry:
            condition, then, otherwise = entry["Fn::If"]
            return chosen(then if holds[condition] else otherwise)
        return entry

    found = [each for each in map(chosen, document["Statement"]) if each.get("Action") == action]
    resources = [chosen(entry) for statement in found for entry in as_list(statement["Resource"])]
    texts = [entry["Fn::Sub"] for entry in resources if "Fn::Sub" in entry]
    values = {"StoresEnvironment": env, "StoresService": "runway", "StoresDbUsername": "runway_ro"}
    return [re.sub(r"\$\{([\w:]+)\}", lambda found: values.get(found[1], "*"), text) for text in texts]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def reaches(env: str, name: str) -> bool:
    arn = f"arn:aws:secretsmanager:us-west-2:123456789012:secret:{name}-AbCdEf"
    return any(fnmatchcase(arn, pattern) for pattern in shared(env, "secretsmanager:GetSecretValue"))


@pytest.mark.parametrize("env", [*Env])
def test_the_shared_stores_are_those_that_the_service_finds_and_no_others(env: Env) -> None:
    assert reaches(env, redis.secret_name(env, "runway"))
    assert not reaches(env, redis.secret_name(env, "runway-other"))
    for db_id in (None, "history"):
        for role in Role:
            is_ours = env is Env.DEV and role is Role.RO
            assert reaches(env, postgres.secret_name("runway", role, db_id)) is is_ours
    if env is not Env.DEV:
        assert reaches(env, mongo.secret_name(MongoEnv(env), "runway"))
    paths = [redis.endpoint_path(env)]
    if env is not Env.DEV:
        paths += [postgres.endpoint_path(env), postgres.port_path(env), *mongo.parameter_paths(MongoEnv(env))]
    for path in paths:
        arn = f"arn:aws:ssm:us-west-2:123456789012:parameter{path}"
        assert any(fnmatchcase(arn, pattern) for pattern in shared(env, "ssm:GetParameter"))
    users = [resource.rpartition("/")[2] for resource in shared(env, "rds-db:connect")]
    assert users == ([] if env is Env.DEV else [postgres.user_name("runway", Role.RO)])


def test_every_password_that_ecs_injects_it_may_read() -> None:
    (policy,) = template("permissions.yaml")["Resources"]["ExecutionRole"]["Properties"]["Policies"]
    readable = json.dumps(policy)
    for task in ("CodeServerTask", "RunTask"):
        for entry in container(task)["Secrets"]:
            assert f'"{given(entry)["ValueFrom"]["Ref"]}"' in readable
