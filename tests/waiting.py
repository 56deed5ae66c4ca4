"""Waiting for something to happen, with one limit for all: so long only a test that fails waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

PATIENCE_SECONDS = 300.0
T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], what: Callable[[], object] = lambda: "it did not happen", pause: float = 0.01
) -> T:
    """Wait until ``condition`` returns something true, and return that; ``what`` says what was seen instead."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, what()
        time.sleep(pause)
    return found


def join(*threads: Thread) -> None:
    """Wait until the threads have ended."""
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), f"{thread.name} is still at work"
