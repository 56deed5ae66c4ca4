"""Operators' events to EventBridge, or to the log. Failing to tell of a failure fails nothing."""

from typing import Any, Protocol

import dagster as dg
import orjson
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import PrivateAttr

from runway_pipelines.errors import ConfigurationError, RunwayError
from runway_pipelines.resources.aws_errors import raise_mapped
from runway_pipelines.run_outcomes.outcomes import OperatorEvent

# A sensor's tick waits for the answer.
CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
ATTEMPTS = 2
# The members of a detail that a warning names, with the words for them.
_ABOUT = (("partner", "partner"), ("run", "run_id"))


class Log(Protocol):
    """What of Dagster's logger is used."""

    def info(self, message: str) -> Any: ...
    def warning(self, message: str) -> Any: ...


class OperatorEvents(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where operators hear of failures: an event bus, or the log when there is none."""

    event_bus: str | None = None
    envlabel: str | None = None
    region_name: str
    dagster_url: str | None = None

    _client: Any = PrivateAttr(default=None)

    @property
    def client(self) -> Any:
        """The EventBridge client, made once."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            config = Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            )
            self._client = boto3.client("events", region_name=self.region_name, config=config)
        return self._client

    def emit(self, event: OperatorEvent, log: Log) -> bool:
        """Send the event and say whether it was taken; never raises, a failure is a warning in ``log``."""
        try:
            detail = orjson.dumps(event.detail).decode()
            if self.event_bus:
                self._put(event.detail_type, detail)
            else:
                log.info(f"operator event {event.detail_type}: {detail}")
        except Exception as error:  # noqa: BLE001 - the runs go on, whoever hears of them
            why = str(error) if isinstance(error, RunwayError) else f"an unexpected {type(error).__name__}"
            log.warning(f"operator event {_name(event)} was not sent: {why}")
            return False
        return True

    def _put(self, detail_type: str, detail: str) -> None:
        """Put one entry; raises our errors."""
        entry = {
            "Source": self._source(),
            "DetailType": detail_type,
            "Detail": detail,
            "EventBusName": self.event_bus,
        }
        try:
            answer = self.client.put_events(Entries=[entry])
            if answer["FailedEntryCount"]:  # the answer is HTTP 200 all the same
                answer["Error"] = {"Code": answer["Entries"][0].get("ErrorCode", "unknown")}
                raise ClientError(answer, "PutEvents")
        except (ClientError, BotoCoreError) as error:
            raise_mapped(f"put an event on the bus {self.event_bus}", error)

    def _source(self) -> str:
        if not self.envlabel:
            raise ConfigurationError(
                expected="the variable ENVLABEL (dev, stg or prod)",
                came="no value",
                remedy="set ENVLABEL: an event's source says which environment it is of",
            )
        return f"runway.{self.envlabel}"


def _name(event: OperatorEvent) -> str:
    """What it is about, without a value that nobody chose to log."""
    about = [f"{word} {event.detail[member]}" for word, member in _ABOUT if event.detail.get(member)]
    return f"{event.detail_type} ({', '.join(about)})"
