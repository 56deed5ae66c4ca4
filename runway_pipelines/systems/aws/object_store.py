"""The application's bucket: whole objects, conditional documents, verified uploads, server-side copies."""

import base64
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any

import dagster as dg
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from dagster_aws.s3 import S3Resource
from pydantic import PrivateAttr

from runway_pipelines.errors import (
    ConfigurationError,
    PublicationRaced,
    StoredObjectDamaged,
    Transient,
)
from runway_pipelines.systems.aws.errors import aws_errors

PART_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
# Parts in flight for one upload; several tenants upload at once, and each part in flight is held in memory.
PARTS_IN_FLIGHT = 2
SHA256_METADATA = "sha256"
JSON = "application/json"
JSON_LINES = "application/x-ndjson"
_NO_SUCH_KEY = ("NoSuchKey", "404")
# S3's answers to a conditional write that lost; NoSuchKey means that the object to be replaced is gone.
_RACED = ("PreconditionFailed", "ConditionalRequestConflict", "412", *_NO_SUCH_KEY)


class VersionGone(Transient):
    """An object was replaced or deleted since it was listed."""


@dataclass(frozen=True)
class StoredDocument:
    """A small object, whole, with the ETag for a conditional write."""

    body: bytes
    etag: str


@dataclass(frozen=True)
class StoredSize:
    """How many bytes an object has, and (where its writer said so) their sha256."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class ListedObject:
    """An object as a listing shows it; ``last_modified`` has a time zone, and is by S3's clock."""

    key: str
    size: int
    last_modified: datetime
    etag: str


@dataclass(frozen=True)
class FileDigest:
    """What a file must be when it is read back."""

    sha256: str
    crc32: int
    size: int

    @property
    def crc32_base64(self) -> str:
        """The checksum as S3 writes it."""
        return base64.b64encode(self.crc32.to_bytes(4, "big")).decode()


class ObjectStore(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One bucket. Every method raises `Permanent` for a refusal and `Unavailable` when S3 cannot be reached."""

    s3: dg.ResourceDependency[S3Resource]
    bucket: str | None = None

    _client: Any = PrivateAttr(default=None)

    @property
    def client(self) -> Any:
        """The S3 client (safe to share between threads), made once."""
        if self._client is None:
            self._client = self.s3.get_client()
        return self._client

    @property
    def bucket_name(self) -> str:
        """The bucket; raises `ConfigurationError` when it is not set."""
        if not self.bucket:
            raise ConfigurationError(
                expected="the variable RUNWAY_BUCKET", came="no value", remedy="set it to the application's bucket"
            )
        return self.bucket

    def uri(self, key: str) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket_name}/{key}"

    def read(self, key: str) -> StoredDocument | None:
        """A small object, or None when there is none."""
        with aws_errors(f"read {self.uri(key)}", absent=_NO_SUCH_KEY):
            answer = self.client.get_object(Bucket=self.bucket_name, Key=key)
            return StoredDocument(body=answer["Body"].read(), etag=answer["ETag"])
        return None

    def write(self, key: str, body: bytes, *, replacing: StoredDocument | None) -> None:
        """Write a JSON document in place of exactly ``replacing`` (None: of nothing); else `PublicationRaced`."""
        condition = {"IfNoneMatch": "*"} if replacing is None else {"IfMatch": replacing.etag}
        with aws_errors(f"write {self.uri(key)}", absent=_RACED):
            self._put(key, body, JSON, **condition)
            return
        raise PublicationRaced(
            expected=f"{self.uri(key)} as it was read a moment ago",
            came="another version of it",
            remedy="run again: somebody else published at the same time",
        )

    def overwrite(self, key: str, body: bytes, *, content_type: str = JSON) -> None:
        """Write a document, whatever is there; browsers ask each time whether there is a newer one."""
        with aws_errors(f"write {self.uri(key)}"):
            self._put(key, body, content_type, CacheControl="no-cache")

    def stat(self, key: str) -> StoredSize | None:
        """How large an object is and what its bytes should be, or None when there is none."""
        head = self._head(key)
        return None if head is None else StoredSize(int(head["ContentLength"]), head["Metadata"].get(SHA256_METADATA))

    def etag(self, key: str) -> str | None:
        """Which version of an object is there, or None when there is none."""
        head = self._head(key)
        return None if head is None else str(head["ETag"])

    def chunks(self, key: str, first: int, last: int) -> Iterator[bytes]:
        """The bytes from ``first`` to ``last`` (both of them in it), as they come."""
        return self._chunks(key, Range=f"bytes={first}-{last}")

    def version(self, key: str, etag: str) -> Iterator[bytes]:
        """The bytes of one version of an object, as they come. Raises `VersionGone` if it has been replaced."""
        with aws_errors(f"read {self.uri(key)}", absent=_RACED):
            answer = self.client.get_object(Bucket=self.bucket_name, Key=key, IfMatch=etag)
            with closing(answer["Body"]) as body:
                yield from body.iter_chunks(CHUNK_BYTES)
            return
        raise VersionGone(
            expected=f"{self.uri(key)} as it was listed",
            came="another version of it, or none",
            remedy="run again: somebody replaced it meanwhile",
        )

    def holds(self, key: str, digest: FileDigest) -> bool:
        """Whether the object carries this sha256, as `upload` and `copy_object` leave it, and is of the same bytes.

        The object is not read: the size and, where the server keeps one, the checksum must agree.
        """
        head = self._head(key, ChecksumMode="ENABLED")
        return (
            head is not None
            and head["ContentLength"] == digest.size
            and head["Metadata"].get(SHA256_METADATA) == digest.sha256
            and _full_crc32(head) in (None, digest.crc32_base64)
        )

    def upload(self, key: str, file: IO[bytes], digest: FileDigest) -> None:
        """Upload a file in parts and verify what arrived; a failed upload is aborted, so that no part is left.

        S3 compares the parts' checksums on arrival and the whole object's at the end. Raises `StoredObjectDamaged`
        when what can be read back is not what was sent. Then the object is deleted: its metadata say that it is.
        """
        file.seek(0)
        with aws_errors(f"upload {self.uri(key)}"):
            self.client.upload_fileobj(
                file,
                self.bucket_name,
                key,
                ExtraArgs={
                    "ChecksumCRC32": digest.crc32_base64,
                    "ContentType": JSON_LINES,
                    "Metadata": {SHA256_METADATA: digest.sha256},
                },
                Config=TransferConfig(
                    multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PARTS_IN_FLIGHT
                ),
            )
        try:
            self.verify(key, digest)
        except StoredObjectDamaged:
            self.delete([key])
            raise

    def copy_object(self, source: str, target: str) -> None:
        """Copy an object within S3, its metadata with it; a reader of ``target`` sees the old or the new one, whole."""
        with aws_errors(f"copy {self.uri(source)} to {self.uri(target)}"):
            self.client.copy_object(
                Bucket=self.bucket_name, Key=target, CopySource={"Bucket": self.bucket_name, "Key": source}
            )

    def lines(self, key: str) -> Iterator[bytes]:
        """The object's lines, each with its newline, streamed."""
        rest = b""
        for chunk in self._chunks(key):
            whole, newline, rest_of_chunk = chunk.rpartition(b"\n")
            if not newline:
                rest += chunk
                continue
            yield from (line + b"\n" for line in (rest + whole).split(b"\n"))
            rest = rest_of_chunk
        if rest:
            yield rest

    def download(self, key: str, file: IO[bytes]) -> str:
        """Copy the object into a file; returns its sha256."""
        digest = hashlib.sha256()
        for chunk in self._chunks(key):
            digest.update(chunk)
            file.write(chunk)
        return digest.hexdigest()

    def digest(self, key: str) -> FileDigest:
        """What the object's bytes are, read from beginning to end."""
        sha256, crc32, size = hashlib.sha256(), 0, 0
        for chunk in self._chunks(key):
            sha256.update(chunk)
            crc32 = zlib.crc32(chunk, crc32)
            size += len(chunk)
        return FileDigest(sha256.hexdigest(), crc32, size)

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Every key under a prefix, in order."""
        return (listed.key for listed in self.list_objects(prefix))

    def list_objects(self, prefix: str, *, after: str = "") -> Iterator[ListedObject]:
        """Every object under a prefix, in order of the keys; only those whose key is greater than ``after``.

        A thousand come with one request, and no more than these are in memory.
        """
        with aws_errors(f"list {self.uri(prefix)}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket_name, Prefix=prefix, **({"StartAfter": after} if after else {})
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield ListedObject(entry["Key"], int(entry["Size"]), entry["LastModified"], entry["ETag"])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error."""
        with aws_errors(f"delete objects of {self.bucket_name}"):
            for key in keys:
                self.client.delete_object(Bucket=self.bucket_name, Key=key)

    def abort_pending_uploads(self, prefix: str) -> int:
        """Abort multipart uploads that a killed process left under a prefix; returns how many.

        Only the holder of the tenant's lock uploads there, so what is pending is nobody's.
        """
        aborted = 0
        with aws_errors(f"abort pending uploads under {self.uri(prefix)}"):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket_name, Prefix=prefix)
            for page in pages:
                for upload in page.get("Uploads", ()):
                    self.client.abort_multipart_upload(
                        Bucket=self.bucket_name, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    aborted += 1
        return aborted

    def verify(self, key: str, digest: FileDigest) -> None:
        """Compare size and checksum of what is stored; read it back only where the server keeps no checksum.

        Raises `StoredObjectDamaged`.
        """
        head = self._head(key, ChecksumMode="ENABLED")
        if head is None or head["ContentLength"] != digest.size:
            raise self._damaged(key, f"{digest.size} bytes", f"{head and head['ContentLength']} bytes")
        if (crc32 := _full_crc32(head)) is not None:
            if crc32 != digest.crc32_base64:
                raise self._damaged(key, f"CRC32 {digest.crc32_base64}", crc32)
            return
        read_back = hashlib.sha256()
        for chunk in self._chunks(key):
            read_back.update(chunk)
        if read_back.hexdigest() != digest.sha256:
            raise self._damaged(key, f"sha256 {digest.sha256}", read_back.hexdigest())

    def _damaged(self, key: str, expected: str, came: str) -> StoredObjectDamaged:
        return StoredObjectDamaged(
            expected=f"{expected} in {self.uri(key)}", came=came, remedy="run again: nothing was published from it"
        )

    def _head(self, key: str, **arguments: str) -> dict[str, Any] | None:
        with aws_errors(f"look at {self.uri(key)}", absent=_NO_SUCH_KEY):
            return self.client.head_object(Bucket=self.bucket_name, Key=key, **arguments)  # type: ignore[no-any-return]
        return None

    def reach(self) -> None:
        """Ask S3 whether it has the bucket, without reading from it; raises where that fails."""
        with aws_errors(f"reach {self.bucket_name}"):
            self.client.head_bucket(Bucket=self.bucket_name)

    def server_time(self) -> datetime | None:
        """S3's clock, to the second, also where it refuses to answer; None where its answer has no date."""
        with aws_errors(f"ask {self.bucket_name} for the time"):
            try:
                answer = self.client.list_objects_v2(Bucket=self.bucket_name, MaxKeys=1)
            except ClientError as error:
                answer = error.response
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        return None if date is None else parsedate_to_datetime(date)

    def _chunks(self, key: str, **arguments: str) -> Iterator[bytes]:
        with (
            aws_errors(f"read {self.uri(key)}"),
            closing(self.client.get_object(Bucket=self.bucket_name, Key=key, **arguments)["Body"]) as body,
        ):
            yield from body.iter_chunks(CHUNK_BYTES)

    def _put(self, key: str, body: bytes, content_type: str, **given: str) -> None:
        self.client.put_object(Bucket=self.bucket_name, Key=key, Body=body, ContentType=content_type, **given)


def _full_crc32(head: dict[str, Any]) -> str | None:
    """The checksum of the whole object, where the server keeps one (a checksum of the parts is of no use here)."""
    is_full = head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
    return head.get("ChecksumCRC32") if is_full else None
