"""The internals of Dagster that `dagster_events` replaces are where it replaces them."""

import logging

import dagster as dg
import pytest
from dagster import _loggers
from dagster._core.definitions import instigation_logger

from runway_pipelines.dagster_events import replace_console_logger

MADE: list[str] = []


def make_logger(name: str, level: str | int) -> logging.Logger:
    MADE.append(name)
    return logging.Logger(name, level)


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of Dagster's uses are replaced until the end of the test; fails if Dagster has moved one."""
    for user in (_loggers, instigation_logger):
        monkeypatch.setattr(user, "create_console_logger", user.create_console_logger)  # type: ignore[attr-defined]
    MADE.clear()
    replace_console_logger(make_logger)


def test_runs_log_through_the_replaced_console_logger(replaced: None) -> None:
    @dg.op
    def speaks(context: dg.OpExecutionContext) -> None:
        context.log.info("hello")

    @dg.job
    def speaking_job() -> None:
        speaks()

    assert speaking_job.execute_in_process().success
    assert MADE


def test_ticks_log_through_the_replaced_console_logger(replaced: None) -> None:
    instigation_logger.InstigationLogger(repository_name="r", instigator_name="a_sensor").info("ticked")
    assert MADE
