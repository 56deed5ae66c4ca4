"""Opening a store with a client that answers, that answers later, and that never does."""

from __future__ import annotations

import pytest

from runway_pipelines.errors import AuthenticationRefused, RunwayError, Unavailable
from runway_pipelines.systems import store_resource
from runway_pipelines.systems.store_resource import answering


class Client:
    """Fails one ping with each of these errors, and then answers."""

    def __init__(self, *troubles: type[RunwayError]) -> None:
        self.troubles = list(troubles)
        self.pings = 0
        self.is_closed = False

    def ping(self) -> None:
        self.pings += 1
        if self.troubles:
            raise self.troubles.pop(0)(expected="an answer", came="none", remedy="none")

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_resource, "FIRST_WAIT_SECONDS", 0)


def test_a_client_that_answers_in_time_is_open() -> None:
    client = Client(Unavailable, Unavailable)
    assert answering(client, Client.ping, 3) is client
    assert (client.pings, client.is_closed) == (3, False)


@pytest.mark.parametrize(("trouble", "pings"), [(Unavailable, 3), (AuthenticationRefused, 1)])
def test_a_client_that_does_not_answer_is_closed(trouble: type[RunwayError], pings: int) -> None:
    client = Client(*[trouble] * 5)
    with pytest.raises(trouble):
        answering(client, Client.ping, 3)
    assert (client.pings, client.is_closed) == (pings, True)
