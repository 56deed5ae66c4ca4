"""What Dagster sees of rosters: a tenant's roster and its publication, and the partner's index, which is what runs
(after the partner's credentials were tried).

The partner is the unit of execution (a session costs 20 s, a run 4 CPU-seconds), the tenant the unit of record: see
docs/decisions/0001-partitions.md. Both routes go through `refresh.refresh_tenant`.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby

import dagster as dg

from runway_pipelines.credentials.connection_asset import (
    CONNECTION_CHECK_SPECS,
    EDU_CONNECTION,
    EDU_CONNECTION_SPEC,
    events_of_trial,
)
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.dagster_events import keep_storage_connections, partitions_done_before, report_planned
from runway_pipelines.errors import Permanent, RunwayError
from runway_pipelines.operations.outcomes import OUTCOMES
from runway_pipelines.operations.tags import OWNERS, SECRET_VERSION_TAG, domain, runbook
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.partitions import PARTNER_TENANTS, PARTNERS
from runway_pipelines.partner_tenants.registry import RosterPartner
from runway_pipelines.rosters.events import (
    CHECK_SPECS,
    CROSS_YEAR_ROSTER,
    PARTNER_ROSTER_INDEX,
    PUBLISHED_ROSTER,
    ROSTER_COLUMNS,
    events_of,
    index_metadata,
    students_plot,
)
from runway_pipelines.rosters.freshness_check import TENANTS_FRESH_SPEC, freshness_evaluation
from runway_pipelines.rosters.index import PartnerIndex, record_outcomes
from runway_pipelines.rosters.publication import published_keys
from runway_pipelines.rosters.refresh import RefreshContext, TenantOutcome, TenantStatus, refresh_tenants
from runway_pipelines.rosters.services import RosterServices

GROUP = "rosters"
RUNBOOK = runbook("a-run-failed-what-now")
HOW_REFRESHED = (
    "Refreshed every night by materializing rosters/partner_roster_index for the partner; materialize here for single "
    "districts only. "
)
# What a failure's text names; its metadata has every tenant and the whole of each reason.
MOST_REASONS = 3
MOST_TENANTS = 5
MOST_CHARACTERS = 300


@dg.multi_asset(
    name="tenant_rosters",
    specs=[
        dg.AssetSpec(
            CROSS_YEAR_ROSTER,
            description=f"{HOW_REFRESHED}Every student that the partner's warehouse has ever seen for the tenant, "
            "each in the latest year: an immutable snapshot with its manifest.",
            group_name=GROUP,
            owners=OWNERS,
            tags=domain(GROUP),
            kinds={"snowflake", "s3"},
            metadata={"dagster/column_schema": ROSTER_COLUMNS, **RUNBOOK},
            skippable=True,
        ),
        dg.AssetSpec(
            PUBLISHED_ROSTER,
            deps=[CROSS_YEAR_ROSTER],
            description=f"{HOW_REFRESHED}The snapshot where Runway reads it: one object for each enabled school year "
            "without an ODS.",
            group_name=GROUP,
            owners=OWNERS,
            tags=domain(GROUP),
            kinds={"s3"},
            metadata=RUNBOOK,
            skippable=True,
        ),
    ],
    check_specs=CHECK_SPECS,
    partitions_def=PARTNER_TENANTS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    can_subset=True,
)
def tenant_rosters(context: dg.AssetExecutionContext, rosters: RosterServices) -> Iterator[object]:
    """Refresh any selection of tenants; which of the two assets was selected makes no difference."""
    require_partitions(context)
    keep_storage_connections(context.instance)
    registry = rosters.registry()
    tenants = sorted(PartnerTenant.parse(key) for key in context.partition_keys)
    unplanned = {CROSS_YEAR_ROSTER, PUBLISHED_ROSTER} - context.selected_asset_keys
    report_planned(context, sorted(unplanned), [tenant.key for tenant in tenants])
    outcomes: list[TenantOutcome] = []
    for partner_id, of_partner in groupby(tenants, key=lambda tenant: tenant.partner_id):
        selected = list(of_partner)
        partner = registry.partners.get(partner_id)
        registered = [tenant for tenant in selected if partner and tenant.tenant_code in partner.tenant_codes]
        outcomes += [_unregistered(context, tenant) for tenant in selected if tenant not in registered]
        if partner and registered:
            try:
                with closing(_sessions(context, rosters, partner_id)) as sessions:
                    yield from _refresh(context, rosters, partner, registered, outcomes, sessions)
            except RunwayError as error:
                # The rosters are published and recorded; what could not be written is the partner's index.
                context.log.error(f"{partner_id}: the index is not up to date: {error}")
    fail_if_any_failed(outcomes, "materialize these again")


@dg.multi_asset(
    name="partner_rosters",
    specs=[
        EDU_CONNECTION_SPEC,
        dg.AssetSpec(
            PARTNER_ROSTER_INDEX,
            deps=[EDU_CONNECTION],
            description="The partner's index of rosters. Materializing it tries the partner's credentials, then "
            "refreshes and publishes every tenant's roster over a few Snowflake sessions; re-executing a failed run "
            "does only what failed.",
            group_name=GROUP,
            owners=OWNERS,
            tags=domain(GROUP),
            kinds={"snowflake", "s3"},
            metadata=RUNBOOK,
            skippable=True,
        ),
    ],
    check_specs=[*CONNECTION_CHECK_SPECS, TENANTS_FRESH_SPEC],
    partitions_def=PARTNERS,
    can_subset=True,
)
def partner_rosters(context: dg.AssetExecutionContext, rosters: RosterServices) -> Iterator[object]:
    """Try the partner's credentials; with those that work refresh all of its tenants, record each, write the index."""
    require_partitions(context)
    keep_storage_connections(context.instance)
    partner = _registered_partner(context, rosters)
    report_planned(context, {EDU_CONNECTION} - context.selected_asset_keys, [partner.partner_id])
    with closing(_sessions(context, rosters, partner.partner_id)) as sessions:
        trial = rosters.try_credentials(partner.partner_id, sessions)
        wanted = context.run.tags.get(SECRET_VERSION_TAG)
        if wanted and trial.secret_version and trial.secret_version != wanted:
            context.log.warning(
                f"the run was requested for version {wanted}, the current one is {trial.secret_version}"
            )
        yield from events_of_trial(context.instance, trial, rosters.policy.key_age_warning_days)
        if PARTNER_ROSTER_INDEX in context.selected_asset_keys:
            yield from _refresh_partner(context, rosters, partner, sessions)
    if trial.error is not None:
        raise dg.Failure(description=str(trial.error), allow_retries=False)


def _refresh_partner(
    context: dg.AssetExecutionContext, rosters: RosterServices, partner: RosterPartner, sessions: PartnerSessions
) -> Iterator[object]:
    """All of a partner's tenants; where the credentials are refused, each fails with that reason, at once."""
    done = partitions_done_before(context, PUBLISHED_ROSTER)
    tenants = [tenant for tenant in partner.tenants if tenant.key not in done]
    report_planned(context, [CROSS_YEAR_ROSTER, PUBLISHED_ROSTER], [tenant.key for tenant in tenants])
    outcomes: list[TenantOutcome] = []
    index = yield from _refresh(context, rosters, partner, tenants, outcomes, sessions)
    metadata = {**index_metadata(index, rosters.store), **students_plot(outcomes), **counts_of(outcomes)}
    yield freshness_evaluation(context.instance, index, rosters.policy.most_roster_age)
    if any(not outcome.status.is_success for outcome in outcomes):
        # A failed run materializes nothing here; the table with the reasons is what its reader needs.
        yield dg.AssetObservation(PARTNER_ROSTER_INDEX, partition=partner.partner_id, metadata=metadata)
        fail_if_any_failed(
            outcomes,
            "re-execute this run from failure, it does only these. The table of all tenants is among the Events of "
            f"{PARTNER_ROSTER_INDEX.to_user_string()}, partition {partner.partner_id}",
        )
    yield dg.MaterializeResult(asset_key=PARTNER_ROSTER_INDEX, metadata=metadata)


def require_partitions(context: dg.AssetExecutionContext) -> None:
    """Refuse a run of no partition: that is what "Execute all" of an asset's checks starts."""
    if not (context.has_partition_key or context.has_partition_key_range):
        raise dg.Failure(
            description="Choose partitions: use Materialize on the asset's page; its checks are judged with it.",
            allow_retries=False,
        )


def _sessions(context: dg.AssetExecutionContext, rosters: RosterServices, partner_id: str) -> PartnerSessions:
    return PartnerSessions(
        partner_id,
        rosters.secrets,
        rosters.snowflake,
        size=rosters.policy.sessions_per_partner,
        query_tag=f"runway_pipelines partner={partner_id} run={context.run.run_id}",
    )


def _registered_partner(context: dg.AssetExecutionContext, rosters: RosterServices) -> RosterPartner:
    """The run's partner; one that has no rosters any more fails, and its run says what of it is still published."""
    partner_id, registry = context.partition_key, rosters.registry()
    try:
        return registry.partner(partner_id)
    except Permanent:
        record_outcomes(rosters.store, RosterPartner(partner_id, partner_id, (), ()), (), context.run.run_id)
        published = sum(1 for _ in published_keys(rosters.store, partner_id, with_snapshots=False))
        context.log.warning(
            f"{partner_id}: {published} files are still published; they stay until somebody says "
            f"runway-pipelines rosters purge {partner_id}"
        )
        raise


def _unregistered(context: dg.AssetExecutionContext, tenant: PartnerTenant) -> TenantOutcome:
    reason = "the application's database has no roster for it (deleted, global or switched off): nothing was touched"
    context.log.error(f"{tenant}: {reason}", extra={"tenant": str(tenant)})
    return TenantOutcome(tenant, TenantStatus.FAILED, reason, 0.0)


def _refresh(
    context: dg.AssetExecutionContext,
    rosters: RosterServices,
    partner: RosterPartner,
    tenants: list[PartnerTenant],
    outcomes: list[TenantOutcome],
    sessions: PartnerSessions,
) -> Generator[object, None, PartnerIndex]:
    """Refresh tenants of one partner: yields events as each is done, adds to ``outcomes``, returns the index."""
    run_id = context.run.run_id
    refresh = RefreshContext(
        store=rosters.store,
        database=rosters.database,
        run_id=run_id,
        thresholds=rosters.policy.thresholds,
        lock_wait_seconds=rosters.policy.lock_wait_seconds,
        log=context.log,
    )
    own: list[TenantOutcome] = []
    try:
        for outcome in refresh_tenants(
            refresh, sessions, tenants, partner.published_years, threads=rosters.policy.sessions_per_partner
        ):
            own.append(outcome)
            yield from events_of(context.instance, outcome, rosters.store)
    finally:
        outcomes += own
    context.log.info(f"{partner.partner_id}: {len(tenants)} tenants over {sessions.connects} Snowflake sessions")
    return record_outcomes(rosters.store, partner, own, run_id)


def fail_if_any_failed(outcomes: Sequence[TenantOutcome], remedy: str) -> None:
    """End the step as failed, naming the tenants that are not published as of this run, and why."""
    failed = {o.tenant.key: f"{o.status}: {o.reason}" for o in outcomes if not o.status.is_success}
    if failed:
        raise dg.Failure(
            description=f"{len(failed)} of {len(outcomes)} tenants {'is' if len(failed) == 1 else 'are'} not "
            f"published: {_first_reasons(outcomes)}. What was published before is untouched. When the reasons are "
            f"mended: {remedy}.",
            metadata=counts_of(outcomes)
            | {key: dg.MetadataValue.text(reason) for key, reason in sorted(failed.items())},
            allow_retries=False,
        )


def _first_reasons(outcomes: Iterable[TenantOutcome]) -> str:
    """Who failed why, in a few lines however many did; of credentials that are refused, each has the same reason."""
    by_reason: dict[str, list[str]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.tenant.key):
        if not outcome.status.is_success:
            reason = outcome.reason.removesuffix(".")
            shown = reason if len(reason) <= MOST_CHARACTERS else f"{reason[:MOST_CHARACTERS]}..."
            by_reason.setdefault(f"{outcome.status}: {shown}", []).append(outcome.tenant.key)
    parts = [f"{_first(keys, MOST_TENANTS)} {reason}" for reason, keys in by_reason.items()]
    return _first(parts, MOST_REASONS, "; ", " (the step's metadata has every reason)")


def _first(texts: Sequence[str], most: int, separator: str = ", ", where: str = "") -> str:
    more = len(texts) - most
    return separator.join(texts[:most]) + (f" and {more} more{where}" if more > 0 else "")


def counts_of(outcomes: Iterable[TenantOutcome]) -> dict[str, dg.MetadataValue]:
    """How many tenants ended how."""
    return {OUTCOMES: dg.MetadataValue.json(dict(Counter(outcome.status.value for outcome in outcomes)))}
