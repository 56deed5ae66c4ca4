"""One tenant's objects in the bucket: keep the snapshot and copy it to where it is read (rosters contract, section 4).

The order makes a crash harmless: immutable snapshot, manifest, stable keys, pointer. The next run finds what was done
before the process died, and a reader sees the old file or the new one, whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from runway_pipelines.errors import Permanent, StoredObjectDamaged
from runway_pipelines.operations.wording import how_many
from runway_pipelines.partner_tenants.keys import PartnerTenant, checked_part
from runway_pipelines.rosters.manifest import (
    ROSTERS_PREFIX,
    SNAPSHOTS_PREFIX,
    Manifest,
    Pointer,
    manifest_key,
    pointer_key,
    snapshot_key,
    snapshots_prefix,
    stable_key,
)
from runway_pipelines.systems.aws.object_store import FileDigest, ObjectStore, StoredDocument
from runway_pipelines.systems.snowflake.connection import Place

READERS = 10  # threads that read small objects: as many as the S3 client has connections


@dataclass(frozen=True)
class Published:
    """What is published for a tenant: the pointer, and the snapshot's manifest if it can be read."""

    pointer: Pointer
    manifest: Manifest | None

    @property
    def place(self) -> Place | None:
        """The warehouse that it came from last, where that is known."""
        return self.pointer.place or (self.manifest.place if self.manifest else None)


def readable_pointer(tenant: PartnerTenant, stored: StoredDocument | None) -> Pointer | None:
    """The pointer; None if there is none or it is damaged."""
    try:
        return None if stored is None else Pointer.from_json(pointer_key(tenant), stored.body)
    except StoredObjectDamaged:
        return None


def read_published(store: ObjectStore, tenant: PartnerTenant) -> Published | None:
    """What the tenant's pointer names, or None if nothing was published yet; raises `StoredObjectDamaged`."""
    return parse_published(store, tenant, store.read(pointer_key(tenant)))


def parse_published(store: ObjectStore, tenant: PartnerTenant, stored: StoredDocument | None) -> Published | None:
    """`read_published` for a pointer that was read already."""
    if stored is None:
        return None
    pointer = Pointer.from_json(pointer_key(tenant), stored.body)
    return Published(pointer, read_manifest(store, tenant, pointer.sha256))


def read_manifest(store: ObjectStore, tenant: PartnerTenant, sha256: str) -> Manifest | None:
    """The manifest of one snapshot, or None if there is no readable one: the roster is what counts."""
    key = manifest_key(tenant, sha256)
    stored = store.read(key)
    try:
        return None if stored is None else Manifest.from_json(key, stored.body)
    except StoredObjectDamaged:
        return None


def list_manifests(store: ObjectStore, tenant: PartnerTenant) -> list[Manifest]:
    """Every snapshot's manifest, newest first."""
    manifests = (
        read_manifest(store, tenant, key.rsplit("/", 1)[1].partition(".")[0])
        for key in store.list_keys(snapshots_prefix(tenant))
        if key.endswith(".manifest.json")
    )
    return sorted((m for m in manifests if m is not None), key=lambda m: m.created_at, reverse=True)


def whole_sha256(store: ObjectStore, tenant: PartnerTenant, beginning: str) -> str:
    """The whole digest of the one kept snapshot whose digest begins with these digits; raises `Permanent`."""
    kept = (key.rsplit("/", 1)[1] for key in store.list_keys(snapshots_prefix(tenant)))
    names = (name.removesuffix(".jsonl") for name in kept if name.endswith(".jsonl"))
    found = [name for name in names if name.startswith(beginning.lower())]
    if len(found) != 1:
        raise Permanent(
            expected="the first digits of one kept snapshot's sha256",
            came=f"digits that {len(found)} kept snapshots begin with",
            remedy=f"take them from runway-pipelines rosters show {tenant.quoted}",
        )
    return found[0]


def published_keys(store: ObjectStore, of: str | PartnerTenant, *, with_snapshots: bool) -> Iterator[str]:
    """Every key published for a partner or a tenant; ``with_snapshots`` adds snapshots, manifests and the index."""
    folder = f"{of.partner_id}/{of.tenant_code}" if isinstance(of, PartnerTenant) else checked_part("partner_id", of)
    for prefix in (ROSTERS_PREFIX, SNAPSHOTS_PREFIX) if with_snapshots else (ROSTERS_PREFIX,):
        yield from store.list_keys(f"{prefix}/{folder}/")


def keep_snapshot(
    store: ObjectStore,
    tenant: PartnerTenant,
    file: IO[bytes],
    digest: FileDigest,
    manifest: Manifest,
    *,
    known: Manifest | None = None,
) -> None:
    """Store the snapshot and its manifest unless they are there; ``known`` is a manifest that was read.

    A manifest is written once its snapshot is verified. A snapshot without one comes from a run that was killed in
    between, and is verified now. An upload that a killed run left unfinished is aborted before the next upload:
    on most nights there is no upload, and nothing is listed.
    """
    key = snapshot_key(tenant, digest.sha256)
    is_new = not store.holds(key, digest)
    if is_new:
        store.abort_pending_uploads(snapshots_prefix(tenant))
        store.upload(key, file, digest)
    if known is not None and known.sha256 == digest.sha256:
        return
    # Pruning deletes a manifest before its snapshot, so a new snapshot has no old manifest.
    if is_new or read_manifest(store, tenant, digest.sha256) is None:
        if not is_new:
            store.verify(key, digest)
        store.overwrite(manifest_key(tenant, digest.sha256), manifest.to_json())


def verified_digest(store: ObjectStore, tenant: PartnerTenant, sha256: str) -> FileDigest:
    """The digest of a kept snapshot's bytes; raises `StoredObjectDamaged` if they are not those that were kept."""
    key = snapshot_key(tenant, sha256)
    if store.stat(key) is None:
        raise _damaged_snapshot(store.uri(key), "no object")
    digest = store.digest(key)
    if digest.sha256 != sha256:
        raise _damaged_snapshot(store.uri(key), f"bytes of sha256 {digest.sha256}")
    return digest


def _damaged_snapshot(uri: str, came: str) -> StoredObjectDamaged:
    return StoredObjectDamaged(
        expected=f"the snapshot {uri}, with the bytes that it was kept with",
        came=came,
        remedy="choose another snapshot, or refresh the tenant",
    )


def previous_of(pointer: Pointer | None, sha256: str) -> str | None:
    """What the next pointer calls previous, once ``sha256`` replaces what this pointer names."""
    if pointer is None:
        return None
    return pointer.previous_sha256 if pointer.sha256 == sha256 else pointer.sha256


NO_SCHOOL_YEAR = (
    "not published: the partner has no enabled school year without send_to_ods, and only those use this file"
)


def published_in_words(years: Collection[int], keys_written: Collection[str]) -> str:
    """How many school years a roster is published to, and how many of them are new; or why it is published to none."""
    if not years:
        return NO_SCHOOL_YEAR
    to = f"published to {how_many(len(years), 'school year')}"
    if len(keys_written) == len(years):
        return to
    return f"{to}, {len(keys_written)} of them now" if keys_written else f"{to}, where it was already"


def publish(
    store: ObjectStore, tenant: PartnerTenant, school_years: Iterable[int], digest: FileDigest
) -> tuple[str, ...]:
    """Copy the snapshot to each year's stable key that does not hold it yet; returns the keys written."""
    written = []
    for school_year in school_years:
        key = stable_key(tenant, school_year)
        if not store.holds(key, digest):
            store.copy_object(snapshot_key(tenant, digest.sha256), key)
            written.append(key)
    return tuple(written)


def copy_again(
    store: ObjectStore,
    tenant: PartnerTenant,
    school_years: Iterable[int],
    sha256: str,
    check_lock: Callable[[], object],
) -> tuple[str, ...]:
    """Give every school year what is published already: a decision may have been killed between two copies.

    Reads the snapshot only if a year lacks it. Raises `StoredObjectDamaged` if it is not what was kept.
    """
    kept = store.stat(snapshot_key(tenant, sha256))
    lacking = [year for year in school_years if kept is None or store.stat(stable_key(tenant, year)) != kept]
    if not lacking:
        return ()
    digest = verified_digest(store, tenant, sha256)
    check_lock()  # which may have been lost while a large snapshot was read
    return publish(store, tenant, lacking, digest)


def point(store: ObjectStore, tenant: PartnerTenant, pointer: Pointer, replacing: StoredDocument | None) -> None:
    """Move the tenant's pointer, last; raises `PublicationRaced` if it changed since it was read under the lock."""
    store.write(pointer_key(tenant), pointer.to_json(), replacing=replacing)
