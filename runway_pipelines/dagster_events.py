"""The one place that touches Dagster's internals, pinned by test_dagster_events.py in tests/integration and tests/unit.

A run of one partner records events for the partitions of many tenants. Dagster has public events for what happened to
a partition, but none for what a run is about to do to partitions other than its own.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from weakref import WeakSet

import dagster as dg
from dagster import _loggers
from dagster._core.definitions import instigation_logger
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.errors import DagsterInvalidInvocationError
from dagster._core.events import (
    AssetMaterializationPlannedData,
    DagsterEvent,
    DagsterEventBatchMetadata,
    generate_event_batch_id,
)
from dagster._core.instance.utils import RUNLESS_RUN_ID
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.tags import RESUME_RETRY_TAG


@dataclass(frozen=True)
class CheckState:
    """A check's newest execution for a partition, and the run that it belongs to.

    A check that has not passed has failed, or was not evaluated yet (and never will be once the run is over).
    """

    has_passed: bool
    run_id: str | None


ASSET_JOB = IMPLICIT_ASSET_JOB_NAME  # the job of runs launched with an asset's own button
_STORAGE_IDS = 500  # in one statement
_keeping_connections: WeakSet[dg.DagsterInstance] = WeakSet()


def keep_storage_connections(instance: dg.DagsterInstance) -> None:
    """Let Dagster's Postgres storage keep its connections for the rest of this process, as in the webserver.

    Otherwise it opens one for each statement: 1,241 for a partner of 40 tenants, half of the run's CPU time and six
    sevenths of Postgres's (docs/benchmarks/rosters.md). Connections older than a minute are replaced.
    """
    if instance not in _keeping_connections:
        instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=60, max_overflow=20)
        _remember_tables(instance.event_log_storage)
        _keeping_connections.add(instance)


def _remember_tables(storage: EventLogStorage) -> None:
    """Ask Postgres once whether each table exists, and not again for each check's event.

    Asking each time took 619 statements for a partner of 40 tenants, a tenth of the run's CPU time. A missing table is
    asked for again: somebody may be migrating the storage.
    """
    if not isinstance(storage, SqlEventLogStorage):
        return
    has_table, found = storage.has_table, set[str]()

    def has_table_still(table_name: str) -> bool:
        if table_name not in found and has_table(table_name):
            found.add(table_name)
        return table_name in found

    storage.has_table = has_table_still  # type: ignore[method-assign]


def replace_console_logger(make: Callable[[str, str | int], logging.Logger]) -> None:
    """Make every console logger of this process's runs and ticks with ``make``.

    Dagster has no setting for that: `loggers` of a `Definitions` serve only runs whose config names them, and handlers
    in dagster.yaml write beside the console logger.
    """
    for user in (_loggers, instigation_logger):
        user.create_console_logger = make  # type: ignore[attr-defined]


def report_planned(context: dg.AssetExecutionContext, asset_keys: Iterable[dg.AssetKey], keys: Iterable[str]) -> None:
    """Record that this run is about to materialize these partitions of these assets.

    If the run fails, a planned partition without a materialization shows as failed.
    """
    events = [(asset_key, key) for key in keys for asset_key in asset_keys]
    batch_id = generate_event_batch_id()  # type: ignore[no-untyped-call]
    for number, (asset_key, key) in enumerate(events, start=1):
        context.instance.report_dagster_event(
            DagsterEvent.build_asset_materialization_planned_event(
                context.job_name,
                context.op_execution_context.get_step_execution_context().step.key,
                AssetMaterializationPlannedData(asset_key, partition=key, partitions_subset=None),
            ),
            context.run.run_id,
            logging.DEBUG,
            batch_metadata=DagsterEventBatchMetadata(batch_id, number == len(events)),
        )


def target_of_newest(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition: str
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """The partition's newest materialization, as the target of a check's evaluation; None if there is none."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=[partition]), limit=1
    ).records
    if not records:
        return None
    newest = records[0]
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=newest.storage_id, run_id=newest.run_id, timestamp=newest.timestamp
    )


def evaluate_sensor(
    definitions: dg.Definitions, name: str, instance: dg.DagsterInstance, cursor: str | None
) -> SensorExecutionData:
    """One tick in this process, as a code server does it for the daemon; its requests are not carried out."""
    repository = definitions.get_repository_def()
    with (
        partition_loading_context(dynamic_partitions_store=instance),
        dg.build_sensor_context(
            instance, cursor=cursor, repository_def=repository, resources=dict(definitions.resources or {})
        ) as context,
    ):
        return repository.get_sensor_def(name).evaluate_tick(context)


def newest_checks(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, partitions: Iterable[str]
) -> dict[str, CheckState]:
    """The check's newest execution for each partition that has one, in two statements."""
    infos = instance.event_log_storage.get_asset_check_partition_info([check], partition_keys=list(partitions))
    return {
        str(info.partition_key): CheckState(
            info.latest_execution_status is AssetCheckExecutionRecordStatus.SUCCEEDED, info.latest_planned_run_id
        )
        for info in infos
    }


def newest_materializations(instance: dg.DagsterInstance, asset_key: dg.AssetKey) -> dict[str, dg.EventLogRecord]:
    """Each partition's newest materialization, in two statements (and one more for each 500 partitions)."""
    newest = instance.event_log_storage.get_latest_storage_id_by_partition(
        asset_key, dg.DagsterEventType.ASSET_MATERIALIZATION
    )
    storage_ids = sorted(newest.values())
    found: dict[str, dg.EventLogRecord] = {}
    for start in range(0, len(storage_ids), _STORAGE_IDS):
        page = storage_ids[start : start + _STORAGE_IDS]
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset_key, storage_ids=page), limit=len(page)
        ).records
        found |= {str(record.partition_key): record for record in records}
    return found


def runs_of_newest_materializations(instance: dg.DagsterInstance, asset_keys: Iterable[dg.AssetKey]) -> set[str]:
    """The runs that the assets' pages show: each partition's newest, or the asset's if it has no partitions."""
    run_ids: set[str] = set()
    for asset_key in asset_keys:
        run_ids.update(record.run_id for record in newest_materializations(instance, asset_key).values())
        unpartitioned = instance.get_latest_materialization_event(asset_key)
        if unpartitioned is not None:
            run_ids.add(unpartitioned.run_id)
    return run_ids


def report_canceled(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Record that a run ended because somebody stopped its process."""
    instance.report_run_canceled(run, message="The process was stopped by Ctrl-C.")


def delete_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run, its events, and its check evaluations, which Dagster would leave behind."""
    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        with storage.index_connection() as connection:
            connection.execute(AssetCheckExecutionsTable.delete().where(AssetCheckExecutionsTable.c.run_id == run_id))
    instance.delete_run(run_id)


def forget_runless_evaluation(instance: dg.DagsterInstance, check: dg.AssetCheckKey, partition: str) -> None:
    """Delete what a sensor reported of a check, before it reports again: Dagster takes one evaluation without a run."""
    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        table = AssetCheckExecutionsTable.c
        reported = AssetCheckExecutionsTable.delete().where(
            table.asset_key == check.asset_key.to_string(),
            table.check_name == check.name,
            table.run_id == RUNLESS_RUN_ID,
            table.partition == partition,
        )
        with storage.index_connection() as connection:
            connection.execute(reported)


def delete_old_runless(instance: dg.DagsterInstance, asset_key: dg.AssetKey, before: datetime) -> int:
    """Delete an unpartitioned asset's materializations older than ``before`` that no run made; returns how many.

    A run's materializations are deleted with the run. The newest stays, whatever its age.
    """
    storage = instance.event_log_storage
    newest = instance.fetch_materializations(asset_key, limit=1).records
    if not newest or not isinstance(storage, SqlEventLogStorage):
        return 0
    table = SqlEventLogStorageTable.c
    old = SqlEventLogStorageTable.delete().where(
        table.asset_key == asset_key.to_string(),
        table.run_id == RUNLESS_RUN_ID,
        table.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        table.timestamp < before.astimezone(UTC).replace(tzinfo=None),
        table.id != newest[0].storage_id,
    )
    with storage.index_connection() as connection:
        return int(connection.execute(old).rowcount)


def with_partition_tags(
    context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext, job_name: str, request: dg.RunRequest
) -> dg.RunRequest:
    """A tick's request for a partition that is known to exist, with the tags that Dagster would add.

    Without them, Dagster looks the partition up in its storage for each request: two connections each, 6 s for 300
    (docs/benchmarks/rotation.md).
    """
    if context.repository_def is None or request.partition_key is None:
        return request
    job = context.repository_def.get_job(job_name)
    tags = job.get_tags_for_partition_key(request.partition_key, selected_asset_keys=None)
    return request.with_replaced_attrs(tags={**request.tags, **tags})


def kept_value(instance: dg.DagsterInstance, key: str) -> str | None:
    """What `keep_value` kept under the key in Dagster's storage, where its daemons keep their cursors."""
    return instance.daemon_cursor_storage.get_cursor_values({key}).get(key)


def keep_value(instance: dg.DagsterInstance, key: str, value: str) -> None:
    """Keep a text for later ticks and for other processes."""
    instance.daemon_cursor_storage.set_cursor_values({key: value})


def selected_partitions(context: dg.AssetExecutionContext) -> list[str]:
    """The run's partitions, including those deleted since it was planned.

    Dagster would end such a run ("Nonexistent partition keys"), and leave the tenants that still exist unrefreshed.
    """
    try:
        return list(context.partition_keys)
    except DagsterInvalidInvocationError:
        ends = context.partition_key_range
        planned = {ends.start, ends.end}
        records = context.instance.get_records_for_run(
            context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        ).records
        for record in records:
            data = record.event_log_entry.get_dagster_event().asset_materialization_planned_data
            planned.update([data.partition] if data.partition else ())
            planned.update(data.partitions_subset.get_partition_keys() if data.partitions_subset else ())
        return sorted(planned)


def partitions_done_before(context: dg.AssetExecutionContext, asset_key: dg.AssetKey) -> frozenset[str]:
    """Partitions of the asset that this run's ancestors materialized, which a re-execution from failure can skip.

    "Re-execute all" skips none of them.
    """
    done: set[str] = set()
    if context.run.tags.get(RESUME_RETRY_TAG) != "true":
        return frozenset()
    run: dg.DagsterRun | None = context.run
    while run is not None and run.parent_run_id is not None:
        cursor, has_more = None, True
        while has_more:
            page = context.instance.get_records_for_run(
                run.parent_run_id, cursor=cursor, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
            )
            for record in page.records:
                event = record.asset_materialization
                if event is not None and event.asset_key == asset_key and event.partition is not None:
                    done.add(event.partition)
            cursor, has_more = page.cursor, page.has_more
        run = context.instance.get_run_by_id(run.parent_run_id)
    return frozenset(done)
