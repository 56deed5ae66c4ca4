"""How a run ended, read from Dagster's event log."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from runway_pipelines.dagster_events import ASSET_JOB
from runway_pipelines.operations.outcomes import RunOutcome
from runway_pipelines.operations.run_report import RUN_REPORT, CredentialsFailure, RunReport
from runway_pipelines.operations.tags import PARTITION_TAG, TRIGGER_TAG

# Canceled runs are left out: somebody chose to end them, and they say nothing about the rosters.
FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
_QUEUED_OR_BEGUN = {dg.DagsterEventType.PIPELINE_ENQUEUED, dg.DagsterEventType.PIPELINE_START}
# The previous outcomes are looked for among this many runs: while credentials fail, a partner has ten of them in a day.
LOOK_BACK = 200
_ENGINE_EVENTS = 10
_JUDGEMENTS = 10


def end_of(record: dg.RunRecord) -> float:
    """When the run ended, in epoch seconds; a storage that was never migrated has only the update."""
    return record.update_timestamp.timestamp() if record.end_time is None else record.end_time


@dataclass(frozen=True)
class RunLog:
    """The runs of an instance.

    ``can_connect`` is the check that fails when a partner's credentials do not work, ``tenants_fresh`` the one that
    names a partner's stragglers. ``job_of`` is the job that a run counts for (see `Watched.job_of`).
    """

    instance: dg.DagsterInstance
    can_connect: dg.AssetCheckKey
    tenants_fresh: dg.AssetCheckKey
    job_of: Callable[[dg.DagsterRun], str] = lambda run: run.job_name

    def outcome_of(self, record: dg.RunRecord) -> RunOutcome:
        """How the run ended; without a report (the run vanished, or is from an old version) its reasons are empty."""
        run = record.dagster_run
        is_success = run.status is dg.DagsterRunStatus.SUCCESS
        report = self._report_of_success(run.run_id) if is_success else self._report_of_failure(run.run_id)
        reasons = {key: str(problem) for key, problem in report.problems.items()}
        if not is_success and not reasons and (message := self._engine_message(run.run_id)):
            reasons = {"run": f"Dagster: {message}"}
        return RunOutcome(
            run_id=run.run_id,
            job_name=self.job_of(run),
            partner_id=run.tags.get(PARTITION_TAG),
            is_success=is_success,
            trigger=run.tags.get(TRIGGER_TAG, "manual"),
            ended_at=datetime.fromtimestamp(end_of(record), UTC),
            counts=report.counts,
            reasons=reasons,
            holds={key: problem.hold for key, problem in report.problems.items() if problem.hold},
            credentials_failure=None if is_success else self._credentials_failure(run.run_id),
        )

    def previous_outcomes(self, record: dg.RunRecord) -> Iterator[RunOutcome]:
        """The same job and partner's outcomes from before this run ended, the newest first; `LOOK_BACK` at most."""
        for earlier in self._requested_before(record.dagster_run):
            ended = end_of(earlier)
            # An end in the future is the mark of a clock that was fast: the run was requested before this one.
            if ended <= end_of(record) or ended > datetime.now(UTC).timestamp():
                yield self.outcome_of(earlier)

    def _requested_before(self, run: dg.DagsterRun) -> list[dg.RunRecord]:
        """The runs that count for the same job and partner and were requested before, the newest first."""
        job = self.job_of(run)
        partner = {PARTITION_TAG: run.tags[PARTITION_TAG]} if PARTITION_TAG in run.tags else {}
        found = [
            earlier
            for name in (job, ASSET_JOB)
            for earlier in self.instance.get_run_records(
                dg.RunsFilter(job_name=name, statuses=FINISHED, tags=partner), limit=LOOK_BACK, cursor=run.run_id
            )
            if self.job_of(earlier.dagster_run) == job
        ]
        return sorted(found, key=lambda earlier: earlier.storage_id, reverse=True)[:LOOK_BACK]

    def stale_rosters(self, run_id: str) -> dict[str, dict[str, str]]:
        """The stale tenants' keys and what is known of each, by partner, for every partner that the run judged.

        Tenants that never had a roster are left out: they are new, or their failed runs are reported.
        """
        return {
            partner_id: {
                f"{partner_id}/{straggler.tenant_code}": str(straggler)
                for straggler in _report_in(check.metadata).stragglers
                if straggler.age is not None
            }
            for check in self._evaluations(run_id, self.tenants_fresh)
            if isinstance(partner_id := check.partition, str)
        }

    def unusable_codes(self, run_id: str) -> dict[str, dict[str, str]]:
        """The tenants whose codes are unusable and why, by partner, for every partner that the run judged."""
        return {
            partner_id: {
                f"{partner_id}/{straggler.tenant_code}": f"{straggler.status}: {straggler.reason}"
                for straggler in _report_in(check.metadata).stragglers
                if straggler.has_unusable_code
            }
            for check in self._evaluations(run_id, self.tenants_fresh)
            if isinstance(partner_id := check.partition, str)
        }

    def foreign_files(self, run_id: str) -> dict[str, str]:
        """The versions of files that the run took for another district's, and why, as it observed them."""
        return {
            problem.hold: str(problem)
            for entry in self._entries(run_id, dg.DagsterEventType.ASSET_OBSERVATION)
            if entry.asset_observation is not None
            for problem in _report_in(entry.asset_observation.metadata).problems.values()
            if problem.hold
        }

    def previous_runs(self, record: dg.RunRecord) -> list[str]:
        """The ids of the last runs of the same job before this one, the newest first."""
        ended = dg.RunsFilter(job_name=record.dagster_run.job_name, statuses=FINISHED)
        earlier = self.instance.get_run_records(ended, limit=_JUDGEMENTS, cursor=record.dagster_run.run_id)
        return [each.dagster_run.run_id for each in earlier]

    def _report_of_success(self, run_id: str) -> RunReport:
        """The report of the partner's index, which a run materializes last."""
        newest = self.instance.get_records_for_run(
            run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, limit=10, ascending=False
        )
        for record in newest.records:
            if record.asset_materialization is not None and RUN_REPORT in record.asset_materialization.metadata:
                return _report_in(record.asset_materialization.metadata)
        return RunReport()

    def _report_of_failure(self, run_id: str) -> RunReport:
        """The report in our own `dg.Failure`; the text of any other exception is not looked at."""
        report = RunReport()
        for entry in self._entries(run_id, dg.DagsterEventType.STEP_FAILURE):
            failure = entry.get_dagster_event().step_failure_data.user_failure_data
            if failure is not None and RUN_REPORT in failure.metadata:
                report = _report_in(failure.metadata)
        return report

    def _engine_message(self, run_id: str) -> str | None:
        """What Dagster's engine said when it dropped a run from the queue; None for a run that began.

        The first line alone, which is Dagster's own: what follows, and the error beside it, may quote anything.
        """
        events = self.instance.get_records_for_run(
            run_id, of_type={dg.DagsterEventType.ENGINE_EVENT, *_QUEUED_OR_BEGUN}, limit=_ENGINE_EVENTS, ascending=False
        )
        for record in events.records:
            event = record.event_log_entry.get_dagster_event()
            if event.event_type in _QUEUED_OR_BEGUN:
                return None
            if event.message and event.engine_event_data.error is not None:
                return event.message.splitlines()[0]
        return None

    def _credentials_failure(self, run_id: str) -> CredentialsFailure | None:
        """The failure in the run's last evaluation of the check; None if it passed or was never evaluated."""
        failure = None
        for check in self._evaluations(run_id, self.can_connect):
            failure = None if check.passed else _report_in(check.metadata).credentials_failure
        return failure

    def _evaluations(self, run_id: str, key: dg.AssetCheckKey) -> Iterator[dg.AssetCheckEvaluation]:
        """The run's evaluations of a check, in order."""
        for entry in self._entries(run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            check = entry.asset_check_evaluation
            if check is not None and check.asset_check_key == key:
                yield check

    def _entries(self, run_id: str, of_type: dg.DagsterEventType) -> Iterator[dg.EventLogEntry]:
        """The run's events of a type, in order."""
        cursor, has_more = None, True
        while has_more:
            page = self.instance.get_records_for_run(run_id, cursor=cursor, of_type=of_type)
            yield from (record.event_log_entry for record in page.records)
            cursor, has_more = page.cursor, page.has_more


def _report_in(metadata: Mapping[str, dg.MetadataValue]) -> RunReport:
    """The event's report; an empty one if there is none that can be read."""
    value = metadata.get(RUN_REPORT)
    return (RunReport.parse(value.data) if isinstance(value, dg.JsonMetadataValue) else None) or RunReport()
