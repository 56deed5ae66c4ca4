"""The record of everything that was decided about what is published: immutable objects (guards contract, section 5).

An entry is written before its change takes effect, and a second one when it has. So after a crash the record says what
was meant, and that nobody saw it done. It never holds a student's identifier.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from runway_pipelines.errors import StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant, checked_part
from runway_pipelines.rosters.manifest import AUDIT_PREFIX, Signature, dump_document, load_document
from runway_pipelines.systems.aws.object_store import ObjectStore

DONE = "-done"


@dataclass(frozen=True)
class Entry:
    """One change: ``what`` is a word of the contract, with `DONE` at its end where it has taken effect.

    ``tenant_code`` is None for a change to all of a partner's; ``signature`` for what no person decided.
    """

    what: str
    partner_id: str
    tenant_code: str | None
    run_id: str | None = None
    from_sha256: str | None = None
    to_sha256: str | None = None
    signature: Signature | None = None
    details: Mapping[str, str | int | float | None] = field(default_factory=dict)
    at: str = ""
    id: str = ""
    program_version: str = ""

    @property
    def is_done(self) -> bool:
        """Whether it says that the change has taken effect."""
        return self.what.endswith(DONE)


@contextmanager
def on_record(
    store: ObjectStore, entry: Entry, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Iterator[None]:
    """Record a change before the body makes it, and once more after it; a body that fails leaves the first alone."""
    begun = replace(entry, id=uuid.uuid4().hex[:12], program_version=_version())
    _write(store, begun, now())
    yield
    _write(store, replace(begun, what=begun.what + DONE), now())


def entries(store: ObjectStore, of: str | PartnerTenant) -> list[Entry]:
    """Every entry of a partner or a tenant, oldest first."""
    keys = list(store.list_keys(f"{AUDIT_PREFIX}/{_folder(of)}/"))
    read = (_read(store, key) for key in keys)
    return sorted((entry for entry in read if entry is not None), key=lambda entry: (entry.at, entry.is_done))


def _write(store: ObjectStore, entry: Entry, now: datetime) -> None:
    entry = replace(entry, at=now.astimezone(UTC).isoformat())
    folder = entry.partner_id if entry.tenant_code is None else f"{entry.partner_id}/{entry.tenant_code}"
    key = f"{AUDIT_PREFIX}/{folder}/{now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{entry.what}-{entry.id}.json"
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
