"""The two partitions definitions, and the act of bringing them in line with the registry.

A partner is the unit of execution, a tenant the unit of record: one composite key instead of a two-dimensional grid,
nearly all of whose cells would not exist (docs/decisions/0001-partitions.md).
"""

import dagster as dg

from runway_pipelines.partner_tenants.reconciliation import PartitionChanges, reconcile
from runway_pipelines.partner_tenants.registry import Registry

PARTNERS_NAME = "partners"
PARTNER_TENANTS_NAME = "partner_tenants"
PARTNERS = dg.DynamicPartitionsDefinition(name=PARTNERS_NAME)
PARTNER_TENANTS = dg.DynamicPartitionsDefinition(name=PARTNER_TENANTS_NAME)


def plan_partitions(
    instance: dg.DagsterInstance, registry: Registry, *, allow_mass_removal: bool = False
) -> dict[str, PartitionChanges]:
    """What would change, by the name of the partitions definition."""
    wanted = {PARTNERS_NAME: registry.partner_keys, PARTNER_TENANTS_NAME: registry.tenant_keys}
    return {
        name: reconcile(frozenset(instance.get_dynamic_partitions(name)), want, allow_mass_removal=allow_mass_removal)
        for name, want in wanted.items()
    }


def sync_partitions(
    instance: dg.DagsterInstance, registry: Registry, *, allow_mass_removal: bool = False
) -> dict[str, PartitionChanges]:
    """Add and remove partition keys so that they match the registry; returns what was done, and what was refused."""
    plan = plan_partitions(instance, registry, allow_mass_removal=allow_mass_removal)
    for name, changes in plan.items():
        if changes.add:
            instance.add_dynamic_partitions(name, list(changes.add))
        for key in changes.remove:
            instance.delete_dynamic_partition(name, key)
    return plan
