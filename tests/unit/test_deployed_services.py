"""The tasks and services of deploy/ecs: what they are told, how they are replaced, who reaches whom."""

import json
import re
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

import cfnlint.api
import pytest
import yaml
from cfnlint.config import ManualArgs

from runway_pipelines.settings import settings_markdown
from runway_pipelines.stream.runs import API_PREFIX, CROSS_YEAR_PATH, RESOLUTIONS_PATH, ROSTER_PATH
from tests.cloudformation import Stack
from tests.templates import ECS, SERVICES, STREAM, TEMPLATES, container, named_variables, task_definition, variables

HOSTS = ("WebserverTask", "DaemonTask")
DAGSTERS = (*HOSTS, "CodeServerTask", "RunTask")
TASKS = (*DAGSTERS, "StreamTask")
FILES = {"services.yaml": SERVICES, "roster_stream.yaml": STREAM}
SETTINGS = set(re.findall(r"^\| `(\w+)`", settings_markdown(), re.MULTILINE))
DAGSTERS_OWN = named_variables("dagster.yaml") | named_variables("workspace.yaml") | {"PGSSLMODE", "PGSSLROOTCERT"}
# Everything that can be asked for, at once.
EVERYTHING = SERVICES | {
    "StoresEnvironment": "prod",
    "AppDbService": "runway-app",
    "CatalogueDbHost": "catalogue.internal",
    "CatalogueDbPasswordSecretArn": "arn:catalogue",
    "LibraryMetadataUrl": "https://lml.internal",
    "LmlApiKeySecretArn": "arn:lml",
    "LmlCallsPerSecond": "4",
    "RedisService": "pipelines",
    "EventBus": "operators",
    "DagsterUrl": "https://dagster.internal",
    "LargePartners": "acme",
    "StudentResolution": "acme",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_cloudformation_would_take_the_template(name: str) -> None:
    found = cfnlint.api.lint((ECS / name).read_text(), config=ManualArgs(regions=["us-west-2", "us-east-1"]))
    assert [f"{match.rule.id} line {match.linenumber}: {match.message}" for match in found] == []


@pytest.mark.parametrize("task", DAGSTERS)
def test_each_task_of_dagsters_has_the_variables_that_its_configuration_names(task: str) -> None:
    wanted = named_variables("dagster.yaml")
    if task in HOSTS:
        wanted |= named_variables("workspace.yaml")
    # Only what launches runs asks for their definition; a run does not find itself.
    wanted |= set() if task in HOSTS else {"RUNWAY_BUCKET", "ENVLABEL", "RUNWAY_APP_DB_HOST"}
    launching = set() if task in HOSTS else {"RUNWAY_RUN_TASK_DEFINITION"}
    assert wanted - launching <= variables(task)


@pytest.mark.parametrize("task", TASKS)
def test_every_variable_that_a_task_gets_is_a_setting_or_one_that_dagster_reads(task: str) -> None:
    assert variables(task) <= SETTINGS | (DAGSTERS_OWN if task in DAGSTERS else set())


def test_only_what_reads_the_applications_data_is_told_where_it_is() -> None:
    for task in HOSTS:
        assert "Secrets" not in container(task)
        assert variables(task) & SETTINGS == {"AWS_REGION"}


def test_only_runs_are_told_of_lml_the_catalogue_and_redis() -> None:
    stack = Stack("services.yaml", **EVERYTHING)
    of_runs = {
        name for name in stack.environment("RunTask") if name.startswith(("RUNWAY_CATALOGUE", "LML_", "LIBRARY_"))
    }
    assert of_runs > {"RUNWAY_CATALOGUE_DB_PASSWORD", "LML_API_KEY"}
    of_runs |= {"RUNWAY_REDIS_SERVICE", "RUNWAY_LML_CALLS_PER_SECOND"}
    assert of_runs <= stack.environment("RunTask").keys()
    assert not of_runs & stack.environment("CodeServerTask").keys()
    assert not of_runs & variables("StreamTask")


def test_the_code_server_gets_one_secret_the_password_of_the_database_that_its_sensor_reads() -> None:
    (task,) = [
        properties
        for name, properties in Stack("services.yaml", **EVERYTHING).resources("AWS::ECS::TaskDefinition").items()
        if name == "CodeServerTask"
    ]
    assert [entry["Name"] for entry in task["ContainerDefinitions"][0]["Secrets"]] == ["RUNWAY_APP_DB_PASSWORD"]


@pytest.mark.parametrize(
    ("file", "task"),
    [("services.yaml", "CodeServerTask"), ("services.yaml", "RunTask"), ("roster_stream.yaml", "StreamTask")],
)
def test_a_password_is_injected_where_its_secret_is_given(file: str, task: str) -> None:
    """ECS refuses a task whose secret has no ARN, whatever else was given."""
    assert "" not in Stack(file, **FILES[file] | {"AppDbPasswordSecretArn": ""}).environment(task).values()
    assert (
        Stack(file, **FILES[file] | {"AppDbPasswordSecretArn": "arn:p"}).environment(task)["RUNWAY_APP_DB_PASSWORD"]
        == "arn:p"
    )


@pytest.mark.parametrize("file", FILES)
def test_a_process_is_never_left_without_the_applications_database(file: str) -> None:
    found_by_service = {"AppDbHost": "", "AppDbService": "runway-app", "StoresEnvironment": "prod"}
    assert Stack(file, **FILES[file]).refusals() == []
    assert Stack(file, **FILES[file] | found_by_service).refusals() == []
    for nowhere in ({"AppDbHost": ""}, found_by_service | {"StoresEnvironment": "none"}):
        assert Stack(file, **FILES[file] | nowhere).refusals() == [
            "Give AppDbHost, or AppDbService and StoresEnvironment."
        ]


def test_a_run_is_launched_from_the_container_that_the_template_defines() -> None:
    launcher = yaml.safe_load((ECS / "dagster.yaml").read_text())["run_launcher"]["config"]
    assert container("RunTask")["Name"] == launcher["container_name"]
    properties = task_definition("RunTask")
    assert (properties["Cpu"], properties["Memory"]) == tuple(launcher["run_resources"].values())


def services() -> dict[str, dict[str, Any]]:
    return {
        name: properties
        for file, parameters in FILES.items()
        for name, properties in Stack(file, **parameters).resources("AWS::ECS::Service").items()
    }


def test_a_release_that_does_not_start_is_rolled_back_and_there_are_never_two_daemons() -> None:
    assert services().keys() == {"Webserver", "Daemon", "CodeServer", "RosterStream"}
    for name, properties in services().items():
        deployment = properties["DeploymentConfiguration"]
        assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
        least_and_most = (deployment["MinimumHealthyPercent"], deployment["MaximumPercent"])
        assert least_and_most == ((0, 100) if name == "Daemon" else (100, 200))
    assert services()["Daemon"]["DesiredCount"] == 1


def test_the_stream_has_two_tasks_or_more() -> None:
    tasks = Stack("roster_stream.yaml").template["Parameters"]["Tasks"]
    assert (tasks["Default"], tasks["MinValue"]) == (2, 2)
    assert services()["RosterStream"]["DesiredCount"] == "2"


@pytest.mark.parametrize("task", [*HOSTS, "CodeServerTask", "StreamTask"])
def test_each_service_has_a_check_of_its_own(task: str) -> None:
    check = container(task)["HealthCheck"]["Command"]
    assert check[0] == "CMD"
    assert "curl" not in json.dumps(check)  # the image has none


def test_the_stream_is_killed_no_sooner_than_15_seconds_after_its_grace() -> None:
    """Sessions are drained for 10 s, and given up 3 s later (docs/roster-stream.md)."""
    grace = int(Stack("roster_stream.yaml", **STREAM).environment("StreamTask")["RUNWAY_STREAM_GRACE_SECONDS"])
    stop_timeout = container("StreamTask")["StopTimeout"]
    assert grace + 15 <= stop_timeout <= 120  # Fargate's most


def test_the_stream_is_reached_by_a_name_or_a_target_group() -> None:
    def of(**parameters: str) -> dict[str, Any]:
        stack = Stack("roster_stream.yaml", **STREAM | parameters)
        assert stack.refusals() == []
        return stack.resources("AWS::ECS::Service")["RosterStream"]

    assert of().keys() & {"ServiceRegistries", "LoadBalancers"} == {"ServiceRegistries"}
    balanced = of(NamespaceId="", TargetGroupArn="arn:tg")
    assert "ServiceRegistries" not in balanced
    (balancer,) = balanced["LoadBalancers"]
    (port,) = container("StreamTask")["PortMappings"]
    assert balancer == {
        "ContainerName": container("StreamTask")["Name"],
        "ContainerPort": port["ContainerPort"],
        "TargetGroupArn": "arn:tg",
    }
    nowhere = Stack("roster_stream.yaml", **STREAM | {"NamespaceId": "", "TargetGroupArn": ""})
    assert nowhere.refusals() == ["Give TargetGroupArn or NamespaceId, or both."]


def test_the_load_balancer_passes_on_both_addresses_of_a_pull_and_nothing_else_of_runways() -> None:
    given = {"TargetGroupArn": "arn:tg", "ListenerArn": "arn:listener"}
    (rule,) = (
        Stack("roster_stream.yaml", **STREAM | given).resources("AWS::ElasticLoadBalancingV2::ListenerRule").values()
    )
    (condition,) = rule["Conditions"]
    patterns = condition["PathPatternConfig"]["Values"]
    assert len(patterns) <= 5  # AWS's most for a rule

    def is_passed_on(path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in patterns)

    for path in (ROSTER_PATH, CROSS_YEAR_PATH, RESOLUTIONS_PATH):
        assert is_passed_on(API_PREFIX + path.format(run_id=17))
        assert is_passed_on(path.format(run_id=17))
    for path in ("/api/earthbeam/jobs/17", "/api/earthbeam/jobs/17/status", "/api/earthbeam/auth/17/init", "/metrics"):
        assert not is_passed_on(path)
    assert rule["Actions"] == [{"Type": "forward", "TargetGroupArn": "arn:tg"}]
    alone = Stack("roster_stream.yaml", **STREAM | {"ListenerArn": "arn:listener", "TargetGroupArn": ""})
    assert alone.refusals() == ["ListenerArn needs TargetGroupArn."]
    assert Stack("roster_stream.yaml", **STREAM).resources("AWS::ElasticLoadBalancingV2::ListenerRule") == {}


def let_in(stack: Stack, group: str) -> set[tuple[str, str]]:
    """From which port of a database's group to which group of ours."""
    rules = [
        (f"{rule['FromPort']}-{rule['ToPort']}", rule["SourceSecurityGroupId"])
        for rule in stack.resources("AWS::EC2::SecurityGroupIngress").values()
        if rule["GroupId"] == group
    ]
    assert len(rules) == len(set(rules)), "EC2 refuses the same rule twice"
    return set(rules)


WEB, RUNS, CODE = "<WebserverGroup>", "<DaemonGroup>", "<CodeServerGroup>"


def test_each_database_is_opened_at_its_port_to_those_who_use_it() -> None:
    groups = {"DagsterDbSecurityGroupId": "sg-d", "AppDbSecurityGroupId": "sg-a", "CatalogueDbSecurityGroupId": "sg-c"}
    ports = {"DagsterDbPort": "5433", "AppDbPort": "5434", "CatalogueDbPort": "5435"}
    stack = Stack("services.yaml", **SERVICES | groups | ports)
    assert let_in(stack, "sg-d") == {("5433-5433", WEB), ("5433-5433", RUNS), ("5433-5433", CODE)}
    assert let_in(stack, "sg-a") == {("5434-5434", RUNS), ("5434-5434", CODE)}
    assert let_in(stack, "sg-c") == {("5435-5435", RUNS)}
    stream = Stack("roster_stream.yaml", **STREAM | {"AppDbSecurityGroupId": "sg-a", "AppDbPort": "5434"})
    assert let_in(stream, "sg-a") == {("5434-5434", "<StreamGroup>")}


def test_databases_that_share_a_group_or_a_port_are_each_opened_once() -> None:
    names, users = ("DagsterDb", "AppDb", "CatalogueDb"), ((WEB, RUNS, CODE), (RUNS, CODE), (RUNS,))
    for ports, groups in product(product("12", repeat=3), product(("x", "y", ""), repeat=3)):
        given = {f"{name}Port": port for name, port in zip(names, ports, strict=True)}
        given |= {f"{name}SecurityGroupId": group for name, group in zip(names, groups, strict=True)}
        stack = Stack("services.yaml", **SERVICES | given)
        for group in ("x", "y", ""):
            needed = {
                (f"{port}-{port}", user)
                for port, of, using in zip(ports, groups, users, strict=True)
                if of == group != ""
                for user in using
            }
            assert let_in(stack, group) == needed, given


def test_nobody_else_is_let_in() -> None:
    own = {
        (rule["FromPort"], rule["SourceSecurityGroupId"])
        for file, parameters in FILES.items()
        for group in Stack(file, **parameters).resources("AWS::EC2::SecurityGroup").values()
        for rule in group.get("SecurityGroupIngress", [])
    }
    assert own == {(3000, "<WebserverClients>"), (4000, WEB), (4000, RUNS), (8080, "<StreamClients>")}
    for properties in services().values():
        assert properties["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
