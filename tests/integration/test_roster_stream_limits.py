"""What one partner, one client or a service that hangs may take from the others: a share, for a time."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from runway_pipelines.stream.limits import MOST_CALLS
from tests.integration.fault_proxy import fault_proxy
from tests.integration.stream_server import (
    IN_FLIGHT,
    IN_USE,
    Big,
    add_run,
    in_background,
    is_connected,
    publish,
    pulls,
    raw_client,
    request_bytes,
    stream_process,
    stream_server,
    unchunked,
)
from tests.integration.world import Warehouse, World
from tests.waiting import PATIENCE_SECONDS, join, wait_until

pytestmark = pytest.mark.slow


def test_a_partner_whose_warehouse_is_stuck_leaves_the_others_their_places(world: World, tmp_path: Path) -> None:
    """It has more pulls than there are places at all, and each of them waits for its statement."""
    warehouse = Warehouse()
    warehouse.students("north", 3)
    stuck, other = world.partner(warehouse, ["north"]), world.partner(warehouse, ["north"])
    stuck_run, other_run = add_run(world, stuck, "north"), add_run(world, other, "north")
    expected = publish(other, "north")
    held = threading.Semaphore(0)
    release = threading.Event()
    with fault_proxy(f"http://127.0.0.1:{world.stack.snowflake_port}") as proxy, ExitStack() as opened:
        opened.callback(release.set)
        settings = {
            "RUNWAY_SNOWFLAKE_PORT": proxy.url.rpartition(":")[2],
            "RUNWAY_STREAM_MOST_PULLS": "3",
            "RUNWAY_STREAM_MOST_PULLS_PER_PARTNER": "2",
        }
        server = opened.enter_context(stream_server(tmp_path / "server.log", **settings))
        is_connected(server, stuck_run)

        def hold_statements(method: str, path: str) -> None:
            if "query-request" in path:
                held.release()
                release.wait(PATIENCE_SECONDS)

        proxy.fault = hold_statements
        for _ in range(5):
            opened.enter_context(raw_client(server, request_bytes(stuck_run)))
        for _ in range(2):
            assert held.acquire(timeout=PATIENCE_SECONDS)
        time.sleep(0.5)  # the others have asked by now
        assert server.metric(IN_FLIGHT) == 2
        assert server.pull(other_run).content == expected


def test_a_client_that_leaves_while_it_waits_for_a_place_takes_none(world: World, tmp_path: Path, big: Big) -> None:
    settings = {"RUNWAY_STREAM_MOST_PULLS_PER_PARTNER": "1", "RUNWAY_STREAM_ACQUIRE_SECONDS": "3600"}
    with stream_server(tmp_path / "server.log", **settings) as server:
        with raw_client(server, request_bytes(big.run), buffer=4096) as slow:
            slow.recv(1)
            for _ in range(3):
                with raw_client(server, request_bytes(big.run)):
                    time.sleep(0.5)
            wait_until(lambda: server.metric(pulls("snapshot", "abandoned")) == 3)
            assert server.metric(IN_FLIGHT) == 1
        assert server.pull(big.run).content == big.content
        assert server.metric('roster_stream_first_byte_seconds_count{source="snapshot"}') == 2


def trickle(client: socket.socket) -> None:
    """Read 0.1 MB a second, in small pieces: a window that stays shut is the kernel's to give up."""
    with suppress(OSError):
        while client.recv(10_000):
            time.sleep(0.1)


@pytest.mark.parametrize("source", ["snapshot", "warehouse"])
def test_a_client_that_trickles_is_given_up_and_a_slow_one_is_not(
    world: World, tmp_path: Path, big: Big, source: str
) -> None:
    """Both take something all the time: one 0.1 MB a second, the other 2; what is asked for is 0.5."""
    settings = {"RUNWAY_STREAM_STALL_SECONDS": "6", "RUNWAY_STREAM_LEAST_BYTES_PER_SECOND": "500000"}
    request = request_bytes(big.run, f"roster?source={source}", Connection="close")
    with stream_server(tmp_path / "server.log", **settings) as server:
        is_connected(server, big.run)
        with raw_client(server, request, buffer=65_536) as trickling:
            started = time.monotonic()
            reader = in_background(trickle, trickling)
            wait_until(lambda: server.metric(pulls(source, "abandoned")) == 1, pause=0.3)
            assert time.monotonic() - started > 6
            join(reader)
            assert "read too slowly" in server.log()
            wait_until(lambda: server.metric(IN_FLIGHT) == server.metric(IN_USE) == 0)
        received, started = b"", time.monotonic()
        with raw_client(server, request, buffer=65_536) as slow:
            while chunk := slow.recv(1 << 16):
                received += chunk
                time.sleep(len(chunk) / 2_000_000)
        assert time.monotonic() - started > 6
        body = received.partition(b"\r\n\r\n")[2]
        assert (unchunked(body) if source == "warehouse" else body) == big.content


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_stop_does_so_also_when_aws_does_not_answer(
    world: World, tmp_path: Path, big: Big, number: signal.Signals
) -> None:
    """More calls hang than there are threads for them. After SIGINT (or SIGTERM, for a container's first process) the
    interpreter ends by itself, and would join threads that are no daemons: for as long as a call may be tried again.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=512) as silent, ExitStack() as opened:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {"AWS_ENDPOINT_URL": endpoint, "RUNWAY_STREAM_GRACE_SECONDS": "1", "AWS_MAX_ATTEMPTS": "60"}
        server = opened.enter_context(stream_process(tmp_path / "server.log", **settings))
        for _ in range(MOST_CALLS + 10):
            opened.enter_context(raw_client(server, request_bytes(big.run)))
        time.sleep(2)
        server.stop(number)


def test_clients_that_read_on_and_on_cost_no_more_memory_from_moment_to_moment(
    world: World, tmp_path: Path, big: Big
) -> None:
    """One from the snapshot and one from the warehouse. Compressed, this roster would all be in the kernel's buffers:
    `benchmarks roster_stream_load` does that with a larger one.
    """
    with stream_process(tmp_path / "server.log") as server, ExitStack() as opened:
        clients = []
        for source in ("snapshot", "warehouse"):
            assert server.pull(big.run, f"?source={source}").content == big.content  # what stays allocated is allocated
            request = request_bytes(big.run, f"roster?source={source}")
            clients.append(opened.enter_context(raw_client(server, request, buffer=4096)))
            clients[-1].recv(1)
        memory = [server.settled_memory()]
        for _ in range(60):
            time.sleep(0.2)
            for client in clients:
                client.recv(4096)
            memory.append(server.memory())
        assert max(memory) - memory[0] < 2_000_000
        assert server.metric(IN_FLIGHT) == 2
