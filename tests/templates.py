"""The CloudFormation templates of deploy/ecs as plain data, and what stands in for AWS where moto is not AWS."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from cfnlint.decode import cfn_yaml

ECS = Path(__file__).parents[1] / "deploy" / "ecs"
TEMPLATES = ("permissions.yaml", "services.yaml", "roster_stream.yaml", "alarms.yaml")
CLUSTER = "data"
ENVLABEL = "stg"
IMAGE = "registry.internal/runway-pipelines@sha256:" + "0" * 64
PASSWORD_ARN = "arn:aws:secretsmanager:us-west-2:123456789012:secret:stg/app-db"
PERMISSIONS = {
    "EnvLabel": ENVLABEL,
    "ClusterName": CLUSTER,
    "Bucket": "rosters",
    "LogsBucket": "run-logs",
    "DagsterDbResourceId": "db-ABC123",
    "AppDbPasswordSecretArn": PASSWORD_ARN,
    "StreamTokenSecretName": "stg/stream-key",
}
SERVICES = {
    "EnvLabel": ENVLABEL,
    "ClusterName": CLUSTER,
    "Image": IMAGE,
    "Bucket": "rosters",
    "LogsBucket": "run-logs",
    "DagsterDbHost": "dagster.internal",
    "AppDbHost": "app.internal",
    "AppDbPasswordSecretArn": PASSWORD_ARN,
}
STREAM = {
    "EnvLabel": ENVLABEL,
    "ClusterName": CLUSTER,
    "Image": IMAGE,
    "Bucket": "rosters",
    "AppDbHost": "app.internal",
    "AppDbPasswordSecretArn": PASSWORD_ARN,
    "StreamTokenSecretName": "stg/stream-key",
    "NamespaceId": "ns-1",
}
ALARMS = {
    "EnvLabel": ENVLABEL,
    "ClusterName": CLUSTER,
    "AlarmTopicArn": "arn:aws:sns:us-west-2:123456789012:alarms",
    "HasRosterStream": "yes",
}


def template(name: str) -> dict[str, Any]:
    """A template, its short forms (``!Ref``) as the long ones (``{"Ref": ...}``)."""
    return dict(json.loads(_as_json(name)))


@cache
def _as_json(name: str) -> str:
    return json.dumps(cfn_yaml.load(str(ECS / name)))


def task_definition(task: str) -> dict[str, Any]:
    """The properties of a task definition, whichever template has it."""
    (found,) = [resources[task] for name in TEMPLATES if task in (resources := template(name)["Resources"])]
    return dict(found["Properties"])


def container(task: str) -> dict[str, Any]:
    """The one container of a task definition."""
    (only,) = task_definition(task)["ContainerDefinitions"]
    return dict(only)


def given(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a list, or what stands in its place when its condition holds."""
    return dict(entry.get("Fn::If", [None, entry])[1])


def named_variables(file: str) -> set[str]:
    """The variables that a file of Dagster's names."""
    return set(re.findall(r"\{env: (\w+)\}", (ECS / file).read_text()))


def variables(task: str) -> set[str]:
    """The variables that the task's container may have; some of them only when a parameter is set."""
    defined = container(task)
    return {given(entry)["Name"] for entry in [*defined["Environment"], *defined.get("Secrets", [])]}


def deploy(clients: Any) -> dict[str, str]:
    """All stacks, in order, in moto's CloudFormation; returns the outputs and the subnet.

    It knows neither service discovery, which is left out, nor alarms and metric filters, which it passes over. The task
    definitions among the outputs are whole.
    """
    ec2, ecs, cloudformation = clients("ec2"), clients("ecs"), clients("cloudformation")
    ecs.create_cluster(clusterName=CLUSTER)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})  # as private names need it
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    clients_group = ec2.create_security_group(GroupName="clients", Description="theirs", VpcId=vpc)["GroupId"]
    database_group = ec2.create_security_group(GroupName="databases", Description="theirs", VpcId=vpc)["GroupId"]
    network = {"VpcId": vpc, "SubnetIds": subnet, "AppDbSecurityGroupId": database_group}
    roles = _create(cloudformation, "permissions", template("permissions.yaml"), PERMISSIONS)
    services, stream = (_without_names(template(name)) for name in ("services.yaml", "roster_stream.yaml"))
    of_services = {"DagsterDbSecurityGroupId": database_group, "WebserverClients": clients_group}
    outputs = _create(cloudformation, "services", services, SERVICES | network | of_services | roles)
    _create(cloudformation, "stream", stream, STREAM | network | {"StreamClients": clients_group} | roles)
    _create(cloudformation, "alarms", template("alarms.yaml"), ALARMS)
    for name in ("DaemonTask", "RunTask"):
        outputs[name] = _registered_whole(ecs, task_definition(name))
    return {"Subnet": subnet} | outputs


def _without_names(body: dict[str, Any]) -> dict[str, Any]:
    resources = body["Resources"]
    for name in [name for name, it in resources.items() if it["Type"].startswith("AWS::ServiceDiscovery")]:
        del resources[name]
    for resource in resources.values():
        resource["Properties"].pop("ServiceRegistries", None)
    for name in [name for name, it in body["Outputs"].items() if it["Value"] == {"Ref": "Names"}]:
        del body["Outputs"][name]
    return body


def _registered_whole(ecs: Any, properties: dict[str, Any]) -> str:
    """The task definition once more, with what moto's CloudFormation loses: sizes, network, a NoValue."""
    (family,) = [
        family
        for family in ecs.list_task_definition_families()["families"]
        if family == properties["Family"]["Fn::Sub"].replace("${EnvLabel}", ENVLABEL)
    ]
    resolved = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]["containerDefinitions"]
    for one in resolved:
        for part in ("environment", "secrets"):
            one[part] = [entry for entry in one.get(part, []) if entry is not None]
        one["memoryReservation"] = 128  # moto counts it; Fargate needs none where the task has its memory
    registered = ecs.register_task_definition(
        family=family,
        containerDefinitions=resolved,
        networkMode=properties["NetworkMode"],
        requiresCompatibilities=properties["RequiresCompatibilities"],
        cpu=properties["Cpu"],
        memory=properties["Memory"],
    )
    return str(registered["taskDefinition"]["taskDefinitionArn"])


def _create(cloudformation: Any, name: str, body: dict[str, Any], parameters: dict[str, str]) -> dict[str, str]:
    wanted = {key: value for key, value in parameters.items() if key in body["Parameters"]}
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=json.dumps(body),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in wanted.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
