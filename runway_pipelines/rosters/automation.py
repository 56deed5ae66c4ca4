"""When rosters are refreshed: the job, and the schedule that asks for one run a partner."""

from logging import Logger

import dagster as dg

from runway_pipelines.credentials.connection_asset import EDU_CONNECTION
from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.dagster_events import with_partition_tags
from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.tags import OWNERS, domain
from runway_pipelines.partner_tenants.partitions import PARTNERS_NAME
from runway_pipelines.partner_tenants.runs import NO_LARGE_RUNS, LargeRuns, partner_run
from runway_pipelines.rosters.events import PARTNER_ROSTER_INDEX

JOB_NAME = "partner_rosters_job"

partner_rosters_job = dg.define_asset_job(
    JOB_NAME,
    selection=dg.AssetSelection.assets(EDU_CONNECTION, PARTNER_ROSTER_INDEX),
    description="Try a partner's credentials, then refresh and publish all of its rosters.",
    executor_def=dg.in_process_executor,
    owners=OWNERS,
    tags=domain("rosters"),
)


def build_daily_schedule(
    cron_schedule: str, timezone: str, large_runs: LargeRuns = NO_LARGE_RUNS
) -> dg.ScheduleDefinition:
    """Every partner's rosters, once a day."""

    @dg.schedule(
        name="partner_rosters_daily_schedule",
        job=partner_rosters_job,
        cron_schedule=cron_schedule,
        execution_timezone=timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        owners=OWNERS,
        description="One run for each partner, keyed by day: a tick that is repeated asks for nothing new.",
    )
    def partner_rosters_daily_schedule(
        context: dg.ScheduleEvaluationContext, secrets: PartnerSecrets
    ) -> list[dg.RunRequest] | dg.SkipReason:
        day = context.scheduled_execution_time.date().isoformat()
        partners = sorted(context.instance.get_dynamic_partitions(PARTNERS_NAME))
        if not partners:
            return dg.SkipReason("no partner has rosters yet: bring the partitions in line with the registry")
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
    """The partners that cannot be refreshed, with the reason; none where Secrets Manager does not answer: a run that
    fails says more than one that was never asked for.
    """
    try:
        gone = secrets.gone(partners)
    except RunwayError as error:
        log.warning(f"every partner is asked for, whether it has a secret or not: {error}")
        return {}
    for partner_id, reason in gone.items():
        log.warning(f"{partner_id} is out of the schedule: of its secret, {reason}")
    return gone
