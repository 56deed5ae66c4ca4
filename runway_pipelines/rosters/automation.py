"""When rosters are refreshed: the job, and the schedule that requests one run for each partner."""

from logging import Logger

import dagster as dg

from runway_pipelines.credentials.connection_asset import EDU_CONNECTION
from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.dagster_events import with_partition_tags
from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.tags import OWNERS
from runway_pipelines.partner_tenants.partitions import PARTNERS_NAME
from runway_pipelines.partner_tenants.runs import NO_LARGE_RUNS, LargeRuns, partner_run
from runway_pipelines.rosters.events import PARTNER_ROSTER_INDEX

JOB_NAME = "partner_rosters_job"

partner_rosters_job = dg.define_asset_job(
    JOB_NAME,
    selection=dg.AssetSelection.assets(EDU_CONNECTION, PARTNER_ROSTER_INDEX),
    description="Tries a partner's credentials, then refreshes and publishes all of its rosters.",
    executor_def=dg.in_process_executor,
    owners=OWNERS,
)


def build_daily_schedule(
    cron_schedule: str, timezone: str, large_runs: LargeRuns = NO_LARGE_RUNS
) -> dg.ScheduleDefinition:
    """Refreshes every partner's rosters once a day."""

    @dg.schedule(
        name="partner_rosters_daily_schedule",
        job=partner_rosters_job,
        cron_schedule=cron_schedule,
        execution_timezone=timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        owners=OWNERS,
        description="Requests one run a day for each partner that has a secret. Repeating a tick requests nothing new.",
    )
    def partner_rosters_daily_schedule(
        context: dg.ScheduleEvaluationContext, secrets: PartnerSecrets
    ) -> list[dg.RunRequest] | dg.SkipReason:
        day = context.scheduled_execution_time.date().isoformat()
        partners = sorted(context.instance.get_dynamic_partitions(PARTNERS_NAME))
        if not partners:
            return dg.SkipReason("no partner has rosters yet: partner_tenants_sync_sensor adds them from the registry")
        gone = _without_secret(secrets, partners, context.log)
        if len(gone) == len(partners):
            return dg.SkipReason(f"none of the {len(gone)} partners has a secret")
        requests = [
            partner_run(partner_id, f"daily:{day}:{partner_id}", "schedule", large_runs=large_runs)
            for partner_id in partners
            if partner_id not in gone
        ]
        return [with_partition_tags(context, JOB_NAME, request) for request in requests]

    return partner_rosters_daily_schedule


def _without_secret(secrets: PartnerSecrets, partners: list[str], log: Logger) -> dict[str, str]:
    """The partners that cannot be refreshed, with the reason.

    Empty if Secrets Manager does not answer: a failed run tells more than one that was never requested.
    """
    try:
        gone = secrets.gone(partners)
    except RunwayError as error:
        log.warning(f"runs are requested for all partners, with or without a secret: {error}")
        return {}
    for partner_id, reason in gone.items():
        log.warning(f"{partner_id} is left out of the schedule, because of its secret: {reason}")
    return gone
