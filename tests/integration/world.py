"""A partner in every real system at once: rows in Postgres, a secret, a registered key, tables in the warehouse.

Each test makes partners of its own on the shared stack, so that nobody disturbs anybody.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runway_pipelines.definitions import build_definitions
from runway_pipelines.local.dataset import ASSOCIATIONS, IDENTIFICATION_CODES, SCHEMAS
from runway_pipelines.local.stack import APP_DATABASE, BUCKET, EmbeddedStack
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.partitions import sync_partitions
from runway_pipelines.partner_tenants.registry import read_registry
from runway_pipelines.rosters.manifest import Manifest, Pointer, index_key, manifest_key, pointer_key, stable_key
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_application_database
from tests.reference_roster import ReferenceRoster, reference_roster

# A key takes 0.08 CPU-seconds to make. Sixteen rotations apart, two partners may have the same one.
KEYS = 16
_ROTATIONS = itertools.count()


@functools.cache
def _key(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


Row = dict[str, Any]


@dataclass
class Warehouse:
    """The rows of one partner's two tables."""

    associations: list[Row] = field(default_factory=list)
    codes: list[Row] = field(default_factory=list)

    def student(
        self,
        tenant: str,
        student_unique_id: str | None,
        *codes: tuple[str | None, str | None],
        year: int = 2026,
        ed_org_id: int | None = 370001,
        ed_org_type: str | None = "School",
    ) -> None:
        """One student in one ed org and year, with (id_system, id_code) pairs."""
        key = f"x-{tenant}-{student_unique_id}"
        head = {"tenant_code": tenant, "api_year": year, "k_student": f"{key}-{year}", "k_student_xyear": key}
        self.associations.append(
            head | {"student_unique_id": student_unique_id, "ed_org_id": ed_org_id, "ed_org_type": ed_org_type}
        )
        self.codes += [
            head | {"ed_org_id": ed_org_id, "id_system": system, "assigning_org": None, "id_code": code}
            for system, code in codes
        ]

    def students(self, tenant: str, count: int, prefix: str = "S") -> None:
        """``count`` ordinary students with one local code each."""
        for number in range(count):
            self.student(tenant, f"{prefix}{number:05d}", ("Local", f"L{prefix}{number:05d}"))

    def reference(self, tenant: str) -> ReferenceRoster:
        """What the tenant's roster must be."""
        return reference_roster(tenant, self.associations, self.codes)


class World:
    """The shared stack, seen by one test."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self.stack = stack
        self.partners: list[TestPartner] = []
        self.s3 = boto3.client("s3")
        self.secrets = boto3.client("secretsmanager")

    def partner(self, warehouse: Warehouse, tenants: Iterable[str], **options: Any) -> TestPartner:
        """A new partner with these tenants, no-ODS year 2026, a secret and a key that fits."""
        partner = TestPartner(self, f"p-{uuid.uuid4().hex[:8]}", warehouse, tuple(tenants))
        partner.register(**options)
        partner.write_tables()
        partner.rotate()
        self.partners.append(partner)
        return partner

    def forget_partners(self) -> None:
        """Take them out of the registry: every sync, job and sensor looks at all that are in it."""
        ids = [partner.partner_id for partner in self.partners]
        with self.connect() as connection:
            for table, column in (("school_year_config", "partner_id"), ("tenant", "partner_id"), ("partner", "id")):
                connection.execute(f"delete from {table} where {column} = any(%s)".encode(), [ids])

    def connect(self) -> psycopg.Connection[Any]:
        """The application's database, writable."""
        return psycopg.connect(self.stack.postgres.dsn(APP_DATABASE), autocommit=True)


@contextmanager
def world_of(stack: EmbeddedStack, patch: pytest.MonkeyPatch, **settings: str) -> Iterator[World]:
    """This process's settings pointed at the stack, until the patch is undone."""
    for name, value in (stack.environment() | settings).items():
        patch.setenv(name, value)
    load_settings.cache_clear()
    world = World(stack)
    yield world
    world.forget_partners()
    load_settings.cache_clear()


@dataclass
class TestPartner:
    """One partner of one test."""

    __test__ = False

    world: World
    partner_id: str
    warehouse: Warehouse
    tenant_codes: tuple[str, ...]

    @property
    def account(self) -> str:
        return self.partner_id.upper()

    @property
    def secret_name(self) -> str:
        return f"dev-edu-connection-info-{self.partner_id}"

    def tenant(self, code: str) -> PartnerTenant:
        return PartnerTenant(self.partner_id, code)

    def register(self, years: Mapping[int, bool] | None = None, enabled: bool = True) -> None:
        """Rows in the application's database; ``years`` maps a school year to send_to_ods."""
        with self.world.connect() as connection:
            connection.execute(
                "insert into partner (id, name, cross_year_matching_enabled) values (%s, %s, %s)",
                [self.partner_id, self.partner_id.title(), enabled],
            )
            for code in self.tenant_codes:
                connection.execute("insert into tenant (code, partner_id) values (%s, %s)", [code, self.partner_id])
        for year, send_to_ods in (years if years is not None else {2026: False}).items():
            self.enable_year(year, send_to_ods)

    def enable_year(self, year: int, send_to_ods: bool = False) -> None:
        """Enable a school year for the partner."""
        with self.world.connect() as connection:
            connection.execute(
                "insert into school_year (id, start_year, end_year) values (%s, %s, %s) on conflict do nothing",
                [f"{year - 2001:02d}{year - 2000:02d}", year - 1, year],
            )
            connection.execute(
                "insert into school_year_config (partner_id, school_year_id, is_enabled, send_to_ods) "
                "select %s, id, true, %s from school_year where end_year = %s",
                [self.partner_id, send_to_ods, year],
            )

    def write_tables(self) -> None:
        """The warehouse's tables as they are now; the server loads them at the next login."""
        folder = self.world.stack.warehouse_dir / self.account / "EDU" / "PROD"
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in ((ASSOCIATIONS, self.warehouse.associations), (IDENTIFICATION_CODES, self.warehouse.codes)):
            write_parquet(folder / f"{name}.parquet", pa.Table.from_pylist(rows, schema=SCHEMAS[name]))

    def drop_table(self, name: str) -> None:
        """The warehouse never had this table; call it before the first login."""
        (self.world.stack.warehouse_dir / self.account / "EDU" / "PROD" / f"{name}.parquet").unlink()

    def rotate(self, *, register_key: bool = True, **fields: Any) -> str:
        """A new key pair in the secret, and (unless told) registered with the account; returns the version id.

        ``fields`` replace members of the secret; None removes one.
        """
        private = _key(next(_ROTATIONS) % KEYS)
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        secret = {
            "username": "ROSTER",
            "account": self.account,
            "database": "EDU",
            "schema": "PROD",
            "privateKey": base64.b64encode(pem).decode(),
        }
        secret = {name: value for name, value in (secret | fields).items() if value is not None}
        if register_key:
            public = private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            self.register_keys([public.decode()])
        return self.put_secret(json.dumps(secret))

    def registered_keys(self) -> list[str]:
        """The public keys that the account knows for the user."""
        registered = json.loads(self.world.stack.public_keys_file.read_text())
        return list(registered[f"{self.account}.ROSTER"])

    def register_keys(self, pems: list[str]) -> None:
        """Replace them, as ``ALTER USER ... SET RSA_PUBLIC_KEY`` does."""
        registered = json.loads(self.world.stack.public_keys_file.read_text())
        registered[f"{self.account}.ROSTER"] = pems
        replace(self.world.stack.public_keys_file, json.dumps(registered).encode())

    def put_secret(self, text: str) -> str:
        """A new current version of the partner's secret."""
        try:
            answer = self.world.secrets.put_secret_value(SecretId=self.secret_name, SecretString=text)
        except self.world.secrets.exceptions.ResourceNotFoundException:
            answer = self.world.secrets.create_secret(Name=self.secret_name, SecretString=text)
        return str(answer["VersionId"])

    def secret_text(self) -> str:
        """The current version's value; nothing where there is none."""
        try:
            return str(self.world.secrets.get_secret_value(SecretId=self.secret_name)["SecretString"])
        except self.world.secrets.exceptions.ResourceNotFoundException:
            return ""

    def delete_secret(self) -> None:
        self.world.secrets.delete_secret(SecretId=self.secret_name, ForceDeleteWithoutRecovery=True)

    def published(self, code: str, year: int = 2026) -> bytes | None:
        """What the consumer reads."""
        return self._get(stable_key(self.tenant(code), year))

    def etag(self, code: str, year: int = 2026) -> tuple[str, Any] | None:
        """ETag and time of what the consumer reads: whether anybody touched it."""
        try:
            head = self.world.s3.head_object(Bucket=BUCKET, Key=stable_key(self.tenant(code), year))
        except self.world.s3.exceptions.ClientError:
            return None
        return head["ETag"], head["LastModified"]

    def pointer(self, code: str) -> Pointer | None:
        key = pointer_key(self.tenant(code))
        document = self._get(key)
        return None if document is None else Pointer.from_json(key, document)

    def manifest(self, code: str) -> Manifest:
        pointer = self.pointer(code)
        assert pointer is not None
        key = manifest_key(self.tenant(code), pointer.sha256)
        document = self._get(key)
        assert document is not None
        return Manifest.from_json(key, document)

    def object_keys(self) -> list[str]:
        """Every key of the partner in the bucket."""
        listed: list[str] = []
        for prefix in ("__rosters/", "__roster_snapshots/"):
            pages = self.world.s3.get_paginator("list_objects_v2").paginate(
                Bucket=BUCKET, Prefix=f"{prefix}{self.partner_id}/"
            )
            listed += [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return listed

    def pending_uploads(self) -> list[str]:
        answer = self.world.s3.list_multipart_uploads(Bucket=BUCKET, Prefix=f"__roster_snapshots/{self.partner_id}/")
        return [upload["Key"] for upload in answer.get("Uploads", ())]

    def change_index(self, code: str, **changes: Any) -> None:
        """Other members of a tenant's entry in the stored index: time passed, or somebody wrote it."""
        key = index_key(self.partner_id)
        document = json.loads(self._get(key) or b"")
        for entry in document["tenants"]:
            if entry["tenant_code"] == code:
                entry |= changes
        self.world.s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(document).encode())

    def _get(self, key: str) -> bytes | None:
        try:
            return bytes(self.world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        except self.world.s3.exceptions.NoSuchKey:
            return None


def definitions() -> dg.Definitions:
    """The code location for the environment as it is now."""
    load_settings.cache_clear()
    return build_definitions(load_settings())


def bring_in_line(instance: dg.DagsterInstance) -> None:
    """Partitions as the registry has them; other tests' partners come and go."""
    load_settings.cache_clear()
    # The database alone: all of the run's resources take as long as a quarter of the run.
    with (
        build_application_database(load_settings()).process_config_and_initialize_cm() as database,
        database.connection() as connection,
    ):
        registry = read_registry(connection, include_switched_off=load_settings().rosters.without_toggle)
    sync_partitions(instance, registry, allow_mass_removal=True)


def run_partner(
    instance: dg.DagsterInstance, partner: TestPartner, *, bring_partitions_in_line: bool = True
) -> dg.ExecuteInProcessResult:
    """`partner_rosters_job` for the partner, in this process."""
    if bring_partitions_in_line:
        bring_in_line(instance)
    job = definitions().resolve_job_def("partner_rosters_job")
    return job.execute_in_process(instance=instance, partition_key=partner.partner_id, raise_on_error=False)


def partner_rosters() -> dg.JobDefinition:
    """For `reconstructable`: a re-execution is given its job by name."""
    return definitions().resolve_job_def("partner_rosters_job")


def reexecute(
    instance: dg.DagsterInstance, run_id: str, *, from_failure: bool = True, copy_tags: bool = False
) -> dg.JobExecutionResult:
    """The run again, from its failure or all of it, as the UI's two buttons do (which copy the tags)."""
    parent_only = dg.ReexecutionOptions(parent_run_id=run_id)
    options = dg.ReexecutionOptions.from_failure(run_id, instance) if from_failure else parent_only
    parent = instance.get_run_by_id(run_id)
    assert parent is not None
    return dg.execute_job(
        dg.reconstructable(partner_rosters),
        instance=instance,
        tags=(dict(parent.tags) if copy_tags else {"dagster/partition": parent.tags["dagster/partition"]})
        | ({"dagster/is_resume_retry": "true"} if from_failure else {}),
        reexecution_options=options,
    )


def run_tenants(
    instance: dg.DagsterInstance, partner: TestPartner, *codes: str, bring_partitions_in_line: bool = True
) -> dg.ExecuteInProcessResult:
    """`rosters/cross_year_roster` materialized directly, for the range from the first to the last code."""
    if bring_partitions_in_line:
        bring_in_line(instance)
    job = definitions().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(["rosters", "cross_year_roster"])],
        tags={
            "dagster/asset_partition_range_start": partner.tenant(codes[0]).key,
            "dagster/asset_partition_range_end": partner.tenant(codes[-1]).key,
        },
        raise_on_error=False,
    )


def materialized(result: dg.ExecuteInProcessResult | dg.JobExecutionResult, name: str) -> list[str]:
    """Partitions of ``rosters/<name>`` that a run materialized."""
    return sorted(
        str(event.partition)
        for event in result.all_events
        if event.event_type_value == "ASSET_MATERIALIZATION" and event.asset_key == dg.AssetKey(["rosters", name])
    )


def failed_checks(result: dg.ExecuteInProcessResult) -> set[tuple[str, str]]:
    """(partition, check) of every failed check of a tenant's roster that blocks."""
    return {
        (str(e.partition), e.check_name)
        for e in result.get_asset_check_evaluations()
        if not e.passed
        and e.severity is dg.AssetCheckSeverity.ERROR
        and e.asset_key == dg.AssetKey(["rosters", "cross_year_roster"])
    }


def everything_logged(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    """Every word that a run left in Dagster's event log."""
    entries = instance.all_logs(result.run_id)
    run = instance.get_run_by_id(result.run_id)
    return "\n".join([dg.serialize_value(entry) for entry in entries] + [dg.serialize_value(run)])


def write_parquet(path: Path, table: pa.Table) -> None:
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.rename(path)


def replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.rename(path)
