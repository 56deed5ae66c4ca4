"""The command line as a whole: its start, its exit codes, and what every command has: JSON and examples."""

from __future__ import annotations

import itertools
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner

from runway_pipelines.cli.app import Commands, main
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.errors import Permanent
from runway_pipelines.settings import load_settings

SLOW = {"boto3", "dagster", "fakesnow", "httpx", "pandas", "psycopg", "pyarrow", "pydantic", "starlette"}
WIDTH = 80  # of a terminal
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_help_imports_nothing_that_is_slow() -> None:
    program = "import sys, runway_pipelines.cli.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    imported = set(done.stdout.split())
    assert "click" in imported
    # Of the connector: its namespace is made by the interpreter's start already.
    assert (SLOW | {"snowflake.connector"}) & imported == set()


@pytest.mark.parametrize("command", [[], ["serve"], ["rosters", "show"]])
def test_the_package_can_be_run_as_the_script_is(command: list[str]) -> None:
    arguments = [sys.executable, "-m", "runway_pipelines.cli", *command, "--help"]
    said = subprocess.run(arguments, capture_output=True, check=True, text=True).stdout
    assert said.startswith(" ".join(["Usage: python -m runway_pipelines.cli", *command]))


def test_help_and_the_page_have_every_exit_code() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    for code in ExitCode:
        assert f" {code:>3}  {code.meaning}\n" in shown
        assert f"| {code:d} | {code.meaning} |\n" in OPERATIONS.read_text()


@click.group(cls=Commands)
def commands() -> None:
    """Commands that end in each way."""


@commands.command()
def well() -> None:
    """It examines something that is well."""
    sys.exit(ExitCode.of(is_well=True))


@commands.command()
def not_well() -> None:
    """It examines something that is not."""
    sys.exit(ExitCode.of(is_well=False))


@commands.command()
def refused() -> None:
    """It cannot do what it is asked."""
    raise Permanent(expected="a", came="b", remedy="c")


@commands.command()
def full() -> None:
    """It meets a disk that is full."""
    raise OSError(28, "No space left on device", "/x")


@commands.command()
def interrupted() -> None:
    """Somebody presses Ctrl-C."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("well", 0, ""),
        ("not-well", 3, ""),
        ("refused", 1, "Error: Expected a; got b. To do: c.\n"),
        ("full", 1, "Error: Expected "),
        ("interrupted", 130, "\nStopped.\n"),
        ("nonsense", 2, "Usage: "),
    ],
)
def test_each_end_has_its_exit_code_and_no_traceback(command: str, code: int, said: str) -> None:
    result = CliRunner().invoke(commands, [command])
    assert result.exit_code == code
    assert result.output.startswith(said)
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "acme"], "Expected PARTNER/TENANT; got 'acme' alone. To do: say it like acme/ashford."),
        (["show", "../x"], "Expected a partner_id of 1 to 64"),
        (["status", "acme/ashford"], "Expected PARTNER alone; got 'acme/ashford'. To do: leave out the tenant."),
        (["audit", "a b"], "Expected a partner_id of 1 to 64"),
        (["purge", "acme/"], "Expected a tenant_code of 1 to 128"),
        (["approve", "acme", "--reason", "x"], "add --all"),
        (["approve", "acme/ashford", "--all", "--reason", "x"], "--all takes a PARTNER: expected acme"),
    ],
)
def test_a_name_that_can_be_none_is_a_wrong_call(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["rosters", *arguments])
    assert result.exit_code == ExitCode.USAGE
    assert said in " ".join(result.output.split())


NO_RESULT = {
    "dev": "it runs until Ctrl-C",
    "serve": "it runs until Ctrl-C",
    "data-contracts": "it prints a page",
    "iam-policy": "a policy is JSON",
}


def leaves(group: click.Group, *before: str) -> Iterator[tuple[str, click.Command]]:
    """Every command of the tree, with its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *before, name)
        else:
            yield " ".join([*before, name]), command


COMMANDS = dict(leaves(main))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_prints_a_result_prints_json_too(name: str) -> None:
    options = {option: each for each in COMMANDS[name].params for option in each.opts}
    assert ("--json" in options) is (name not in NO_RESULT)
    if name not in NO_RESULT:
        flag = options["--json"]
        assert (flag.name, flag.is_flag) == ("is_json", True)  # type: ignore[attr-defined]


def test_what_has_no_json_is_a_command() -> None:
    assert COMMANDS.keys() >= NO_RESULT.keys()


def examples_of(name: str) -> list[str]:
    """The example lines of a command's help, those that go on after a backslash as one."""
    shown = CliRunner().invoke(main, [*name.split(), "--help"]).output
    _, heading, listed = shown.partition("Examples:\n")
    assert heading, f"the help of {name} has no examples"
    assert max(map(len, shown.splitlines())) <= WIDTH
    return [line.strip() for line in listed.replace("\\\n", " ").splitlines()]


def arguments_of(example: str) -> list[str]:
    """What the shell would give to the program."""
    words = shlex.split(example, comments=True)
    assert words[0] == "runway-pipelines"
    return list(itertools.takewhile(lambda word: word not in ("|", ">"), words[1:]))


def parsed(group: click.Group, arguments: list[str]) -> str:
    """The words of the command that the arguments lead to, after its own parser took all of them."""
    context = group.make_context("runway-pipelines", arguments)
    names = []
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert name is not None and command is not None
        names.append(name)
        context = command.make_context(name, rest, parent=context)
    return " ".join(names)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_its_parser_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers").mkdir()
    for file in ("results.csv", "results.jsonl", "rows.jsonl", "answers/resolutions.jsonl"):
        (tmp_path / file).touch()
    for example in examples_of(name):
        assert parsed(main, arguments_of(example)) == name


def test_an_example_with_a_mistake_would_be_found() -> None:
    for mistake in ("rosters show acme", "rosters show acme/ashford --jsn", "roster show", "rosters approve acme/x 1a"):
        with pytest.raises(click.UsageError):
            parsed(main, mistake.split())


def test_dagsters_storage_is_one_line_with_its_type_alone(
    clean_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clean_environment.setenv("DAGSTER_HOME", str(tmp_path / "none"))
    result = CliRunner().invoke(main, ["partitions", "sync"])
    assert result.exit_code == ExitCode.REFUSED
    (line,) = result.output.splitlines()
    assert line.startswith("Error: Expected Dagster's storage to answer; got Dagster")
    assert "set DAGSTER_HOME" in line


def test_somebody_who_forgot_local_is_told_so(clean_environment: pytest.MonkeyPatch) -> None:
    said = CliRunner().invoke(main, ["rosters", "audit", "acme"]).output
    assert said.startswith("Error: Expected the variable RUNWAY_BUCKET")
    assert said.endswith("for the embedded stack, say runway-pipelines --local ...\n")
    clean_environment.setenv("RUNWAY_BUCKET", "somebodys")
    clean_environment.setenv("RUNWAY_APP_DB_PORT", "1")
    load_settings.cache_clear()
    assert "--local" not in CliRunner().invoke(main, ["rosters", "status"]).output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "students explain missing.csv x --tenant a/b",
            "a file for FILE to read; got missing.csv, which does not exist",
        ),
        ("students resolve . --tenant a/b", "a file for FILE to read; got ., which is a folder"),
        ("students resolve a.csv --tenant a/b --to no/such", "a folder for --to to write in; got no, which does not"),
        ("students resolve a.csv --tenant a/b --to a.csv", "a folder for --to to write in; got a.csv, which is a file"),
        ("rosters load a/b --to .", "a file for --to to write; got ., which is a folder"),
        ("rosters diff a/b --ids no/such", "a folder for --ids to write in; got no, which does not exist"),
        (f"students resolve {'x' * 300} --tenant a/b", "a path for FILE; got xxx"),
    ],
)
def test_a_file_that_is_of_no_use_is_one_line_before_any_work(
    arguments: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").touch()
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == ExitCode.REFUSED
    (line,) = result.output.splitlines()
    assert line.startswith(f"Error: Expected {said}") and " To do: " in line


@pytest.mark.parametrize("arguments", [["serve", "--port", "99999"], ["dev", "--port", "0"]])
def test_a_port_that_can_be_none_is_a_wrong_call(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == ExitCode.USAGE


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options_as_the_page_says(shell: str) -> None:
    variable = "_RUNWAY_PIPELINES_COMPLETE"
    assert f"{variable}={shell}_source runway-pipelines" in OPERATIONS.read_text()
    found = get_completion_class(shell)
    assert found is not None
    completion = found(main, {}, "runway-pipelines", variable)
    assert variable in completion.source()
    assert [each.value for each in completion.get_completions(["rosters"], "re")] == ["reject"]
    assert "--json" in [each.value for each in completion.get_completions(["rosters", "show"], "--")]


def groups(group: click.Group, *before: str) -> Iterator[list[str]]:
    """The words of every group of the tree."""
    yield list(before)
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from groups(command, *before, name)


@pytest.mark.parametrize("words", list(groups(main)), ids=" ".join)
def test_no_list_of_commands_breaks_off(words: list[str]) -> None:
    listed = CliRunner().invoke(main, [*words, "--help"]).output.partition("Commands:\n")[2]
    assert listed
    assert [line for line in listed.splitlines() if line.endswith("...")] == []
