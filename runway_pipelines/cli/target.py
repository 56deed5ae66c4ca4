"""Which systems a command works on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runway_pipelines.operations.wording import START_DAEMON

if TYPE_CHECKING:
    from runway_pipelines.local.processes import OnReady
    from runway_pipelines.rosters.advice import Advice
    from runway_pipelines.rosters.services import RosterServices
    from runway_pipelines.students.services import StudentServices


DEFAULT_STATE = Path(".runway")


@dataclass(frozen=True)
class Target:
    """The systems that the environment names, or the embedded stack of a folder."""

    is_local: bool
    state: Path

    def adapted(self, text: str) -> str:
        """A text of ours with its remedies for these systems: the embedded stack has its own commands."""
        if not self.is_local:
            return text
        from runway_pipelines.rosters.advice import Advice

        # Not `advice`: the text may be about settings that cannot be read.
        return Advice(self.command).adapted(text.replace(START_DAEMON, f"run {self.make_dev}"))

    @property
    def command(self) -> str:
        """How the caller of this command calls another one."""
        from runway_pipelines.rosters.advice import COMMAND

        if not self.is_local:
            return COMMAND
        state = "" if self.state == DEFAULT_STATE else f" --state {shlex.quote(str(self.state))}"
        return f"{COMMAND} --local{state}"

    @property
    def command_beside(self) -> str:
        """How somebody in the checkout calls a command on the embedded stack, whether or not this one had --local."""
        return f".venv/bin/{Target(True, self.state).command}"

    @property
    def make_dev(self) -> str:
        """What starts the embedded stack with Dagster."""
        return "make dev" if self.state == DEFAULT_STATE else f"make dev STATE={shlex.quote(str(self.state))}"

    def advice(self) -> Advice:
        """How the caller of this command does what a next step says."""
        from runway_pipelines.rosters.advice import Advice
        from runway_pipelines.settings import load_settings

        url = load_settings().dagster.url
        if self.is_local:
            return Advice(self.command, url, ui=f"the Dagster UI ({self.make_dev})")
        return Advice(dagster_url=url)

    def hint(self) -> str:
        """A hint for somebody who forgot --local: every deployment has a bucket. Empty for everybody else."""
        from runway_pipelines.settings import load_settings

        if self.is_local or load_settings().aws.bucket is not None:
            return ""
        return " RUNWAY_BUCKET is not set: for the embedded stack, say runway-pipelines --local ..."

    @contextmanager
    def services(self) -> Iterator[RosterServices]:
        """The services, ready to use."""
        with self._systems(), _services() as services:
            yield services

    @contextmanager
    def students(self) -> Iterator[StudentServices]:
        """The same for student resolution."""
        with self._systems(), _student_services() as services:
            yield services

    @contextmanager
    def stack(self, *, must_own: bool = False, on_ready: OnReady | None = None) -> Iterator[RosterServices]:
        """The embedded stack, started with its data; SIGTERM stops it cleanly.

        A stack that is already running is joined or, with ``must_own``, waited for. ``on_ready`` is told what is ready.
        """
        with self._local(must_own=must_own, on_ready=on_ready), _services() as services:
            yield services

    @contextmanager
    def _systems(self) -> Iterator[None]:
        if self.is_local:
            with self._local():
                yield
        else:
            yield

    @contextmanager
    def _local(self, *, must_own: bool = False, on_ready: OnReady | None = None) -> Iterator[None]:
        with local_parts():
            from runway_pipelines.local.processes import LocalServerError, tell_nobody
            from runway_pipelines.local.session import local_session
            from runway_pipelines.local.signals import exit_on_termination
        try:
            with (
                exit_on_termination(),
                # To stderr, because a machine may read stdout.
                local_session(
                    self.state,
                    must_own=must_own,
                    say=lambda text: click.echo(text, err=True),
                    on_ready=on_ready or tell_nobody,
                ),
            ):
                yield
        except LocalServerError as error:
            raise click.ClickException(str(error)) from None


@contextmanager
def local_parts() -> Iterator[None]:
    """Explain a failed import of the embedded stack, which is an extra."""
    try:
        yield
    except ImportError as error:
        raise click.ClickException(
            f"The embedded stack is not installed ({error.name}): install the extra runway-pipelines[local]."
        ) from None


@contextmanager
def _services() -> Iterator[RosterServices]:
    from runway_pipelines.settings import load_settings
    from runway_pipelines.wiring import build_services

    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        yield services


@contextmanager
def _student_services() -> Iterator[StudentServices]:
    from runway_pipelines.settings import load_settings
    from runway_pipelines.wiring import build_student_services

    with build_student_services(load_settings()).process_config_and_initialize_cm() as services:
        yield services
