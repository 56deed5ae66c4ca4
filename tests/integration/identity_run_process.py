"""Runs of the identity job in processes of their own, which tests kill.

They are forked from a process that has imported everything, which takes seconds; it ends with the tests' process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dagster as dg

from tests.integration.identity_job_world import checks, counts, run
from tests.waiting import PATIENCE_SECONDS

CHECKOUT = Path(__file__).parents[2]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


class RunProcess:
    """A process that runs the job with this process's environment; it starts when it is made."""

    def __init__(self, **options: Any) -> None:
        self._told, telling = _context.Pipe(duplex=False)
        self._process = _context.Process(target=_main, args=(dict(os.environ), options, telling), daemon=True)
        os.environ.setdefault("PYTHONPATH", str(CHECKOUT))  # of the process that imports
        self._process.start()
        telling.close()

    def kill(self) -> bool:
        """SIGKILL; whether it was still at work."""
        was_alive = self._process.is_alive()
        self._process.kill()
        self.wait()
        return was_alive

    def tell(self, to_end: signal.Signals) -> None:
        """What Ctrl-C, or whoever launched it, does."""
        assert self._process.pid is not None
        os.kill(self._process.pid, to_end)

    def ended(self) -> dict[str, Any]:
        """Wait for its end, and what its run said."""
        assert self._told.poll(PATIENCE_SECONDS), "It did not end."
        said: dict[str, Any] = self._told.recv()
        self.wait()
        return said

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.join(PATIENCE_SECONDS)
        assert not self._process.is_alive(), "It did not end."


def _main(environment: dict[str, str], options: dict[str, Any], telling: Connection) -> None:
    os.environ.clear()
    os.environ.update(environment)
    silence = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(silence, output)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(instance, **options)
        telling.send({"success": result.success, "counts": counts(result), "checks": checks(result)})
