"""The bucket: whether it does with conditions what a publication relies on."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from runway_pipelines.doctor.findings import Finding, Seen, Status, examined, skipped
from runway_pipelines.errors import Permanent, PublicationRaced, RunwayError
from runway_pipelines.rosters.manifest import ROSTERS_PREFIX, SNAPSHOTS_PREFIX

if TYPE_CHECKING:
    from runway_pipelines.systems.aws.object_store import ObjectStore, StoredDocument

# No partner can have this name: a dot is not allowed in a partner id.
PROBE_FOLDER = ".doctor"


def examine_bucket(store: ObjectStore) -> list[Finding]:
    """The bucket, by two small objects of this examination's own, which are removed whatever happens."""
    probe = _Probe(store)
    others = {
        "conditional write": probe.write_conditionally,
        "read": probe.read,
        "copy": probe.copy,
        "list": probe.list_keys,
        "pending uploads": probe.list_pending_uploads,
        "delete": probe.remove,
    }
    try:
        written = examined("bucket", "write", probe.write)
        if written.status is Status.FAILED:
            return [written, *(skipped("bucket", check, "write failed") for check in others)]
        return [written, *(examined("bucket", check, look) for check, look in others.items())]
    finally:
        with suppress(RunwayError):
            probe.remove()


class _Probe:
    """Two keys of nobody else, where snapshots lie and where rosters are read, and what a run does with such."""

    def __init__(self, store: ObjectStore) -> None:
        name = f"{PROBE_FOLDER}/{uuid.uuid4().hex}"
        self._store = store
        self._source = f"{SNAPSHOTS_PREFIX}/{name}"
        self._target = f"{ROSTERS_PREFIX}/{name}"
        self._body = b'"runway-pipelines doctor"'
        self._to_remove = [self._source, self._target]

    def write(self) -> Seen:
        """Where nothing is."""
        self._store.write(self._source, self._body, replacing=None)
        return Seen(Status.OK, f"{self._store.bucket_name}, {SNAPSHOTS_PREFIX}/")

    def write_conditionally(self) -> Seen:
        """In place of what was read, and of nothing else: two runs must not both move a tenant's pointer."""
        read = self._read(self._source)
        for replacing in (None, replace(read, etag=f'"{"0" * 32}"')):
            with suppress(PublicationRaced):
                self._store.write(self._source, self._body, replacing=replacing)
                raise _not_s3("the refusal of a write whose condition does not hold", "a write that was done")
        self._store.write(self._source, self._body, replacing=read)
        return Seen(Status.OK, "done where its condition holds, refused where it does not")

    def read(self) -> Seen:
        """What was written."""
        return Seen(Status.OK, f"{len(self._read(self._source).body)} bytes, as written")

    def copy(self) -> Seen:
        """Within S3, and the copy is the same."""
        self._store.copy_object(self._source, self._target)
        self._read(self._target)
        return Seen(Status.OK, f"to {ROSTERS_PREFIX}/")

    def list_keys(self) -> Seen:
        """Without the permission to list, S3 does not say either that a key is not there."""
        if (keys := list(self._store.list_keys(self._source))) != [self._source]:
            raise _not_s3("the one key that was written in the list", f"{len(keys)} keys")
        if self._store.read(f"{self._source}.absent") is not None:
            raise _not_s3("nothing where nothing was written", "an object")
        return Seen(Status.OK, "what is there is listed, what is not there is said not to be")

    def list_pending_uploads(self) -> Seen:
        """A run must find what a killed one left; under the probe's key there is nothing to abort."""
        self._store.abort_pending_uploads(self._source)
        return Seen(Status.OK, "listed")

    def remove(self) -> Seen:
        """Both objects; once they are gone, a further call does nothing."""
        self._store.delete(self._to_remove)
        if left := [key for key in self._to_remove if self._store.read(key) is not None]:
            raise _not_s3("both objects to be gone", f"{len(left)} that are still there")
        self._to_remove = []
        return Seen(Status.OK, "nothing is left behind")

    def _read(self, key: str) -> StoredDocument:
        read = self._store.read(key)
        if read is None or read.body != self._body:
            raise _not_s3(
                f"in {self._store.uri(key)} what was written", "nothing" if read is None else "something else"
            )
        return read


def _not_s3(expected: str, came: str) -> Permanent:
    return Permanent(
        expected=expected,
        came=came,
        remedy="use a bucket of Amazon S3, or of a server that does as S3 does with conditions",
    )
