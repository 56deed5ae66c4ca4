"""The stream's process: the socket, uvicorn, and how it stops.

On SIGTERM nobody new is let in, pulls in flight get their grace, then the pools are drained and the process ends.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvicorn

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.operations.logs import JsonLines
from runway_pipelines.stream.app import build_app

if TYPE_CHECKING:
    from runway_pipelines.rosters.services import RosterServices
    from runway_pipelines.settings import Settings

# Longer than a load balancer keeps an idle connection, which would otherwise be used after we closed it: its idle
# timeout has to be some minutes where it also ends a wait for the first byte (AWS's Application Load Balancer).
KEEP_ALIVE_SECONDS = 310
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


def listen(host: str, port: int, *, stall_seconds: int) -> socket.socket:
    """A listening socket whose connections notice that a client is gone, or takes nothing for ``stall_seconds``.

    Both are the kernel's work, and inherited by what is accepted; asyncio alone would hold the session of a client
    that stopped reading for ever. Raises `ConfigurationError` when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_seconds * 1000)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            expected=f"to listen on {host}:{port}",
            came=error.strerror or type(error).__name__,
            remedy="say another --host or --port",
        ) from None
    listener.listen(512)
    return listener


def serve(
    settings: Settings, services: RosterServices, *, host: str, port: int, on_ready: Callable[[int], None]
) -> None:
    """Serve until SIGTERM or SIGINT; ``on_ready`` is told the port once requests are answered."""
    _log_to_stderr(settings)
    app = build_app(settings, services)
    listener = listen(host, port, stall_seconds=settings.stream.stall_seconds)
    config = uvicorn.Config(
        app,
        # What is tested is what runs: the optional parser and loop end a torn response in code of their own.
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.stream.grace_seconds,
    )
    _Server(config, on_ready).run(sockets=[listener])


def _log_to_stderr(settings: Settings) -> None:
    """Our lines and uvicorn's; of others only what is wrong. As JSON where no person reads it, as everywhere."""
    handler = logging.StreamHandler()
    is_text = settings.general.log_format == "text" or (settings.general.log_format == "auto" and sys.stderr.isatty())
    handler.setFormatter(logging.Formatter(_TEXT) if is_text else JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("runway_pipelines", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


class _Server(uvicorn.Server):
    """Says when it takes connections."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready(sockets[0].getsockname()[1])
