"""Files of candidates in the bucket, and the answers beside them (student resolution contract, section 6).

A producer puts ``candidates.jsonl`` into a folder of its own. A file waits while its report is missing or names another
ETag: the report is written last, so where it fits, the answers are whole. No answer has a name or a birth date.
"""

from __future__ import annotations

import hashlib
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

from runway_pipelines.errors import StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import SEPARATOR, PartnerTenant, checked_part, is_valid_part, why_unusable
from runway_pipelines.rosters.manifest import dump_document, load_document
from runway_pipelines.students.lines import lines_of
from runway_pipelines.systems.aws.object_store import FileDigest, ListedObject, ObjectStore
from runway_pipelines.systems.disk import disk_errors

RESOLUTIONS_PREFIX = "__resolutions"
CANDIDATES = "candidates.jsonl"
RESOLUTIONS = "resolutions.jsonl"
REVIEW = "review.jsonl"
REPORT = "report.json"


@dataclass(frozen=True, order=True)
class FileFolder:
    """Where a file and its answers are: ``name`` follows the rules of a tenant's code."""

    tenant: PartnerTenant
    name: str

    def key(self, object_name: str) -> str:
        """The key of one of its objects."""
        return f"{tenant_prefix(self.tenant)}{self.name}/{object_name}"

    def __str__(self) -> str:
        return f"{self.tenant}{SEPARATOR}{self.name}"


@dataclass(frozen=True)
class CandidateFile:
    """One version of a file of candidates; ``written_at`` is when it was put there."""

    folder: FileFolder
    etag: str
    size: int
    written_at: datetime

    @property
    def identity(self) -> str:
        """Its key and version, as a short text that no two versions share: the same bytes may come back."""
        named = f"{self.folder.key(CANDIDATES)}\n{self.etag}\n{self.written_at.isoformat()}"
        return hashlib.sha256(named.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Listed:
    """A folder as a listing shows it."""

    candidates: CandidateFile
    has_report: bool


@dataclass(frozen=True)
class Written:
    """An answer's object: a reader can compare it with what is there."""

    sha256: str
    bytes: int
    lines: int


@dataclass(frozen=True)
class Report:
    """What became of a file. ``refusal`` says why none of it could be resolved; then there are no answers."""

    candidates_etag: str
    candidates_bytes: int
    run_id: str
    resolved_at: str
    resolutions: Written | None = None
    review: Written | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    refusal: str | None = None


def partner_prefix(partner_id: str) -> str:
    """The prefix of all files of a partner."""
    return f"{RESOLUTIONS_PREFIX}/{checked_part('partner_id', partner_id)}/"


def tenant_prefix(tenant: PartnerTenant) -> str:
    """The prefix of all files of a tenant."""
    return f"{RESOLUTIONS_PREFIX}/{tenant.partner_id}/{tenant.tenant_code}/"


def lock_name(tenant: PartnerTenant) -> str:
    """The lock of whoever writes answers to the tenant's files."""
    return f"runway_pipelines/resolutions/{tenant}"


def parse_key(key: str) -> tuple[FileFolder, str] | None:
    """The folder and the object's name; None for a key that is not of this shape."""
    parts = key.split("/")
    if len(parts) != 5 or parts[0] != RESOLUTIONS_PREFIX or not is_valid_part(parts[1]):
        return None
    if why_unusable(parts[2]) is not None or why_unusable(parts[3]) is not None:
        return None
    return FileFolder(PartnerTenant(parts[1], parts[2]), parts[3]), parts[4]


def listed_files(store: ObjectStore, prefix: str) -> Iterator[Listed]:
    """Every folder below the prefix that has candidates, in the order of the keys: a thousand objects a request."""
    parsed = ((parse_key(each.key), each) for each in store.list_objects(prefix))
    named = ((folder_and_name, each) for folder_and_name, each in parsed if folder_and_name is not None)
    for folder, objects in groupby(named, key=lambda pair: pair[0][0]):
        found: dict[str, ListedObject] = {name: each for (_, name), each in objects}
        if CANDIDATES in found:
            candidates = found[CANDIDATES]
            yield Listed(
                CandidateFile(folder, candidates.etag, candidates.size, candidates.last_modified), REPORT in found
            )


def waiting_files(store: ObjectStore, tenant: PartnerTenant) -> list[CandidateFile]:
    """The tenant's files without a report of their version."""
    return [
        each.candidates
        for each in listed_files(store, tenant_prefix(tenant))
        if not each.has_report or not _is_answered(store, each.candidates)
    ]


def candidate_lines(store: ObjectStore, file: CandidateFile) -> Iterator[bytes]:
    """The file's lines, streamed. Raises `VersionGone` if it was replaced, and what `lines_of` raises."""
    return lines_of(store.version(file.folder.key(CANDIDATES), file.etag))


def write_answer(
    store: ObjectStore, folder: FileFolder, resolutions: Iterable[bytes], review: Iterable[bytes]
) -> tuple[Written, Written]:
    """Replace the answers. The old report goes first, so nobody takes the new answers for those that it describes."""
    store.delete([folder.key(REPORT)])
    return (
        _upload(store, folder.key(RESOLUTIONS), resolutions),
        _upload(store, folder.key(REVIEW), review),
    )


def delete_answers(store: ObjectStore, folder: FileFolder) -> None:
    """Delete the answers to an earlier version of the file, the report first."""
    store.delete(folder.key(name) for name in (REPORT, RESOLUTIONS, REVIEW))


def write_report(store: ObjectStore, folder: FileFolder, report: Report) -> None:
    """The last word about this version of the file."""
    store.overwrite(folder.key(REPORT), dump_document(report))


def read_report(store: ObjectStore, folder: FileFolder) -> Report | None:
    """The file's report; None where there is none. Raises `StoredObjectDamaged`."""
    stored = store.read(folder.key(REPORT))
    return None if stored is None else load_document(Report, folder.key(REPORT), stored.body)


def _is_answered(store: ObjectStore, file: CandidateFile) -> bool:
    try:
        report = read_report(store, file.folder)
    except StoredObjectDamaged:
        return False
    return report is not None and report.candidates_etag == file.etag


def _upload(store: ObjectStore, key: str, lines: Iterable[bytes]) -> Written:
    sha256, crc32, size, count = hashlib.sha256(), 0, 0, 0
    # The file has no name. It holds what the object will hold: IDs and levels of agreement.
    with disk_errors(), tempfile.TemporaryFile() as file:
        for line in lines:
            sha256.update(line)
            crc32 = zlib.crc32(line, crc32)
            size += file.write(line)
            count += 1
        file.flush()
        store.upload(key, file, FileDigest(sha256.hexdigest(), crc32, size))
    return Written(sha256.hexdigest(), size, count)
