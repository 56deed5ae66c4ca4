"""For the local commands: start or join the embedded stack, load the data set, point this process at them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import boto3
import psycopg

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.local.catalogue import seed_catalogue
from runway_pipelines.local.processes import Holder, OnReady, StackAlreadyRunning, tell_nobody
from runway_pipelines.local.seed import seed
from runway_pipelines.local.signals import impatience, undisturbed
from runway_pipelines.local.stack import APP_DATABASE, BUCKET, CATALOGUE_DATABASE, EmbeddedStack
from runway_pipelines.settings import load_settings

CHECKOUT = Path(__file__).parents[2]
_LOOK_SECONDS = 0.2
_CHANGE_SECONDS = 120.0  # a start takes 4 s, loading the data set at first 5 s; a stop that saves much, a minute


@contextmanager
def local_session(
    state_dir: Path,
    *,
    must_own: bool = False,
    say: Callable[[str], None] = lambda text: None,
    on_ready: OnReady = tell_nobody,
) -> Iterator[None]:
    """Start the stack, bring the data set into it, and point this process's environment at both.

    A stack that already runs on this folder (``make dev`` in another terminal) is joined: its owner keeps it running
    until every process that joined has ended. With ``must_own``, for a process that runs until it is stopped, the
    session waits until it can start its own. ``say`` reports each wait for another process, ``on_ready`` what is
    ready in its own stack. DAGSTER_HOME becomes a folder of the state folder, with the checkout's ``dagster.yaml``.
    """
    stack = EmbeddedStack(state_dir, on_ready=on_ready)
    with ExitStack() as undo:
        if (joined := _start_or_join(stack, must_own=must_own, say=say, undo=undo)) is not None:
            _use(joined)
            yield
            return
        undo.enter_context(_stopped_at_the_end(stack, say))
        environment = stack.environment() | {"DAGSTER_HOME": str(_dagster_home(stack.state_dir))}
        _use(environment)
        _seed(stack, on_ready)
        _write_private(_environment_file(state_dir), json.dumps({"owner": os.getpid(), "environment": environment}))
        yield


def _start_or_join(
    stack: EmbeddedStack, *, must_own: bool, say: Callable[[str], None], undo: ExitStack
) -> dict[str, str] | None:
    """Start the stack and return None, or join a running one and return its environment. Waits until it can."""
    give_up_at = time.monotonic() + _CHANGE_SECONDS
    has_said = False
    while True:
        try:
            stack.start()
            return None
        except StackAlreadyRunning as error:
            if not must_own:
                if (environment := _join(stack.state_dir, error.holder, undo)) is not None:
                    return environment
                if time.monotonic() > give_up_at:
                    raise
            if not has_said:
                say(_waits_for(error.holder, must_own=must_own))
                has_said = True
        time.sleep(_LOOK_SECONDS)


def _waits_for(holder: Holder, *, must_own: bool) -> str:
    if must_own:
        return f"The embedded stack is in use ({holder}): waiting for that to end ..."
    return f"The embedded stack is being started or stopped ({holder}): waiting for it ..."


def _join(state_dir: Path, owner: Holder, undo: ExitStack) -> dict[str, str] | None:
    """The environment of the owner's stack, kept running for us; None while it is starting or stopping.

    The lock comes first: an owner that ends removes the file before it checks for processes that joined.
    """
    with ExitStack() as until_known:
        handle = until_known.enter_context(_joined_file(state_dir).open("a"))
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            document = json.loads(_environment_file(state_dir).read_text())
        except (BlockingIOError, FileNotFoundError, json.JSONDecodeError):
            return None
        if document.get("owner") != owner.pid:  # a killed owner left it
            return None
        undo.push(until_known.pop_all())
        return dict(document["environment"])


@contextmanager
def _stopped_at_the_end(stack: EmbeddedStack, say: Callable[[str], None]) -> Iterator[None]:
    """Stop the stack once nobody uses it; at once if a signal told the process to end."""
    state_dir = stack.state_dir
    is_terminated = False
    try:
        _environment_file(state_dir).unlink(missing_ok=True)  # of a killed owner
        yield
    except SystemExit:
        is_terminated = True
        raise
    finally:
        with undisturbed(), _joined_file(state_dir).open("a") as handle:
            _environment_file(state_dir).unlink(missing_ok=True)
            if not is_terminated:
                _wait_until_unused(handle, say)
            stack.stop()


def _wait_until_unused(handle: IO[str], say: Callable[[str], None]) -> None:
    """Let nobody join any more, and wait for those who have. Another Ctrl-C (or SIGTERM) ends the wait."""
    has_said = False
    with impatience() as is_impatient:
        while not is_impatient():
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not has_said:
                    say("Another command uses the embedded stack: it stays until that ends (Ctrl-C: stop it now) ...")
                    has_said = True
            time.sleep(_LOOK_SECONDS)


def published_files(state_dir: Path) -> str:
    """Where to find the published files once this command has ended: on disk, or in a stack that keeps running."""
    owner = json.loads(_environment_file(state_dir).read_text())["owner"]
    if owner == os.getpid():
        return f"Published files: {state_dir / 'aws' / 's3' / BUCKET / '__rosters'}. The runs: make dev, page Runs."
    bucket = bucket_url()
    return (
        f"Published files, in the stack that process {owner} runs: curl '{bucket}?list-type=2&prefix=__rosters/' lists "
        f"them, curl {bucket}/KEY shows one. They are written to {state_dir / 'aws' / 's3'} when that process ends."
    )


def bucket_url() -> str:
    """Where a browser reads the objects of this process's stack: loopback alone, and no credentials."""
    return f"{os.environ['AWS_ENDPOINT_URL']}/{BUCKET}"


def _environment_file(state_dir: Path) -> Path:
    return state_dir / "environment.json"


def _joined_file(state_dir: Path) -> Path:
    return state_dir / "joined.lock"


def _use(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    load_settings.cache_clear()


def _seed(stack: EmbeddedStack, on_ready: OnReady) -> None:
    with psycopg.connect(stack.postgres.dsn(APP_DATABASE)) as connection:
        seed(
            stack.state_dir,
            connection=connection,
            secrets_client=boto3.client("secretsmanager"),
            envlabel=load_settings().general.envlabel or "",
        )
    on_ready("synthetic districts", "are in the registry, the warehouses and the secrets")
    with psycopg.connect(stack.postgres.dsn(CATALOGUE_DATABASE)) as connection:
        seed_catalogue(connection, load_settings().catalogue.schema_name)
    on_ready("synthetic catalogue", f"is in the database {CATALOGUE_DATABASE}")


def _dagster_home(state_dir: Path) -> Path:
    """The Dagster home of a state folder, with the checkout's configuration as it is now."""
    configuration = CHECKOUT / "dagster.yaml"
    if not configuration.exists():
        raise ConfigurationError(
            expected="dagster.yaml beside the package", came="none", remedy="run the local commands from a checkout"
        )
    home = state_dir / "dagster_home"
    home.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(configuration, home / "dagster.yaml")
    return home


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
