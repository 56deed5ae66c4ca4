"""A front for a Snowflake server that forges answers, cuts them short or withholds them, when a test says so."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import urlsplit

LOGIN, QUERY, CHUNK = "/session/v1/login-request", "/queries/v1/query-request", "/chunks/"


@dataclass(frozen=True)
class Asked:
    """One request, its JSON parsed."""

    method: str
    path: str
    token: str
    document: dict[str, Any]

    @property
    def statement(self) -> str:
        return str(self.document.get("sqlText", ""))


@dataclass(frozen=True)
class Cut:
    """The real answer's head, and only this much of its body; then the connection ends, cleanly or with a reset."""

    share: float = 0.5
    is_reset: bool = False


@dataclass(frozen=True)
class Slow:
    """The real answer, late."""

    seconds: float


@dataclass(frozen=True)
class Body:
    """Another body, or what ``change`` makes of the real one."""

    status: int = 200
    content: bytes = b""
    change: Callable[[bytes], bytes] | None = None


# None lets a request through; a dict is a JSON answer.
Verdict = Cut | Slow | Body | dict[str, Any] | None


def refusal(code: int) -> dict[str, Any]:
    """An answer that fails with Snowflake's error of that number."""
    text = f"{code:06d}"
    return {"success": False, "code": text, "message": "no", "data": {"errorCode": text, "sqlState": "08001"}}


@dataclass
class SnowflakeFront:
    """Where it listens, and what it does; ``judge`` may be replaced at any time."""

    host: str = "127.0.0.1"
    port: int = 0
    judge: Callable[[Asked], Verdict] = lambda asked: None
    seen: list[Asked] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)

    def asked(self, path: str) -> list[Asked]:
        """The requests of that kind, so far."""
        return [each for each in self.seen if each.path.startswith(path)]

    def first(self, count: int, path: str, verdict: Verdict, statement: str = "") -> None:
        """Give that verdict on the next ``count`` requests of that kind, and let all others through."""
        left = [count]

        def judge(asked: Asked) -> Verdict:
            with self._lock:
                if not asked.path.startswith(path) or statement not in asked.statement or not left[0]:
                    return None
                left[0] -= 1
                return verdict

        self.judge = judge

    def end_sessions(self, code: int, renewing: int) -> None:
        """Every session that has run a statement so far is gone, as after a long pause, and so it is to be renewed."""
        gone = {asked.token for asked in self.asked(QUERY)}

        def judge(asked: Asked) -> Verdict:
            is_renewal = asked.path.startswith("/session/token-request")
            return refusal(renewing if is_renewal else code) if asked.token in gone else None

        self.judge = judge


@contextmanager
def snowflake_front(upstream_host: str, upstream_port: int) -> Iterator[SnowflakeFront]:
    """A front for the server there, in threads of this process."""
    front = SnowflakeFront()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = self._asked(body)
            front.seen.append(asked)
            verdict = front.judge(asked)
            if isinstance(verdict, dict):
                verdict = Body(content=json.dumps(verdict).encode())
            if isinstance(verdict, Body) and verdict.change is None:
                self._send(verdict.status, {"Content-Type": "application/json"}, verdict.content)
                return
            if isinstance(verdict, Slow):
                time.sleep(verdict.seconds)
            status, headers, content = self._upstream(body)
            if isinstance(verdict, Body) and verdict.change is not None:
                content = verdict.change(content)
            if isinstance(verdict, Cut):
                self._send(status, headers, content, verdict)
                return
            self._send(status, headers, content)

        def _asked(self, body: bytes) -> Asked:
            plain = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            document = json.loads(plain) if plain.startswith(b"{") else {}
            return Asked(self.command, self.path, self.headers.get("Authorization", ""), document)

        def _upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(upstream_host, upstream_port)
            connection.request(self.command, self.path, body=body, headers=dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            dropped = ("transfer-encoding", "connection", "content-length", "date", "server")
            return answer.status, {n: v for n, v in answer.getheaders() if n.lower() not in dropped}, content

        def _send(self, status: int, headers: dict[str, str], content: bytes, cut: Cut | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if cut is None else content[: int(len(content) * cut.share)])
            if cut is None:
                return
            self.wfile.flush()
            if cut.is_reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        do_GET = do_POST = handle_any

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((front.host, 0), Handler)
    server.daemon_threads = True
    front.port = server.server_port
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()


def url_path(url: str) -> str:
    """The path of a URL."""
    return urlsplit(url).path
