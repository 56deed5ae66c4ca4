"""A bucket in memory: boto3's S3 client as far as `ObjectStore` uses it, one server call each, and any can be the last.

For tests that need thousands of publications; the integration tests prove the same against a real S3 server.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from dagster_aws.s3 import S3Resource

from runway_pipelines.systems.aws.object_store import ObjectStore

Stored = tuple[bytes, dict[str, str]]
_WRITTEN_AT = datetime.now(UTC)  # all of its objects were written just now


class Killed(BaseException):
    """The process is gone."""


class MemoryS3:
    """The client. ``dies_before`` is the number of the call that changes something and is not made any more.

    ``changed`` has the key of each call that changed something, and ``asked`` each call that only read, with its key.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.changed: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.dies_before: int | None = None
        self._lock = Lock()

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        body, _ = self._found(Key, "NoSuchKey", "GetObject")
        return {"Body": StreamingBody(io.BytesIO(body), len(body)), "ETag": _etag(body)}  # type: ignore[no-untyped-call]

    def head_object(self, Bucket: str, Key: str, ChecksumMode: str | None = None) -> dict[str, Any]:
        body, metadata = self._found(Key, "404", "HeadObject")
        return {"ContentLength": len(body), "Metadata": metadata, "ETag": _etag(body)}

    def put_object(
        self,
        Bucket: str,
        Key: str,
        Body: bytes,
        ContentType: str,
        CacheControl: str = "",
        IfNoneMatch: str | None = None,
        IfMatch: str | None = None,
    ) -> None:
        with self._lock:
            there = self.objects.get(Key)
            if (IfNoneMatch and there) or (IfMatch and (there is None or _etag(there[0]) != IfMatch)):
                raise _error("PreconditionFailed", 412, "PutObject")
            self._change(Key)
            self.objects[Key] = (Body, {})

    def copy_object(self, Bucket: str, Key: str, CopySource: dict[str, str]) -> None:
        source = self._found(CopySource["Key"], "NoSuchKey", "CopyObject")
        with self._lock:
            self._change(Key)
            self.objects[Key] = source

    def delete_object(self, Bucket: str, Key: str) -> None:
        with self._lock:
            self._change(Key)
            self.objects.pop(Key, None)

    def upload_fileobj(self, file: Any, bucket: str, key: str, ExtraArgs: dict[str, Any], Config: Any) -> None:
        with self._lock:
            self._change(key)
            self.objects[key] = (file.read(), dict(ExtraArgs["Metadata"]))

    def get_paginator(self, name: str) -> _Pages:
        self.asked.append((name, ""))
        return _Pages(self.objects if name == "list_objects_v2" else {})

    @property
    def changes(self) -> int:
        """How many calls changed something, with the one that was not made any more."""
        return len(self.changed)

    def _change(self, key: str) -> None:
        self.changed.append(key)
        if self.changes == self.dies_before:
            raise Killed

    def _found(self, key: str, code: str, operation: str) -> Stored:
        with self._lock:
            self.asked.append((operation, key))
            if key not in self.objects:
                raise _error(code, 404, operation)
            return self.objects[key]


class _Pages:
    def __init__(self, objects: dict[str, Stored]) -> None:
        self._objects = objects

    def paginate(self, Bucket: str, Prefix: str, StartAfter: str = "") -> Iterator[dict[str, Any]]:
        found = sorted(key for key in self._objects if key.startswith(Prefix) and key > StartAfter)
        bodies = {key: self._objects[key][0] for key in found}
        yield {
            "Contents": [
                {"Key": key, "Size": len(body), "LastModified": _WRITTEN_AT, "ETag": _etag(body)}
                for key, body in bodies.items()
            ]
        }


def memory_store(s3: MemoryS3) -> ObjectStore:
    """Our own store over it."""
    store = ObjectStore(s3=S3Resource(region_name="us-west-2"), bucket="memory")
    store._client = s3
    return store


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _error(code: str, status: int, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)  # type: ignore[typeddict-item]
