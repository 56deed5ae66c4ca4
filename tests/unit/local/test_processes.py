"""What signals do to a process with servers, and what a lock says to who finds it taken."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runway_pipelines.local import signals
from runway_pipelines.local.processes import LocalServerError, StackAlreadyRunning, StateLock
from runway_pipelines.local.signals import end_on_interrupt, exit_on_termination, impatience, undisturbed
from tests.waiting import PATIENCE_SECONDS, wait_until

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESTORED = (*ENDING, signal.SIGALRM)


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> object:
    before = {each: signal.getsignal(each) for each in RESTORED}
    yield
    assert {each: signal.getsignal(each) for each in RESTORED} == before


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


def test_ctrl_c_in_the_middle_of_a_library_ends_the_block_once_that_is_done(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SQLAlchemy catches everything in closing a connection; the import is a library's, too."""
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "swallowing.py").write_text(
        "import signal, time\n"
        "def work(done):\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        time.sleep(0.2)\n"
        "        done.append('whole')\n"
        "    except BaseException: pass\n"
        "work(imported := [])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    done: list[str] = []
    with end_on_interrupt("Stopping ..."):
        importlib.import_module("swallowing")
        wait_until(lambda: False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work = sys.modules.pop("swallowing").work
    assert done == []
    with end_on_interrupt("Stopping ..."):
        work(done)
        wait_until(lambda: False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert done == ["whole"]
    assert capfd.readouterr().out == "Stopping ...\nStopping ...\n"


def test_a_library_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "hanging.py").write_text(
        "import signal, time\ndef work(seconds):\n    signal.raise_signal(signal.SIGINT)\n    time.sleep(seconds)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    monkeypatch.setattr(signals, "_MOST_SECONDS_IN_A_LIBRARY", 0.05)
    hanging = importlib.import_module("hanging")
    with end_on_interrupt("Stopping ..."):
        hanging.work(PATIENCE_SECONDS)
        raise AssertionError("it was waited for")
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
