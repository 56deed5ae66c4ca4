"""Deletes what is published for a partner or a tenant that left, and records who did it and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.audit import on_record
from runway_pipelines.rosters.holds import signed
from runway_pipelines.rosters.index import forget_tenant
from runway_pipelines.rosters.manifest import index_key, pointer_key
from runway_pipelines.rosters.publication import readable_pointer
from runway_pipelines.rosters.record import Entry
from runway_pipelines.systems.aws.object_store import ObjectStore


def purge(
    store: ObjectStore,
    of: str | PartnerTenant,
    keys: Sequence[str],
    *,
    with_snapshots: bool,
    decided_by: str,
    reason: str,
    run_id: str,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Delete these keys of the partner or the tenant (`published_keys`), and what its index says of it.

    If it is killed in between, some of them stay; purging again finishes it. Raises `DecisionRefused` for a name or a
    reason that cannot be kept.
    """
    partner_id, tenant_code = (of, None) if isinstance(of, str) else (of.partner_id, of.tenant_code)
    pointer = None if isinstance(of, str) else readable_pointer(of, store.read(pointer_key(of)))
    entry = Entry(
        "purge",
        partner_id,
        tenant_code,
        run_id,
        from_sha256=pointer.sha256 if pointer else None,
        signature=signed(decided_by, reason, now()),
        details={"objects": len(keys), "with_snapshots": with_snapshots},
    )
    with on_record(store, entry, now):
        store.delete(keys)
        if isinstance(of, PartnerTenant):
            forget_tenant(store, of)
        else:
            store.delete([index_key(of)])
