"""The live roster stream at the size it is made for: what must hold, and whether it does.

Twenty pulls of 100,000 students at once, from the snapshot and from the warehouse, there with one session stuck; a
client that reads for a minute; a server that is killed in the middle. Not for speed: that is `roster_stream`. What does
not hold fails the run. Sizes: ROSTER_STREAM_STUDENTS, ROSTER_STREAM_SLOW_SECONDS.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from threading import Barrier, Event, Thread

from benchmarks.end_to_end import write_warehouse
from benchmarks.local_partner import roster_services, stack_with
from benchmarks.measure import MEGABYTE, Report, in_own_process
from benchmarks.roster_stream import PARTNER, STUDENTS, TENANT, Served, our_server, peak_memory_of, publish, warm_up
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.local.stack import EmbeddedStack
from runway_pipelines.rosters.extraction import select_roster

ROUNDS = 3
CLIENTS = 20
ACQUIRE_SECONDS = 60  # the default
SLOW_SECONDS = int(os.environ.get("ROSTER_STREAM_SLOW_SECONDS", "60"))
# A slow client takes this part of the roster in its time: the rest is more than all buffers on the way to it hold.
SLOW_PART = 1 / 8
MOST_IN_BUFFERS = 5 * MEGABYTE
# Eight parts of 128 KB on the way, two chunks of S3's, and what the allocators keep of them.
MOST_OF_A_SNAPSHOT = 10 * MEGABYTE
# Above what the driver holds, and a quarter of that: there its steps are made by all pulls at the same time, here one
# decodes while another still parses.
MOST_OF_A_WAREHOUSE = 10 * MEGABYTE
OF_THE_DRIVER = 1.25
MOST_OF_A_MINUTE = 5 * MEGABYTE
_LOGIN = b"/session/v1/login-request"
_SOURCES = [(source, is_gzip) for source in ("snapshot", "warehouse") for is_gzip in (False, True)]


def run() -> Iterator[Report]:
    """The table."""
    report = Report(
        "roster_stream_load",
        f"roster_stream_load: {STUDENTS:,} students to each client, a slow one takes {SLOW_SECONDS} s",
        ("", "what must hold", "seen"),
        numbers={"students": STUDENTS, "slow_seconds": SLOW_SECONDS},
    )
    claims = Claims(report)
    with stack_with(PARTNER) as stack:
        write_warehouse(stack, PARTNER, TENANT, STUDENTS)
        sha256 = in_own_process(publish)["sha256"]
        _twenty_from_the_snapshot(stack, sha256, claims)
        _twenty_with_one_session_stuck(stack, sha256, in_own_process(driver_alone)["peak_memory"], claims)
        for source, is_gzip in _SOURCES:
            _a_slow_client_and_a_kill(stack, source, is_gzip, sha256, claims)
    yield report


@dataclass
class Claims:
    """What must hold, as rows of the report."""

    report: Report

    def claim(self, where: str, must: str, seen: str, holds: bool) -> None:
        """One of them."""
        self.report.rows.append((where, must, seen))
        self.report.numbers.setdefault("claims", []).append(
            {"where": where, "must": must, "seen": seen, "holds": holds}
        )
        if not holds:
            self.report.wrong.append(f"{where}: {must}; seen: {seen}")


@dataclass(frozen=True)
class Pulled:
    """One client's pull: what it got, and when it had that."""

    status: int
    sha256: str
    size: int
    seconds: float


def _twenty_from_the_snapshot(stack: EmbeddedStack, sha256: str, claims: Claims) -> None:
    where = f"{CLIENTS} clients, snapshot"
    with our_server(stack) as server:
        warm_up(server)
        server.ask_for("snapshot", is_gzip=False)
        _pull(server)
        before = server.process.memory_info().rss
        pulled = _at_once(server, CLIENTS)
        more = peak_memory_of(server.process) - before
    whole = sum(one.sha256 == sha256 for one in pulled)
    claims.claim(where, "all get the published bytes", f"{whole} of {CLIENTS}", whole == CLIENTS)
    _claim_memory(claims, where, "peak memory above one client's", more, CLIENTS * MOST_OF_A_SNAPSHOT)


def _twenty_with_one_session_stuck(stack: EmbeddedStack, sha256: str, floor: int, claims: Claims) -> None:
    """Nineteen sessions are open; the twentieth's login is not answered before the pull has given up."""
    where = f"{CLIENTS} clients, warehouse, a session stuck"
    with _relay(stack.snowflake_host, stack.snowflake_port) as logins:
        variables = {
            "RUNWAY_SNOWFLAKE_HOST": "127.0.0.1",
            "RUNWAY_SNOWFLAKE_PORT": str(logins.port),
            "RUNWAY_SNOWFLAKE_LOGIN_TIMEOUT": str(3 * ACQUIRE_SECONDS),  # the driver must not give up before the pull
            "RUNWAY_STREAM_ACQUIRE_SECONDS": str(ACQUIRE_SECONDS),
        }
        with our_server(stack, **variables) as server:
            server.ask_for("warehouse", is_gzip=False)
            _at_once(server, CLIENTS - 1, in_step=True)
            opened = _metric(server, 'roster_stream_snowflake_sessions{state="idle"}')
            claims.claim(where, "19 sessions before", f"{opened:.0f}", opened == CLIENTS - 1)
            logins.stick()
            pulled = sorted(_at_once(server, CLIENTS), key=lambda one: one.seconds)
            peak = peak_memory_of(server.process)
            logins.release()
            idle = _until(lambda: _metric(server, 'roster_stream_snowflake_sessions{state="idle"}'), CLIENTS)
    *others, stuck = pulled
    whole = sum(one.sha256 == sha256 for one in others)
    claims.claim(where, "the others get the published bytes", f"{whole} of {CLIENTS - 1}", whole == CLIENTS - 1)
    last = others[-1].seconds
    claims.claim(where, f"they have them within {ACQUIRE_SECONDS} s", f"{last:.1f} s", last < ACQUIRE_SECONDS)
    claims.claim(
        where,
        f"the stuck one gets 500 after {ACQUIRE_SECONDS} s",
        f"{stuck.status} after {stuck.seconds:.1f} s",
        stuck.status == 500 and ACQUIRE_SECONDS <= stuck.seconds < ACQUIRE_SECONDS + 10,
    )
    claims.claim(where, "its session, when it comes, is kept", f"{idle:.0f} idle", idle == CLIENTS)
    claims.report.numbers["driver_alone"] = floor
    what = f"peak memory (of the driver alone {floor / MEGABYTE:.0f} MB)"
    _claim_memory(claims, where, what, peak, int(OF_THE_DRIVER * floor) + CLIENTS * MOST_OF_A_WAREHOUSE)


def _a_slow_client_and_a_kill(stack: EmbeddedStack, source: str, is_gzip: bool, sha256: str, claims: Claims) -> None:
    where = f"{source}{', gzip' if is_gzip else ''}"
    with our_server(stack) as server:
        warm_up(server)
        server.ask_for(source, is_gzip=is_gzip)
        size = _pull(server).size
        before = server.process.memory_info().rss
        with _asked(server, receive_buffer=4096) as answer:
            content = Content(is_gzip)
            content.take(answer.read(1))
            time.sleep(1)
            memory = [server.process.memory_info().rss]
            began = time.monotonic()
            while (elapsed := time.monotonic() - began) < SLOW_SECONDS:
                wanted = int(size * SLOW_PART * elapsed / SLOW_SECONDS) - content.size
                content.take(answer.read(wanted) if wanted > 0 else b"")
                memory.append(server.process.memory_info().rss)
                time.sleep(0.2)
            is_held = _metric(server, "roster_stream_pulls_in_flight") == 1
            while chunk := answer.read(1 << 18):
                content.take(chunk)
        growth, held = max(memory) - memory[0], memory[0] - before
        if size > MOST_IN_BUFFERS:
            claims.claim(f"slow client, {where}", "the server waits for it all the time", str(is_held), is_held)
        else:
            claims.report.notes.append(f"slow client, {where}: the kernel's buffers take all of its {size:,} bytes.")
        got = "they are" if content.sha256 == sha256 else "others"
        claims.claim(f"slow client, {where}", "its bytes are the published ones", got, content.sha256 == sha256)
        _claim_memory(claims, f"slow client, {where}", "growth of memory meanwhile", growth, MOST_OF_A_MINUTE)
        if source == "snapshot":
            _claim_memory(claims, f"slow client, {where}", "memory that it holds", held, MOST_OF_A_SNAPSHOT)
        else:
            claims.report.notes.append(f"slow client, {where}: {held / MEGABYTE:.0f} MB more than before it came.")
        with _asked(server) as answer:
            answer.read(1)
            server.process.kill()
            try:
                answer.read()
                seen = "a whole body"
            except (http.client.IncompleteRead, ConnectionResetError) as error:
                seen = type(error).__name__
        claims.claim(f"killed in the middle, {where}", "the body is incomplete", seen, seen != "a whole body")


def _claim_memory(claims: Claims, where: str, what: str, seen: int, most: int) -> None:
    must = f"{what}: at most {most / MEGABYTE:.0f} MB"
    claims.claim(where, must, f"{seen / MEGABYTE:.1f} MB", seen <= most)


def driver_alone() -> dict[str, list[int]]:
    """As many answers in hand at the same time, and thrown away: what nobody who uses this driver can hold less of."""
    together = Barrier(CLIENTS)
    with roster_services() as services:
        sessions = PartnerSessions(
            PARTNER.partner_id, services.secrets, services.snowflake, size=CLIENTS, query_tag="benchmark"
        )

        def pull(_: int) -> int:
            with sessions.session() as session:
                together.wait()
                selection = select_roster(session, TENANT, run_id="benchmark")
                together.wait()
                return sum(batch.num_rows for batch in selection.batches)

        with closing(sessions), ThreadPoolExecutor(CLIENTS) as executor:
            return {"rows": [sum(executor.map(pull, range(CLIENTS))) for _ in range(ROUNDS)]}


class Content:
    """What a client has got, as it is without compression."""

    def __init__(self, is_gzip: bool) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._plain: Callable[[bytes], bytes] = zlib.decompressobj(31).decompress if is_gzip else bytes

    def take(self, chunk: bytes) -> None:
        """The next bytes from the wire."""
        self.size += len(chunk)
        self._digest.update(self._plain(chunk))

    @property
    def sha256(self) -> str:
        """Of the roster's bytes."""
        return self._digest.hexdigest()


@contextmanager
def _asked(server: Served, receive_buffer: int | None = None) -> Iterator[http.client.HTTPResponse]:
    """The answer, of which only the head was read."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.sock = socket.socket()
        if receive_buffer is not None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.sock.settimeout(600)
        connection.sock.connect(("127.0.0.1", server.port))
        connection.request("GET", server.path, headers=server.headers)
        yield connection.getresponse()


def _pull(server: Served, in_step: Barrier | None = None) -> Pulled:
    """One pull, as fast as it comes; ``in_step``: nobody reads on before all have their first byte."""
    started = time.monotonic()
    content = Content(server.headers["Accept-Encoding"] == "gzip")
    with _asked(server) as answer:
        if answer.status == 200:
            content.take(answer.read(1))
            if in_step is not None:
                in_step.wait(ACQUIRE_SECONDS)
        while chunk := answer.read(1 << 18):
            content.take(chunk)
    return Pulled(answer.status, content.sha256, content.size, time.monotonic() - started)


def _at_once(server: Served, clients: int, *, in_step: bool = False) -> list[Pulled]:
    barrier = Barrier(clients) if in_step else None
    with ThreadPoolExecutor(clients) as executor:
        futures: list[Future[Pulled]] = [executor.submit(_pull, server, barrier) for _ in range(clients)]
        return [future.result() for future in futures]


def _metric(server: Served, name: str) -> float:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))


def _until(value: Callable[[], float], wanted: float, seconds: float = 60) -> float:
    deadline = time.monotonic() + seconds
    while (seen := value()) != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    return seen


class _Logins:
    """What the relay does with logins."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._go_on = Event()
        self._go_on.set()

    def stick(self) -> None:
        """From now on they wait."""
        self._go_on.clear()

    def release(self) -> None:
        """They go on."""
        self._go_on.set()

    def pass_on(self, source: socket.socket, target: socket.socket) -> None:
        """Until either side hangs up."""
        with suppress(OSError):
            while received := source.recv(1 << 16):
                if _LOGIN in received:
                    self._go_on.wait()
                target.sendall(received)
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@contextmanager
def _relay(host: str, port: int) -> Iterator[_Logins]:
    """In front of the local Snowflake, byte by byte, so that logins can be stuck."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        logins = _Logins(listener.getsockname()[1])

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    server = socket.create_connection((host, port))
                    for pair in ((client, server), (server, client)):
                        Thread(target=logins.pass_on, args=pair, daemon=True).start()

        Thread(target=accept, daemon=True).start()
        try:
            yield logins
        finally:
            logins.release()
