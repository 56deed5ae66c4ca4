"""EventBridge: putting one event on a bus."""

from typing import Any

from botocore.exceptions import ClientError

from runway_pipelines.systems.aws.clients import new_client
from runway_pipelines.systems.aws.errors import aws_errors

# A sensor's tick waits for the answer, so give up before it does.
READ_SECONDS = 5.0
ATTEMPTS = 2


def new_event_client(region: str) -> Any:
    """An EventBridge client for sensors."""
    return new_client("events", region=region, read_seconds=READ_SECONDS, attempts=ATTEMPTS)


def put_event(client: Any, *, bus: str, source: str, detail_type: str, detail: str) -> None:
    """Put one event on the bus (``detail`` is JSON); raises our errors, also if AWS refuses the entry."""
    entry = {"Source": source, "DetailType": detail_type, "Detail": detail, "EventBusName": bus}
    with aws_errors(f"put an event on the bus {bus}"):
        answer = client.put_events(Entries=[entry])
        if answer["FailedEntryCount"]:  # AWS answers HTTP 200 even so
            answer["Error"] = {"Code": answer["Entries"][0].get("ErrorCode", "unknown")}
            raise ClientError(answer, "PutEvents")
