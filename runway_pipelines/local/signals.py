"""How the local commands end when a signal asks them to: in order, with one line, and once."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")

_FAREWELL_SECONDS = 1.5
_POLL_SECONDS = 0.02
_MOST_SECONDS_IN_A_LIBRARY = 30.0  # one that hangs is not waited for
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Handler = Callable[[int, FrameType | None], Any] | signal.Handlers | int


@contextlib.contextmanager
def exit_on_termination() -> Iterator[None]:
    """Turn the first SIGTERM or SIGHUP into SystemExit(128 + signal), so that `with` and `finally` run; ignore more.

    For the main thread of the process that owns a stack. Ctrl-C is KeyboardInterrupt already.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        _handle(dict.fromkeys(_ENDING, signal.SIG_IGN))
        raise SystemExit(128 + number)

    with _handling(dict.fromkeys((signal.SIGTERM, signal.SIGHUP), leave)):
        yield


@contextlib.contextmanager
def end_on_interrupt(message: str) -> Iterator[None]:
    """The first Ctrl-C says ``message`` and ends the block, which is no failure; others are ignored, after it too.

    The block ends as soon as it is in code of ours, or after half a minute in a library that hangs. In the middle of a
    library's code, an exception was swallowed (a bare ``except`` around an import), reported (SQLAlchemy, in closing a
    connection) or became another one (psycopg, in leaving a pipeline): 4 of 90 Ctrl-C while Dagster was starting
    printed a traceback. For the main thread. Children have sessions of their own: a terminal's Ctrl-C is not theirs.
    """
    deadline = math.inf  # sooner once somebody asked for the end
    block = sys._getframe(2)  # of whoever has the `with`

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal deadline
        if deadline < math.inf:  # a block within may have put this handler back
            return
        deadline = time.monotonic() + _MOST_SECONDS_IN_A_LIBRARY
        # Not SIG_IGN: a server that is started meanwhile would inherit it, and not hear that it is to stop.
        _handle(dict.fromkeys(_ENDING, lambda number, frame: None))
        _say_in_handler(message)
        raise_or_wait(number, frame)

    def raise_or_wait(number: int, frame: FrameType | None) -> None:
        if time.monotonic() < deadline and _is_in_a_library(frame, block):
            signal.setitimer(signal.ITIMER_REAL, _POLL_SECONDS)
            return
        _handle(dict.fromkeys(_ENDING, signal.SIG_IGN))
        raise _Interrupted

    handlers = {signal.SIGINT: leave, signal.SIGALRM: raise_or_wait}
    with contextlib.suppress(_Interrupted, KeyboardInterrupt), _handling(handlers):
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if deadline < math.inf:  # what is left is to exit, and another Ctrl-C would print a traceback
        _handle({signal.SIGINT: signal.SIG_IGN})


def _is_in_a_library(frame: FrameType | None, block: FrameType) -> bool:
    """Whether anybody else's code, or an import, is between a frame and the one of the block around it."""
    while frame is not None and frame is not block:
        name = frame.f_code.co_filename
        if "site-packages" in name or name.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class _Interrupted(BaseException):
    """Ctrl-C, by a name of our own.

    After a KeyboardInterrupt inside ``exec`` of a text, which a dataclass's definition is, CPython 3.11 ends the
    process by SIGINT, though the exception was caught.
    """


@contextlib.contextmanager
def exit_on_interrupt(message: str) -> Iterator[list[Callable[[], object]]]:
    """The first Ctrl-C says ``message``, calls what the block put into the list, and ends this process with code 130.

    It ends without unwinding, which would wait for threads to finish their refresh. The kernel tells the children to
    stop (see `start_child`). Each call gets `_FAREWELL_SECONDS`. For the main thread; work that handles Ctrl-C
    itself, as Dagster does, belongs in another thread (`aside`).
    """
    farewells: list[Callable[[], object]] = []

    def leave(number: int, frame: FrameType | None) -> None:
        _handle(dict.fromkeys(_ENDING, signal.SIG_IGN))
        _say_in_handler(message)
        for farewell in farewells:
            thread = threading.Thread(target=farewell, daemon=True)
            thread.start()
            thread.join(_FAREWELL_SECONDS)
        os._exit(128 + number)

    with _handling({signal.SIGINT: leave}):
        yield farewells


def aside(work: Callable[[], Result]) -> Result:
    """Do the work in another thread and wait here, where Ctrl-C arrives."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(work).result()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and SIGHUP while servers stop in order: an interrupted stop would leave some running."""
    with _handling(dict.fromkeys(_ENDING, signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def impatience() -> Iterator[Callable[[], bool]]:
    """Tells whether a signal has asked the process to end, even where signals are otherwise ignored."""
    asked: list[int] = []
    with _handling(dict.fromkeys(_ENDING, lambda number, frame: asked.append(number))):
        yield lambda: bool(asked)


@contextlib.contextmanager
def _handling(handlers: Mapping[signal.Signals, _Handler]) -> Iterator[None]:
    """Use the handlers in the block, then restore these and every ending signal's, whatever the block changed."""
    if threading.current_thread() is not threading.main_thread():  # others get no signals, and may set no handler
        yield
        return
    # None: the handler was not set from Python, and cannot be restored from it.
    before = {each: handler for each in {*_ENDING, *handlers} if (handler := signal.getsignal(each)) is not None}
    _handle(handlers)
    try:
        yield
    finally:
        _handle(before)


def _handle(handlers: Mapping[signal.Signals, _Handler]) -> None:
    for each, handler in handlers.items():
        signal.signal(each, handler)


def _say_in_handler(message: str) -> None:
    # Not print: the signal may have interrupted one, and Python refuses to enter it twice.
    with contextlib.suppress(OSError):
        newline = "\n" if os.isatty(1) else ""  # the terminal shows ^C on the line
        os.write(1, f"{newline}{message}\n".encode())
