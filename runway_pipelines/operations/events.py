"""Sends operators' events to EventBridge, or to the log. A failed notification never fails a run."""

import logging
from typing import Any

import dagster as dg
import orjson
from pydantic import PrivateAttr

from runway_pipelines.errors import ConfigurationError, RunwayError
from runway_pipelines.operations.outcomes import OperatorEvent
from runway_pipelines.systems.aws.event_bus import new_event_client, put_event


class OperatorEvents(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Notifies operators on an event bus, or in the log where there is no bus."""

    event_bus: str | None = None
    envlabel: str | None = None
    region_name: str
    dagster_url: str | None = None

    _client: Any = PrivateAttr(default=None)

    @property
    def client(self) -> Any:
        """The EventBridge client, made once."""
        if self._client is None:
            self._client = new_event_client(self.region_name)
        return self._client

    def emit(self, event: OperatorEvent, log: logging.Logger) -> bool:
        """Send the event; returns whether it was accepted. Never raises: a failure becomes a warning in ``log``."""
        try:
            detail = orjson.dumps(event.detail).decode()
            if self.event_bus:
                put_event(
                    self.client,
                    bus=self.event_bus,
                    source=self._source(),
                    detail_type=event.detail_type,
                    detail=detail,
                )
            else:
                log.info(f"operator event {event.detail_type}: {detail}")
        except Exception as error:  # noqa: BLE001 - a failed notification never fails a run
            why = str(error) if isinstance(error, RunwayError) else f"an unexpected {type(error).__name__}"
            # Only these two of the detail's members: the rest was not chosen for the log.
            about = [
                f"{word} {event.detail[member]}"
                for word, member in (("partner", "partner"), ("run", "run_id"))
                if event.detail.get(member)
            ]
            log.warning(f"operator event {event.detail_type} ({', '.join(about)}) was not sent: {why}")
            return False
        return True

    def _source(self) -> str:
        if not self.envlabel:
            raise ConfigurationError(
                expected="the variable ENVLABEL (dev, stg or prod)",
                came="no value",
                remedy="set ENVLABEL: the source of an event names its environment",
            )
        return f"runway.{self.envlabel}"
