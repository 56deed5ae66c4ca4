"""EventBridge as operators use it: a bus, a rule, and a queue that shows what came through."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import boto3


@dataclass
class Bus:
    """An event bus with a rule that hands all of an environment's events to a queue."""

    name: str
    queue_url: str
    sqs: Any

    def received(self) -> list[dict[str, Any]]:
        """What was put since the last call, in order."""
        found: list[dict[str, Any]] = []
        while messages := self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])
        return found

    def types(self) -> list[str]:
        return [event["detail-type"] for event in self.received()]


def make_bus(name: str) -> Bus:
    """The bus of this name for the environment ``dev``, and a queue of the same name."""
    events, sqs = boto3.client("events"), boto3.client("sqs")
    queue_url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.create_event_bus(Name=name)
    events.put_rule(Name="of-dev", EventBusName=name, EventPattern=json.dumps({"source": ["runway.dev"]}))
    events.put_targets(Rule="of-dev", EventBusName=name, Targets=[{"Id": "queue", "Arn": arn}])
    return Bus(name, queue_url, sqs)
