"""Speaks as much of MongoDB's wire protocol as a driver needs to log in and ping. It is no MongoDB, and proves nothing
about one: it is there to see what our client does with a driver's answers, over a real socket and real TLS.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import socketserver
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import bson

_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_ITERATIONS = 4096
_SALT = b"0123456789abcdef"


class Responder:
    """What it does, and what it saw."""

    def __init__(self, username: str, password: str, replica_set: str) -> None:
        self.username, self.password, self.replica_set = username, password, replica_set
        self.port = 0
        # Codes that a login, and a ping, is refused with.
        self.login_code: int | None = None
        self.ping_code: int | None = None
        self.logins: list[tuple[str, str]] = []  # user, authSource
        self.pings = 0


@contextmanager
def mongo_responder(username: str, password: str, replica_set: str) -> Iterator[Responder]:
    """Serve in a thread, without TLS: `tls_front` adds that."""
    responder = Responder(username, password, replica_set)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            login = _Login(responder)
            while (message := self._message()) is not None:
                request_id, opcode, body = message
                if opcode == _OP_QUERY:
                    name_end = body.index(b"\0", 4)
                    document = bson.decode(body[name_end + 9 :])
                    head = struct.pack("<iqii", 8, 0, 0, 1)
                    self._send(request_id, _OP_REPLY, head + bson.encode(answer(responder, login, document)))
                else:
                    document = bson.decode(body[5:])
                    self._send(request_id, _OP_MSG, b"\0" * 5 + bson.encode(answer(responder, login, document)))

        def _message(self) -> tuple[int, int, bytes] | None:
            head = self._exactly(16)
            if head is None:
                return None
            length, request_id, _, opcode = struct.unpack("<iiii", head)
            body = self._exactly(length - 16)
            return None if body is None else (request_id, opcode, body)

        def _exactly(self, count: int) -> bytes | None:
            data = b""
            while len(data) < count:
                chunk = self.request.recv(count - len(data))
                if not chunk:
                    return None
                data += chunk
            return data

        def _send(self, request_id: int, opcode: int, body: bytes) -> None:
            self.request.sendall(struct.pack("<iiii", len(body) + 16, 1, request_id, opcode) + body)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        responder.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield responder
        server.shutdown()


class _Login:
    """SCRAM-SHA-256, the server's half, of one connection."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._first = ""
        self._challenge = ""

    def start(self, document: dict[str, Any]) -> dict[str, Any]:
        self._first = document["payload"].decode().partition("n,,")[2]
        fields = dict(part.split("=", 1) for part in self._first.split(","))
        self._responder.logins.append((fields["n"], document["$db"]))
        if self._responder.login_code is not None or fields["n"] != self._responder.username:
            return refusal(self._responder.login_code or 18)
        salt = base64.b64encode(_SALT).decode()
        self._challenge = f"r={fields['r']}server,s={salt},i={_ITERATIONS}"
        return {"ok": 1.0, "conversationId": 1, "done": False, "payload": self._challenge.encode()}

    def go_on(self, document: dict[str, Any]) -> dict[str, Any]:
        final = document["payload"].decode()
        without_proof, _, proof = final.rpartition(",p=")
        salted = hashlib.pbkdf2_hmac("sha256", self._responder.password.encode(), _SALT, _ITERATIONS)
        message = f"{self._first},{self._challenge},{without_proof}".encode()
        client_key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(client_key).digest(), message)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if not hmac.compare_digest(base64.b64decode(proof), expected):
            return refusal(18)
        verifier = base64.b64encode(_hmac(_hmac(salted, b"Server Key"), message))
        return {"ok": 1.0, "conversationId": 1, "done": True, "payload": b"v=" + verifier}


def answer(responder: Responder, login: _Login, document: dict[str, Any]) -> dict[str, Any]:
    """The reply to a command."""
    command = next(iter(document))
    if command.lower() in ("hello", "ismaster"):
        me = f"localhost:{responder.port}"
        return {
            "ok": 1.0,
            "helloOk": True,
            "ismaster": True,
            "isWritablePrimary": True,
            "setName": responder.replica_set,
            "hosts": [me],
            "primary": me,
            "me": me,
            "setVersion": 1,
            "minWireVersion": 8,
            "maxWireVersion": 21,
            "maxBsonObjectSize": 16_777_216,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "saslSupportedMechs": ["SCRAM-SHA-256"],
        }
    if command == "saslStart":
        return login.start(document)
    if command == "saslContinue":
        return login.go_on(document)
    if command == "ping":
        responder.pings += 1
        return {"ok": 1.0} if responder.ping_code is None else refusal(responder.ping_code)
    return {"ok": 1.0}


def refusal(code: int) -> dict[str, Any]:
    return {"ok": 0.0, "errmsg": "refused: c4n4ry", "code": code, "codeName": "Refused"}


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()
