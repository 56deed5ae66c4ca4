"""Checks that the bucket can do what publications rely on, conditional writes above all."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from runway_pipelines.doctor.clock import Now, seen_clock, utc_now
from runway_pipelines.doctor.findings import CheckStatus, Finding, Seen, examined, skipped
from runway_pipelines.errors import Permanent, PublicationRaced, RunwayError
from runway_pipelines.rosters.manifest import AUDIT_PREFIX, ROSTERS_PREFIX, SNAPSHOTS_PREFIX

if TYPE_CHECKING:
    from runway_pipelines.systems.aws.object_store import ObjectStore, StoredDocument

# No partner can have this name, because a partner id has no dot.
PROBE_FOLDER = ".doctor"


def examine_bucket(store: ObjectStore, now: Now = utc_now) -> list[Finding]:
    """Examine the bucket with two small objects, which are removed in any case, and one that stays on record."""
    probe = _Probe(store)
    others = {
        "conditional write": probe.write_conditionally,
        "read": probe.read,
        "copy": probe.copy,
        "list": probe.list_keys,
        "pending uploads": probe.list_pending_uploads,
        "record": probe.put_on_record,
        "delete": probe.remove,
        "clock": lambda: seen_clock("S3's", store.server_time, now),
    }
    try:
        written = examined("bucket", "write", probe.write)
        if written.status is CheckStatus.FAILED:
            return [written, *(skipped("bucket", check, "write failed") for check in others)]
        return [written, *(examined("bucket", check, look) for check, look in others.items())]
    finally:
        with suppress(RunwayError):
            probe.remove()


class _Probe:
    """Does what a run does, with two keys of its own: one among the snapshots, one among the rosters."""

    def __init__(self, store: ObjectStore) -> None:
        name = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
        self._store = store
        self._source = f"{SNAPSHOTS_PREFIX}/{name}"
        self._target = f"{ROSTERS_PREFIX}/{name}"
        self._body = b'"runway-pipelines doctor"'
        self._to_remove = [self._source, self._target]

    def write(self) -> Seen:
        """Write to a key that does not exist."""
        self._store.write(self._source, self._body, replacing=None)
        return Seen(CheckStatus.OK, f"{self._store.bucket_name}, {SNAPSHOTS_PREFIX}/")

    def write_conditionally(self) -> Seen:
        """Replace only the version that was read, so that two runs cannot both move a tenant's pointer."""
        read = self._read(self._source)
        for replacing in (None, replace(read, etag=f'"{"0" * 32}"')):
            with suppress(PublicationRaced):
                self._store.write(self._source, self._body, replacing=replacing)
                raise _not_s3("a refusal of a write whose condition does not hold", "a successful write")
        self._store.write(self._source, self._body, replacing=read)
        return Seen(CheckStatus.OK, "done if its condition holds, refused if not")

    def read(self) -> Seen:
        """Read it back."""
        return Seen(CheckStatus.OK, f"{len(self._read(self._source).body)} bytes, as written")

    def copy(self) -> Seen:
        """Copy it within S3, and compare."""
        self._store.copy_object(self._source, self._target)
        self._read(self._target)
        return Seen(CheckStatus.OK, f"to {ROSTERS_PREFIX}/")

    def list_keys(self) -> Seen:
        """List it. Without this permission, S3 does not report a missing key as missing either."""
        if (keys := list(self._store.list_keys(self._source))) != [self._source]:
            raise _not_s3("a list with the one key that was written", f"{len(keys)} keys")
        if self._store.read(f"{self._source}.absent") is not None:
            raise _not_s3("nothing under a key that was never written", "an object")
        return Seen(CheckStatus.OK, "an existing key is listed, a missing one is reported as missing")

    def list_pending_uploads(self) -> Seen:
        """List pending uploads, as a run does to clean up after a killed one; the probe has none to abort."""
        self._store.abort_pending_uploads(self._source)
        return Seen(CheckStatus.OK, "listed")

    def put_on_record(self) -> Seen:
        """Write where decisions are recorded. Nothing may delete there, so every probe writes the same object."""
        key = f"{AUDIT_PREFIX}/{PROBE_FOLDER}/probe.json"
        with suppress(PublicationRaced):  # an earlier probe wrote it
            self._store.write(key, self._body, replacing=None)
        self._read(key)
        return Seen(CheckStatus.OK, f"{AUDIT_PREFIX}/, where one small object stays")

    def remove(self) -> Seen:
        """Remove both objects; calling it again does nothing."""
        self._store.delete(self._to_remove)
        if left := [key for key in self._to_remove if self._store.read(key) is not None]:
            raise _not_s3("both objects to be gone", f"{len(left)} still there")
        self._to_remove = []
        return Seen(CheckStatus.OK, "nothing left behind")

    def _read(self, key: str) -> StoredDocument:
        read = self._store.read(key)
        if read is None or read.body != self._body:
            came = "nothing" if read is None else "something else"
            raise _not_s3(f"the written bytes in {self._store.uri(key)}", came)
        return read


def _not_s3(expected: str, came: str) -> Permanent:
    return Permanent(
        expected=expected,
        came=came,
        remedy="use a bucket of Amazon S3, or of a server that supports its conditional writes",
    )
