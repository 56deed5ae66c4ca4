"""An HTTP proxy in front of a real server that answers wrongly, or not at all, when a test says so."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import trustme

# What a fault does with a request (method, path and query): None lets it through, a status answers it with that and
# an empty body, a pair with that status and body, "cut" drops the connection. Over TLS, "garble" spoils it within
# the body.
Fault = Callable[[str, str], int | str | tuple[int, bytes] | None]


class FaultProxy:
    """Where the proxy listens, and what it does; `fault` may be replaced at any time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fault: Fault = lambda method, path: None
        self.seen: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.answers: list[bytes] = []
        # AWS's JSON services have one path: which of their actions was asked for, by request.
        self.actions: list[str] = []


@contextmanager
def fault_proxy(upstream: str, certificate: trustme.LeafCert | None = None) -> Iterator[FaultProxy]:
    """A proxy for ``upstream`` (a base URL); with a ``certificate`` it speaks TLS, as localhost."""
    target = urlsplit(upstream)
    proxy = FaultProxy("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            proxy.seen.append((self.command, self.path))
            proxy.actions.append(self.headers.get("X-Amz-Target", "").rpartition(".")[2])
            body = self._body()
            proxy.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            verdict = proxy.fault(self.command, self.path)
            if verdict == "cut":
                self.close_connection = True
                self.connection.close()
                return
            if isinstance(verdict, int | tuple):
                status, content = verdict if isinstance(verdict, tuple) else (verdict, b"")
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
            connection = http.client.HTTPConnection(target.hostname or "", target.port)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            proxy.answers.append(content)
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(content)))
            self.end_headers()
            if verdict == "garble":
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                with socket.socket(fileno=os.dup(self.connection.fileno())) as under_tls:
                    under_tls.sendall(b"\x17\x03\x03\x00\x40" + os.urandom(64))
                self.close_connection = True
                return
            self.wfile.write(content)
            connection.close()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                raise AssertionError("the clients of the tests send no chunked bodies")
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        proxy.url = f"https://localhost:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
