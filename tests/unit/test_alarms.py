"""deploy/ecs/alarms.yaml: its patterns match the lines that our processes write, its alarms look at what is there."""

import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from runway_pipelines.errors import Unavailable
from runway_pipelines.identity.automation import library_identity_job, library_identity_recheck_job
from runway_pipelines.operations.events import OperatorEvents
from runway_pipelines.operations.logs import JsonLines, console_logger
from runway_pipelines.operations.outcomes import (
    CREDENTIALS_FAILING,
    IDENTITY_RUN_FAILED,
    IDENTITY_RUN_RECOVERED,
    ROSTER_REFRESH_FAILED,
    ROSTER_REFRESH_RECOVERED,
    ROSTERS_FRESH_AGAIN,
    ROSTERS_STALE,
    OperatorEvent,
)
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.automation import partner_rosters_job
from runway_pipelines.rosters.events import CROSS_YEAR_ROSTER, PARTNER_ROSTER_INDEX
from runway_pipelines.rosters.freshness_check import roster_freshness_job
from runway_pipelines.stream import refusals, resolution_route, streaming
from runway_pipelines.stream.metrics import Metrics
from runway_pipelines.stream.sources import Source
from runway_pipelines.stream.streaming import PullRecord
from runway_pipelines.students.automation import student_resolution_job
from tests.cloudformation import Stack
from tests.filter_patterns import matches
from tests.templates import ALARMS, SERVICES, STREAM
from tests.waiting import PATIENCE_SECONDS

DOCS = Path(__file__).parents[2]
Line = dict[str, Any]
GOOD_NEWS = {ROSTER_REFRESH_RECOVERED, ROSTERS_FRESH_AGAIN, IDENTITY_RUN_RECOVERED}
TOLD_JOBS = [
    partner_rosters_job.name,
    library_identity_job.name,
    library_identity_recheck_job.name,
    student_resolution_job.name,
]
WHY = Unavailable(expected="an answer", came="none", remedy="run again")


def filters() -> dict[str, dict[str, Any]]:
    return Stack("alarms.yaml", **ALARMS).resources("AWS::Logs::MetricFilter")


def alarms(**parameters: str) -> dict[str, dict[str, Any]]:
    return Stack("alarms.yaml", **ALARMS | parameters).resources("AWS::CloudWatch::Alarm")


def matching(name: str, lines: list[Line]) -> list[Line]:
    """The lines that the filter counts."""
    return [line for line in lines if matches(filters()[name]["FilterPattern"], line)]


def matched_by(group: str, line: Line) -> set[str]:
    """The filters of a log group that count the line."""
    of_group = [name for name, one in filters().items() if one["LogGroupName"].endswith(f"/{group}")]
    return {name for name in of_group if matching(name, [line])}


def lines_of_run(capture: pytest.CaptureFixture[str], job_name: str, ops: Callable[[], object]) -> list[Line]:
    """What a run of a job of this name writes in production."""

    @dg.job(name=job_name, logger_defs={"json": dg.LoggerDefinition(lambda _: console_logger("dagster", "DEBUG"))})
    def made() -> None:
        ops()

    capture.readouterr()
    made.execute_in_process(run_config={"loggers": {"json": {}}}, raise_on_error=False)
    return [json.loads(text) for text in capture.readouterr().out.splitlines()]


@dg.op(out={})
def works() -> Iterator[object]:
    yield dg.AssetMaterialization(PARTNER_ROSTER_INDEX, partition="acme")


@dg.op
def fails() -> None:
    raise WHY


@dg.op(out={})
def refreshes() -> Iterator[object]:
    yield dg.AssetMaterialization(CROSS_YEAR_ROSTER, partition="acme/north")


def test_the_hourly_run_counts_when_it_ended_well(capsys: pytest.CaptureFixture[str]) -> None:
    hourly = roster_freshness_job.name
    assert len(matching("HourlyRunSucceeded", lines_of_run(capsys, hourly, works))) == 1
    assert matching("HourlyRunSucceeded", lines_of_run(capsys, hourly, fails)) == []
    assert matching("HourlyRunSucceeded", lines_of_run(capsys, "another_job", works)) == []


def test_a_roster_that_was_refreshed_counts_and_a_partners_index_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    (counted,) = matching("RosterRefreshed", lines_of_run(capsys, TOLD_JOBS[0], refreshes))
    assert counted["tenant"] == "acme/north"
    assert matching("RosterRefreshed", lines_of_run(capsys, TOLD_JOBS[0], works)) == []
    assert matching("RosterRefreshed", lines_of_run(capsys, student_resolution_job.name, refreshes)) == []


@pytest.mark.parametrize(
    ("job_name", "counted"), [*((name, 0) for name in TOLD_JOBS), (roster_freshness_job.name, 1), ("any", 1)]
)
def test_a_failed_run_counts_where_no_event_tells_of_it(
    capsys: pytest.CaptureFixture[str], job_name: str, counted: int
) -> None:
    lines = lines_of_run(capsys, job_name, fails)
    assert any(line.get("event") == "PIPELINE_FAILURE" and line["level"] == "ERROR" for line in lines)
    assert len(matching("OtherRunFailed", lines)) == counted


@pytest.mark.parametrize("event_bus", [None, "operators"])
@pytest.mark.parametrize(
    "detail_type", [CREDENTIALS_FAILING, IDENTITY_RUN_FAILED, ROSTER_REFRESH_FAILED, ROSTERS_STALE, *sorted(GOOD_NEWS)]
)
def test_an_event_that_nobody_got_counts(
    capsys: pytest.CaptureFixture[str], detail_type: str, event_bus: str | None
) -> None:
    # Without ENVLABEL nothing can be sent, and no network is tried.
    operators = OperatorEvents(event_bus=event_bus, region_name="us-west-2")
    is_sent = operators.emit(OperatorEvent(detail_type, {"partner": "acme"}), console_logger("sensor", "INFO"))
    assert is_sent is (event_bus is None)
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    is_good_news = detail_type in GOOD_NEWS and event_bus is None
    assert bool(matching("OperatorsNotTold", [line])) is not is_good_news


DAEMON = """
import logging, sys
from dagster._daemon.utils import DaemonErrorCapture
from dagster._utils.log import configure_loggers
configure_loggers(formatter="json")
logger = logging.getLogger("dagster.daemon.SensorDaemon")
logger.info("Checking for new runs for sensor: a_sensor")
logger.warning("slow")
try:
    raise ValueError("no")
except ValueError:
    DaemonErrorCapture.process_exception(sys.exc_info(), logger=logger, log_message="Sensor daemon caught an error")
"""


@pytest.mark.slow
def test_an_error_of_the_daemon_counts_as_its_own_json_says_it() -> None:
    process = subprocess.run(
        [sys.executable, "-c", DAEMON], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    lines = [json.loads(text) for text in process.stdout.splitlines()]
    assert [line["event"] for line in matching("DaemonError", lines)] == ["Sensor daemon caught an error"]
    assert len(lines) == 3


@pytest.fixture
def stream_lines(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Line]]:
    """What the stream has logged since it was asked last, as it is in its log group."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    for module in (streaming, refusals, resolution_route):
        monkeypatch.setattr(module.log, "handlers", [handler])
        monkeypatch.setattr(module.log, "level", logging.INFO)

    def lines() -> list[Line]:
        text = written.getvalue()
        written.seek(0)
        written.truncate()
        return [json.loads(line) for line in text.splitlines()]

    return lines


def test_a_pull_that_failed_or_was_torn_counts_and_one_that_its_client_left_does_not(
    stream_lines: Callable[[], list[Line]],
) -> None:
    metrics = Metrics(sessions_in_use=lambda: 0, sessions_idle=lambda: 0)

    def over(ended: str, reason: str = "") -> set[str]:
        PullRecord(
            PartnerTenant("acme", "north"), 7, Source.WAREHOUSE, "it was asked for", time.monotonic(), metrics
        ).over(ended, reason)
        (line,) = stream_lines()
        return matched_by("roster-stream", line)

    assert over("torn", str(WHY)) == {"PullTorn"}
    assert over("complete") == over("abandoned") == set()
    for error in (WHY, ValueError("no")):
        assert refusals.failed(None, error).status_code == 500
        (line,) = stream_lines()
        assert matched_by("roster-stream", line) == {"PullFailed"}


def test_another_districts_file_counts_as_the_stream_says_it(stream_lines: Callable[[], list[Line]]) -> None:
    resolution_route.warn_of_foreign_file(PartnerTenant("acme", "north"), 7, "of 12 candidates ...")
    (line,) = stream_lines()
    assert matched_by("roster-stream", line) == {"ForeignFile"}
    metrics = Metrics(sessions_in_use=lambda: 0, sessions_idle=lambda: 0)
    for ended, reason in (("complete", ""), ("refused", "TooManyCandidates"), ("abandoned", "the body broke off")):
        record = resolution_route.ResolutionRecord(PartnerTenant("acme", "north"), 7, time.monotonic(), metrics)
        record.over(ended, reason)
        (line,) = stream_lines()
        assert matched_by("roster-stream", line) == set()


def test_each_alarm_looks_at_a_metric_that_there_is() -> None:
    counted = {
        (metric["MetricNamespace"], metric["MetricName"])
        for one in filters().values()
        for metric in one["MetricTransformations"]
    }
    stacks = [Stack("services.yaml", **SERVICES), Stack("roster_stream.yaml", **STREAM)]
    named = {
        (properties["Cluster"], properties["ServiceName"])
        for stack in stacks
        for properties in stack.resources("AWS::ECS::Service").values()
    }
    looked_at = {(one["Namespace"], one["MetricName"]) for one in alarms().values()}
    assert looked_at == counted | {("AWS/ECS", "CPUUtilization")}
    for one in alarms().values():
        if one["Namespace"] == "AWS/ECS":
            dimensions = {dimension["Name"]: dimension["Value"] for dimension in one["Dimensions"]}
            assert (dimensions["ClusterName"], dimensions["ServiceName"]) in named
    groups = {group["LogGroupName"] for stack in stacks for group in stack.resources("AWS::Logs::LogGroup").values()}
    assert {one["LogGroupName"] for one in filters().values()} <= groups


def test_silence_is_an_alarm_where_something_has_to_happen_and_nowhere_else() -> None:
    for one in alarms().values():
        is_absence = one["ComparisonOperator"] == "LessThanThreshold"
        assert one["TreatMissingData"] == ("breaching" if is_absence else "notBreaching")
        # CloudWatch looks back a week, and with periods of less than an hour a day.
        window = one["Period"] * one["EvaluationPeriods"]
        assert window <= (604_800 if one["Period"] >= 3600 else 86_400)
    assert {name for name, one in alarms().items() if one["TreatMissingData"] == "breaching"} == {
        "NoDaemon",
        "NoCodeServer",
        "NoRosterStream",
        "NoHourlyRun",
        "NoRosterRefreshed",
    }


def test_a_night_without_rosters_is_noticed_before_the_next_one_is_over() -> None:
    one = alarms()["NoRosterRefreshed"]
    assert one["Period"] * one["EvaluationPeriods"] == 36 * 3600


def test_each_alarm_goes_to_the_topic_and_says_what_to_do_in_pages_that_exist() -> None:
    for one in alarms().values():
        assert one["AlarmActions"] == one["OKActions"] == [ALARMS["AlarmTopicArn"]]
        said = one["AlarmDescription"]
        assert "To do: " in said
        assert len(said) <= 1024
        references = re.findall(r'(docs/[\w-]+\.md), ((?:"[^"]+"(?:, and )?)+)', said)
        for page, headings in references:
            there = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(), re.MULTILINE)
            assert set(re.findall('"([^"]+)"', headings)) <= set(there)
        assert len(references) == len(re.findall(r"docs/", said)) > 0


def test_without_a_stream_nothing_of_it_is_looked_at() -> None:
    assert alarms().keys() - alarms(HasRosterStream="no").keys() == {
        "NoRosterStream",
        "FailedPulls",
        "ForeignFiles",
    }
    without = Stack("alarms.yaml", **ALARMS | {"HasRosterStream": "no"}).resources("AWS::Logs::MetricFilter")
    assert filters().keys() - without.keys() == {"PullFailed", "PullTorn", "ForeignFile"}


@pytest.mark.parametrize(
    ("pattern", "line", "is_match"),
    [
        ('{ $.a = "x" }', {"a": "x"}, True),
        ('{ $.a = "x" }', {"a": "xy"}, False),
        ('{ $.a = "x*" }', {"a": "xy"}, True),
        ('{ $.a = "*y" }', {"a": "xy"}, True),
        ('{ $.a = "*x*" }', {"a": "yxy"}, True),
        ('{ $.a = "x*y" }', {"a": "xzy"}, False),  # a star within a value is a star
        ('{ $.a != "x*" }', {"a": "xy"}, False),
        ('{ $.a != "x" }', {}, False),
        ("{ $.a = * }", {"a": "anything"}, True),
        ("{ $.a = * }", {"b": "x"}, False),
        ('{ $.a = "1" && $.b = "2" || $.a = "3" }', {"a": "3"}, True),
        ('{ $.a = "1" && $.b = "2" }', {"a": "1"}, False),
    ],
)
def test_patterns_match_as_cloudwatch_says(pattern: str, line: Line, is_match: bool) -> None:
    assert matches(pattern, line) is is_match
