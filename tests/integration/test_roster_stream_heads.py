"""A request's head has to be whole in time, over slow sockets; what comes after it has bounds of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from runway_pipelines.local.stack import EmbeddedStack
from runway_pipelines.stream import heads
from tests.integration.stream_server import StreamServer, stream_server
from tests.integration.world import world_of
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

SECONDS = 1.0
HEAD = b"GET /healthz HTTP/1.1\r\nHost: stream\r\nX-Slow: "


@pytest.fixture(scope="module")
def server(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamServer]:
    with pytest.MonkeyPatch.context() as patch, world_of(stack, patch):
        patch.setattr(heads, "HEAD_SECONDS", SECONDS)
        with stream_server(tmp_path_factory.mktemp("heads") / "log") as running:
            yield running


def connected(server: StreamServer) -> closing[socket.socket]:
    return closing(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS))


def read_answer(client: socket.socket) -> None:
    """A whole answer of /healthz."""
    received = b""
    while not received.endswith(b'{"status":"ok"}'):
        received += (more := client.recv(1 << 16))
        assert more, received


def trickle(client: socket.socket) -> bytes:
    """One byte of a header's value every tenth of a second, until the server answers or hangs up."""
    client.settimeout(0.1)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        try:
            client.sendall(b"x")
            return client.recv(1 << 16)
        except TimeoutError:
            continue
        except OSError:
            return b""
    raise AssertionError("the server still waits for the head")


@pytest.mark.parametrize("beginning", [b"", b"G", HEAD])
def test_a_client_that_never_finishes_its_head_is_hung_up_on(server: StreamServer, beginning: bytes) -> None:
    with connected(server) as client:
        client.sendall(beginning)
        assert trickle(client) == b""


def test_a_client_that_says_nothing_is_hung_up_on(server: StreamServer) -> None:
    with connected(server) as client:
        assert client.recv(1) == b""


def test_the_second_head_of_a_connection_has_as_long_from_its_first_byte(server: StreamServer) -> None:
    with connected(server) as client:
        client.sendall(HEAD + b"x\r\n\r\n")
        read_answer(client)
        time.sleep(2 * SECONDS)  # idle: the load balancer keeps connections
        client.sendall(HEAD + b"x\r\n\r\n")
        read_answer(client)
        client.sendall(HEAD)
        assert trickle(client) == b""


@pytest.mark.parametrize("rest", [b"1", b"12345"])
def test_the_rest_of_a_body_that_was_answered_already_keeps_no_connection_for_ever(
    server: StreamServer, rest: bytes
) -> None:
    """Its first byte ends the timer of idle connections, and no other would start."""
    with connected(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: stream\r\nContent-Length: 5\r\n\r\n")
        read_answer(client)
        client.sendall(rest)
        assert client.recv(1) == b""


def test_the_bound_ends_with_the_head(server: StreamServer) -> None:
    """What follows it has bounds of its own."""
    with connected(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: stream\r\nContent-Length: 5\r\n\r\n")
        read_answer(client)
        time.sleep(2 * SECONDS)
        client.sendall(b"12345" + HEAD + b"x\r\n\r\n")
        read_answer(client)
