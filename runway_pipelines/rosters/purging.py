"""Deletes what is published for a partner or a tenant that left, and records who did it and why."""

from __future__ import annotations

from runway_pipelines.partner_tenants.keys import PartnerTenant, why_unusable
from runway_pipelines.rosters.audit import on_record
from runway_pipelines.rosters.decisions import DecisionContext
from runway_pipelines.rosters.holds import signed
from runway_pipelines.rosters.index import forget_tenant
from runway_pipelines.rosters.manifest import hold_key, index_key, lock_name, pointer_key
from runway_pipelines.rosters.publication import published_keys, readable_pointer
from runway_pipelines.rosters.record import Entry
from runway_pipelines.systems.aws.object_store import ObjectStore


def purge(
    context: DecisionContext, of: str | PartnerTenant, *, with_snapshots: bool, decided_by: str, reason: str
) -> int:
    """Delete what is published for the partner or the tenant, what waits, and what its index says of it.

    Returns the number of objects that were published or, ``with_snapshots``, kept. Pointer and hold always go: if the
    tenant comes back, its next roster is a first one, and nothing of what was purged is published again. Each tenant is
    deleted under its lock, because a run may be publishing it. If it is killed in between, some of them stay; purging
    again finishes it. Raises `DecisionRefused` for a name or a reason that cannot be kept, and `LockTimeout`.
    """
    store = context.store
    partner_id, tenant_code = (of, None) if isinstance(of, str) else (of.partner_id, of.tenant_code)
    pointer = None if isinstance(of, str) else readable_pointer(of, store.read(pointer_key(of)))
    objects = sum(1 for _ in published_keys(store, of, with_snapshots=with_snapshots))
    entry = Entry(
        "purge",
        partner_id,
        tenant_code,
        context.run_id,
        from_sha256=pointer.sha256 if pointer else None,
        signature=signed(decided_by, reason, context.now()),
        details={"objects": objects, "with_snapshots": with_snapshots},
    )
    with on_record(store, entry, context.now):
        for tenant in _tenants_below(store, of) if isinstance(of, str) else [of]:
            with context.database.advisory_lock(lock_name(tenant), context.lock_wait_seconds):
                keys = published_keys(store, tenant, with_snapshots=with_snapshots)
                store.delete(sorted({*keys, pointer_key(tenant), hold_key(tenant)}))
        if isinstance(of, PartnerTenant):
            forget_tenant(store, of)
        else:
            store.delete([*published_keys(store, of, with_snapshots=with_snapshots), index_key(of)])
    return objects


def _tenants_below(store: ObjectStore, partner_id: str) -> list[PartnerTenant]:
    """The tenants that have anything in the bucket, whether they are in the registry or not."""
    keys = published_keys(store, partner_id, with_snapshots=True)
    codes = {parts[2] for parts in (key.split("/") for key in keys) if len(parts) > 3}
    return [PartnerTenant(partner_id, code) for code in sorted(codes) if why_unusable(code) is None]
