"""How a run ended, read from Dagster's event log."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from runway_pipelines.operations.outcomes import (
    CODE,
    NEVER_REFRESHED,
    OUTCOMES,
    SECRET_VERSION_ID,
    STRAGGLERS,
    CredentialsFailure,
    RunOutcome,
    counts_of,
)
from runway_pipelines.operations.tags import PARTITION_TAG, TRIGGER_TAG

# Canceled runs are left out: somebody decided so, and nothing is known of the rosters.
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
# The previous outcome is looked for among this many runs of the partner.
LOOK_BACK = 10


def end_of(record: dg.RunRecord) -> float:
    """When the run ended, in epoch seconds; a storage that was never migrated has only the update."""
    return record.update_timestamp.timestamp() if record.end_time is None else record.end_time


@dataclass(frozen=True)
class RunLog:
    """The runs of an instance.

    ``can_connect`` is the check that fails when a partner's credentials do not work, ``tenants_fresh`` the one that
    names a partner's stragglers.
    """

    instance: dg.DagsterInstance
    can_connect: dg.AssetCheckKey
    tenants_fresh: dg.AssetCheckKey

    def outcome_of(self, record: dg.RunRecord) -> RunOutcome:
        """How the run ended."""
        run = record.dagster_run
        partner_id = run.tags.get(PARTITION_TAG)
        is_success = run.status is dg.DagsterRunStatus.SUCCESS
        metadata = self._published_metadata(run.run_id) if is_success else self._failure_metadata(run.run_id)
        reasons = {} if is_success else _reasons(metadata, partner_id)
        return RunOutcome(
            run_id=run.run_id,
            job_name=run.job_name,
            partner_id=partner_id,
            is_success=is_success,
            trigger=run.tags.get(TRIGGER_TAG, "manual"),
            ended_at=datetime.fromtimestamp(end_of(record), UTC),
            counts=_counts(metadata) or (counts_of(reasons) if partner_id else {}),
            reasons=reasons,
            credentials_failure=None if is_success else self._credentials_failure(run.run_id),
        )

    def previous_outcome(self, record: dg.RunRecord) -> RunOutcome | None:
        """The newest outcome of the same job and partner from before this run ended."""
        run = record.dagster_run
        if PARTITION_TAG not in run.tags:
            return None
        of_partner = dg.RunsFilter(job_name=run.job_name, statuses=ENDED, tags={PARTITION_TAG: run.tags[PARTITION_TAG]})
        for earlier in self.instance.get_run_records(of_partner, limit=LOOK_BACK, cursor=run.run_id):  # newest first
            if end_of(earlier) <= end_of(record):
                return self.outcome_of(earlier)
        return None

    def stale_rosters(self, run_id: str) -> dict[str, dict[str, str]]:
        """Of each partner that the run judged, the stale tenants' keys and what is known of each.

        Without those that never had a roster: they are new, or their runs fail, which is told.
        """
        return {
            check.partition: dict(_stale(check, check.partition))
            for check in self._evaluations(run_id, self.tenants_fresh)
            if isinstance(check.partition, str)
        }

    def previously_stale(self, record: dg.RunRecord) -> dict[str, dict[str, str]]:
        """`stale_rosters` of the good run of the same job before this one."""
        good = dg.RunsFilter(job_name=record.dagster_run.job_name, statuses=[dg.DagsterRunStatus.SUCCESS])
        earlier = self.instance.get_run_records(good, limit=1, cursor=record.dagster_run.run_id)
        return self.stale_rosters(earlier[0].dagster_run.run_id) if earlier else {}

    def _published_metadata(self, run_id: str) -> Mapping[str, dg.MetadataValue]:
        """Of the newest materialization that counts outcomes: the partner's index, which a run writes last."""
        newest = self.instance.get_records_for_run(
            run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, limit=10, ascending=False
        )
        for record in newest.records:
            if record.asset_materialization is not None and OUTCOMES in record.asset_materialization.metadata:
                return record.asset_materialization.metadata
        return {}

    def _failure_metadata(self, run_id: str) -> Mapping[str, dg.MetadataValue]:
        """What our own `dg.Failure` says of the failed steps; an exception's text is not looked at."""
        metadata: dict[str, dg.MetadataValue] = {}
        for entry in self._entries(run_id, dg.DagsterEventType.STEP_FAILURE):
            failure = entry.get_dagster_event().step_failure_data.user_failure_data
            metadata |= failure.metadata if failure is not None else {}
        return metadata

    def _credentials_failure(self, run_id: str) -> CredentialsFailure | None:
        """What the run's last evaluation of the check says; None when it passed, or was not evaluated."""
        failure = None
        for check in self._evaluations(run_id, self.can_connect):
            failure = None if check.passed else _failure_of(check)
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


def _reasons(metadata: Mapping[str, dg.MetadataValue], partner_id: str | None) -> dict[str, str]:
    """The texts that are named for a tenant of the partner; of a run without a partner, every text."""
    beginning = f"{partner_id}/" if partner_id else ""
    return {
        key: value.text or ""
        for key, value in metadata.items()
        if key.startswith(beginning) and isinstance(value, dg.TextMetadataValue)
    }


def _counts(metadata: Mapping[str, dg.MetadataValue]) -> dict[str, int]:
    counts = metadata.get(OUTCOMES)
    if not isinstance(counts, dg.JsonMetadataValue) or not isinstance(counts.data, Mapping):
        return {}
    return {str(status): number for status, number in counts.data.items() if isinstance(number, int)}


def _stale(check: dg.AssetCheckEvaluation, partner_id: str) -> Iterator[tuple[str, str]]:
    table = check.metadata.get(STRAGGLERS)
    for row in table.records if isinstance(table, dg.TableMetadataValue) else []:
        hours, status, reason = (row.data[column] for column in ("hours", "status", "reason"))
        if hours != NEVER_REFRESHED:
            yield (
                f"{partner_id}/{row.data['tenant']}",
                f"{hours} hours old; last try: {status}, {reason}".removesuffix(", "),
            )


def _failure_of(check: dg.AssetCheckEvaluation) -> CredentialsFailure:
    code, secret_version = (_text(check.metadata.get(label)) for label in (CODE, SECRET_VERSION_ID))
    return CredentialsFailure(code, secret_version, check.description or "")


def _text(value: dg.MetadataValue | None) -> str | None:
    return value.text if isinstance(value, dg.TextMetadataValue) else None
