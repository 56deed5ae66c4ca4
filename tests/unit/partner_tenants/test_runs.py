"""A run of one partner: its key, its partition, its tags, and the tags that make its task larger."""

from datetime import datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from runway_pipelines.definitions import build_definitions
from runway_pipelines.partner_tenants.runs import LargeRuns, partner_run
from runway_pipelines.settings import Settings
from runway_pipelines.wiring import build_services

LARGE = LargeRuns(frozenset({"acme"}), cpu=8192, memory=32768)


def test_a_run_names_its_partner_and_its_trigger() -> None:
    request = partner_run("acme", "key", "schedule", {"more": "of it"})
    assert (request.run_key, request.partition_key) == ("key", "acme")
    assert request.tags == {"runway/partner": "acme", "runway/trigger": "schedule", "more": "of it"}


def test_only_a_large_partners_run_requests_a_larger_task() -> None:
    assert partner_run("acme", "key", "schedule", large_runs=LARGE).tags.items() >= {
        ("ecs/cpu", "8192"),
        ("ecs/memory", "32768"),
    }
    assert not any(tag.startswith("ecs/") for tag in partner_run("acmes", "key", "schedule", large_runs=LARGE).tags)


@pytest.mark.usefixtures("clean_environment")
def test_the_settings_reach_the_nightly_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_LARGE_PARTNERS", "borealis,acme")
    monkeypatch.setenv("RUNWAY_LARGE_RUN_CPU", "8192")
    monkeypatch.setenv("RUNWAY_LARGE_RUN_MEMORY", "32768")
    settings = Settings()
    definitions = build_definitions(settings)
    schedule = definitions.resolve_schedule_def("partner_rosters_daily_schedule")
    at = datetime(2026, 11, 21, 2, tzinfo=ZoneInfo("America/Los_Angeles"))
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("partners", ["acme", "cascade"])
        with dg.build_schedule_context(
            instance,
            scheduled_execution_time=at,
            repository_def=definitions.get_repository_def(),
            resources={"secrets": build_services(settings).secrets},
        ) as context:
            requests = {run.partition_key: run for run in schedule.evaluate_tick(context).run_requests or []}
    assert (requests["acme"].tags["ecs/cpu"], requests["acme"].tags["ecs/memory"]) == ("8192", "32768")
    assert "ecs/cpu" not in requests["cascade"].tags
