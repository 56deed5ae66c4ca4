"""A server for the AWS API on loopback (moto): Secrets Manager, SSM, S3, EventBridge and whatever else moto speaks.

    python -m runway_pipelines.local.aws_server --port N --state DIR

It restores S3 objects and secrets from DIR at start and saves them there on SIGTERM (see `aws_state`). A killed server
loses what came after the last save.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from pathlib import Path

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from runway_pipelines.local import aws_state
from runway_pipelines.local.processes import announce_ready

_HOST = "127.0.0.1"
_SAVE_SECONDS = 60


def serve_until_stopped(port: int, state: Path) -> None:
    """Restore, serve until SIGTERM or SIGINT, save."""
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda number, frame: stop.set())
    aws_state.restore(state)
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server(_HOST, port, application, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    announce_ready(server.port)
    stop.wait()
    _end_after(_SAVE_SECONDS)
    server.shutdown()
    aws_state.save(state)


def _end_after(seconds: float) -> None:
    """End the process even if the save hangs: its owner may be gone."""
    timer = threading.Timer(seconds, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


def main(arguments: list[str] | None = None) -> None:
    """Run the server with the command line's options until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, which the readiness line names")
    parser.add_argument("--state", type=Path, required=True, help="folder to restore from and to save to")
    options = parser.parse_args(arguments)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it would write a line for each request
    serve_until_stopped(options.port, options.state)


if __name__ == "__main__":
    main()
