"""When rosters are refreshed: the job, and the schedule that asks for one run a partner."""

import dagster as dg

from runway_pipelines.partner_tenants.partitions import PARTNERS_NAME
from runway_pipelines.rosters.assets import PARTNER_ROSTER_INDEX

PARTNER_TAG = "runway/partner"

partner_rosters_job = dg.define_asset_job(
    "partner_rosters_job",
    selection=dg.AssetSelection.assets(PARTNER_ROSTER_INDEX),
    description="Refresh and publish all rosters of one partner.",
    executor_def=dg.in_process_executor,
)


def partner_run(partner_id: str, run_key: str, trigger: str) -> dg.RunRequest:
    """The request for a partner's run; the tag lets the queue run one at a time for each partner."""
    return dg.RunRequest(
        run_key=run_key,
        partition_key=partner_id,
        tags={PARTNER_TAG: partner_id, "runway/trigger": trigger},
    )


def build_daily_schedule(cron_schedule: str, timezone: str) -> dg.ScheduleDefinition:
    """Every partner's rosters, once a day."""

    @dg.schedule(
        name="partner_rosters_daily_schedule",
        job=partner_rosters_job,
        cron_schedule=cron_schedule,
        execution_timezone=timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="One run for each partner, keyed by day: a tick that is repeated asks for nothing new.",
    )
    def partner_rosters_daily_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        day = context.scheduled_execution_time.date().isoformat()
        partners = sorted(context.instance.get_dynamic_partitions(PARTNERS_NAME))
        if not partners:
            return dg.SkipReason("no partner has rosters yet: bring the partitions in line with the registry")
        return [partner_run(partner_id, f"daily:{day}:{partner_id}", "schedule") for partner_id in partners]

    return partner_rosters_daily_schedule
