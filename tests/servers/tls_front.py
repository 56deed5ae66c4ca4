"""TLS in front of a local server that has none: for any protocol, and with Postgres' own handshake.

Postgres' front refuses plaintext, as RDS does with ``rds.force_ssl``. It can also ask for the password itself, in
cleartext within TLS, as RDS does for IAM users; the server behind it must trust such a user.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import trustme

from tests.waiting import PATIENCE_SECONDS

_HOST = "127.0.0.1"
_CHUNK = 65_536
_SSL_REQUEST, _GSS_REQUEST = 80_877_103, 80_877_104
_CLEARTEXT_PASSWORD = b"R" + struct.pack("!II", 8, 3)

# Takes user and password; returns None to accept the login, else the reason for refusing it.
Doorkeeper = Callable[[str, str], str | None]
_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class TlsFront:
    """Where it listens; ``upstream_port`` may change, because a restarted server has another port."""

    def __init__(self, upstream_port: int) -> None:
        self.host = _HOST
        self.port = 0
        self.upstream_port = upstream_port
        # Connections over TLS, including refused logins, and connections that asked for plaintext.
        self.connections = 0
        self.refused_plaintext = 0


@contextmanager
def tls_front(upstream_port: int, certificate: trustme.LeafCert) -> Iterator[TlsFront]:
    """TLS from the first byte, as Redis and MongoDB expect it."""
    front = TlsFront(upstream_port)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        front.connections += 1
        await _forward(front, reader, writer, b"")

    with _served(front, handle, _context(certificate)):
        yield front


@contextmanager
def postgres_tls_front(
    upstream_port: int, certificate: trustme.LeafCert, doorkeeper: Doorkeeper | None = None
) -> Iterator[TlsFront]:
    """TLS as Postgres negotiates it; a ``doorkeeper`` makes the front ask for the password and judge it."""
    front = TlsFront(upstream_port)
    context = _context(certificate)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await _asks_for_tls(reader, writer):
            front.refused_plaintext += 1
            await _refuse(writer, "28000", "no pg_hba.conf entry for this host and user, no encryption")
            return
        writer.write(b"S")
        await writer.drain()
        await writer.start_tls(context)
        front.connections += 1
        startup = await _packet(reader)
        if doorkeeper is not None:
            writer.write(_CLEARTEXT_PASSWORD)
            await writer.drain()
            user = _parameters(startup).get("user", "")
            await reader.readexactly(1)
            password = (await _packet(reader))[4:].rstrip(b"\0").decode()
            if doorkeeper(user, password) is not None:
                await _refuse(writer, "28000", f'PAM authentication failed for user "{user}"')
                return
        await _forward(front, reader, writer, startup)

    with _served(front, handle, None):
        yield front


async def _asks_for_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    request = await _packet(reader)
    if request[4:8] == struct.pack("!I", _GSS_REQUEST):
        writer.write(b"N")
        await writer.drain()
        request = await _packet(reader)
    return request[4:8] == struct.pack("!I", _SSL_REQUEST)


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """A length that includes itself, and that many bytes."""
    head = await reader.readexactly(4)
    return head + await reader.readexactly(struct.unpack("!I", head)[0] - 4)


def _parameters(startup: bytes) -> dict[str, str]:
    words = startup[8:].rstrip(b"\0").decode().split("\0")
    return dict(zip(words[::2], words[1::2], strict=False))


async def _refuse(writer: asyncio.StreamWriter, state: str, text: str) -> None:
    body = f"SFATAL\0VFATAL\0C{state}\0M{text}\0\0".encode()
    writer.write(b"E" + struct.pack("!I", len(body) + 4) + body)
    await writer.drain()


async def _forward(
    front: TlsFront, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first_bytes: bytes
) -> None:
    upstream_reader, upstream_writer = await asyncio.open_connection(_HOST, front.upstream_port)
    try:
        upstream_writer.write(first_bytes)
        await asyncio.gather(_pipe(reader, upstream_writer), _pipe(upstream_reader, writer))
    finally:
        upstream_writer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except (OSError, ssl.SSLError):
        pass
    finally:
        writer.close()


@contextmanager
def _served(front: TlsFront, handle: _Handler, context: ssl.SSLContext | None) -> Iterator[None]:
    """Serve in a thread until the end of the block."""
    ready, loop = Event(), asyncio.new_event_loop()
    # A handshake that a client breaks off is no error of ours.
    loop.set_exception_handler(lambda loop, context: None)
    stop = asyncio.Event()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handle(reader, writer)
        finally:
            # A stopped front closes at once: nobody would wait for a TLS shutdown.
            writer.transport.abort() if stop.is_set() else writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(guarded, _HOST, 0, ssl=context)
        front.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for _ in range(3):  # the loop closes a transport's socket in its next rounds
            await asyncio.sleep(0)

    thread = Thread(target=loop.run_until_complete, args=(serve(),), name="tls-front", daemon=True)
    thread.start()
    if not ready.wait(PATIENCE_SECONDS):
        raise RuntimeError(f"The TLS front did not start within {PATIENCE_SECONDS} s.")
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_SECONDS)
        loop.close()


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
