"""The checks of a partner's index, and the hourly job that notices a night on which nothing ran."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from runway_pipelines.dagster_events import target_of_newest
from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.run_report import RUN_REPORT, RunReport, Straggler, hours
from runway_pipelines.operations.tags import OWNERS, TRIGGER_TAG
from runway_pipelines.operations.wording import first_few
from runway_pipelines.partner_tenants.partitions import PARTNERS, PARTNERS_NAME
from runway_pipelines.rosters.events import PARTNER_ROSTER_INDEX
from runway_pipelines.rosters.freshness import Freshness, freshness_of
from runway_pipelines.rosters.index import PartnerIndex
from runway_pipelines.rosters.outcome import NOT_PUBLISHED
from runway_pipelines.rosters.services import RosterServices

TENANTS_FRESH = dg.AssetCheckKey(PARTNER_ROSTER_INDEX, "tenants_fresh")
TENANTS_FRESH_SPEC = dg.AssetCheckSpec(
    TENANTS_FRESH.name,
    asset=PARTNER_ROSTER_INDEX,
    description="Every tenant's roster was confirmed correct within the last RUNWAY_ROSTER_FRESH_HOURS hours. Names "
    "those that were not. A date in the future is no confirmation. Judged after each run and every hour.",
    partitions_def=PARTNERS,
)

TENANTS_PUBLISHED_SPEC = dg.AssetCheckSpec(
    "tenants_published",
    asset=PARTNER_ROSTER_INDEX,
    description="Every tenant's last refresh published its roster, or found it pinned by a person. Names the tenants "
    "that are held, or failed; the index's table of problems says why, and what to do. A warning where the partner has "
    "no school year to publish to.",
    partitions_def=PARTNERS,
)
_MOST_NAMED = 10


def publication_evaluation(instance: dg.DagsterInstance, index: PartnerIndex) -> dg.AssetCheckEvaluation:
    """The check of one partner after its run."""
    missed = [entry.name for entry in index.tenants if entry.status in NOT_PUBLISHED]
    total = len(index.tenants)
    if missed:
        said = f"{len(missed)} of {total} tenants are held or failed: {first_few(missed, _MOST_NAMED)}"
    elif not index.school_years:
        said = "no tenant is published, and each roster is kept: the partner has no school year to publish to"
    else:
        said = f"all {total} tenants are published, or pinned"
    return dg.AssetCheckEvaluation(
        asset_key=PARTNER_ROSTER_INDEX,
        check_name=TENANTS_PUBLISHED_SPEC.name,
        passed=not missed and bool(index.school_years),
        severity=dg.AssetCheckSeverity.ERROR if missed else dg.AssetCheckSeverity.WARN,
        description=said,
        partition=index.partner_id,
        target_materialization_data=target_of_newest(instance, PARTNER_ROSTER_INDEX, index.partner_id),
    )


def freshness_evaluation(
    instance: dg.DagsterInstance, index: PartnerIndex, most_age: timedelta
) -> dg.AssetCheckEvaluation:
    """The check of one partner, now."""
    freshness = freshness_of(index.tenants, datetime.now(UTC), most_age)
    return dg.AssetCheckEvaluation(
        asset_key=PARTNER_ROSTER_INDEX,
        check_name=TENANTS_FRESH.name,
        passed=not freshness.stragglers,
        severity=dg.AssetCheckSeverity.WARN,
        description=freshness.summary,
        metadata=_metadata(freshness),
        partition=index.partner_id,
        target_materialization_data=target_of_newest(instance, PARTNER_ROSTER_INDEX, index.partner_id),
    )


def _metadata(freshness: Freshness) -> dict[str, dg.MetadataValue]:
    report = RunReport(stragglers=freshness.stragglers)
    metadata: dict[str, dg.MetadataValue] = {
        "tenants": dg.MetadataValue.int(freshness.tenants),
        RUN_REPORT: dg.MetadataValue.json(report.document()),
    }
    if freshness.oldest is not None:
        metadata["oldest roster hours"] = dg.MetadataValue.float(hours(freshness.oldest))
    if freshness.stragglers:
        metadata["stragglers"] = dg.MetadataValue.table(list(map(_row, freshness.stragglers)))
    return metadata


def _row(straggler: Straggler) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "tenant": straggler.tenant_code,
            "hours": "never"
            if straggler.age is None
            else "in the future"
            if straggler.is_ahead
            else f"{hours(straggler.age):.0f}",
            "status": straggler.status,
            "reason": straggler.reason,
        }
    )


@dg.op(out={})
def judge_freshness(context: dg.OpExecutionContext, rosters: RosterServices) -> Iterator[dg.AssetCheckEvaluation]:
    """Judge every partner from its index, with one read of S3 each."""
    known = set(context.instance.get_dynamic_partitions(PARTNERS_NAME))
    unread: list[str] = []
    for partner in rosters.registry().partners.values():
        if partner.partner_id not in known:
            continue
        try:
            index = PartnerIndex.read(rosters.store, partner)
        except Exception as error:  # noqa: BLE001 - the other partners are still judged; the run fails, naming this one
            unread.append(partner.partner_id)
            reason = error if isinstance(error, RunwayError) else f"an unexpected {type(error).__name__}"
            context.log.error(f"{partner.partner_id}: its index cannot be read: {reason}")
            continue
        yield freshness_evaluation(context.instance, index, rosters.policy.most_roster_age)
    if unread:
        raise dg.Failure(f"The indexes of {', '.join(unread)} cannot be read.", allow_retries=False)


@dg.job(
    name="roster_freshness_job",
    description="Judges the freshness of every partner's rosters from its index. Refreshes nothing.",
    executor_def=dg.in_process_executor,
    owners=OWNERS,
)
def roster_freshness_job() -> None:
    """One op for all partners."""
    judge_freshness()


roster_freshness_schedule = dg.ScheduleDefinition(
    name="roster_freshness_hourly_schedule",
    job=roster_freshness_job,
    cron_schedule="40 * * * *",
    tags={TRIGGER_TAG: "schedule"},
    default_status=dg.DefaultScheduleStatus.RUNNING,
    owners=OWNERS,
    description="Notices partners whose run never started or hangs.",
)
