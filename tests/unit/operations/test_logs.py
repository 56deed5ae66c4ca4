"""The log as lines of JSON: what a line says, what it never says, and which processes write it."""

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from runway_pipelines.errors import Unavailable
from runway_pipelines.operations import logs
from runway_pipelines.operations.logs import JsonLines, console_logger
from tests.waiting import PATIENCE_SECONDS

CANARY = "c4n4ry"
OURS = Unavailable(expected="an answer", came="none", remedy="run again")


def line(record: logging.LogRecord) -> dict[str, Any]:
    text = JsonLines().format(record)
    assert "\n" not in text
    return dict(json.loads(text))


def record(message: str, *args: object, error: BaseException | None = None, **extra: object) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    made = logging.LogRecord("lib", logging.WARNING, __file__, 1, message, args, info)
    made.created = 1_795_254_000.5
    made.__dict__.update(extra)
    return made


def test_a_line_has_time_level_logger_and_message_and_leaves_out_unknown_members() -> None:
    assert line(record("two\nlines %s", 1)) == {
        "timestamp": "2026-11-21T09:40:00.500+00:00",
        "level": "WARNING",
        "logger": "lib",
        "message": "two\nlines 1",
    }


def test_a_tenant_names_its_partner() -> None:
    said = line(record("done", tenant="acme/north"))
    assert (said["partner"], said["tenant"]) == ("acme", "acme/north")


@pytest.mark.parametrize("arguments", [("%s", ValueError(CANARY)), ("%(why)s", {"why": ValueError(CANARY)})])
def test_a_librarys_exception_is_logged_by_its_type_alone(arguments: tuple[Any, ...]) -> None:
    said = line(record(*arguments, error=ValueError(CANARY)))
    assert said["errors"] == ["ValueError"]
    assert "ValueError" in said["message"]
    assert CANARY not in json.dumps(said)


def test_our_own_exception_is_logged_with_its_text_and_its_cause_by_type() -> None:
    OURS.__cause__ = KeyError(CANARY)
    said = line(record("%s", OURS, error=OURS))
    assert said["message"] == f"Unavailable: {OURS}"
    assert said["errors"] == [f"Unavailable: {OURS}", "KeyError"]


def test_messages_that_are_not_text_and_arguments_that_do_not_fit_still_give_a_line() -> None:
    assert line(record("%s and %s", 1))["message"] == "%s and %s"
    assert line(record({"a": 1}))["message"] == "{'a': 1}"  # type: ignore[arg-type]


def test_an_exception_that_is_the_message_itself_is_shown_like_any_other() -> None:
    said = JsonLines().format(record(ValueError(CANARY)))  # type: ignore[arg-type]
    assert json.loads(said)["message"] == "ValueError"
    assert CANARY not in said


class Unspeakable:
    """An argument that has no text."""

    def __str__(self) -> str:
        raise AttributeError(CANARY)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (record("the file \udcff.csv"), "the file \udcff.csv"),
        (record("asked", tenant=7), "asked"),
        (record("of %s", Unspeakable()), "of %s"),
    ],
    ids=["half a surrogate", "a tenant that is not ours", "no text"],
)
def test_nothing_that_a_library_logs_loses_its_line(made: logging.LogRecord, message: str) -> None:
    assert line(made)["message"] == message


class Broken(Exception):
    """Not ours: a library's."""


def lines_of_run(capture: pytest.CaptureFixture[str], error: Exception) -> list[dict[str, Any]]:
    """What a run that fails with the error writes, by a logger like that of production."""

    @dg.op
    def fails() -> None:
        raise error

    @dg.job(logger_defs={"json": dg.LoggerDefinition(lambda _: console_logger("dagster", "DEBUG"))})
    def failing_job() -> None:
        fails()

    config = {"loggers": {"json": {}}}
    failing_job.execute_in_process(run_config=config, raise_on_error=False, tags={"runway/partner": "acme"})
    return [json.loads(text) for text in capture.readouterr().out.splitlines()]


def test_a_failed_step_names_its_partner_and_our_reason(capsys: pytest.CaptureFixture[str]) -> None:
    (failure,) = [one for one in lines_of_run(capsys, OURS) if one.get("event") == "STEP_FAILURE"]
    assert (failure["level"], failure["job"], failure["step"]) == ("ERROR", "failing_job", "fails")
    assert failure["partner"] == "acme"
    assert failure["run_id"]
    assert f"Unavailable: {OURS}" in failure["errors"]


def test_a_failed_step_never_shows_a_librarys_text(capsys: pytest.CaptureFixture[str]) -> None:
    said = lines_of_run(capsys, Broken(CANARY))
    (failure,) = [one for one in said if one.get("event") == "STEP_FAILURE"]
    assert "Broken" in failure["errors"]
    assert CANARY not in json.dumps(said)


@pytest.mark.parametrize(
    ("log_format", "is_terminal", "is_json"),
    [("auto", False, True), ("auto", True, False), ("json", True, True), ("text", False, False)],
)
def test_the_setting_chooses_the_format_and_auto_leaves_it_to_the_terminal(
    log_format: Any, is_terminal: bool, is_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = io.StringIO()
    monkeypatch.setattr(stdout, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "argv", ["/opt/runway/bin/dagster"])
    monkeypatch.setattr("dagster._loggers.create_console_logger", None)
    monkeypatch.setattr("dagster._core.definitions.instigation_logger.create_console_logger", None)
    monkeypatch.setattr(logging.root, "handlers", [])
    assert logs.install(log_format) is is_json
    assert bool(logging.root.handlers) is is_json
    logs.install(log_format)
    assert len(logging.root.handlers) == (1 if is_json else 0)
    logging.getLogger("snowflake").warning("slow")
    assert stdout.getvalue().startswith("{") is is_json


LIBRARY = "import logging, runway_pipelines.definitions; logging.warning('mine')"


@pytest.mark.slow
def test_a_program_that_imports_the_package_keeps_its_log(clean_environment: pytest.MonkeyPatch) -> None:
    process = subprocess.run(
        [sys.executable, "-c", LIBRARY], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    assert process.stdout == ""
    assert process.stderr.splitlines()[-1] == "WARNING:root:mine"


@pytest.mark.slow
def test_a_tick_in_dagsters_code_server_writes_json(clean_environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A sensor's log goes to a console logger of its own, which Dagster makes in another place than a run's."""
    script = (
        "import sys; sys.argv = ['dagster']; import runway_pipelines.definitions as d; d.defs(); "
        "from dagster._core.definitions.instigation_logger import InstigationLogger; "
        "InstigationLogger(repository_name='r', instigator_name='a_sensor').info('ticked')"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
        cwd=tmp_path,
    )
    (only,) = [json.loads(text) for text in process.stdout.splitlines()]
    assert (only["message"], only["tick_of"], only["level"]) == ("ticked", "a_sensor", "INFO")
    assert process.stderr == ""
