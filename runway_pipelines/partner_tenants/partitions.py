"""The two partitions definitions, and how they are brought in line with the registry.

A partner is the unit of execution, a tenant the unit of record. Tenants have one composite key, because nearly all
cells of a two-dimensional grid would not exist (docs/decisions/0001-partitions.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg

from runway_pipelines.dagster_events import keep_value, kept_value
from runway_pipelines.operations.tags import PARTITION_TAG, PARTNER_TAG, RANGE_END_TAG, RANGE_START_TAG
from runway_pipelines.partner_tenants.keys import SEPARATOR
from runway_pipelines.partner_tenants.reconciliation import PartitionChanges, Removals, reconcile_all
from runway_pipelines.partner_tenants.registry import Registry

PARTNERS_NAME = "partners"
PARTNER_TENANTS_NAME = "partner_tenants"
REMOVALS_KEY = "runway_pipelines/partition_removals"
PARTNERS = dg.DynamicPartitionsDefinition(name=PARTNERS_NAME)
PARTNER_TENANTS = dg.DynamicPartitionsDefinition(name=PARTNER_TENANTS_NAME)

# A run that has not ended: its partitions must stay where they are.
UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

PartitionRequest = dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest


def plan_partitions(
    instance: dg.DagsterInstance,
    registry: Registry,
    *,
    allow_mass_removal: bool = False,
    approval: str | None = None,
) -> dict[str, PartitionChanges]:
    """The changes to make, by the name of the partitions definition; for the options see `reconcile_all`."""
    want = {PARTNERS_NAME: registry.partner_keys, PARTNER_TENANTS_NAME: registry.tenant_keys}
    ordered = {name: instance.get_dynamic_partitions(name) for name in want}
    have = {name: frozenset(keys) for name, keys in ordered.items()}
    in_use: dict[str, set[str]] = {}
    recent: dict[str, frozenset[str]] = {}
    if any(have[name] - want[name] for name in want):
        unfinished = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        in_use = keys_in_use([run.tags for run in unfinished], ordered)
        recent = Removals.parse(kept_value(instance, REMOVALS_KEY)).recent(utc_now())
    return reconcile_all(
        have, want, allow_mass_removal=allow_mass_removal, approval=approval, in_use=in_use, recent=recent
    )


def remember_removals(instance: dg.DagsterInstance, plan: Mapping[str, PartitionChanges], *, is_approved: bool) -> None:
    """Count the plan's removals towards the limit of a day, in Dagster's storage."""
    if any(changes.remove for changes in plan.values()):
        before = Removals.parse(kept_value(instance, REMOVALS_KEY))
        keep_value(instance, REMOVALS_KEY, before.after(plan, utc_now(), is_approved=is_approved).to_json())


def utc_now() -> datetime:
    """The clock by which a day is counted."""
    return datetime.now(UTC)


def keys_in_use(tags_of_runs: Iterable[Mapping[str, str]], ordered: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """The keys that runs need, by the definition's name: pure. ``ordered`` are all of its keys, in Dagster's order.

    A partner's run needs its partner and records all of its tenants; a range needs every key between its ends.
    """
    single: set[str] = set()
    in_use: dict[str, set[str]] = {name: set() for name in ordered}
    for tags in tags_of_runs:
        single |= {tags[name] for name in (PARTITION_TAG, PARTNER_TAG) if name in tags}
        ends = tags.get(RANGE_START_TAG), tags.get(RANGE_END_TAG)
        for name, keys in ordered.items():
            found = [keys.index(end) for end in ends if end is not None and end in keys]
            in_use[name].update(keys[min(found) : max(found) + 1] if found else ())
    for name, keys in ordered.items():
        in_use[name].update(key for key in keys if key in single or key.partition(SEPARATOR)[0] in single)
    return in_use


def partition_requests(plan: Mapping[str, PartitionChanges]) -> list[PartitionRequest]:
    """The plan as Dagster's requests, in an order that never leaves a partner without its tenants.

    A partner may be run as soon as it is there, and its run records its tenants.
    """
    partners, tenants = plan[PARTNERS_NAME], plan[PARTNER_TENANTS_NAME]
    requests: list[PartitionRequest] = [
        PARTNER_TENANTS.build_add_request(list(tenants.add)),
        PARTNERS.build_add_request(list(partners.add)),
        PARTNERS.build_delete_request(list(partners.remove)),
        PARTNER_TENANTS.build_delete_request(list(tenants.remove)),
    ]
    return [request for request in requests if request.partition_keys]


def sync_partitions(
    instance: dg.DagsterInstance, registry: Registry, *, allow_mass_removal: bool = False
) -> dict[str, PartitionChanges]:
    """Make the partition keys match the registry; returns what was done and what was refused."""
    plan = plan_partitions(instance, registry, allow_mass_removal=allow_mass_removal)
    remember_removals(instance, plan, is_approved=allow_mass_removal)
    for request in partition_requests(plan):
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        else:
            for key in request.partition_keys:
                instance.delete_dynamic_partition(request.partitions_def_name, key)
    return plan
