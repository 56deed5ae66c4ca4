"""The table of contents: everything that Dagster loads is listed here."""

import dagster as dg

from runway_pipelines import wiring
from runway_pipelines.credentials.connection_asset import CAN_CONNECT
from runway_pipelines.credentials.rotation_sensor import build_rotated_sensor
from runway_pipelines.identity.assets import library_identity_graph
from runway_pipelines.identity.automation import (
    build_identity_schedule,
    library_identity_job,
    library_identity_recheck_job,
)
from runway_pipelines.neighbours import neighbours
from runway_pipelines.operations.logs import install as install_log
from runway_pipelines.operations.outcome_sensor import Watched, build_run_outcome_sensor
from runway_pipelines.operations.retention import build_retention_job, build_retention_schedule
from runway_pipelines.operations.tags import linked
from runway_pipelines.partner_tenants.sync_sensor import build_sync_sensor
from runway_pipelines.rosters.assets import partner_rosters, tenant_rosters
from runway_pipelines.rosters.automation import build_daily_schedule, partner_rosters_job
from runway_pipelines.rosters.board_asset import build_board_asset, build_board_retention, build_board_sensor
from runway_pipelines.rosters.decision_job import roster_decision_job
from runway_pipelines.rosters.events import PARTNER_ROSTER_INDEX, PUBLISHED_ROSTER
from runway_pipelines.rosters.freshness_check import TENANTS_FRESH, roster_freshness_job, roster_freshness_schedule
from runway_pipelines.rosters.pruning import prune_snapshots
from runway_pipelines.settings import Settings, load_settings
from runway_pipelines.students.assets import student_resolutions
from runway_pipelines.students.automation import build_candidates_sensor, student_resolution_job
from runway_pipelines.students.events import RESOLUTIONS
from runway_pipelines.students.pruning import delete_old_resolutions


def build_definitions(settings: Settings) -> dg.Definitions:
    """The code location for these settings."""
    services = wiring.build_services(settings)
    interval = settings.dagster.sensor_interval_seconds
    large_runs = wiring.build_large_runs(settings)
    advice = wiring.build_advice(settings)
    retention_days = settings.dagster.run_retention_days
    run_retention_job = build_retention_job(
        retention_days, prune_snapshots, delete_old_resolutions, build_board_retention(retention_days)
    )
    return dg.Definitions(
        assets=[
            *(
                _with_links(assets, settings)
                for assets in (tenant_rosters, partner_rosters, student_resolutions, library_identity_graph)
            ),
            _with_links(build_board_asset(advice), settings),
            *neighbours(PUBLISHED_ROSTER),
        ],
        jobs=[
            partner_rosters_job,
            roster_freshness_job,
            roster_decision_job,
            student_resolution_job,
            library_identity_job,
            library_identity_recheck_job,
            run_retention_job,
        ],
        schedules=[
            build_daily_schedule(settings.rosters.cron, settings.rosters.timezone, large_runs),
            roster_freshness_schedule,
            build_identity_schedule(settings.identity.cron, settings.identity.timezone),
            build_retention_schedule(run_retention_job),
        ],
        sensors=[
            build_sync_sensor(include_switched_off=settings.rosters.without_toggle, interval_seconds=interval),
            build_rotated_sensor(
                job_name=partner_rosters_job.name,
                pacing=wiring.build_pacing(settings),
                interval_seconds=interval,
                large_runs=large_runs,
                also_on=[PARTNER_ROSTER_INDEX],
                docs_url=settings.dagster.docs_url,
            ),
            build_candidates_sensor(interval_seconds=interval, large_runs=large_runs),
            build_board_sensor(advice, interval_seconds=interval),
            build_run_outcome_sensor(
                Watched(
                    partner_job=partner_rosters_job.name,
                    freshness_job=roster_freshness_job.name,
                    identity_jobs=frozenset({library_identity_job.name, library_identity_recheck_job.name}),
                    can_connect=CAN_CONNECT,
                    tenants_fresh=TENANTS_FRESH,
                    resolution_job=student_resolution_job.name,
                    partner_index=PARTNER_ROSTER_INDEX,
                    resolutions=RESOLUTIONS,
                ),
                interval_seconds=interval,
            ),
        ],
        resources={
            "rosters": services,
            "students": wiring.build_student_services(settings),
            "database": services.database,
            "secrets": services.secrets,
            "operators": wiring.build_operators(settings),
            "identity": wiring.build_identity(settings),
        },
        # Ten steps cost 5 CPU-seconds in one process and 53 with a process each.
        executor=dg.in_process_executor,
    )


def _with_links(assets: dg.AssetsDefinition, settings: Settings) -> dg.AssetsDefinition:
    """The assets, with their runbooks linked to where the repository is hosted."""
    return assets.map_asset_specs(
        lambda spec: spec.replace_attributes(metadata=linked(spec.metadata, settings.dagster.docs_url))
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location, for the settings of this process; called when Dagster asks for it."""
    settings = load_settings()
    install_log(settings.general.log_format)
    return build_definitions(settings)
