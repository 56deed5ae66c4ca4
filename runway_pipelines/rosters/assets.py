"""The roster assets: a tenant's roster and its publication, and the partner's index, whose runs refresh all tenants.

The partner is the unit of execution (a session costs 20 s, a run 4 CPU-seconds), the tenant the unit of record: see
docs/decisions/0001-partitions.md. Both routes go through `refresh.refresh_tenant`.
"""

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from itertools import groupby

import dagster as dg

from runway_pipelines.credentials.connection_asset import (
    CONNECTION_CHECK_SPECS,
    EDU_CONNECTION,
    EDU_CONNECTION_SPEC,
    events_of_trial,
)
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.dagster_events import (
    keep_storage_connections,
    partitions_done_before,
    report_planned,
    selected_partitions,
)
from runway_pipelines.errors import Permanent, RunwayError, StoredObjectDamaged
from runway_pipelines.neighbours import EDU_SECRET, REGISTRY, WAREHOUSE
from runway_pipelines.operations.run_report import RUN_REPORT, Problem, RunReport
from runway_pipelines.operations.tags import OWNERS, SECRET_VERSION_TAG, domain, runbook
from runway_pipelines.operations.wording import first_few, how_many
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.partitions import PARTNER_TENANTS, PARTNERS, PARTNERS_NAME
from runway_pipelines.partner_tenants.registry import RosterPartner, has_roster
from runway_pipelines.rosters.districts import cause_and_remedy
from runway_pipelines.rosters.events import (
    CHECK_SPECS,
    CROSS_YEAR_ROSTER,
    PARTNER_ROSTER_INDEX,
    PUBLISHED_ROSTER,
    ROSTER_COLUMNS,
    events_of,
    index_metadata,
    students_plot,
    warehouse_seconds,
)
from runway_pipelines.rosters.freshness import moment_of
from runway_pipelines.rosters.freshness_check import (
    TENANTS_FRESH_SPEC,
    TENANTS_PUBLISHED_SPEC,
    freshness_evaluation,
    publication_evaluation,
)
from runway_pipelines.rosters.index import PLACES_ASKED, PartnerIndex, PublishedPlaces, failing_since, record_outcomes
from runway_pipelines.rosters.outcome import RefreshContext, TenantOutcome, TenantStatus
from runway_pipelines.rosters.publication import published_keys, read_published
from runway_pipelines.rosters.refresh import refresh_tenants
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.systems.aws.object_store import ObjectStore
from runway_pipelines.systems.snowflake.connection import Place

GROUP = "rosters"
RUNBOOK = runbook("a-run-failed-what-now")
HOW_REFRESHED = (
    "Refreshed every night by materializing rosters/partner_roster_index for the partner; materialize it here only to "
    "refresh single tenants. "
)
# Limits of a failure's text; its metadata has every tenant and every reason in full.
MOST_REASONS = 3
MOST_TENANTS = 5
MOST_CHARACTERS = 300


@dg.multi_asset(
    name="tenant_rosters",
    specs=[
        dg.AssetSpec(
            CROSS_YEAR_ROSTER,
            deps=[*WAREHOUSE, REGISTRY, EDU_SECRET],
            description=f"{HOW_REFRESHED}An immutable snapshot, with its manifest, of every student that the partner's "
            "warehouse has ever had for the tenant, each in the student's latest school year.",
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
            "that is not sent to an ODS.",
            group_name=GROUP,
            owners=OWNERS,
            tags=domain(GROUP),
            kinds={"s3"},
            metadata={"dagster/column_schema": ROSTER_COLUMNS, **RUNBOOK},
            skippable=True,
        ),
    ],
    check_specs=CHECK_SPECS,
    partitions_def=PARTNER_TENANTS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    can_subset=True,
)
def tenant_rosters(context: dg.AssetExecutionContext, rosters: RosterServices) -> Iterator[object]:
    """Refresh any selection of tenants, whichever of the two assets was selected."""
    require_partitions(context)
    keep_storage_connections(context.instance)
    registry = rosters.registry()
    tenants = sorted(PartnerTenant.parse(key) for key in selected_partitions(context))
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
                # The rosters are published and recorded; only the partner's index could not be written.
                context.log.error(f"{partner_id}: the index is not up to date: {error}")
    fail_if_any_failed(outcomes, "materialize these again")


@dg.multi_asset(
    name="partner_rosters",
    specs=[
        EDU_CONNECTION_SPEC,
        dg.AssetSpec(
            PARTNER_ROSTER_INDEX,
            deps=[EDU_CONNECTION, *WAREHOUSE, REGISTRY],
            description="The partner's index of rosters. Materializing it tries the partner's credentials, then "
            "refreshes and publishes every tenant's roster over a few Snowflake sessions. Re-executing a failed run "
            "from failure refreshes only the tenants that failed.",
            group_name=GROUP,
            owners=OWNERS,
            tags=domain(GROUP),
            kinds={"snowflake", "s3"},
            metadata=RUNBOOK,
            skippable=True,
        ),
    ],
    check_specs=[*CONNECTION_CHECK_SPECS, TENANTS_FRESH_SPEC, TENANTS_PUBLISHED_SPEC],
    partitions_def=PARTNERS,
    can_subset=True,
)
def partner_rosters(context: dg.AssetExecutionContext, rosters: RosterServices) -> Iterator[object]:
    """Try the partner's credentials, refresh and record each of its tenants, and write its index."""
    require_partitions(context)
    keep_storage_connections(context.instance)
    partner = _registered_partner(context, rosters)
    report_planned(context, {EDU_CONNECTION} - context.selected_asset_keys, [partner.partner_id])
    with closing(_sessions(context, rosters, partner.partner_id)) as sessions:
        trial = rosters.try_credentials(partner.partner_id, sessions)
        wanted = context.run.tags.get(SECRET_VERSION_TAG)
        if wanted and trial.secret_version and trial.secret_version != wanted:
            context.log.warning(f"requested for secret version {wanted}, but {trial.secret_version} is current")
        yield from events_of_trial(
            context.instance, trial, rosters.policy.key_age_warning_days, _known_places(context, rosters, partner)
        )
        if PARTNER_ROSTER_INDEX in context.selected_asset_keys:
            yield from _refresh_partner(context, rosters, partner, sessions)
    if trial.error is not None:
        raise dg.Failure(description=str(trial.error), allow_retries=False)


def _known_places(
    context: dg.AssetExecutionContext, rosters: RosterServices, partner: RosterPartner
) -> Collection[Place]:
    """Where some published rosters came from. A failed read is only logged: the guard looks again."""
    try:
        return PublishedPlaces(rosters.store, partner, at_most=PLACES_ASKED)()
    except RunwayError as error:
        context.log.warning(f"{partner.partner_id}: its warehouse is not compared: {error}")
        return ()


def _refresh_partner(
    context: dg.AssetExecutionContext, rosters: RosterServices, partner: RosterPartner, sessions: PartnerSessions
) -> Iterator[object]:
    """Refresh all of a partner's tenants. If its credentials are refused, each fails at once with that reason."""
    done = partitions_done_before(context, CROSS_YEAR_ROSTER)
    tenants = [tenant for tenant in partner.tenants if tenant.key not in done]
    if done:
        earlier = [
            outcome for each in partner.tenants if each.key in done for outcome in _published(rosters.store, each)
        ]
        record_outcomes(rosters.store, partner, earlier, context.run.run_id, datetime.now(UTC))
    planned = [CROSS_YEAR_ROSTER, PUBLISHED_ROSTER] if partner.published_years else [CROSS_YEAR_ROSTER]
    report_planned(context, planned, [tenant.key for tenant in tenants])
    outcomes: list[TenantOutcome] = []
    index = yield from _refresh(context, rosters, partner, tenants, outcomes, sessions)
    metadata = {
        **index_metadata(index, rosters.store, rosters.policy.most_roster_age, rosters.policy.advice),
        **warehouse_seconds(outcomes),
        **students_plot(outcomes),
        **report_metadata(outcomes),
    }
    yield freshness_evaluation(context.instance, index, rosters.policy.most_roster_age)
    yield publication_evaluation(context.instance, index)
    if any(not outcome.status.is_success for outcome in outcomes):
        # The index is written whatever became of the tenants, and its page shows only a materialization's metadata.
        yield dg.AssetMaterialization(PARTNER_ROSTER_INDEX, partition=partner.partner_id, metadata=metadata)
        fail_if_any_failed(
            outcomes,
            "re-execute this run from failure, which refreshes only these. The table of all tenants is on the page of "
            f"{PARTNER_ROSTER_INDEX.to_user_string()}, partition {partner.partner_id}",
        )
    if context.instance.has_dynamic_partition(PARTNERS_NAME, partner.partner_id):
        yield dg.MaterializeResult(asset_key=PARTNER_ROSTER_INDEX, metadata=metadata)
    else:
        # The partition was deleted while this run was under way. Dagster refuses a result for it, but takes the event.
        context.log.warning(f"{partner.partner_id} is no longer a partition: it left while this run was under way")
        yield dg.AssetMaterialization(PARTNER_ROSTER_INDEX, partition=partner.partner_id, metadata=metadata)


def _published(store: ObjectStore, tenant: PartnerTenant) -> Iterator[TenantOutcome]:
    """The outcome for the index of a tenant that an earlier run published before it died."""
    try:
        published = read_published(store, tenant)
    except StoredObjectDamaged:
        return
    if published is not None and published.manifest is not None:
        pointer = published.pointer
        yield TenantOutcome(
            tenant,
            TenantStatus.PINNED if pointer.pinned else TenantStatus.UNCHANGED,
            "published by the run that this one goes on with",
            0.0,
            manifest=published.manifest,
            verified_at=pointer.verified_at,
            pinned_at=pointer.pinned.at if pointer.pinned else None,
            known_at=moment_of(pointer.verified_at),
        )


def require_partitions(context: dg.AssetExecutionContext) -> None:
    """Refuse a run without partitions: "Execute all" on an asset's checks starts one."""
    if not (context.has_partition_key or context.has_partition_key_range):
        raise dg.Failure(
            description="Choose partitions: use Materialize on the asset's page, which also evaluates its checks.",
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
    """The run's partner. Fails for one that no longer has rosters, after logging what is still published for it."""
    partner_id, registry = context.partition_key, rosters.registry()
    try:
        return registry.partner(partner_id)
    except Permanent:
        gone = RosterPartner(partner_id, partner_id, (), ())
        record_outcomes(rosters.store, gone, (), context.run.run_id, datetime.now(UTC))
        published = sum(1 for _ in published_keys(rosters.store, partner_id, with_snapshots=False))
        context.log.warning(
            f"{partner_id}: {published} files are still published; to delete them, run "
            f"runway-pipelines rosters purge {partner_id} --reason '...'"
        )
        raise


def _unregistered(context: dg.AssetExecutionContext, tenant: PartnerTenant) -> TenantOutcome:
    reason = "not in the application's database (deleted, global or switched off): nothing was touched"
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
    """Refresh tenants of one partner: yields each one's events, adds to ``outcomes``, returns the index."""
    run_id = context.run.run_id
    planned_checks = {key.name for key in context.selected_asset_check_keys if key.asset_key == CROSS_YEAR_ROSTER}
    refresh = RefreshContext(
        store=rosters.store,
        database=rosters.database,
        run_id=run_id,
        thresholds=rosters.policy.thresholds,
        guards=rosters.policy.guards.guards,
        places=PublishedPlaces(rosters.store, partner),
        has_roster=partial(has_roster, include_switched_off=rosters.policy.include_switched_off),
        fillers=rosters.policy.fillers,
        lock_wait_seconds=rosters.policy.lock_wait_seconds,
        log=context.log,
    )
    failing = _failing_since(context, rosters, partner)
    own: list[TenantOutcome] = []
    try:
        for outcome in refresh_tenants(
            refresh, sessions, tenants, partner.published_years, threads=rosters.policy.sessions_per_partner
        ):
            own.append(outcome)
            yield from events_of(
                context.instance,
                outcome,
                rosters.store,
                planned_checks=planned_checks,
                failing_since=failing.get(outcome.tenant.tenant_code),
                advice=rosters.policy.advice,
            )
    finally:
        outcomes += own
    context.log.info(
        f"{partner.partner_id}: {how_many(len(tenants), 'tenant')} over "
        f"{how_many(sessions.connects, 'Snowflake session')}"
    )
    return record_outcomes(rosters.store, partner, own, run_id, refresh.now())


def _failing_since(
    context: dg.AssetExecutionContext, rosters: RosterServices, partner: RosterPartner
) -> Mapping[str, str]:
    """When each failing tenant began to fail, for its page. A failed read is only logged: the rosters matter more."""
    try:
        return failing_since(rosters.store, partner)
    except RunwayError as error:
        context.log.warning(f"{partner.partner_id}: its index does not say since when tenants fail: {error}")
        return {}


def fail_if_any_failed(outcomes: Sequence[TenantOutcome], remedy: str) -> None:
    """Fail the step if any tenant is not published as of this run, naming each with its reason."""
    failed = sorted((o for o in outcomes if not o.status.is_success), key=lambda outcome: outcome.tenant.key)
    if failed:
        raise dg.Failure(
            description=f"{len(failed)} of {len(outcomes)} tenants {'is' if len(failed) == 1 else 'are'} not "
            f"published: {_first_reasons(failed)}. What was published before is untouched. Once the causes are "
            f"fixed: {remedy}.",
            metadata=report_metadata(outcomes) | {o.tenant.key: dg.MetadataValue.text(o.said) for o in failed},
            allow_retries=False,
        )


def _first_reasons(failed: Sequence[TenantOutcome]) -> str:
    """Which tenants failed and why, in a few lines. One reason is said once: refused credentials fail them all."""
    by_reason: dict[str, list[str]] = {}
    for outcome in failed:
        # The tenant's page has a hold's commands in full.
        said = (cause_and_remedy(outcome.said)[0] if outcome.hold else outcome.said).removesuffix(".")
        shown = said if len(said) <= MOST_CHARACTERS else f"{said[:MOST_CHARACTERS]}..."
        by_reason.setdefault(shown, []).append(outcome.tenant.key)
    parts = [f"{first_few(keys, MOST_TENANTS)} {reason}" for reason, keys in by_reason.items()]
    return first_few(parts, MOST_REASONS, "; ", " (the step's metadata has every reason)")


def report_metadata(outcomes: Sequence[TenantOutcome]) -> dict[str, dg.MetadataValue]:
    """How many tenants ended in each way, for people, and the run's report for machines."""
    counts = Counter(outcome.status.value for outcome in outcomes)
    problems = {
        o.tenant.key: Problem(o.reason, None if o.is_refused else o.status.value, o.hold.identity if o.hold else None)
        for o in outcomes
        if not o.status.is_success
    }
    return {
        "outcomes": dg.MetadataValue.json(dict(counts)),
        RUN_REPORT: dg.MetadataValue.json(RunReport(counts, problems).document()),
    }
