"""What signals do to a process with servers, and what a lock says to who finds it taken."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runway_pipelines.local.processes import LocalServerError, StackAlreadyRunning, StateLock
from runway_pipelines.local.signals import end_on_interrupt, exit_on_termination, impatience, undisturbed

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> object:
    before = {each: signal.getsignal(each) for each in ENDING}
    yield
    assert {each: signal.getsignal(each) for each in ENDING} == before


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_ctrl_c_ends_the_block_with_a_word_and_further_signals_do_not_cut_what_stops_in_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    stopped = []
    with end_on_interrupt("Stopping ..."), exit_on_termination():
        try:
            send(signal.SIGINT)
            stopped.append("never reached")
        finally:
            for number in ENDING:
                send(number)
            with undisturbed():
                send(signal.SIGINT)
            send(signal.SIGINT)
            stopped.append("in order")
    assert stopped == ["in order"]
    assert capfd.readouterr().out == "Stopping ...\n"
    send(signal.SIGINT)  # while the process exits
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_block_that_swallows_ctrl_c_is_told_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    with end_on_interrupt("Stopping ...") as is_asked_to_end:
        assert not is_asked_to_end()
        with contextlib.suppress(BaseException):  # as libraries do around an import
            send(signal.SIGINT)
        assert is_asked_to_end()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert capfd.readouterr().out == "Stopping ...\n"


def test_ctrl_c_while_a_dataclass_is_being_defined_is_no_failure_either() -> None:
    interrupted = """
from runway_pipelines.local.signals import end_on_interrupt
with end_on_interrupt("Stopping ..."):
    exec("import signal; signal.raise_signal(signal.SIGINT)")
"""
    ended = subprocess.run([sys.executable, "-c", interrupted], stdout=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stdout) == (0, "Stopping ...\n")


def test_termination_is_an_exit_with_its_number_and_ctrl_c_does_not_cut_what_stops_then() -> None:
    stopped = []

    def terminated() -> None:
        try:
            send(signal.SIGTERM)
        finally:
            for number in ENDING:
                send(number)
            stopped.append("in order")

    with exit_on_termination(), pytest.raises(SystemExit) as exit_:
        terminated()
    assert exit_.value.code == 128 + signal.SIGTERM
    assert stopped == ["in order"]


@pytest.mark.parametrize("number", ENDING)
def test_impatience_is_heard_where_signals_are_ignored(number: int) -> None:
    with undisturbed():
        with impatience() as is_impatient:
            assert not is_impatient()
            send(number)
            assert is_impatient()
        send(number)


def test_a_lock_tells_who_finds_it_taken_who_has_it_and_what_that_one_noted(tmp_path: Path) -> None:
    first, second = StateLock(tmp_path, "dagster"), StateLock(tmp_path, "dagster")
    assert first.try_acquire() is None
    first.note("a long note")
    first.note("a note")
    holder = second.try_acquire()
    assert holder is not None
    assert (holder.pid, holder.note, str(holder)) == (os.getpid(), "a note", f"process {os.getpid()}")
    first.release()
    assert second.try_acquire() is None
    again = first.try_acquire()
    assert again is not None and again.note == ""  # the first one's is gone
    second.release()


def test_only_the_holder_notes_something(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    with pytest.raises(LocalServerError, match="not held"):
        lock.note("mine")


def test_the_stack_and_dagster_have_locks_of_their_own_and_the_stacks_names_its_holder(tmp_path: Path) -> None:
    stack, dagster = StateLock(tmp_path), StateLock(tmp_path, "dagster")
    stack.acquire()
    assert dagster.try_acquire() is None
    with pytest.raises(StackAlreadyRunning, match=f"process {os.getpid()}") as taken:
        StateLock(tmp_path).acquire()
    assert taken.value.holder.pid == os.getpid()
    stack.release()
    dagster.release()
