"""The sensor that notifies operators of runs that ended."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice

import dagster as dg

from runway_pipelines.dagster_events import ASSET_JOB
from runway_pipelines.operations.events import OperatorEvents
from runway_pipelines.operations.outcomes import (
    OperatorEvent,
    events_of,
    freshness_event,
    known_holds,
    resolution_events,
    unusable_code_event,
)
from runway_pipelines.operations.run_cursor import RunCursor
from runway_pipelines.operations.run_log import FINISHED, RunLog, end_of
from runway_pipelines.operations.tags import OWNERS
from runway_pipelines.operations.wording import how_many

# Dagster ends a tick after 60 s without keeping its cursor, and the next tick would send the same events again.
MOST_RUNS = 25
MOST_TICK_SECONDS = 20.0
# Whether a file was told to be another district's is looked up in this many runs of its tenant.
MOST_TOLD = 10
# An event that cannot be sent is tried again at each tick until its run is this old.
GIVE_UP_SECONDS = 86_400.0


@dataclass(frozen=True)
class Watched:
    """The jobs that operators hear about, by name, and the checks that say more about their runs.

    ``partner_index`` is the asset whose materialization refreshes a partner, also where somebody launches it by hand.
    """

    partner_job: str
    freshness_job: str
    identity_jobs: frozenset[str]
    can_connect: dg.AssetCheckKey
    tenants_fresh: dg.AssetCheckKey
    resolution_job: str | None = None
    partner_index: dg.AssetKey | None = None
    resolutions: dg.AssetKey | None = None

    def job_of(self, run: dg.DagsterRun) -> str:
        """The job that a run counts for: an asset's, where somebody started it by the asset's own button."""
        made = (run.asset_selection or ()) if run.job_name == ASSET_JOB else ()
        if self.partner_index in made:
            return self.partner_job
        return self.resolution_job if self.resolution_job and self.resolutions in made else run.job_name

    @property
    def jobs(self) -> frozenset[str]:
        """All of the jobs."""
        return self.identity_jobs | {self.partner_job, self.freshness_job, *filter(None, [self.resolution_job])}


def build_run_outcome_sensor(watched: Watched, *, interval_seconds: int) -> dg.SensorDefinition:
    """Sends each event at least once. Without a cursor it starts from now."""

    @dg.sensor(
        name="run_outcome_event_sensor",
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=list(OWNERS),
        description="Notifies operators of failed refreshes, held rosters, failing credentials, stale rosters, tenant "
        "codes that cannot be used, other districts' files of candidates, and recoveries. Requests no runs.",
    )
    def run_outcome_event_sensor(context: dg.SensorEvaluationContext, operators: OperatorEvents) -> dg.SensorResult:
        now = datetime.now(UTC).timestamp()
        cursor = RunCursor.parse(context.cursor)
        if cursor is None:
            if context.cursor:
                context.log.warning("the cursor cannot be read: runs that ended before now are not looked at")
            return _result("looks at runs that end from now on", RunCursor(now))
        cursor = cursor.without_future(now)
        runs = newly_ended(context.instance, cursor, watched)
        done, emitted = notify(runs[:MOST_RUNS], watched, context.instance, operators, context.log, now=now)
        left = runs[len(done) :]
        return _result(
            f"{how_many(len(done), 'run')} looked at, {how_many(emitted, 'event')} emitted, "
            f"{how_many(len(left), 'run')} left for the next tick",
            cursor.advanced({run.dagster_run.run_id: end_of(run) for run in done}, map(end_of, left), now),
        )

    return run_outcome_event_sensor


def newly_ended(instance: dg.DagsterInstance, cursor: RunCursor, watched: Watched) -> list[dg.RunRecord]:
    """The watched runs that ended and were not looked at, in the order of their ends.

    A run is updated when it ends or later, so reading those updated above the floor misses none. There is no
    limit: runs looked at before could fill any. The floor follows them.
    """
    # A second less: the storage rounds to microseconds.
    floor = datetime.fromtimestamp(cursor.floor - 1, UTC)
    records = [
        record
        for job_name in (*watched.jobs, ASSET_JOB)
        for record in instance.get_run_records(dg.RunsFilter(job_name=job_name, statuses=FINISHED, updated_after=floor))
        if watched.job_of(record.dagster_run) in watched.jobs
        and cursor.is_new(record.dagster_run.run_id, end_of(record))
    ]
    return sorted(records, key=lambda record: (end_of(record), record.storage_id))


def notify(
    runs: Sequence[dg.RunRecord],
    watched: Watched,
    instance: dg.DagsterInstance,
    operators: OperatorEvents,
    log: logging.Logger,
    *,
    now: float,
) -> tuple[Sequence[dg.RunRecord], int]:
    """Emit the runs' events; returns the runs that are done and the number of events.

    It stops at the first event that is not accepted, to keep a recovery behind its failure.
    """
    run_log = RunLog(instance, watched.can_connect, watched.tenants_fresh, watched.job_of)
    emitted, stop_at = 0, time.monotonic() + MOST_TICK_SECONDS
    for done, run in enumerate(runs):
        if done and time.monotonic() > stop_at:
            return runs[:done], emitted
        for event in _events_of(run, run_log, watched, operators.dagster_url):
            is_sent = operators.emit(event, log)
            if not is_sent and now - end_of(run) < GIVE_UP_SECONDS:
                return runs[:done], emitted
            emitted += is_sent
    return runs, emitted


def _events_of(
    run: dg.RunRecord, run_log: RunLog, watched: Watched, dagster_url: str | None
) -> Iterator[OperatorEvent]:
    outcome = run_log.outcome_of(run)
    if outcome.job_name == watched.resolution_job:
        foreign = run_log.foreign_files(run.dagster_run.run_id)
        earlier_runs = [each.run_id for each in islice(run_log.previous_outcomes(run), MOST_TOLD)] if foreign else []
        told = {version for run_id in earlier_runs if run_id for version in run_log.foreign_files(run_id)}
        yield from resolution_events(outcome, foreign, told, dagster_url)
    elif outcome.job_name != watched.freshness_job:
        earlier = run_log.previous_outcomes(run)
        previous = next(earlier, None)
        known = known_holds(chain(filter(None, [previous]), earlier))
        yield from events_of(outcome, previous, dagster_url, identity_jobs=watched.identity_jobs, known=known)
    else:
        # A run that fails because it cannot read one partner's index has judged the others.
        earlier_ids = run_log.previous_runs(run)
        for tell, found_by in ((freshness_event, run_log.stale_rosters), (unusable_code_event, run_log.unusable_codes)):
            judged = found_by(run.dagster_run.run_id)
            found_before: dict[str, dict[str, str]] = {}
            for run_id in earlier_ids:
                if judged.keys() <= found_before.keys():
                    break
                found_before = found_by(run_id) | found_before
            for partner_id, found in judged.items():
                judgement = replace(outcome, partner_id=partner_id, is_success=True)
                event = tell(judgement, found, found_before.get(partner_id, {}), dagster_url)
                yield from [event] if event else []


def _result(reason: str, cursor: RunCursor) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor.to_json())
