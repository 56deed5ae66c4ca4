"""What Dagster loads: everything runs by itself, everything is described, and the UI shows no secret."""

from datetime import datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from runway_pipelines.definitions import build_definitions, defs
from runway_pipelines.operations.tags import DOMAIN_TAG, OWNERS
from runway_pipelines.settings import Settings
from runway_pipelines.wiring import build_services

ASSETS = {
    "cross_year_roster": "rosters",
    "published_roster": "rosters",
    "partner_roster_index": "rosters",
    "board": "rosters",
    "edu_connection": "credentials",
    "resolutions": "students",
    "library_identity": "identity",
    "library_identity_source": "identity",
    "compilation_track_artist": "identity",
    "stg_ef3__student_education_organization_associations": "neighbours",
    "stg_ef3__stu_ed_org__identification_codes": "neighbours",
    "stg_ef3__students": "neighbours",
    "stg_ef3__student_school_associations": "neighbours",
    "match_candidates": "neighbours",
    "registry": "neighbours",
    "edu_snowflake": "neighbours",
    "executor": "neighbours",
    "library": "neighbours",
    "verdicts": "neighbours",
}
SENSORS = {
    "partner_tenants_sync_sensor",
    "edu_credentials_rotated_sensor",
    "student_candidates_sensor",
    "roster_board_sensor",
    "run_outcome_event_sensor",
}


def test_every_schedule_and_sensor_runs_from_the_start() -> None:
    repository = defs().get_repository_def()
    assert repository.schedule_defs
    assert {sensor.name for sensor in repository.sensor_defs} == SENSORS
    assert all(s.default_status is dg.DefaultScheduleStatus.RUNNING for s in repository.schedule_defs)
    assert all(s.default_status is dg.DefaultSensorStatus.RUNNING for s in repository.sensor_defs)


def test_every_asset_says_what_it_is_and_whom_to_call() -> None:
    specs = {spec.key.path[-1]: spec for spec in defs().resolve_all_asset_specs()}
    assert {name: spec.group_name for name, spec in specs.items()} == ASSETS
    for spec in specs.values():
        assert spec.description
        assert spec.owners
        assert spec.kinds


def test_a_password_reaches_no_resource_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_APP_DB_PASSWORD", "canary-password")
    monkeypatch.setenv("EDU_SNOWFLAKE_PRIVATE_KEY", "canary-key")
    built = build_definitions(Settings())
    shown = str(built.get_repository_def().get_top_level_resources()) + str(built.resources)
    assert "canary" not in shown


def test_the_schedule_asks_for_one_run_a_partner_keyed_by_day() -> None:
    schedule = defs().resolve_schedule_def("partner_rosters_daily_schedule")
    with dg.instance_for_test() as instance:

        def tick() -> list[dg.RunRequest]:
            with dg.build_schedule_context(
                instance,
                scheduled_execution_time=_at("2026-11-21T02:00:00"),
                repository_def=defs().get_repository_def(),
                resources={"secrets": build_services(Settings()).secrets},
            ) as context:
                return list(schedule.evaluate_tick(context).run_requests or [])

        assert tick() == []
        instance.add_dynamic_partitions("partners", ["borealis", "acme"])
        requests = tick()
    assert [(r.partition_key, r.run_key) for r in requests] == [
        ("acme", "daily:2026-11-21:acme"),
        ("borealis", "daily:2026-11-21:borealis"),
    ]
    assert all(r.tags["runway/partner"] == r.partition_key for r in requests)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("America/Los_Angeles"))


def test_everything_that_dagster_shows_says_what_it_is_and_whom_to_call() -> None:
    repository = defs().get_repository_def()
    assets = [repository.asset_graph.get(key) for key in repository.asset_graph.get_all_asset_keys()]
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    for each in [*assets, *jobs, *repository.schedule_defs, *repository.sensor_defs]:
        assert each.description and list(each.owners or []) == list(OWNERS), each
    assert not any(name for job in jobs for name in job.run_tags if not name.startswith("dagster/")), (
        "the list of runs shows each, and three runs fill the screen"
    )
    assert all(asset.group_name == asset.tags[DOMAIN_TAG] and asset.kinds for asset in assets)
