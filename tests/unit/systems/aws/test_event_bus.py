"""An event that cannot be sent is a warning that names it, and never an error."""

import logging
from typing import Any

import orjson
import pytest

from runway_pipelines.operations.events import OperatorEvents
from runway_pipelines.operations.outcomes import OperatorEvent

EVENT = OperatorEvent("roster_refresh_failed", {"partner": "acme", "run_id": "run-1", "reasons": {"acme/a": "c4n4ry"}})
LOG = logging.getLogger("test")


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_without_a_bus_an_event_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert OperatorEvents(region_name="us-west-2").emit(EVENT, LOG)
    assert caplog.messages == [f"operator event roster_refresh_failed: {orjson.dumps(EVENT.detail).decode()}"]


def test_without_an_environment_label_nothing_is_sent_and_the_variable_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert not OperatorEvents(region_name="us-west-2", event_bus="operators").emit(EVENT, LOG)
    (message,) = caplog.messages
    assert message.startswith("operator event roster_refresh_failed (partner acme, run run-1) was not sent: ")
    assert "the variable ENVLABEL" in message
    assert "c4n4ry" not in message


@pytest.mark.parametrize("event_bus", [None, "operators"])
def test_a_detail_that_is_no_json_is_a_warning_too(event_bus: str | None, caplog: pytest.LogCaptureFixture) -> None:
    broken = OperatorEvent("x", {"partner": "acme", "run_id": "run-1", "reasons": {"c4n4ry"}})
    assert not OperatorEvents(region_name="us-west-2", event_bus=event_bus, envlabel="dev").emit(broken, LOG)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "c4n4ry" not in caplog.text


def test_a_failure_that_nobody_foresaw_is_named_by_its_type_only(caplog: pytest.LogCaptureFixture) -> None:
    class Client:
        def put_events(self, **_: Any) -> None:
            raise ZeroDivisionError("c4n4ry")

    events = OperatorEvents(region_name="us-west-2", event_bus="operators", envlabel="dev")
    events._client = Client()
    assert not events.emit(EVENT, LOG)
    assert "an unexpected ZeroDivisionError" in caplog.text
    assert "c4n4ry" not in caplog.text


def test_the_client_waits_for_seconds_and_tries_twice() -> None:
    config = OperatorEvents(region_name="us-west-2").client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (3, 5)
    assert config.retries == {"total_max_attempts": 2, "mode": "standard"}
