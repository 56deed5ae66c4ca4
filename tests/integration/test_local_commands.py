"""The commands that keep the embedded stack running, as processes: how they share a state folder, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.slow

# As `make dev` tells of each, also to whoever wonders what it waits for.
UP_IN_ORDER = [
    *("Postgres", "AWS (S3, secrets)", "LML", "Snowflake", "synthetic districts", "synthetic catalogue"),
    *("code server", "daemon", "UI"),
]
CLI = [sys.executable, "-m", "runway_pipelines.cli"]
# The command line, which says when it begins to import itself: until then, Ctrl-C is Python's own.
BEGUN = """
import sys
class Telling:
    def find_spec(name, *_):
        if name == "runway_pipelines.cli.app":
            print("begun")
sys.meta_path.insert(0, Telling)
from runway_pipelines.cli import main
main()
"""
# A command that uses the stack until a line comes from stdin, and shows that it can.
USER = """
import os, sys
from pathlib import Path
import psycopg
from runway_pipelines.local.signals import exit_on_termination
from runway_pipelines.local.session import local_session

def shown():
    names = {"host": "HOST", "port": "PORT", "dbname": "NAME", "user": "USER", "password": "PASSWORD"}
    with psycopg.connect(**{key: os.environ[f"RUNWAY_APP_DB_{name}"] for key, name in names.items()}) as connection:
        return connection.execute("select count(*) from partner").fetchone()[0]

with exit_on_termination(), local_session(Path(sys.argv[1]), say=lambda text: print(text, flush=True)):
    print("partners:", shown(), flush=True)
    sys.stdin.readline()
    print("still:", shown(), flush=True)
"""


class Command:
    """A running command, and what it printed."""

    def __init__(self, arguments: list[str], output: Path) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
            )
        self.started: list[psutil.Process] = []

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str) -> str:
        """Wait until it printed this; all that it printed."""

        def is_said() -> bool:
            has_ended = self.process.poll() is not None
            assert text in self.output or not has_ended, f"ended before it said {text!r}: {self.output}"
            return text in self.output

        wait_until(is_said, lambda: f"did not say {text!r}: {self.output}")
        self.started = psutil.Process(self.process.pid).children(recursive=True)
        return self.output

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self, number: int | None = None) -> int:
        """Send it a signal, if any; its exit code. Nothing that it had started may be left."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE_SECONDS)
        _, alive = psutil.wait_procs(self.started, timeout=PATIENCE_SECONDS)
        assert alive == []
        return code


Start = Callable[..., Command]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder for all tests of this module: the data set is made once."""
    return tmp_path_factory.mktemp("local_commands") / "state"


@pytest.fixture
def start(state: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a command of the command line on the state folder, or USER."""
    commands: list[Command] = []

    def started(*arguments: str, python: Sequence[str] = CLI[1:]) -> Command:
        python, own = (python, ["--state", str(state), *arguments]) if arguments else (["-c", USER], [str(state)])
        command = [sys.executable, *python, *own]
        commands.append(Command(command, tmp_path / f"output-{len(commands)}"))
        return commands[-1]

    yield started
    for command in commands:
        command.process.kill()
        command.process.communicate()


def test_a_second_dev_says_where_the_first_one_is_and_ctrl_c_thrice_ends_that_in_order(
    start: Start, state: Path
) -> None:
    first = start("dev", "--port", "3700")
    said = first.wait_for("rosters holds")
    url = re.search(r"Dagster UI: (\S+)", said)
    assert url is not None
    assert re.findall(r"^ +[\d.]+ s  (.+?)  ", said, re.MULTILINE) == UP_IN_ORDER
    assert f"Look: {url[1]}/assets/rosters/board" in said
    servers = {file.stem: psutil.Process(int(file.read_text())) for file in state.glob("*.pid")}
    assert servers.keys() >= {"postgres", "dagster_daemon", "dagster_code_server", "dagster_webserver"}

    second = start("dev", "--port", "3700")
    assert second.end() == 0
    assert second.output == f"Dagster runs on {state} already: {url[1]} (process {first.process.pid}).\n"
    assert [name for name, process in servers.items() if not process.is_running()] == []

    first.process.send_signal(signal.SIGINT)
    first.wait_for("Stopping (runs under way finish first")
    for _ in range(2):
        time.sleep(0.3)
        first.process.send_signal(signal.SIGINT)
    assert first.end() == 0
    assert first.output.count("Stopping") == 1
    assert first.output.endswith(f"Stopped; the state is in {state}.\n")


def test_the_second_of_two_devs_at_once_is_told_about_the_first(start: Start, state: Path) -> None:
    both = [start("dev", "--port", "3720") for _ in range(2)]
    (told,) = wait_until(lambda: [each for each in both if each.process.poll() is not None])
    (starting,) = set(both) - {told}
    assert told.process.returncode == 0
    assert f"Dagster is being started on {state} already" in told.output
    assert f"(process {starting.process.pid})" in told.output
    assert starting.end(signal.SIGINT) == 0


# Within the imports of the command line, within the command's own, and while the servers start one after the other.
@pytest.mark.parametrize("after", [0.0, 0.1, 0.2, 1.0, 3.0, 6.0])
def test_ctrl_c_while_dev_is_starting_ends_it_without_a_traceback(start: Start, after: float) -> None:
    dev = start("dev", "--port", "3740", python=["-c", BEGUN])
    dev.wait_for("begun")
    time.sleep(after)
    dev.started = psutil.Process(dev.process.pid).children(recursive=True)
    code = dev.end(signal.SIGINT)
    assert "Traceback" not in dev.output
    # However fast the machine is: before anything was to be stopped, or while servers were starting.
    assert (code, dev.output.split()[-1]) == (130, "Stopped.") or (code, "Stopped; " in dev.output) == (0, True)


@pytest.mark.parametrize("at", ["Starting the embedded stack", "Refreshing ", "Resolving "])
def test_ctrl_c_ends_a_demo_with_one_line_and_no_further_work(start: Start, at: str) -> None:
    demo = start("demo")
    before = demo.wait_for(at)
    assert demo.end(signal.SIGINT) == 130
    said = demo.output.removeprefix(before).splitlines()
    assert said[-1] == "Stopped. The next run takes up what is missing."
    assert "Traceback" not in demo.output
    assert "Rotated the key" not in demo.output


def test_a_demo_on_a_folder_that_has_one_already_ends_as_well(tmp_path: Path) -> None:
    for _ in range(2):
        done = subprocess.run(
            [*CLI, "--state", str(tmp_path / "state"), "demo", "--json"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["is_success"]
        assert "Library identity: " in done.stderr


def test_dev_waits_for_the_stacks_owner_and_then_starts_its_own(start: Start, state: Path) -> None:
    owner = start()
    owner.wait_for("partners: ")
    dev = start("dev", "--port", "3760")
    dev.wait_for(f"in use (process {owner.process.pid}): waiting for that to end")
    owner.go_on()
    assert owner.end() == 0
    # Not until the UI is there: the daemon would launch runs by then, and they finish first.
    wait_until((state / "environment.json").exists)
    assert json.loads((state / "environment.json").read_text())["owner"] == dev.process.pid
    assert dev.end(signal.SIGINT) == 0


def test_an_owner_that_is_done_keeps_the_stack_for_those_who_joined(start: Start) -> None:
    owner = start()
    owner.wait_for("partners: ")
    joined = start()
    joined.wait_for("partners: ")
    assert joined.started == []
    owner.go_on()
    owner.wait_for("Another command uses the embedded stack")
    late = start()  # which finds a stack that ends, and waits for its turn
    late.wait_for("started or stopped")
    joined.go_on()
    assert joined.end() == 0
    assert "still: " in joined.output
    assert owner.end() == 0
    late.wait_for("partners: ")
    late.go_on()
    assert late.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_owners_wait_for_those_who_joined(start: Start, number: int) -> None:
    owner = start()
    owner.wait_for("partners: ")
    joined = start()
    joined.wait_for("partners: ")
    owner.go_on()
    owner.wait_for("Another command uses the embedded stack")
    assert owner.end(number) == 0


def test_a_terminated_owner_waits_for_nobody_and_what_a_killed_one_left_is_not_joined(
    start: Start, state: Path
) -> None:
    owner = start()
    owner.wait_for("partners: ")
    joined = start()
    joined.wait_for("partners: ")
    assert owner.end(signal.SIGTERM) == 128 + signal.SIGTERM
    joined.process.kill()
    killed = start()
    killed.wait_for("partners: ")
    killed.process.kill()
    killed.process.wait()
    assert (state / "environment.json").exists()
    pair = [start(), start()]
    for each in pair:
        each.wait_for("partners: ")
    for each in pair:
        each.go_on()
    assert [each.end() for each in pair] == [0, 0]


def test_serve_names_its_examples_roster_and_ctrl_c_ends_it_in_order(start: Start, state: Path) -> None:
    serve = start("--local", "serve", "--port", "0")
    said = serve.wait_for("| head -3")
    assert re.search(r"^READY \d+$", said, re.MULTILINE)
    assert "The roster of acme/ashford, its first lines:\ncurl " in said
    assert serve.end(signal.SIGINT) == 0
    assert serve.output.endswith(f"Stopping ...\nStopped; the state is in {state}.\n")
    assert "Aborted" not in serve.output


@pytest.mark.parametrize("name", ["postgres", "dagster_daemon"])
def test_dev_says_which_of_its_servers_died_how_and_what_to_do(start: Start, state: Path, name: str) -> None:
    dev = start("dev", "--port", "3780")
    dev.wait_for("Ctrl-C ends everything")
    os.kill(int((state / f"{name}.pid").read_text()), signal.SIGKILL)
    assert dev.end() == 1
    said = dev.output
    assert "Traceback" not in said
    (line,) = (line for line in said.splitlines() if line.startswith("Error: "))
    assert f"{name} was killed by SIGKILL" in line
    assert "start it again" in line and "memory" in line
