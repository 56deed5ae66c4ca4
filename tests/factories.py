"""What several tests build: a key pair, a partner's secret, a manifest, the warehouse's rows, a file's digest."""

import base64
import functools
import hashlib
import json
import traceback
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.manifest import Manifest, Pointer
from runway_pipelines.rosters.query import ROW_SCHEMA
from runway_pipelines.settings import Settings
from runway_pipelines.systems.aws.object_store import FileDigest
from runway_pipelines.wiring import build_roster_policy
from tests.reference_roster import reference_lines

TENANT = PartnerTenant("acme", "district-12")
SHA256 = hashlib.sha256(b"a roster").hexdigest()
OTHER_SHA256 = hashlib.sha256(b"another roster").hexdigest()

POLICY = build_roster_policy(Settings())  # as a deployment that sets nothing has it

Codes = Iterable[tuple[str, str]]


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    """One key for the whole test session: making one takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(format_: PrivateFormat = PrivateFormat.PKCS8, password: bytes | None = None) -> bytes:
    """The key's PEM text."""
    encryption: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
    return rsa_key().private_bytes(Encoding.PEM, format_, encryption)


def base64_text(raw: bytes) -> str:
    """As the secret holds the key."""
    return base64.b64encode(raw).decode()


def secret_members(**changes: Any) -> dict[str, Any]:
    """The members of a good secret, the optional ones left out."""
    return {
        "username": "edu_reader",
        "account": "xy12345",
        "database": "analytics",
        "schema": "prod_stage",
        "privateKey": base64_text(pem()),
    } | changes


def secret_text(**changes: Any) -> str:
    """A good secret's text."""
    return json.dumps(secret_members(**changes))


def manifest(**changes: Any) -> Manifest:
    """A manifest of 100 students, 90 with a code, that nothing is wrong with."""
    return replace(
        Manifest(
            partner_id=TENANT.partner_id,
            tenant_code=TENANT.tenant_code,
            sha256=SHA256,
            bytes=20_000,
            rows=230,
            records=120,
            lines=125,
            students=100,
            students_without_codes=10,
            colliding_codes=0,
            rows_without_identity=0,
            students_by_id_system={"Local": 90, "State": 80},
            students_by_school_year={"2024": 40, "2025": 60},
            query_id="01b2c3",
            query_started_at="2026-01-15T02:00:00+00:00",
            query_seconds=1.25,
            secret_version_id="v1",
            run_id="run-1",
            created_at="2026-01-15T02:00:05+00:00",
        ),
        **changes,
    )


def pointer(**changes: Any) -> Pointer:
    """A pointer to `manifest`'s snapshot."""
    return replace(
        Pointer(
            sha256=SHA256,
            verified_at="2026-01-15T02:00:06+00:00",
            query_started_at="2026-01-15T02:00:00+00:00",
            secret_version_id="v1",
            run_id="run-1",
        ),
        **changes,
    )


def digest_of(body: bytes) -> FileDigest:
    """What the file must be when it is read back."""
    return FileDigest(sha256=hashlib.sha256(body).hexdigest(), crc32=zlib.crc32(body), size=len(body))


def roster_row(
    student: str | None, system: str | None = None, code: str | None = None, *, ed_org: int | None = 9, **changes: Any
) -> dict[str, Any]:
    """One row as the roster statement gives it; ``changes`` are columns by name."""
    return {
        "tenant_code": TENANT.tenant_code,
        "student_unique_id": student,
        "ed_org_id": ed_org,
        "ed_org_type": "School",
        "api_year": 2025,
        "code_tenant_code": None if code is None else TENANT.tenant_code,
        "id_system": system,
        "id_code": code,
        "is_further_spelling": 0,
    } | changes


def roster_rows(*rows: dict[str, Any]) -> pa.Table:
    """Rows as one Arrow table of the statement's schema."""
    return pa.Table.from_pylist(list(rows), schema=ROW_SCHEMA)


def announcement(name: str, number: int, id_system: str | None = None) -> dict[str, Any]:
    """One row that announces something."""
    return dict.fromkeys(ROW_SCHEMA.names) | {
        "tenant_code": TENANT.tenant_code,
        "id_system": id_system,
        "announcement": name,
        "number": number,
    }


def announcements(*tables: pa.Table | pa.RecordBatch) -> pa.Table:
    """What the statement announces before these rows."""
    rows = [row for table in tables for row in table.to_pylist()]
    holders: dict[str, set[str]] = {}
    for row in rows:
        if row["id_system"] is not None:
            holders.setdefault(row["id_system"], set()).add(row["student_unique_id"])
    types = [announcement("id_type", len(students), system) for system, students in holders.items()]
    students = len({row["student_unique_id"] for row in rows if not row["is_further_spelling"]})
    return roster_rows(announcement("rows", len(rows)), announcement("students", students), *types)


def roster_lines(students: Iterable[tuple[str, int, Codes]]) -> list[bytes]:
    """A roster's lines, by the naive reference: (student_unique_id, ed_org_id, codes as (system, code))."""
    associations, codes = [], []
    for student, ed_org_id, own_codes in students:
        of_student = {"tenant_code": TENANT.tenant_code, "api_year": 2025, "k_student_xyear": f"x{student}"}
        associations.append(
            of_student | {"student_unique_id": student, "ed_org_id": ed_org_id, "ed_org_type": "School"}
        )
        codes += [of_student | {"id_system": system, "id_code": code} for system, code in own_codes]
    return reference_lines(TENANT.tenant_code, associations, codes)


def everything_said_by(error: BaseException, *, with_suppressed: bool = False) -> str:
    """All that a log or Dagster's event log could show of an exception: each of its chain, in every way.

    ``with_suppressed`` follows the chain also where ``from None`` ended it for tracebacks.
    """
    shown = traceback.format_exception(error)
    for each in _chain(error, with_suppressed):
        shown += [str(each), repr(each), repr(each.args), repr(vars(each))]
    return "\n".join(shown)


def _chain(error: BaseException | None, with_suppressed: bool) -> Iterator[BaseException]:
    while error is not None:
        yield error
        context = error.__context__ if with_suppressed or not error.__suppress_context__ else None
        error = error.__cause__ or context
