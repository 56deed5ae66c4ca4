"""The CloudFormation templates of deploy/ecs as plain data, and what stands in for AWS where moto is not AWS."""

import json
from pathlib import Path
from typing import Any

from cfnlint.decode import cfn_yaml

ECS = Path(__file__).parents[1] / "deploy" / "ecs"
CLUSTER = "data"
ENVLABEL = "stg"
PASSWORD_ARN = "arn:aws:secretsmanager:us-west-2:123456789012:secret:stg/app-db"
PERMISSIONS = {
    "EnvLabel": ENVLABEL,
    "ClusterName": CLUSTER,
    "Bucket": "rosters",
    "LogsBucket": "run-logs",
    "DagsterDbResourceId": "db-ABC123",
    "AppDbPasswordSecretArn": PASSWORD_ARN,
}
SERVICES = {
    "EnvLabel": ENVLABEL,
    "ClusterName": CLUSTER,
    "Image": "registry.internal/runway-pipelines@sha256:" + "0" * 64,
    "Bucket": "rosters",
    "LogsBucket": "run-logs",
    "DagsterDbHost": "dagster.internal",
    "AppDbHost": "app.internal",
    "AppDbPasswordSecretArn": PASSWORD_ARN,
}


def template(name: str) -> dict[str, Any]:
    """A template, its short forms (``!Ref``) as the long ones (``{"Ref": ...}``)."""
    return dict(json.loads(json.dumps(cfn_yaml.load(str(ECS / name)))))


def container(task: str) -> dict[str, Any]:
    """The one container of a task definition of services.yaml."""
    (only,) = template("services.yaml")["Resources"][task]["Properties"]["ContainerDefinitions"]
    return dict(only)


def given(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a list, or what stands in its place when its condition holds."""
    return dict(entry.get("Fn::If", [None, entry])[1])


def variables(task: str) -> set[str]:
    """The variables that the task's container may have; some of them only when a parameter is set."""
    defined = container(task)
    return {given(entry)["Name"] for entry in [*defined["Environment"], *defined.get("Secrets", [])]}


def deploy(clients: Any) -> dict[str, str]:
    """Both stacks, in order, in moto's CloudFormation; returns the outputs and the subnet.

    It knows no service discovery: that is left out, and only that. The task definitions among the outputs are whole.
    """
    ec2, ecs, cloudformation = clients("ec2"), clients("ecs"), clients("cloudformation")
    ecs.create_cluster(clusterName=CLUSTER)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})  # as private names need it
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="clients", Description="of the webserver", VpcId=vpc)["GroupId"]
    permissions = _create(cloudformation, "permissions", template("permissions.yaml"), PERMISSIONS)
    services = template("services.yaml")
    resources = services["Resources"]
    for name in [name for name, it in resources.items() if it["Type"].startswith("AWS::ServiceDiscovery")]:
        del resources[name]
    for resource in resources.values():
        resource["Properties"].pop("ServiceRegistries", None)
    network = {"VpcId": vpc, "SubnetIds": subnet, "WebserverClients": group}
    outputs = _create(cloudformation, "services", services, SERVICES | network | permissions)
    for name in ("DaemonTask", "RunTask"):
        outputs[name] = _registered_whole(ecs, resources[name]["Properties"])
    return {"Subnet": subnet} | outputs


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
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=json.dumps(body),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
