"""Writes the statements of permissions.yaml about the application's systems, from the names that the code uses.

    python deploy/ecs/render_permissions.py

Each is what `runway-pipelines iam-policy` prints for a process once a parameter is set: its names are made with the
parameters' names in place of values, which become references. A test compares the file with what this would write.
"""

import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

from runway_pipelines.cli.iam_policy import PolicyOptions, Process, policy
from runway_pipelines.settings import Settings
from runway_pipelines.systems.vocabulary import Env

TEMPLATE = Path(__file__).with_name("permissions.yaml")
_ACCOUNT, _REGION, _PARTITION = "999999999999", "AwsRegion", "AwsPartition"
_BASE = {"ENVLABEL": "EnvLabel", "RUNWAY_BUCKET": "Bucket", "AWS_REGION": _REGION}
_APP_DB = {"RUNWAY_APP_DB_SERVICE": "AppDbService"}
_REFERENCES = {
    _ACCOUNT: "${AWS::AccountId}",
    _REGION: "${AWS::Region}",
    f"arn:{_PARTITION}:": "arn:${AWS::Partition}:",
    "AppDbService_": "${ServiceSnake}_",
    **{
        name: f"${{{name}}}"
        for name in (
            "EnvLabel",
            "AppDbService",
            "RedisService",
            "StreamTokenSecretName",
            "StoresDbResourceId",
            "KeyArn",
        )
    },
    ":::Bucket": ":::${Bucket}",
    "event-bus/EventBus": "event-bus/${EventBus}",
}
Statements = dict[tuple[str, tuple[str, ...]], list[str]]


def _granted(process: Process, variables: dict[str, str], **options: Any) -> Statements:
    with patch.dict(os.environ, _BASE | variables, clear=True):
        document = policy(Settings(), PolicyOptions(_ACCOUNT, process, _PARTITION, **options))
    return {(one["Sid"], tuple(one["Action"])): one["Resource"] for one in document["Statement"]}


def _added(process: Process, variables: dict[str, str], **options: Any) -> Statements:
    """What the variables add to the process's policy."""
    before, after = _granted(process, {}), _granted(process, variables, **options)
    added = {key: [one for one in resources if one not in before.get(key, ())] for key, resources in after.items()}
    return {key: resources for key, resources in added.items() if resources}


def _added_in(env: Env, variables: dict[str, str]) -> Statements:
    variables = {"RUNWAY_STORES_ENV": env.value, **variables}
    return _added(Process.PIPELINE, variables, db_resource_ids=["StoresDbResourceId"])


def _in_any_environment(variables: dict[str, str]) -> Statements:
    """The same in every environment, but for its name."""
    made = [
        {
            key: [re.sub(rf"(?<=[:/]){env}(?=/)", "${StoresEnvironment}", one) for one in resources]
            for key, resources in _added_in(env, variables).items()
        }
        for env in Env
    ]
    if made.count(made[0]) != len(made):
        raise ValueError(f"These names differ in more than the environment: {made}")
    return made[0]


def _only(statements: Statements, *actions: str) -> Statements:
    kept = {(sid, tuple(one for one in found if one in actions)): names for (sid, found), names in statements.items()}
    return {key: names for key, names in kept.items() if key[1]}


def _without(statements: Statements, sid: str) -> Statements:
    return {key: names for key, names in statements.items() if key[0] != sid}


def sections() -> dict[str, list[tuple[str | None, Statements]]]:
    """The statements of each section, by the condition that they depend on."""
    pipeline, stream = _granted(Process.PIPELINE, {}), _granted(Process.STREAM, {})
    token = _added(Process.STREAM, {"RUNWAY_STREAM_TOKEN_SECRET": "StreamTokenSecretName"})
    bus = _added(Process.PIPELINE, {"RUNWAY_EVENT_BUS": "EventBus"})
    dev, mirror, prod = (_added_in(env, _APP_DB) for env in (Env.DEV, Env.MIRROR, Env.PROD))
    users = _only(prod, "rds-db:connect")
    return {
        # It sees that a secret changed and that a file came, and reads neither. Of rosters it reads the indexes, from
        # which it makes the board.
        "CodeServerRole": [
            (None, _granted(Process.CODE_SERVER, {})),
            ("HasEventBus", bus),
            ("HasKey", _added(Process.CODE_SERVER, {}, kms_keys=["KeyArn"])),
        ],
        "RunRole": [
            (None, pipeline),
            ("HasRedis", _in_any_environment({"RUNWAY_REDIS_SERVICE": "RedisService"})),
            ("HasKey", _added(Process.PIPELINE, {}, kms_keys=["KeyArn"])),
        ],
        "RosterStreamRole": [
            (None, stream | token),
            ("HasKey", _added(Process.STREAM, {}, kms_keys=["KeyArn"])),
        ],
        "AppDatabase": [
            ("HasDevAppDb", dev),
            ("HasMirrorAppDb", _without(mirror, "ConnectToPostgres")),
            ("HasProdAppDb", _without(prod, "ConnectToPostgres")),
            ("HasIamAppDb", users),
        ],
    }


def _lines(condition: str | None, actions: tuple[str, ...], resources: list[str]) -> list[str]:
    lines = ["- Effect: Allow", f"  Action: [{', '.join(actions)}]", "  Resource:"]
    for resource in resources:
        text = re.sub("|".join(map(re.escape, _REFERENCES)), lambda found: _REFERENCES[found[0]], resource)
        if "${ServiceSnake}" in text:
            lines += [
                "    - !Sub",
                f"      - {text}",
                '      - ServiceSnake: !Join ["_", !Split ["-", !Ref AppDbService]]',
            ]
        else:
            name = re.fullmatch(r"\$\{(\w+)\}", text)
            lines.append('    - "*"' if text == "*" else f"    - !Ref {name[1]}" if name else f"    - !Sub {text}")
    if condition is None:
        return lines
    return ["- !If", f"  - {condition}", *(f"  {line}" for line in lines), "  - !Ref AWS::NoValue"]


def rendered(template: str) -> str:
    """The template with its marked sections written anew."""
    for name, parts in sections().items():
        pattern = re.compile(rf"^( *)# begin: {name}\b[^\n]*\n.*?^ *# end: {name}$", re.MULTILINE | re.DOTALL)
        lines = [
            line
            for condition, statements in parts
            for (_, actions), resources in statements.items()
            for line in _lines(condition, actions, resources)
        ]

        def section(found: re.Match[str], lines: list[str] = lines, name: str = name) -> str:
            indent = found[1]
            marked = [f"# begin: {name}, written by render_permissions.py", *lines, f"# end: {name}"]
            return "\n".join(f"{indent}{line}" for line in marked)

        template, count = pattern.subn(section, template)
        if count != 1:
            raise ValueError(f"The template needs one section {name}.")
    return template


if __name__ == "__main__":
    TEMPLATE.write_text(rendered(TEMPLATE.read_text()))
