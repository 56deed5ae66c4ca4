"""The command ``runway-pipelines``: its own options, and the list of its commands."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from runway_pipelines.cli import leave
from runway_pipelines.cli.board import list_rosters, status
from runway_pipelines.cli.breakage import break_, mend
from runway_pipelines.cli.credentials import credentials
from runway_pipelines.cli.decisions import approve, audit, expect, reject, rollback, unpin
from runway_pipelines.cli.doctor import doctor
from runway_pipelines.cli.documents import data_contracts, iam_policy, settings
from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.exit_codes import ExitCode, exit_codes_in_words
from runway_pipelines.cli.holds import diff, holds
from runway_pipelines.cli.identity import identity
from runway_pipelines.cli.local import demo, dev
from runway_pipelines.cli.partitions import partitions
from runway_pipelines.cli.rosters import rosters
from runway_pipelines.cli.serve import serve
from runway_pipelines.cli.students import students
from runway_pipelines.cli.target import DEFAULT_STATE, Target
from runway_pipelines.errors import ConfigurationError, RunwayError, Unavailable

for command in (status, list_rosters, holds, diff, approve, reject, rollback, unpin, expect, audit):
    rosters.add_command(command)


class Commands(click.Group):
    """A group whose commands end with a line, and no traceback, for our own errors and for what the disk refuses.

    Ctrl-C ends them the same way, with an exit code of its own: click's is that of a refusal.
    """

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            if signal.getsignal(signal.SIGINT) is leave:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return super().invoke(ctx)
        except RunwayError as error:
            raise click.ClickException(_said(error, ctx.obj)) from None
        except OSError as error:
            from runway_pipelines.systems.disk import refused_file

            trouble = refused_file(error)
            if trouble is None:
                raise
            raise click.ClickException(str(trouble)) from None
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one, while it exits, would print a traceback
            click.echo("\nStopped.", err=True)
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None


def _said(error: RunwayError, target: object) -> str:
    """The error, with its remedy for the systems that the command works on."""
    if not isinstance(target, Target):
        return str(error)
    is_of_systems = isinstance(error, ConfigurationError | Unavailable)
    return target.adapted(str(error)) + (target.hint() if is_of_systems else "")


@click.group(
    cls=Commands,
    epilog="\n\n".join(
        [
            examples(
                "runway-pipelines rosters status",
                "runway-pipelines --local doctor   # of what make dev runs",
                "runway-pipelines rosters show --help",
            ),
            exit_codes_in_words(),
        ]
    ),
    commands=[
        demo,
        dev,
        serve,
        settings,
        data_contracts,
        iam_policy,
        doctor,
        partitions,
        credentials,
        identity,
        rosters,
        students,
        break_,
        mend,
    ],
)
@click.option("--local", is_flag=True, help="Use the embedded stack instead of the systems that the environment names.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    help="The embedded stack's folder.",
)
@click.version_option(package_name="runway-pipelines", prog_name="runway-pipelines")
@click.pass_context
def main(context: click.Context, local: bool, state: Path) -> None:
    """Cross-year rosters: from each partner's Snowflake to where Runway reads them."""
    context.obj = Target(local, state)
