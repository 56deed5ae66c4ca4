"""The sensor that brings the partitions in line with the registry, and what it says.

It requests no runs. ``edu_credentials_rotated_sensor`` requests a new partner's first run when it first sees the
partner's secret.
"""

from collections.abc import Iterator, Mapping

import dagster as dg

from runway_pipelines.operations.tags import OWNERS
from runway_pipelines.operations.wording import first_few
from runway_pipelines.partner_tenants.keys import shown
from runway_pipelines.partner_tenants.partitions import partition_requests, plan_partitions, remember_removals
from runway_pipelines.partner_tenants.reconciliation import PartitionChanges, approval_of
from runway_pipelines.partner_tenants.registry import Registry, read_registry
from runway_pipelines.systems.postgres.databases import ApplicationDatabase

# A refusal is logged at every tick until somebody acts, and may concern thousands of keys.
LISTED_KEYS = 100


def tick_summary(plan: Mapping[str, PartitionChanges], cursor: str | None) -> str:
    """What a tick did, what it refused, and how to approve that; ``cursor`` is what the tick found."""
    sentences = [f"{name}: {changes.summary}." for name, changes in plan.items() if not changes.is_empty]
    if not sentences:
        sentences.append(f"Nothing changed: {' and '.join(plan)} are in line with the registry.")
    approval = approval_of(plan)
    if approval is not None:
        count = sum(len(changes.refused) for changes in plan.values())
        sentences.append(f"Nothing is removed. To remove these {count} keys, set this sensor's cursor to {approval}.")
    if cursor:
        is_refused = any(changes.refused for changes in plan.values())
        sentences.append(f"The cursor was cleared{': it did not approve these keys' if is_refused else ''}.")
    return " ".join(sentences)


def tick_warnings(plan: Mapping[str, PartitionChanges], registry: Registry) -> Iterator[str]:
    """What needs attention: rows that cannot be keys, and keys that were not removed."""
    if registry.skipped:
        yield f"Skipped, because they cannot be partition keys: {first_few(registry.skipped, LISTED_KEYS)}"
    for name, changes in plan.items():
        if changes.refused:
            keys = [shown(key, limit=130) for key in changes.refused]  # keys added by hand never passed the codec
            yield f"Refused to remove from {name}: {first_few(keys, LISTED_KEYS)}"
        if changes.waiting:
            keys = [shown(key, limit=130) for key in changes.waiting]
            yield f"Not removed from {name} yet, because runs still need them: {first_few(keys, LISTED_KEYS)}"


def build_sync_sensor(*, include_switched_off: bool, interval_seconds: int) -> dg.SensorDefinition:
    """Brings both partitions definitions in line with the registry every ``interval_seconds``.

    ``include_switched_off`` means the same as in `read_registry`, and must be set alike for the rosters.
    """

    @dg.sensor(
        name="partner_tenants_sync_sensor",
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=list(OWNERS),
        description="Adds and removes partner and tenant partitions to match the application's database. Removing more "
        "than a quarter of the keys within a day needs approval: set the cursor to the text that the tick shows.",
    )
    def partner_tenants_sync_sensor(
        context: dg.SensorEvaluationContext, database: ApplicationDatabase
    ) -> dg.SensorResult:
        with database.connection() as connection:
            registry = read_registry(connection, include_switched_off=include_switched_off)
        approval = context.cursor
        plan = plan_partitions(context.instance, registry, approval=approval)
        is_approved = approval is not None and any(
            changes.refused for changes in plan_partitions(context.instance, registry).values()
        )
        remember_removals(context.instance, plan, is_approved=is_approved)
        for warning in tick_warnings(plan, registry):
            context.log.warning(warning)
        # An approval is good for one tick; kept, it would approve the same wrong read next month. It stays only while a
        # run still needs all that it approves. A `SensorResult` without a cursor keeps the old one: it is set here.
        waits = is_approved and any(changes.waiting for changes in plan.values())
        context.update_cursor(approval if waits and not any(changes.remove for changes in plan.values()) else None)
        return dg.SensorResult(
            skip_reason=tick_summary(plan, approval), dynamic_partitions_requests=partition_requests(plan)
        )

    return partner_tenants_sync_sensor
