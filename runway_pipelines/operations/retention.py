"""Old runs leave Dagster's storage, so that it does not grow for ever: the job, and when it runs.

Kept, however old: a run that holds the newest materialization of a partition, for that is what the asset's page says of
it; the newest run that was requested for each version of a partner's secret, by which the rotation sensor knows a
version that it acted on; and whatever has not ended.
"""

import time
from datetime import UTC, datetime, timedelta

import dagster as dg

from runway_pipelines.dagster_events import delete_run, runs_of_newest_materializations
from runway_pipelines.operations.tags import OWNERS, PARTNER_TAG, SECRET_VERSION_TAG, domain

ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
# What a night adds takes less than a minute; a storage that was never tidied has several nights for it.
MOST_SECONDS = 1800.0
_VERSIONS = 500  # in one statement


def build_retention_job(retention_days: int) -> dg.JobDefinition:
    """Deletes runs that ended more than ``retention_days`` ago, with their events and check evaluations."""

    @dg.op
    def delete_old_runs(context: dg.OpExecutionContext) -> None:
        before = datetime.now(UTC) - timedelta(days=retention_days)
        kept = runs_of_newest_materializations(context.instance, context.instance.all_asset_keys())
        kept |= runs_of_newest_requests(context.instance)
        deleted, deadline = 0, time.monotonic() + MOST_SECONDS
        # Of some hundred a day the ids are little; a page's cursor would be a run that is deleted by then.
        newest_first = context.instance.get_run_ids(dg.RunsFilter(statuses=ENDED, updated_before=before))
        for run_id in reversed(newest_first):
            if time.monotonic() > deadline:
                context.log.warning(f"there are more runs from before {before:%Y-%m-%d}: the next run deletes them")
                break
            if run_id not in kept:
                delete_run(context.instance, run_id)
                deleted += 1
        context.log.info(
            f"{deleted} runs from before {before:%Y-%m-%d} are deleted; a run that holds a partition's newest "
            "materialization, or was the last for a secret's version, stays"
        )

    @dg.job(
        name="run_retention_job",
        description=f"Deletes runs that ended more than {retention_days} days ago (RUNWAY_RUN_RETENTION_DAYS), with "
        "their events.",
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        tags=domain("operations"),
    )
    def run_retention_job() -> None:
        delete_old_runs()

    return run_retention_job


def runs_of_newest_requests(instance: dg.DagsterInstance) -> set[str]:
    """Of each version of a partner's secret the newest run that was requested for it.

    Without them an old page of Secrets Manager's listing, or a cursor that was cleared, would look like a new version,
    whose run_key would be free again. There are as many as rotations.
    """
    newest: dict[tuple[str, str], str] = {}
    versions = sorted(set().union(*(values for _, values in instance.get_run_tags([SECRET_VERSION_TAG]))))
    for start in range(0, len(versions), _VERSIONS):
        of_versions = dg.RunsFilter(tags={SECRET_VERSION_TAG: versions[start : start + _VERSIONS]})
        for run in instance.get_runs(of_versions):  # newest first
            if run.parent_run_id is None:  # a re-execution is nobody's request
                newest.setdefault((run.tags.get(PARTNER_TAG, ""), run.tags[SECRET_VERSION_TAG]), run.run_id)
    return set(newest.values())


def build_retention_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Once a day, when nothing else runs."""
    return dg.ScheduleDefinition(
        name="run_retention_daily_schedule",
        job=job,
        cron_schedule="30 12 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        owners=OWNERS,
        description="Keeps Dagster's storage as large as the retention asks for.",
    )
