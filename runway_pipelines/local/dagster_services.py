"""Dagster's own processes on this machine, as production runs them: a code server, the webserver and the daemon."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runway_pipelines.local.processes import (
    Child,
    Holder,
    LocalServerError,
    OnReady,
    StateLock,
    free_port,
    running_servers,
    start_child,
    stop_stale,
    tell_nobody,
)

_HOST = "127.0.0.1"
_CODE_SERVER_SECONDS = 120.0
_WEBSERVER_SECONDS = 60.0
_GRACE_SECONDS = 10.0
# The code server lets its runs finish first. The data set's longest takes 20 s; an interrupted run shows as failed.
RUN_GRACE_SECONDS = 60.0
_WORKSPACE = """\
load_from:
  - grpc_server: {{host: {host}, port: {port}, location_name: runway_pipelines}}
"""


@dataclass(frozen=True)
class RunningDagster:
    """The processes, and where the UI is."""

    url: str
    children: tuple[Child, ...]

    def wait(self) -> None:
        """Wait until Ctrl-C. Neither these processes nor the stack's servers should end before.

        Raises LocalServerError if one does; it says how the process ended, with the end of its log.
        """
        servers = {*self.children, *running_servers()}
        while all(child.is_running() for child in servers):
            time.sleep(0.5)
        ended = next(child for child in servers if not child.is_running())
        raise LocalServerError(
            f"{ended.name} {ended.how_it_ended}, and everything else was stopped: start it again with make dev. "
            "If it is killed again, see whether the machine has memory and disk left (free -m, df -h).\n"
            f"{ended.log_tail()}"
        )


class DagsterAlreadyRunning(LocalServerError):
    """Another process runs Dagster's services on this state folder, or is starting them."""

    def __init__(self, state_dir: Path, holder: Holder) -> None:
        does = (
            f"runs on {state_dir} already: {holder.note}" if holder.note else f"is being started on {state_dir} already"
        )
        super().__init__(f"Dagster {does} ({holder}).")


@contextmanager
def dagster_lock(state_dir: Path) -> Iterator[StateLock]:
    """The right to run Dagster's services on a state folder. Raises `DagsterAlreadyRunning`."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = StateLock(state_dir, "dagster")
    if holder := lock.try_acquire():
        raise DagsterAlreadyRunning(state_dir, holder)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def dagster_services(
    state_dir: Path, ui_port: int, lock: StateLock, on_ready: OnReady = tell_nobody
) -> Iterator[RunningDagster]:
    """Start all three with this process's environment (DAGSTER_HOME in it), and end them: runs under way finish first.

    ``lock`` is `dagster_lock`'s. Without it, another owner's processes would be stopped as a killed owner's are.
    """
    with ExitStack() as undo:
        code_server = start_code_server(state_dir, undo)
        on_ready("code server", "has loaded runway_pipelines")
        daemon = start_daemon(state_dir, undo)
        on_ready("daemon", "has been started: sensors, schedules, the queue of runs")
        webserver = _start(
            "dagster_webserver",
            ["dagster_webserver", "-h", _HOST, "-p", str(ui_port), "-w", str(_workspace(state_dir))],
            state_dir,
            undo,
        )
        webserver.wait_until(lambda: _accepts(ui_port), _WEBSERVER_SECONDS)
        url = f"http://{_HOST}:{ui_port}"
        on_ready("UI", f"listens on {_HOST}:{ui_port}")
        lock.note(url)
        yield RunningDagster(url, (code_server, daemon, webserver))


def start_code_server(state_dir: Path, undo: ExitStack, port: int | None = None) -> Child:
    """Start the code server, wait for it, and tell the others through the workspace file where it is."""
    port = free_port() if port is None else port
    module = "runway_pipelines.definitions"
    code_server = _start(
        "dagster_code_server",
        ["dagster", "code-server", "start", "-h", _HOST, "-p", str(port), "-m", module],
        state_dir,
        undo,
        grace=RUN_GRACE_SECONDS,
    )
    code_server.wait_until(lambda: _accepts(port), _CODE_SERVER_SECONDS)
    _workspace(state_dir).write_text(_WORKSPACE.format(host=_HOST, port=port))
    return code_server


def start_daemon(state_dir: Path, undo: ExitStack) -> Child:
    """Start the daemon; the code server is there already."""
    return _start("dagster_daemon", ["dagster._daemon", "run", "-w", str(_workspace(state_dir))], state_dir, undo)


def _workspace(state_dir: Path) -> Path:
    return state_dir.resolve() / "dagster_home" / "workspace.yaml"


def _start(
    name: str, module_and_arguments: list[str], state_dir: Path, undo: ExitStack, *, grace: float = _GRACE_SECONDS
) -> Child:
    state_dir = state_dir.resolve()
    stop_stale(name, state_dir)
    command = [sys.executable, "-m", *module_and_arguments]
    child = start_child(name, command, state_dir, environment=dict(os.environ))
    undo.callback(child.stop, grace)
    return child


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, port)) == 0
