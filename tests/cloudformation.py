"""A template with its parameters, conditions and functions worked out, as CloudFormation does, as far as ours use them.

moto does that too, but loses parts of what it deploys; and IAM's own matching, which nobody here has.
"""

import re
from fnmatch import fnmatchcase
from typing import Any

from tests.templates import template

PSEUDO = {"AWS::Region": "us-west-2", "AWS::AccountId": "123456789012", "AWS::Partition": "aws"}
_NOTHING = object()


class Stack:
    """A stack of a template; a parameter without value or default, and what AWS would name, is ``<its name>``."""

    def __init__(self, name: str, **parameters: str) -> None:
        self.template = template(name)
        declared = self.template["Parameters"]
        assert parameters.keys() <= declared.keys(), parameters.keys() - declared.keys()
        defaults = {key: str(one["Default"]) for key, one in declared.items() if "Default" in one}
        self._values: dict[str, Any] = PSEUDO | defaults | parameters

    def resources(self, of_type: str) -> dict[str, dict[str, Any]]:
        """The properties of all resources of a type that there are with these parameters, by logical name."""
        return {
            name: self._worked_out(resource["Properties"])
            for name, resource in self.template["Resources"].items()
            if resource["Type"] == of_type and self._is_there(resource)
        }

    def outputs(self) -> set[str]:
        return {name for name, output in self.template["Outputs"].items() if self._is_there(output)}

    def environment(self, task: str) -> dict[str, str]:
        """The variables of a task's container; those that ECS injects have their secret's ARN as value."""
        (container,) = self.resources("AWS::ECS::TaskDefinition")[task]["ContainerDefinitions"]
        plain = {entry["Name"]: entry["Value"] for entry in container["Environment"]}
        return plain | {entry["Name"]: entry["ValueFrom"] for entry in container.get("Secrets", [])}

    def statements(self, role: str) -> list[dict[str, Any]]:
        """All that a role may do, its managed policies of the same template included."""
        properties = self.resources("AWS::IAM::Role")[role]
        managed = self.resources("AWS::IAM::ManagedPolicy")
        documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        documents += [
            managed[reference[1:-1]]["PolicyDocument"]
            for reference in properties.get("ManagedPolicyArns", [])
            if reference.startswith("<")
        ]
        return [statement for document in documents for statement in document["Statement"]]

    def refusals(self) -> list[str]:
        """What the template's rules say of these parameters."""
        return [
            assertion["AssertDescription"]
            for rule in self.template.get("Rules", {}).values()
            if self._worked_out(rule.get("RuleCondition", True))
            for assertion in rule["Assertions"]
            if not self._worked_out(assertion["Assert"])
        ]

    def _is_there(self, item: dict[str, Any]) -> bool:
        return "Condition" not in item or self._holds(item["Condition"])

    def _holds(self, condition: str) -> bool:
        return bool(self._worked_out(self.template["Conditions"][condition]))

    def _worked_out(self, node: Any) -> Any:
        if isinstance(node, list):
            return [one for one in map(self._worked_out, node) if one is not _NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((function, argument),) = node.items()
            if function in ("Ref", "Condition") and isinstance(argument, str):
                return self._value(argument) if function == "Ref" else self._holds(argument)
            if function.startswith("Fn::"):
                return self._function(function, argument)
        worked_out = {key: self._worked_out(value) for key, value in node.items()}
        return {key: value for key, value in worked_out.items() if value is not _NOTHING}

    def _value(self, name: str) -> Any:
        return _NOTHING if name == "AWS::NoValue" else self._values.get(name, f"<{name}>")

    def _function(self, function: str, argument: Any) -> Any:
        if function == "Fn::If":
            condition, then, otherwise = argument
            return self._worked_out(then if self._holds(condition) else otherwise)
        if function == "Fn::Sub":
            text, names = argument if isinstance(argument, list) else (argument, {})
            own = self._worked_out(names)
            return re.sub(r"\$\{([\w:]+)\}", lambda found: str(own.get(found[1], self._value(found[1]))), text)
        worked_out = self._worked_out(argument)
        match function:
            case "Fn::GetAtt":
                return f"<{'.'.join(worked_out)}>"
            case "Fn::Join":
                return worked_out[0].join(worked_out[1])
            case "Fn::Split":
                return worked_out[1].split(worked_out[0])
            case "Fn::Equals":
                return str(worked_out[0]) == str(worked_out[1])
            case "Fn::Not":
                return not worked_out[0]
            case "Fn::And":
                return all(worked_out)
            case "Fn::Or":
                return any(worked_out)
        raise NotImplementedError(function)


def listed(value: Any) -> list[Any]:
    """What IAM writes as one or as several."""
    return value if isinstance(value, list) else [value]


def allows(statements: list[dict[str, Any]], action: str, resource: str) -> bool:
    """Whether any of the statements allows it, conditions taken as met, as IAM matches names."""
    return any(
        action in listed(statement["Action"])
        and any(fnmatchcase(resource, one) for one in listed(statement["Resource"]))
        for statement in statements
    )


def granted(statements: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Each action with each resource pattern that it is allowed on."""
    return {
        (action, resource)
        for statement in statements
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    }
