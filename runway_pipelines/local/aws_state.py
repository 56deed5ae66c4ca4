"""Saves what the local AWS server holds, and restores it: S3 objects as plain files, secrets with all versions.

    <folder>/index.json             buckets and objects: metadata, etag, checksum, where the body is
    <folder>/s3/<bucket>/<key>      bodies (a key that is no safe path: <folder>/s3-other/<sha256 of bucket and key>)
    <folder>/secrets.json           secrets: values, version ids, stages

moto keeps everything in memory. Only the newest version of an object is kept, and no policies or bucket settings.
Every file is replaced atomically; a body that does not fit its entry in the index (a save that was cut off) is skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import FakeBucket, FakeKey, S3Backend, s3_backends
from moto.secretsmanager.models import FakeSecret, secretsmanager_backends

_INDEX = "index.json"
_SECRETS = "secrets.json"
_MAX_NAME_BYTES = 200
_SECRET_FIELDS = ("arn", "description", "tags", "kms_key_id", "created_date", "last_changed_date", "deleted_date")


@dataclass(frozen=True)
class StoredObject:
    """An object's entry in the index."""

    key: str
    file: str
    sha256: str
    etag: str
    last_modified: str
    metadata: dict[str, str]
    checksum_algorithm: str | None
    checksum_value: str | None
    checksum_type: str | None


def save(folder: Path) -> None:
    """Write everything below folder. Files that already hold the right bytes are not written again."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder / _SECRETS, json.dumps(list(_secrets()), indent=1).encode())
    index: dict[str, Any] = {
        name: {"region": bucket.region_name, "objects": [asdict(_save_object(folder, key)) for key in _newest(bucket)]}
        for name, bucket in _s3().buckets.items()
    }
    _write(folder / _INDEX, json.dumps(index, indent=1).encode())
    _remove_unlisted(folder, {entry["file"] for bucket in index.values() for entry in bucket["objects"]})


def restore(folder: Path) -> None:
    """Load what `save` wrote. What is missing or damaged is named on stderr and left out; it never stops the start."""
    for document, load in ((_SECRETS, _restore_secret), (_INDEX, _restore_bucket)):
        for entry in _entries(folder / document):
            try:
                load(folder, entry)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                _complain(f"an entry of {document} cannot be used ({type(error).__name__})")


def _entries(path: Path) -> list[Any]:
    if not path.exists():
        return []
    try:
        document = json.loads(path.read_bytes())
        return list(document.items()) if isinstance(document, dict) else list(document)
    except (OSError, ValueError, TypeError) as error:
        _complain(f"{path.name} cannot be read ({type(error).__name__}): starting without it")
        return []


def _complain(what: str) -> None:
    print(f"restore: {what}", file=sys.stderr, flush=True)


def _s3() -> S3Backend:
    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


# S3


def _newest(bucket: FakeBucket) -> Iterator[FakeKey]:
    for key in bucket.keys.values():
        if isinstance(key, FakeKey):  # the rest are delete markers
            yield key


def _save_object(folder: Path, key: FakeKey) -> StoredObject:
    body = key.value
    digest = hashlib.sha256(body).hexdigest()
    file = _body_file(folder, str(key.bucket_name), key.name)
    if _digest_of(folder / file) != digest:
        _write(folder / file, body)
    return StoredObject(
        key=key.name,
        file=file,
        sha256=digest,
        etag=key.etag.strip('"'),
        last_modified=key.last_modified.isoformat(),
        metadata=dict(key.metadata),
        checksum_algorithm=key.checksum_algorithm,
        checksum_value=key.checksum_value,
        checksum_type=key.checksum_type,
    )


def _body_file(folder: Path, bucket: str, key: str) -> str:
    """The body's place, relative to folder. A key may be no path at all, or a folder of another key's path."""
    path = PurePosixPath("s3", bucket, key)
    names = key.split("/")
    if all(map(_is_file_name, names)):
        place = folder / path
        parents = list(place.parents)[: len(names)]
        if not place.is_dir() and not any(parent.is_file() for parent in parents):
            return str(path)
    return str(PurePosixPath("s3-other", hashlib.sha256(f"{bucket}/{key}".encode()).hexdigest()))


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and "\0" not in name and len(name.encode()) <= _MAX_NAME_BYTES


def _restore_bucket(folder: Path, entry: tuple[str, dict[str, Any]]) -> None:
    name, saved = entry
    if name not in _s3().buckets:
        _s3().create_bucket(name, saved["region"])
    damaged = 0
    for fields in saved["objects"]:
        stored = StoredObject(**fields)
        if _digest_of(folder / stored.file) == stored.sha256:
            _restore_object(name, stored, (folder / stored.file).read_bytes())
        else:
            damaged += 1
    if damaged:
        _complain(f"bucket {name}: {damaged} of {len(saved['objects'])} objects are missing or damaged and left out")


def _restore_object(bucket: str, stored: StoredObject, body: bytes) -> None:
    key = _s3().put_object(
        bucket, stored.key, body, etag=stored.etag, checksum_value=stored.checksum_value, disable_notification=True
    )
    key.set_metadata(dict(stored.metadata))
    key.last_modified = datetime.fromisoformat(stored.last_modified)
    key.checksum_algorithm = stored.checksum_algorithm
    key.checksum_type = stored.checksum_type


# Secrets Manager


def _secrets() -> Iterator[dict[str, Any]]:
    for region, backend in secretsmanager_backends[DEFAULT_ACCOUNT_ID].items():
        for secret in backend.secrets.values():
            if isinstance(secret, FakeSecret):
                yield {
                    "name": secret.name,
                    "region": region,
                    "default_version_id": secret.default_version_id,
                    "versions": secret.versions,
                    **{field: getattr(secret, field) for field in _SECRET_FIELDS},
                }


def _restore_secret(folder: Path, saved: dict[str, Any]) -> None:
    version_id = saved["default_version_id"]
    version = saved["versions"].get(version_id, {})
    secret = FakeSecret(
        account_id=DEFAULT_ACCOUNT_ID,
        region_name=saved["region"],
        secret_id=saved["name"],
        secret_version=version,
        version_id=version_id,
        secret_string=version.get("secret_string"),
        secret_binary=version.get("secret_binary"),
    )
    secret.versions = saved["versions"]
    secret.set_default_version_id(version_id)
    for field in _SECRET_FIELDS:
        setattr(secret, field, saved[field])
    secretsmanager_backends[DEFAULT_ACCOUNT_ID][saved["region"]].secrets[saved["name"]] = secret


# files


def _digest_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _write(path: Path, content: bytes) -> None:
    """Replace path atomically; readable for the owner alone, folders too."""
    for folder in reversed([parent for parent in path.parents if not parent.exists()]):
        folder.mkdir(mode=0o700)
    new = path.with_name(f".{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    new.replace(path)


def _remove_unlisted(folder: Path, listed: set[str]) -> None:
    for root in ("s3", "s3-other"):
        for path in sorted((folder / root).rglob("*"), reverse=True):
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif str(path.relative_to(folder)) not in listed:
                path.unlink()
