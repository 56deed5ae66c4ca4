"""A tenant's keys in the bucket, and the two documents beside its rosters: pure (rosters contract, section 4)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

import orjson
from pydantic import TypeAdapter, ValidationError

from runway_pipelines.errors import StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant, checked_part
from runway_pipelines.systems.snowflake.connection import Place

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Document = bytes  # a manifest has a member "bytes", which hides the type in its class
ROSTERS_PREFIX = "__rosters"
SNAPSHOTS_PREFIX = "__roster_snapshots"
AUDIT_PREFIX = "__roster_audit"
# Every partner's index, as a pattern of IAM; no object of a tenant has such a name.
# The code server may read these: they hold counts and digests, and no student data.
ALL_INDEXES, ALL_POINTERS, ALL_MANIFESTS = (
    f"{SNAPSHOTS_PREFIX}/*{name}" for name in ("/index.json", "/current.json", ".manifest.json")
)
# No partner's folder: an id has no dot.
BOARD_KEY = f"{SNAPSHOTS_PREFIX}/board.html"
TREND = 30  # snapshots: a month of nights
ROSTER_FILE = "studentEducationOrganizationAssociations.jsonl"


def stable_key(tenant: PartnerTenant, school_year: int) -> str:
    """The key that the consumer reads."""
    return f"{ROSTERS_PREFIX}/{tenant.partner_id}/{tenant.tenant_code}/{school_year}/{ROSTER_FILE}"


def snapshots_prefix(tenant: PartnerTenant) -> str:
    """The prefix of the tenant's snapshots, ending with a slash."""
    return f"{SNAPSHOTS_PREFIX}/{tenant.partner_id}/{tenant.tenant_code}/"


def snapshot_key(tenant: PartnerTenant, sha256: str) -> str:
    """The key of a snapshot's immutable bytes."""
    return f"{snapshots_prefix(tenant)}{sha256}.jsonl"


def manifest_key(tenant: PartnerTenant, sha256: str) -> str:
    """The key of the manifest beside a snapshot."""
    return f"{snapshots_prefix(tenant)}{sha256}.manifest.json"


def lock_name(tenant: PartnerTenant) -> str:
    """The name of the tenant's lock: whoever changes what is published for it holds this lock."""
    return f"runway_pipelines/roster/{tenant}"


def pointer_key(tenant: PartnerTenant) -> str:
    """The key of the pointer to the published snapshot."""
    return f"{snapshots_prefix(tenant)}current.json"


def hold_key(tenant: PartnerTenant) -> str:
    """The key of the tenant's hold, which exists while its newest roster waits for a decision."""
    return f"{snapshots_prefix(tenant)}held.json"


def expectations_key(partner_id: str) -> str:
    """The key of the changes that are expected of a partner's rosters."""
    return f"{SNAPSHOTS_PREFIX}/{checked_part('partner_id', partner_id)}/expectations.json"


def index_key(partner_id: str) -> str:
    """The key of the partner's index of rosters. A tenant named ``index.json`` has keys below it, never this one."""
    return f"{SNAPSHOTS_PREFIX}/{checked_part('partner_id', partner_id)}/index.json"


@dataclass(frozen=True)
class Manifest:
    """A snapshot in numbers, without student identifiers.

    ``rows`` came from the warehouse; ``query_started_at`` and ``created_at`` are ISO 8601 in UTC; ``query_seconds``
    covers statement and transfer. Students are added, removed and changed compared with ``previous_sha256``; these
    counts are null for a first snapshot. ``trend`` has the day and the students of the last snapshots that were
    published before, oldest first.
    """

    partner_id: str
    tenant_code: str
    sha256: str
    bytes: int
    rows: int
    records: int
    lines: int
    students: int
    students_without_codes: int
    colliding_codes: int
    rows_without_identity: int
    students_by_id_system: Mapping[str, int]
    students_by_school_year: Mapping[str, int]
    query_id: str
    query_started_at: str
    query_seconds: float
    secret_version_id: str
    run_id: str
    created_at: str
    previous_sha256: str | None = None
    students_added: int | None = None
    students_removed: int | None = None
    students_changed: int | None = None
    # Members that snapshots of 0.1.0 do not have.
    unsafe_ids: int = 0
    association_rows: int = 0
    implausible_rows: int = 0
    code_rows: int = 0
    implausible_codes: int = 0
    merged_ids: int = 0
    placeholder_codes: int = 0
    masked_values: int = 0
    account: str | None = None
    database: str | None = None
    schema: str | None = None
    trend: tuple[tuple[str, int], ...] = ()

    @property
    def point(self) -> tuple[str, int]:
        """The snapshot itself as a point of a later one's trend."""
        return self.created_at[:10], self.students

    def trend_before(self, sha256: str) -> tuple[tuple[str, int], ...]:
        """The trend for the roster that replaces this one, or for this one if the same bytes came again."""
        return self.trend if sha256 == self.sha256 else (*self.trend, self.point)[-TREND:]

    @property
    def place(self) -> Place | None:
        """Which warehouse it was read from; None for a snapshot of 0.1.0."""
        if self.account is None or self.database is None or self.schema is None:
            return None
        return Place(self.account, self.database, self.schema)

    def to_json(self) -> Document:
        """The document, readable by a person."""
        return dump_document(self)

    @classmethod
    def from_json(cls, key: str, document: Document) -> Manifest:
        """Read a stored manifest; raises `StoredObjectDamaged`. Members of a later version are ignored."""
        return load_document(cls, key, document)


@dataclass(frozen=True)
class Signature:
    """Who decided something, why, and when (ISO 8601, UTC)."""

    decided_by: str
    reason: str
    at: str

    @property
    def said(self) -> str:
        """Who and why."""
        return f"by {self.decided_by}: {self.reason}"

    def __str__(self) -> str:
        return f"since {self.at[:16].replace('T', ' ')} UTC, {self.said}"


@dataclass(frozen=True)
class Earlier:
    """A roster that was published until this moment (ISO 8601, UTC), and how many students it had."""

    until: str
    students: int


@dataclass(frozen=True)
class Pointer:
    """Which snapshot is published, when it was last confirmed, and by which run with which secret.

    ``verified_at`` is when the warehouse last gave these bytes, and ``place`` which warehouse that was: another one may
    have given them first. ``query_started_at`` tells a run that its own query is older. ``previous_sha256`` was
    published before. ``pinned`` is set by a rollback: refreshes publish nothing until somebody unpins it. ``earlier``
    rosters are those of the last days that had more students; a decision clears them, because a person looked.
    """

    sha256: str
    verified_at: str
    query_started_at: str
    secret_version_id: str
    run_id: str
    previous_sha256: str | None = None
    pinned: Signature | None = None
    place: Place | None = None  # none in a pointer of 0.1.0
    earlier: tuple[Earlier, ...] = ()

    def to_json(self) -> Document:
        """The document, readable by a person."""
        return dump_document(self)

    @classmethod
    def from_json(cls, key: str, document: Document) -> Pointer:
        """Read the stored pointer; raises `StoredObjectDamaged`."""
        pointer = load_document(cls, key, document)
        try:
            is_moment = datetime.fromisoformat(pointer.query_started_at).tzinfo is not None
        except ValueError:
            is_moment = False
        if not is_moment:
            raise _damaged(cls, key, document)
        return pointer

    def is_newer_than(self, query_started_at: datetime) -> bool:
        """Whether the published snapshot's query started after ``query_started_at`` (aware)."""
        return datetime.fromisoformat(self.query_started_at) > query_started_at


def dump_document(document: DataclassInstance) -> Document:
    """A dataclass as JSON that a person can read."""
    return orjson.dumps(asdict(document), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def load_document(cls: type[T], key: str, document: Document) -> T:
    """Read a stored document; raises `StoredObjectDamaged`. Members of a later version are ignored."""
    reader: TypeAdapter[T] = _reader(cast("Any", cls))
    try:
        return reader.validate_json(document)
    except ValidationError:
        raise _damaged(cls, key, document) from None


@functools.cache
def _reader(cls: Any) -> TypeAdapter[Any]:
    """Made once for each kind: making one costs 10 ms, and the stream reads two documents for each pull."""
    return TypeAdapter(cls)


def _damaged(cls: type[T], key: str, document: Document) -> StoredObjectDamaged:
    return StoredObjectDamaged(
        expected=f"a {cls.__name__.lower()} in {key}",
        came=f"{len(document)} bytes of something else",
        remedy="check the object; the tenant's next run writes it again",
    )
