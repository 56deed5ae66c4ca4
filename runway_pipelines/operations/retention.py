"""Deletes what is no longer of use, once a day: the job and its schedule, and the op that deletes old runs.

Dagster's storage would grow for ever, and so would the bucket; the ops that prune it are the rosters' and the students'
own. Runs kept at any age: a run that holds the newest materialization of a partition, which the asset's page shows; the
newest run requested for each version of a partner's secret, by which the rotation sensor knows that it acted on the
version; and runs that have not ended.
"""

import time
from datetime import UTC, datetime, timedelta

import dagster as dg

from runway_pipelines.dagster_events import delete_run, runs_of_newest_materializations
from runway_pipelines.operations.tags import OWNERS, PARTNER_TAG, SECRET_VERSION_TAG

ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
# One night's runs take less than a minute; a storage that was never cleaned up takes several nights.
MOST_SECONDS = 1800.0
_VERSIONS = 500  # in one statement


def build_retention_job(retention_days: int, *prune: dg.OpDefinition) -> dg.JobDefinition:
    """Deletes runs that ended more than ``retention_days`` ago, with their events and check evaluations.

    The ops ``prune`` run beside it: where one fails, the others are done all the same.
    """

    @dg.op
    def delete_old_runs(context: dg.OpExecutionContext) -> None:
        before = datetime.now(UTC) - timedelta(days=retention_days)
        kept = runs_of_newest_materializations(context.instance, context.instance.all_asset_keys())
        kept |= runs_of_newest_requests(context.instance)
        deleted, deadline = 0, time.monotonic() + MOST_SECONDS
        # All ids at once: they are a few hundred a day, and a page's cursor would be a run that is deleted by then.
        newest_first = context.instance.get_run_ids(dg.RunsFilter(statuses=ENDED, updated_before=before))
        for run_id in reversed(newest_first):
            if time.monotonic() > deadline:
                context.log.warning(f"more runs from before {before:%Y-%m-%d} are left: the next run deletes them")
                break
            if run_id not in kept:
                delete_run(context.instance, run_id)
                deleted += 1
        context.log.info(
            f"{deleted} runs from before {before:%Y-%m-%d} deleted; runs that hold a partition's newest "
            "materialization, or were the last for a secret's version, stay"
        )

    @dg.job(
        name="run_retention_job",
        description=f"Deletes runs that ended more than {retention_days} days ago (RUNWAY_RUN_RETENTION_DAYS) and "
        "their events. A partition's newest materialization and the last run for a secret's version stay. Also "
        "prunes the snapshots of rosters, and deletes files of candidates after their time.",
        executor_def=dg.in_process_executor,
        owners=OWNERS,
    )
    def run_retention_job() -> None:
        delete_old_runs()
        for each in prune:
            each()

    return run_retention_job


def runs_of_newest_requests(instance: dg.DagsterInstance) -> set[str]:
    """The newest run that was requested for each version of each partner's secret; as many as there were rotations.

    Without these runs, an old page of Secrets Manager's listing or a cleared cursor would look like a new version, and
    its run_key would be free again.
    """
    newest: dict[tuple[str, str], str] = {}
    versions = sorted(set().union(*(values for _, values in instance.get_run_tags([SECRET_VERSION_TAG]))))
    for start in range(0, len(versions), _VERSIONS):
        of_versions = dg.RunsFilter(tags={SECRET_VERSION_TAG: versions[start : start + _VERSIONS]})
        for run in instance.get_runs(of_versions):  # newest first
            if run.parent_run_id is None:  # a re-execution was not requested for the version
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
        description="Deletes old runs and snapshots every day, so that neither Dagster's storage nor the bucket grows "
        "for ever.",
    )
