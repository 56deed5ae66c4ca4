"""Child processes of the embedded stack: started with a log, waited for, stopped, and never left behind.

Nothing here knows Postgres, Snowflake or AWS: each server has a module of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from weakref import WeakSet

import psutil

OnReady = Callable[[str, str], None]  # is told what is up, and what it does now

READY_PREFIX = "READY "
_POLL_SECONDS = 0.02
_LOG_TAIL_LINES = 25
# Variables that would redirect our servers (or, FAKESNOW_DEBUG, make one print its bind values).
_NOT_INHERITED = ("PG", "AWS_", "MOTO_", "FAKESNOW_", "SNOWFLAKE_")


def tell_nobody(what: str, state: str) -> None:
    """The `OnReady` of a command whose reader need not know."""


class LocalServerError(RuntimeError):
    """A server of the embedded stack could not be started or stopped; the message says why and what to do."""


class StackAlreadyRunning(LocalServerError):
    """Another process runs a stack on this state folder."""

    def __init__(self, state_dir: Path, holder: Holder) -> None:
        super().__init__(f"A stack already runs on {state_dir} ({holder}). Stop it, or use another state folder.")
        self.holder = holder


class ChildEnded(LocalServerError):
    """A child ended before it was ready. The message holds the end of its log."""


@dataclass(frozen=True)
class RunAs:
    """The unprivileged user a child changes to when we are root."""

    uid: int
    gid: int


_servers: WeakSet[Child] = WeakSet()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now. Another process may take it first: be ready to try again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listen_on_loopback(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1; port 0 takes a free one, which no other process can take before us."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


def announce_ready(port: int) -> None:
    """Print the line that `Child.wait_for_ready_line` waits for. Called in a server's process."""
    print(f"{READY_PREFIX}{port}", flush=True)


class Child:
    """A running child process with its log; made by `start_child`."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], log: Path, pid_file: Path, stop_signal: int
    ) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._pid_file = pid_file
        self._stop_signal = stop_signal

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def how_it_ended(self) -> str:
        """Words for it: was killed by SIGKILL, ended with exit code 1."""
        code = self._process.poll()
        if code is None:
            return "is still running"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def wait(self, timeout: float) -> int:
        """Wait for a child that ends by itself; its exit code. Raises LocalServerError after timeout seconds."""
        _servers.discard(self)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LocalServerError(f"{self.name} did not end within {timeout:g} s.\n{self.log_tail()}") from None

    def wait_until(self, is_ready: Callable[[], bool], timeout: float) -> None:
        """Poll is_ready. Raises ChildEnded when the child ends first, LocalServerError after timeout seconds."""
        deadline = time.monotonic() + timeout
        while not is_ready():
            if (code := self._process.poll()) is not None:
                raise ChildEnded(f"{self.name} ended with exit code {code} before it was ready.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise LocalServerError(f"{self.name} was not ready after {timeout:g} s.\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def wait_for_ready_line(self, timeout: float) -> int:
        """The port from the child's readiness line (see `announce_ready`). Errors as in `wait_until`."""
        self.wait_until(lambda: self._ready_port() > 0, timeout)
        return self._ready_port()

    def _ready_port(self) -> int:
        """The announced port, 0 before it is announced."""
        for line in self.log.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith(READY_PREFIX) and line.endswith("\n"):
                return int(line.removeprefix(READY_PREFIX))
        return 0

    def log_tail(self) -> str:
        """The last lines of the log, under a line that names the file."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join([f"End of {self.log}:", *(f"  {line}" for line in lines or ["(empty)"])])

    def stop(self, grace: float = 10.0) -> None:
        """Ask the child to end, and kill it after grace seconds; its own children end with it."""
        _servers.discard(self)
        descendants: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            descendants = psutil.Process(self.pid).children(recursive=True)
        if self.is_running():
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _, survivors = psutil.wait_procs(descendants, timeout=1)
        for survivor in survivors:
            terminate(survivor, grace)
        self._pid_file.unlink(missing_ok=True)


def start_child(
    name: str,
    command: Sequence[str | os.PathLike[str]],
    state_dir: Path,
    *,
    run_as: RunAs | None = None,
    stop_signal: int = signal.SIGTERM,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start command with its output in `<state_dir>/logs/<name>.log` (the previous run's is kept as `.log.1`).

    On Linux the kernel sends stop_signal to the child when **the thread that called this** ends, so that a killed owner
    leaves nothing behind: call it from a thread that lives as long as the child should. A session of its own keeps
    Ctrl-C in a terminal for the owner alone, which then stops its children in order. environment replaces
    `child_environment`.
    """
    arguments = [os.fspath(part) for part in command]
    wrapper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child_exec.py"))]
    uid, gid = (run_as.uid, run_as.gid) if run_as else (-1, -1)
    pid_file = state_dir / f"{name}.pid"
    log = _fresh_log(state_dir / "logs", name)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*wrapper, str(os.getpid()), str(int(stop_signal)), str(uid), str(gid), "--", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment() if environment is None else environment,
            start_new_session=True,
        )
    pid_file.write_text(f"{process.pid}\n")
    child = Child(name, process, log, pid_file, stop_signal)
    _servers.add(child)
    return child


def running_servers() -> list[Child]:
    """The children of this process that nobody has stopped: each of them should be running."""
    return sorted(_servers, key=lambda child: child.name)


def child_environment() -> dict[str, str]:
    """What a child inherits: our environment without the variables that would change what the servers do."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)}


def _fresh_log(folder: Path, name: str) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    if log.exists():
        log.replace(folder / f"{name}.log.1")
    log.touch(mode=0o600)
    return log


def stop_stale(name: str, state_dir: Path) -> None:
    """Stop the child that a killed run recorded, if it is provably ours: its command line holds our state folder.

    Call it only with the state folder's lock in hand.
    """
    pid_file = state_dir / f"{name}.pid"
    with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(int(pid_file.read_text()))
        if any(str(state_dir) in part for part in process.cmdline()):
            terminate(process, grace=5.0)
    pid_file.unlink(missing_ok=True)


def terminate(process: psutil.Process, grace: float) -> None:
    """SIGTERM, then SIGKILL after grace seconds."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(grace)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(grace)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, and the note it left."""

    pid: int | None
    note: str = ""

    def __str__(self) -> str:
        return f"process {'unknown' if self.pid is None else self.pid}"


class StateLock:
    """An exclusive lock in a state folder, held by the process; the kernel lets go of it when the process ends.

    The stack and Dagster's services each have one.
    """

    def __init__(self, state_dir: Path, name: str = "stack") -> None:
        self._path = state_dir / f"{name}.lock"
        self._file: IO[str] | None = None

    def try_acquire(self) -> Holder | None:
        """Take the lock and return None, or return its holder."""
        handle = self._path.open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            pid, _, note = handle.read().partition("\n")
            handle.close()
            return Holder(int(pid) if pid.isdecimal() else None, note.strip())
        self._file = handle
        self.note("")
        return None

    def acquire(self) -> None:
        """Raises StackAlreadyRunning, naming the process that holds it."""
        if holder := self.try_acquire():
            raise StackAlreadyRunning(self._path.parent, holder)

    def note(self, text: str) -> None:
        """Leave a line for a process that finds the lock taken."""
        if self._file is None:
            raise LocalServerError(f"{self._path} is not held by this process.")
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"{os.getpid()}\n{text}\n")
        self._file.flush()

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
