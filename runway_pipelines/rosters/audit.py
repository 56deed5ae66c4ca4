"""The record of everything that was decided about what is published: immutable objects (guards contract, section 5).

An entry is written before its change takes effect, and a second one after. So after a crash the record says what was
intended, and that nobody saw it completed. It never holds a student's identifier.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from runway_pipelines.errors import StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant, checked_part
from runway_pipelines.rosters.freshness import moment_of
from runway_pipelines.rosters.holds import read_hold
from runway_pipelines.rosters.manifest import AUDIT_PREFIX, dump_document, load_document, pointer_key, snapshots_prefix
from runway_pipelines.rosters.publication import readable_pointer
from runway_pipelines.rosters.record import DONE, Change, Entry, Present, changes_of
from runway_pipelines.rosters.retention import parse_snapshot_key
from runway_pipelines.systems.aws.object_store import ObjectStore


@contextmanager
def on_record(
    store: ObjectStore, entry: Entry, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Iterator[None]:
    """Record a change before the body makes it, and again after it. If the body fails, only the first entry exists."""
    begun = replace(entry, id=uuid.uuid4().hex[:12], program_version=_version())
    _write(store, begun, now())
    yield
    _write(store, replace(begun, what=begun.what + DONE), now())


def entries(store: ObjectStore, of: str | PartnerTenant) -> list[Entry]:
    """Every entry of a partner or a tenant, oldest first."""
    keys = list(store.list_keys(f"{AUDIT_PREFIX}/{_folder(of)}/"))
    read = (_read(store, key) for key in keys)
    return sorted((entry for entry in read if entry is not None), key=lambda entry: (entry.at, entry.is_done))


def changes(store: ObjectStore, of: str | PartnerTenant, now: datetime) -> list[Change]:
    """Every recorded change to a partner or a tenant, oldest first, with how far it got."""
    return changes_of(entries(store, of), lambda entry: _present(store, entry), now)


def complete_begun(
    store: ObjectStore,
    of: str | PartnerTenant,
    now: datetime,
    what: str,
    *,
    to_sha256: str | None = None,
    expectation: str | None = None,
) -> Entry | None:
    """Complete the record of a change whose process died after the change took effect; returns its entry, or None.

    Reads only entries that no other completes: an entry's key names its kind and its change.
    """
    keys = list(store.list_keys(f"{AUDIT_PREFIX}/{_folder(of)}/"))
    begun = [key for key in keys if _id_in(key, what) is not None]
    done = {_id_in(key, what + DONE) for key in keys}
    found = (_read(store, key) for key in reversed(begun) if _id_in(key, what) not in done)
    for entry in found:
        if entry is None or (to_sha256 and entry.to_sha256 != to_sha256):
            continue
        if expectation and entry.details.get("expectation") != expectation:
            continue
        _write(store, replace(entry, what=what + DONE), now)
        return entry
    return None


def _id_in(key: str, what: str) -> str | None:
    """The id in an entry's key, or None if the entry is of another kind."""
    _, _, named = key.rpartition("/")[2].partition("Z-")
    kind, _, entry_id = named.removesuffix(".json").rpartition("-")
    return entry_id if kind == what else None


def _present(store: ObjectStore, entry: Entry) -> Present:
    if entry.tenant_code is None:
        return Present()
    tenant = PartnerTenant(entry.partner_id, entry.tenant_code)
    pointer = readable_pointer(tenant, store.read(pointer_key(tenant)))
    hold = read_hold(store, tenant)
    moments = [
        moment_of(pointer.verified_at) if pointer and pointer.run_id != entry.run_id else None,
        moment_of(hold.seen_at) if hold else None,
    ]
    named = (parse_snapshot_key(key) for key in store.list_keys(snapshots_prefix(tenant)))
    return Present(
        pointer.sha256 if pointer else None,
        hold.sha256 if hold else None,
        max(filter(None, moments), default=None),
        frozenset(name[1] for name in named if name is not None),
    )


def _write(store: ObjectStore, entry: Entry, now: datetime) -> None:
    entry = replace(entry, at=now.astimezone(UTC).isoformat())
    key = f"{AUDIT_PREFIX}/{entry.of}/{now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{entry.what}-{entry.id}.json"
    store.write(key, dump_document(entry), replacing=None)


def _read(store: ObjectStore, key: str) -> Entry | None:
    stored = store.read(key)
    try:
        return None if stored is None else load_document(Entry, key, stored.body)
    except StoredObjectDamaged:
        return None  # no version of ours wrote it; the others are what counts


def _folder(of: str | PartnerTenant) -> str:
    return f"{of.partner_id}/{of.tenant_code}" if isinstance(of, PartnerTenant) else checked_part("partner_id", of)


def _version() -> str:
    try:
        return version("runway-pipelines")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
