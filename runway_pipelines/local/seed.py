"""Loads the synthetic data set into the local stack: application database, secrets, warehouse files, partners' keys.

Belongs here: writing, so that a second run changes nothing. What is written is decided in `partners.py` and
`dataset.py`; where to is an argument: nothing here reads the environment or knows a port.
"""

import base64
import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runway_pipelines.credentials.edu_connection import partner_secret_name
from runway_pipelines.local import child_names, dataset, draws
from runway_pipelines.local.partners import Partner, synthetic_partners

# Years that the application knows: those of the data, and one that no partner has configured.
_REGISTERED_YEARS = (*dataset.SCHOOL_YEARS, dataset.SCHOOL_YEARS[-1] + 1)
_DELETED_ON = datetime.fromisoformat("2025-07-01T12:00:00")  # the column has no time zone
_MARKER = "data_set_version"

# Source: the cross-year roster contract, section 5.
_TABLES: tuple[LiteralString, ...] = (
    "create table if not exists partner (id varchar primary key, name varchar, "
    "cross_year_matching_enabled boolean not null default false, deleted_on timestamp)",
    "create table if not exists tenant (code varchar, partner_id varchar, is_global boolean not null default false, "
    "deleted_on timestamp, primary key (code, partner_id))",
    "create table if not exists school_year (id varchar primary key, start_year int, end_year int)",
    "create table if not exists school_year_config (partner_id varchar, school_year_id varchar, is_enabled boolean, "
    "send_to_ods boolean default true, primary key (partner_id, school_year_id))",
    "create table if not exists job (id int primary key, partner_id varchar, tenant_code varchar)",
    "create table if not exists run (id int primary key, job_id int)",
)
# The last condition leaves an unchanged row alone: it is not counted, and gets no new version.
_UPSERTS: dict[str, LiteralString] = {
    "partner": "insert into partner as t (id, name, cross_year_matching_enabled, deleted_on) values (%s, %s, %s, %s) "
    "on conflict (id) do update set name = excluded.name, deleted_on = excluded.deleted_on, "
    "cross_year_matching_enabled = excluded.cross_year_matching_enabled "
    "where (t.name, t.cross_year_matching_enabled, t.deleted_on) is distinct from "
    "(excluded.name, excluded.cross_year_matching_enabled, excluded.deleted_on)",
    "tenant": "insert into tenant as t (code, partner_id, is_global, deleted_on) values (%s, %s, %s, %s) "
    "on conflict (code, partner_id) do update set is_global = excluded.is_global, deleted_on = excluded.deleted_on "
    "where (t.is_global, t.deleted_on) is distinct from (excluded.is_global, excluded.deleted_on)",
    "school_year": "insert into school_year as t (id, start_year, end_year) values (%s, %s, %s) "
    "on conflict (id) do update set start_year = excluded.start_year, end_year = excluded.end_year "
    "where (t.start_year, t.end_year) is distinct from (excluded.start_year, excluded.end_year)",
    "school_year_config": "insert into school_year_config as t (partner_id, school_year_id, is_enabled, send_to_ods) "
    "values (%s, %s, %s, %s) on conflict (partner_id, school_year_id) do update "
    "set is_enabled = excluded.is_enabled, send_to_ods = excluded.send_to_ods "
    "where (t.is_enabled, t.send_to_ods) is distinct from (excluded.is_enabled, excluded.send_to_ods)",
    "job": "insert into job as t (id, partner_id, tenant_code) values (%s, %s, %s) "
    "on conflict (id) do update set partner_id = excluded.partner_id, tenant_code = excluded.tenant_code "
    "where (t.partner_id, t.tenant_code) is distinct from (excluded.partner_id, excluded.tenant_code)",
    "run": "insert into run as t (id, job_id) values (%s, %s) on conflict (id) do update set job_id = excluded.job_id "
    "where t.job_id is distinct from excluded.job_id",
}


def seed(
    state_dir: Path,
    *,
    connection: psycopg.Connection[Any],
    secrets_client: Any,
    envlabel: str,
) -> None:
    """Bring all of it into being: `<state_dir>/partner_keys/`, `public_keys.json` and `warehouse/`, rows and secrets.

    Keys and data come first: a partner whose secret is seen can be connected to.
    """
    partners = synthetic_partners()
    keys = partner_keys(state_dir / "partner_keys", public_keys_file=state_dir / "public_keys.json", partners=partners)
    write_warehouse(state_dir / "warehouse", partners=partners)
    seed_secrets(secrets_client, envlabel, keys, partners=partners)
    seed_application_database(connection, partners=partners)


def school_year_id(school_year: int) -> str:
    """The application's ID of a school year: `2526` for 2026 (2025-26)."""
    return f"{(school_year - 1) % 100:02d}{school_year % 100:02d}"


def application_rows(partners: Sequence[Partner]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each table, in the order of its columns in the contract.

    A partner has a configuration for each year of the data; those that it has not enabled are there as disabled
    no-ODS years. Each tenant has one job with one run, which have the same ID.
    """
    tenants = [(partner, tenant) for partner in partners for tenant in partner.tenants]
    configs: list[tuple[Any, ...]] = []
    for partner in partners:
        enabled = dict(partner.enabled_years)
        configs += [
            (partner.partner_id, school_year_id(year), year in enabled, enabled.get(year, False))
            for year in sorted({*dataset.SCHOOL_YEARS, *enabled})
        ]
    return {
        "partner": [
            (partner.partner_id, partner.name, partner.cross_year_matching_enabled, _deleted_on(partner.deleted))
            for partner in partners
        ],
        "tenant": [
            (tenant.code, partner.partner_id, tenant.is_global, _deleted_on(tenant.deleted))
            for partner, tenant in tenants
        ],
        "school_year": [(school_year_id(year), year - 1, year) for year in _REGISTERED_YEARS],
        "school_year_config": configs,
        "job": [(job, partner.partner_id, tenant.code) for job, (partner, tenant) in enumerate(tenants, start=1)],
        "run": [(run, run) for run, _ in enumerate(tenants, start=1)],
    }


def _deleted_on(deleted: bool) -> datetime | None:
    return _DELETED_ON if deleted else None


def seed_application_database(conn: psycopg.Connection[Any], *, partners: Sequence[Partner] | None = None) -> int:
    """Create the application's tables where they are missing, upsert the rows, and say how many rows changed.

    One transaction of its own, or a part of the caller's when there is one open. All other rows stay.
    """
    changed = 0
    rows_of_table = application_rows(synthetic_partners() if partners is None else partners)
    with conn.transaction(), conn.cursor() as cursor:
        for statement in _TABLES:
            cursor.execute(statement)
        for table, rows in rows_of_table.items():
            if rows:
                cursor.executemany(_UPSERTS[table], rows)
                changed += cursor.rowcount
    return changed


def connection_secret(partner: Partner, private_key: str) -> str:
    """The JSON of a partner's secret, as the credentials contract has it; `private_key` is the text of a PEM."""
    fields = {
        "username": partner.user,
        "account": partner.account,
        "database": partner.database,
        "schema": partner.schema,
        "privateKey": base64.b64encode(private_key.encode()).decode(),
    }
    optional = {"warehouse": partner.warehouse, "role": partner.role}
    return json.dumps({**fields, **{field: value for field, value in optional.items() if value is not None}})


def seed_secrets(
    client: Any, envlabel: str, keys: Mapping[str, str], *, partners: Sequence[Partner] | None = None
) -> tuple[str, ...]:
    """Create or correct the partners' secrets, and return the partner_id of those that were written.

    `client` speaks to Secrets Manager, `keys` is what `partner_keys` returns. A secret with the right value gets no new
    version: that would be a rotation. One that is pending deletion is restored.
    """
    written = []
    for partner in synthetic_partners() if partners is None else partners:
        if not partner.has_secret:
            continue
        name = partner_secret_name(envlabel, partner.partner_id)
        wanted = connection_secret(partner, keys[partner.partner_id])
        try:
            if client.describe_secret(SecretId=name).get("DeletedDate"):
                client.restore_secret(SecretId=name)
            found = client.get_secret_value(SecretId=name, VersionStage="AWSCURRENT").get("SecretString")
        except client.exceptions.ResourceNotFoundException:
            client.create_secret(Name=name, SecretString=wanted)
        else:
            if found == wanted:
                continue
            client.put_secret_value(SecretId=name, SecretString=wanted)
        written.append(partner.partner_id)
    return tuple(written)


def write_warehouse(directory: Path, *, partners: Sequence[Partner] | None = None) -> bool:
    """Write `<directory>/<ACCOUNT>/<DATABASE>/<SCHEMA>/<table>.parquet`, unless this version of the data set is there.

    One file for each table of a partner, with all of its tenants, one row group each; names of folders in upper case,
    as Snowflake folds them. Returns whether anything was written. The marker is removed first and written last, so that
    an interrupted run's work is done again.
    """
    partners = synthetic_partners() if partners is None else partners
    marker, version = directory / _MARKER, data_set_version(partners)
    if marker.exists() and marker.read_text().strip() == version:
        return False
    forget_version(directory)
    for partner in partners:
        folder = warehouse_folder(directory, partner)
        folder.mkdir(parents=True, exist_ok=True)
        for table, generate in (
            (dataset.ASSOCIATIONS, dataset.associations),
            (dataset.IDENTIFICATION_CODES, dataset.identification_codes),
            (dataset.STUDENTS, dataset.students),
            (dataset.SCHOOLS, dataset.schools),
        ):
            tables = (generate(partner, tenant) for tenant in partner.tenants)
            write_parquet(folder / f"{table}.parquet", dataset.SCHEMAS[table], tables)
    with replacing(marker) as temporary:
        temporary.write_text(version + "\n")
    return True


def warehouse_folder(directory: Path, partner: Partner) -> Path:
    """Where the files of a partner's tables are; its names in upper case, as Snowflake folds them."""
    return directory.joinpath(partner.account.upper(), partner.database.upper(), partner.schema.upper())


def forget_version(directory: Path) -> None:
    """Have the next `write_warehouse` write everything anew."""
    (directory / _MARKER).unlink(missing_ok=True)


def data_set_version(partners: Sequence[Partner]) -> str:
    """A digest of everything that decides the rows: the generator's own source and the partners."""
    digest = hashlib.sha256()
    for module in (child_names, dataset, draws):
        digest.update(inspect.getsource(module).encode())
    digest.update(repr(tuple(partners)).encode())
    return digest.hexdigest()


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Replace the file by one that has the tables, one row group each."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for table in tables:
            writer.write_table(table)


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """A file beside `path` that takes its place at the end: readers see the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        # Created with its permissions: a private key is not readable by others even for a moment.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def partner_keys(
    directory: Path, *, public_keys_file: Path | None = None, partners: Sequence[Partner] | None = None
) -> dict[str, str]:
    """The private key of each partner (text of an unencrypted PKCS#8 PEM), made on the first call and kept after it.

    Private keys are `<directory>/<partner_id>.pem` (0600). The public halves are added to `public_keys_file`
    (`<directory>/public_keys.json` unless told), {"ACCOUNT.USER": [PEM, ...]}: what Snowflake would have registered.
    Keys that somebody else has registered there since, as a rotation does, stay.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    private_keys, registered = {}, {}
    for partner in synthetic_partners() if partners is None else partners:
        path = directory / f"{partner.partner_id}.pem"
        if not path.exists():
            with replacing(path, mode=0o600) as temporary:
                temporary.write_bytes(new_private_key())
        private_keys[partner.partner_id] = path.read_text()
        registered[f"{partner.account}.{partner.user}".upper()] = public_half(path)
    register_public_keys(public_keys_file or directory / "public_keys.json", registered)
    return private_keys


def register_public_keys(path: Path, registered: Mapping[str, str]) -> None:
    """Add public keys ({"ACCOUNT.USER": PEM}) to those that the accounts know."""
    known: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}
    wanted = {**known}
    for principal, public_key in registered.items():
        if public_key not in known.get(principal, []):
            wanted[principal] = [*known.get(principal, []), public_key]
    if wanted != known or not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1) + "\n")


def new_private_key() -> bytes:
    """An unencrypted PKCS#8 PEM."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_half(path: Path) -> str:
    """The PEM of a private key's public half."""
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()
