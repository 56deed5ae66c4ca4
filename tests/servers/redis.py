"""A Redis on loopback with one ACL user, if the machine has a `redis-server` on the PATH (Debian's package).

It has no TLS of its own: `tls_front` adds that. Its data are only in memory.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from runway_pipelines.local.processes import Child, LocalServerError, free_port, start_child

_HOST = "127.0.0.1"
_READY_SECONDS = 20.0


@dataclass(frozen=True)
class RedisServer:
    """A running Redis."""

    host: str
    port: int
    child: Child = field(repr=False)

    def stop(self) -> None:
        """End it, unless it has ended."""
        self.child.stop()


def redis_binary() -> str | None:
    """The server's program, or None if there is none."""
    return shutil.which("redis-server")


def start_redis(state_dir: Path, *, username: str, password: str, rules: str, port: int = 0) -> RedisServer:
    """Start a server whose only user is ``username``, with ACL ``rules`` such as ``~runway:* +ping``.

    Call it from a thread that outlives the server. Raises LocalServerError.
    """
    binary = redis_binary()
    if binary is None:
        raise LocalServerError("There is no redis-server on the PATH: install Debian's package redis-server.")
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = state_dir / "redis-users.acl"
    users.touch(mode=0o600)
    digest = hashlib.sha256(password.encode()).hexdigest()
    users.write_text(f"user default off\nuser {username} on #{digest} {rules}\n")
    port = port or free_port()
    options = {"bind": _HOST, "port": str(port), "save": "", "appendonly": "no", "aclfile": str(users)}
    command = [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]
    child = start_child("redis", command, state_dir)
    try:
        child.wait_until(lambda: _listens(port), timeout=_READY_SECONDS)
    except BaseException:
        child.stop()
        raise
    return RedisServer(_HOST, port, child)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
        return True
    return False
