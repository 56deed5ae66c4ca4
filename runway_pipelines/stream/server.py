"""The stream's process: the socket, uvicorn, and how it stops.

On SIGTERM it accepts no more requests, gives pulls in flight their grace, drains the pools and ends.
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
from runway_pipelines.stream.heads import BoundedHeads

if TYPE_CHECKING:
    from runway_pipelines.rosters.services import RosterServices
    from runway_pipelines.settings import Settings

# Longer than a load balancer keeps an idle connection, or it would use one that we have closed. AWS's Application Load
# Balancer applies its idle timeout to the wait for the first byte too, so that has to be some minutes.
KEEP_ALIVE_SECONDS = 310
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


def listen(host: str, port: int, *, stall_seconds: int) -> socket.socket:
    """A listening socket whose connections end if a client vanishes, or reads nothing for ``stall_seconds``.

    The kernel does both, and accepted connections inherit it; asyncio alone would for ever hold the session of a
    client that stopped reading. Raises `ConfigurationError` if the address is not available.
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
            remedy="choose another --host or --port",
        ) from None
    listener.listen(512)
    return listener


def serve(
    settings: Settings, services: RosterServices, *, host: str, port: int, on_ready: Callable[[int], None]
) -> None:
    """Serve until SIGTERM or SIGINT; ``on_ready`` gets the port once requests are answered."""
    _log_to_stderr(settings)
    app = build_app(settings, services)
    listener = listen(host, port, stall_seconds=settings.stream.stall_seconds)
    config = uvicorn.Config(
        app,
        # Run what is tested: the optional parser and loop have their own code to end a torn response.
        http=BoundedHeads,
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
    """Log our lines and uvicorn's at INFO, others' at WARNING; as JSON unless a person reads them."""
    handler = logging.StreamHandler()
    is_text = settings.general.log_format == "text" or (settings.general.log_format == "auto" and sys.stderr.isatty())
    handler.setFormatter(logging.Formatter(_TEXT) if is_text else JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in ("runway_pipelines", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


class _Server(uvicorn.Server):
    """Reports when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready(sockets[0].getsockname()[1])
