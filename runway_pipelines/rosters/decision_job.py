"""`roster_decision_job`: a person's decision about a tenant's roster, made in the Dagster UI."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from runway_pipelines.dagster_events import target_of_newest
from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.tags import OWNERS, runbook
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.partitions import PARTNER_TENANTS
from runway_pipelines.rosters.decisions import Decision, What
from runway_pipelines.rosters.events import CROSS_YEAR_ROSTER, PARTNER_ROSTER_INDEX, decision_events, index_metadata
from runway_pipelines.rosters.freshness_check import publication_evaluation
from runway_pipelines.rosters.guards import GUARD_NAMES
from runway_pipelines.rosters.index import PartnerIndex
from runway_pipelines.rosters.outcome import TenantOutcome
from runway_pipelines.rosters.services import RosterServices


class DecisionConfig(dg.Config):
    """A decision about the roster of the run's partition."""

    decision: What = Field(
        description="APPROVE: publish the held candidate. REJECT: leave it unpublished, and hear no more of it. "
        "ROLLBACK: publish an older snapshot, and pin it. UNPIN: let the next refresh publish again."
    )
    sha256: str | None = Field(
        None,
        description="APPROVE and REJECT: at least 8 digits of the candidate that you looked at. ROLLBACK: of the "
        "snapshot to go back to; empty, the one that was published before.",
    )
    decided_by: str = Field(description="Who decides: your name. It is kept on record and shown.")
    reason: str = Field(description="Why, in 1 to 200 characters, without any student's data. It is kept and shown.")


@dg.op(out={})
def decide_on_roster(
    context: dg.OpExecutionContext, config: DecisionConfig, rosters: RosterServices
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation]:
    """Make the decision take effect, and record what is published then."""
    if not context.has_partition_key:
        raise dg.Failure(
            "Expected the district as the run's partition; got none. To do: launch roster_decision_job from its own "
            "Launchpad, and choose the partition there.",
            allow_retries=False,
        )
    tenant = PartnerTenant.parse(context.partition_key)
    decision = Decision(config.decision, config.decided_by, config.reason, config.sha256 or None)
    try:
        outcome = rosters.decide(tenant, decision, context.run_id)
    except RunwayError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    context.log.info(f"{tenant}: {outcome.status}: {outcome.reason}", extra={"tenant": str(tenant)})
    said = {"decision": decision.what.value, "decided by": decision.decided_by, "why": decision.reason}
    yield from decision_events(outcome, rosters.store, said, rosters.policy.advice)
    if decision.what in (What.APPROVE, What.ROLLBACK):
        yield from _guards_passed(context.instance, outcome)
    index = rosters.index(tenant.partner_id)
    yield index_as_it_is(rosters, index)
    yield publication_evaluation(context.instance, index)


def index_as_it_is(rosters: RosterServices, index: PartnerIndex) -> dg.AssetMaterialization:
    """The partner's index as it is now; until this event, Dagster shows it as the last run left it."""
    metadata = index_metadata(index, rosters.store, rosters.policy.most_roster_age, rosters.policy.advice)
    return dg.AssetMaterialization(PARTNER_ROSTER_INDEX, partition=index.partner_id, metadata=metadata)


def _guards_passed(instance: dg.DagsterInstance, outcome: TenantOutcome) -> Iterator[dg.AssetCheckEvaluation]:
    """Every guard as passed: a person chose what is published now."""
    target = target_of_newest(instance, CROSS_YEAR_ROSTER, outcome.tenant.key)
    for name in GUARD_NAMES:
        yield dg.AssetCheckEvaluation(
            asset_key=CROSS_YEAR_ROSTER,
            check_name=name,
            passed=True,
            blocking=True,
            description=outcome.reason,
            partition=outcome.tenant.key,
            target_materialization_data=target,
        )


# The config that the launchpad starts with. Unedited, it decides nothing: without a name and a reason it is refused.
TO_FILL_IN = {
    "ops": {
        decide_on_roster.name: {"config": {"decision": What.APPROVE.name, "sha256": "", "decided_by": "", "reason": ""}}
    }
}


@dg.job(
    name="roster_decision_job",
    description="A person decides about one tenant's roster: approve or reject a held candidate, roll back to an older "
    "snapshot, or unpin. Choose the tenant as the partition, and fill in the config. It does not query the warehouse.",
    partitions_def=PARTNER_TENANTS,
    config=TO_FILL_IN,
    executor_def=dg.in_process_executor,
    owners=OWNERS,
    metadata=runbook("a-roster-is-held"),
)
def roster_decision_job() -> None:
    """One op."""
    decide_on_roster()
