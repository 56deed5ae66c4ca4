"""Prunes the snapshots that are no longer needed: the shell of `retention`, and its op in the daily retention job."""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import chain, groupby, takewhile

import dagster as dg

from runway_pipelines.dagster_events import keep_value, kept_value
from runway_pipelines.errors import LockTimeout, Permanent, StoredObjectDamaged
from runway_pipelines.operations.wording import how_many
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.audit import on_record
from runway_pipelines.rosters.holds import UNREADABLE, read_hold
from runway_pipelines.rosters.manifest import (
    SNAPSHOTS_PREFIX,
    hold_key,
    lock_name,
    manifest_key,
    snapshot_key,
    snapshots_prefix,
)
from runway_pipelines.rosters.publication import read_manifest, read_published
from runway_pipelines.rosters.record import WERE_PUBLISHED, Entry
from runway_pipelines.rosters.retention import Retention, StoredSnapshot, parse_snapshot_key, to_prune
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.systems.aws.object_store import ListedObject, ObjectStore
from runway_pipelines.systems.postgres.databases import ApplicationDatabase

# A tenant with one snapshot to prune takes seven requests to S3, so that 3,000 such tenants take some minutes; a
# bucket that was never pruned may take several nights.
MOST_SECONDS = 1800.0
# A tenant that a run is publishing is left for the next night.
LOCK_WAIT_SECONDS = 5
RESUME_KEY = "runway_pipelines/snapshot_pruning/resume_at"
_SKIPPED_SHOWN = 100


@dataclass(frozen=True)
class Skipped:
    """A tenant with something to prune that was left as it is, and why."""

    tenant: PartnerTenant
    error: LockTimeout | Permanent

    @property
    def is_failure(self) -> bool:
        """Whether it fails the run. A busy tenant's turn comes later; a damaged document is reported and left."""
        return not isinstance(self.error, LockTimeout | StoredObjectDamaged)


@dataclass
class Tally:
    """What a night did."""

    tenants: int = 0
    kept: int = 0
    pruned: int = 0
    bytes_freed: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def count(self, snapshots: Sequence[StoredSnapshot], pruned: Sequence[StoredSnapshot]) -> None:
        """Add one tenant."""
        self.tenants += 1
        self.kept += len(snapshots) - len(pruned)
        self.pruned += len(pruned)
        self.bytes_freed += sum(snapshot.size for snapshot in pruned)

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """As the run's page shows it."""
        numbers = {
            "tenants": self.tenants,
            "snapshots kept": self.kept,
            "snapshots pruned": self.pruned,
            "bytes freed": self.bytes_freed,
            "tenants skipped": len(self.skipped),
        }
        metadata: dict[str, dg.MetadataValue] = {name: dg.MetadataValue.int(number) for name, number in numbers.items()}
        if self.skipped:
            rows = [
                dg.TableRecord({"tenant": str(each.tenant), "reason": str(each.error)})
                for each in self.skipped[:_SKIPPED_SHOWN]
            ]
            metadata["skipped"] = dg.MetadataValue.table(rows)
        return metadata


@dg.op(
    description="Deletes each tenant's snapshots but the newest (RUNWAY_SNAPSHOTS_KEPT), the first of each month "
    "(RUNWAY_SNAPSHOTS_MONTHLY_DAYS), and those that are published, held, or were published before."
)
def prune_snapshots(context: dg.OpExecutionContext, rosters: RosterServices) -> None:
    """Prune every tenant below the bucket's prefix, also those that left the registry, until the time is up."""
    now = bucket_time(rosters.store)
    tally, deadline = Tally(), time.monotonic() + MOST_SECONDS
    resume_at = ""
    for tenant, snapshots in stored_snapshots(rosters.store, kept_value(context.instance, RESUME_KEY) or ""):
        if time.monotonic() > deadline:
            resume_at = snapshots_prefix(tenant)
            context.log.warning(f"the time is up: the next run goes on with {tenant}")
            break
        pruned: list[StoredSnapshot] = []
        try:
            pruned = prune_tenant(
                rosters.store, rosters.database, tenant, snapshots, rosters.policy.retention, now, context.run_id
            )
        except (LockTimeout, Permanent) as error:
            context.log.warning(f"{tenant}: nothing pruned: {error}", extra={"tenant": str(tenant)})
            tally.skipped.append(Skipped(tenant, error))
        tally.count(snapshots, pruned)
    keep_value(context.instance, RESUME_KEY, resume_at)
    context.log.info(f"{tally.pruned} snapshots of {tally.tenants} tenants pruned, {tally.kept} kept")
    if failed := [str(each.tenant) for each in tally.skipped if each.is_failure]:
        raise dg.Failure(
            f"The snapshots of {how_many(len(failed), 'tenant')} could not be pruned, such as {failed[0]}.",
            metadata=tally.metadata(),
            allow_retries=False,
        )
    context.add_output_metadata(tally.metadata())


def stored_snapshots(store: ObjectStore, resume_at: str = "") -> Iterator[tuple[PartnerTenant, list[StoredSnapshot]]]:
    """Each tenant below the bucket's prefix with its snapshots, from one listing, one tenant in memory at a time.

    ``resume_at`` is the prefix of the tenant to begin with; those before it come last. A listing is in order, so that
    a tenant's keys follow each other.
    """
    prefix = f"{SNAPSHOTS_PREFIX}/"
    listed: Iterable[ListedObject] = store.list_objects(prefix, after=resume_at)
    if resume_at:
        listed = chain(listed, takewhile(lambda each: each.key <= resume_at, store.list_objects(prefix)))
    named = ((parse_snapshot_key(each.key), each) for each in listed)
    snapshots = (
        (name[0], StoredSnapshot(each.last_modified, name[1], each.size)) for name, each in named if name is not None
    )
    for tenant, of_tenant in groupby(snapshots, key=lambda pair: pair[0]):
        yield tenant, [snapshot for _, snapshot in of_tenant]


def prune_tenant(
    store: ObjectStore,
    database: ApplicationDatabase,
    tenant: PartnerTenant,
    snapshots: Sequence[StoredSnapshot],
    retention: Retention,
    now: datetime,
    run_id: str,
) -> list[StoredSnapshot]:
    """Delete the tenant's snapshots that are no longer needed; returns them.

    Raises `LockTimeout` while a run publishes the tenant. Raises `StoredObjectDamaged`, before anything is deleted, if
    what is published or held cannot be read.
    """
    if not to_prune(snapshots, retention, now):
        return []
    with database.advisory_lock(lock_name(tenant), LOCK_WAIT_SECONDS) as lock:
        surplus = to_prune(snapshots, retention, now, protected_digests(store, tenant))
        if surplus:
            kept = {snapshot.sha256 for snapshot in snapshots} - {snapshot.sha256 for snapshot in surplus}
            with _record_pruned(store, tenant, surplus, kept, retention, run_id):
                for snapshot in surplus:
                    # The lock ends with its connection. If that broke, a run may be publishing these bytes by now.
                    lock.execute("select 1")
                    _delete_snapshot(store, tenant, snapshot.sha256)
    return surplus


def protected_digests(store: ObjectStore, tenant: PartnerTenant) -> frozenset[str]:
    """What is published, what was before it, and what is held; read under the tenant's lock.

    Raises `StoredObjectDamaged` where one of these cannot be known.
    """
    published, hold = read_published(store, tenant), read_hold(store, tenant)
    if hold == UNREADABLE:
        raise StoredObjectDamaged(
            expected=f"a hold in {hold_key(tenant)}", came="something else", remedy="refresh the tenant, or decide"
        )
    digests: set[str | None] = {hold.sha256 if hold else None}
    if published is not None:
        pointer, manifest = published.pointer, published.manifest
        if manifest is None and pointer.previous_sha256 is None:
            raise StoredObjectDamaged(
                expected=f"the manifest of the published snapshot in {manifest_key(tenant, pointer.sha256)}",
                came="none that can be read, so that it is not known what was published before",
                remedy="refresh the tenant, which writes it again",
            )
        digests |= {pointer.sha256, pointer.previous_sha256, manifest.previous_sha256 if manifest else None}
    return frozenset(digest for digest in digests if digest is not None)


def _delete_snapshot(store: ObjectStore, tenant: PartnerTenant, sha256: str) -> None:
    """Delete the manifest, then the snapshot.

    A process that is killed in between leaves a snapshot without a manifest, like a run that is killed while it keeps
    one. That state is harmless: nobody is shown the snapshot, `keep_snapshot` verifies it before it is used again, and
    the next night's listing finds and deletes it. In the other order, a manifest without its snapshot would stay: a
    rollback would offer it, no night would find it (only snapshots are looked for), and if the same bytes came again,
    the old manifest would pass for theirs.
    """
    store.delete([manifest_key(tenant, sha256), snapshot_key(tenant, sha256)])


def _record_pruned(
    store: ObjectStore,
    tenant: PartnerTenant,
    snapshots: Sequence[StoredSnapshot],
    kept: Collection[str],
    retention: Retention,
    run_id: str,
) -> AbstractContextManager[None]:
    """Records which snapshots are about to be deleted and by which rule, and that they were.

    Each manifest names the snapshot that was published before it. Where that one is ``kept``, the record names it from
    now on: one can still roll back to it.
    """
    manifests = (read_manifest(store, tenant, snapshot.sha256) for snapshot in snapshots)
    published = {manifest.previous_sha256 for manifest in manifests if manifest and manifest.previous_sha256}
    still_kept = sorted(published & {*kept})
    return on_record(
        store,
        Entry(
            what="prune",
            partner_id=tenant.partner_id,
            tenant_code=tenant.tenant_code,
            run_id=run_id,
            details={
                "snapshots": len(snapshots),
                "bytes": sum(snapshot.size for snapshot in snapshots),
                "sha256": " ".join(snapshot.sha256 for snapshot in snapshots),
                **asdict(retention),
                **({WERE_PUBLISHED: " ".join(still_kept)} if still_kept else {}),
            },
        ),
    )


def bucket_time(store: ObjectStore) -> datetime:
    """The moment on S3's clock, which dated the objects: a fast clock of ours would delete what is still wanted."""
    now = store.server_time()
    if now is None:
        raise dg.Failure("S3's answer has no date, so that nothing's age is known.", allow_retries=False)
    return now
