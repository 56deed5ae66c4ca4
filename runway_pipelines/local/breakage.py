"""Mishaps made to happen on the embedded stack, and undone: for practice, and for the demo.

Belongs here: writing. What a mishap makes of the rows is in `mishaps.py`. Any process may write while the stack runs:
the local Snowflake loads a changed file at the next login, and the secrets are behind the local AWS API. Rows are made
from the seeded ones, so a mishap that is repeated is still the same mishap. The next start of the stack undoes all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from botocore.config import Config

from runway_pipelines.credentials.edu_connection import partner_secret_name
from runway_pipelines.local import dataset
from runway_pipelines.local.mishaps import (
    Tables,
    borrowed_codes,
    few_students,
    no_rows,
    other_partner,
    seeded_rows,
    stand_in,
    tenants_with_students,
    under_code,
)
from runway_pipelines.local.partners import Partner, Tenant
from runway_pipelines.local.processes import StateLock
from runway_pipelines.local.seed import (
    connection_secret,
    forget_version,
    new_private_key,
    partner_keys,
    seed_secrets,
    warehouse_folder,
    write_parquet,
)


@dataclass(frozen=True)
class Practice:
    """The stack to practise on: its folder, its secrets, and who is in it."""

    state_dir: Path
    secrets_client: Any
    envlabel: str
    partners: Sequence[Partner]


@dataclass(frozen=True)
class Mended:
    """What differed from the seeded state and was put right.

    ``tenants`` (PARTNER/TENANT) had other rows, and ``secrets`` (PARTNER) another value. ``lent_codes``
    (PARTNER/TENANT) were in the warehouse of a partner that has no such tenant.
    """

    tenants: tuple[str, ...] = ()
    lent_codes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    def __add__(self, other: "Mended") -> "Mended":
        return Mended(self.tenants + other.tenants, self.lent_codes + other.lent_codes, self.secrets + other.secrets)

    @property
    def partner_ids(self) -> tuple[str, ...]:
        """The partners whose rosters show it."""
        return tuple(sorted({*self.secrets, *(name.partition("/")[0] for name in self.tenants)}))


def is_stack_running(state_dir: Path) -> bool:
    """Whether a process runs the stack of this folder, or starts or stops it."""
    if not state_dir.is_dir():
        return False
    lock = StateLock(state_dir)
    holder = lock.try_acquire()
    lock.release()
    return holder is not None


def local_secrets(environment: Mapping[str, str]) -> Any:
    """A client of the stack whose environment this is, and of no other, whatever else configures AWS here."""
    return boto3.client(
        "secretsmanager",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(proxies={}),
    )


def mass_loss(practice: Practice, partner: Partner, tenant: Tenant) -> int:
    """Leave one student in twenty of the tenant in the warehouse; returns how many those are."""
    rows = few_students(seeded_rows(partner, tenant))
    _replace_rows(practice, partner, {tenant.code: rows})
    ids = pc.unique(rows[dataset.ASSOCIATIONS]["student_unique_id"]).to_pylist()
    return sum(1 for one in ids if one)


def empty(practice: Practice, partner: Partner, tenant: Tenant) -> None:
    """Take every row of the tenant out of the warehouse."""
    _replace_rows(practice, partner, {tenant.code: no_rows()})


def unknown_key(practice: Practice, partner: Partner) -> str:
    """Put a new private key, which the warehouse does not know, into the secret; returns the version id."""
    return _put_secret(practice, partner, connection_secret(partner, new_private_key().decode()))


def wrong_warehouse(practice: Practice, partner: Partner, tenants: Sequence[Tenant]) -> Partner:
    """Put another partner's connection into the secret; returns that partner.

    Its warehouse has students of its own under the tenants' codes: those that it has anyway, or copies of the rows of
    one of its tenants.
    """
    other = other_partner(partner, {tenant.code for tenant in tenants}, practice.partners)
    missing = [tenant for tenant in tenants if tenant.code in borrowed_codes(partner, other)]
    rows = {tenant.code: under_code(seeded_rows(other, stand_in(other, tenant)), tenant.code) for tenant in missing}
    _replace_rows(practice, other, rows)
    # Take the key from its file: the other partner's secret may be broken too.
    _put_secret(practice, partner, connection_secret(other, _keys(practice, other)[other.partner_id]))
    return other


def mend(practice: Practice, partner: Partner, tenant: Tenant | None = None) -> Mended:
    """Make the warehouse and the secret what seeding makes them, for one tenant or all of the partner's.

    What is right stays: a secret gets a new version only if its value is wrong. The data comes first, because a new
    version of the secret is followed by a refresh.
    """
    tenants = tenants_with_students(partner) if tenant is None else (tenant,)
    own = _replace_rows(practice, partner, {one.code: seeded_rows(partner, one) for one in tenants})
    codes = {one.code for one in tenants}
    lent: list[str] = []
    for other in practice.partners:
        lent += _replace_rows(practice, other, dict.fromkeys(sorted(codes & borrowed_codes(partner, other)), no_rows()))
    keys = _keys(practice, partner)
    secrets = seed_secrets(practice.secrets_client, practice.envlabel, keys, partners=[partner])
    return Mended(tuple(own), tuple(lent), secrets)


def _keys(practice: Practice, partner: Partner) -> dict[str, str]:
    state_dir = practice.state_dir
    return partner_keys(state_dir / "partner_keys", public_keys_file=state_dir / "public_keys.json", partners=[partner])


def _put_secret(practice: Practice, partner: Partner, text: str) -> str:
    name = partner_secret_name(practice.envlabel, partner.partner_id)
    return str(practice.secrets_client.put_secret_value(SecretId=name, SecretString=text)["VersionId"])


def _replace_rows(practice: Practice, partner: Partner, wanted: Mapping[str, Tables]) -> list[str]:
    """Give tenants (by code) these rows in the partner's warehouse; returns PARTNER/TENANT of those that it changed.

    A file that is right is not written. The next start of the stack writes all of them, as it does after a seeding that
    was interrupted.
    """
    if not wanted:
        return []
    changed: set[str] = set()
    for name, schema in dataset.SCHEMAS.items():
        path = warehouse_folder(practice.state_dir / "warehouse", partner) / f"{name}.parquet"
        with pq.ParquetFile(path) as file:
            found = file.read()
        different = {
            code: tables[name] for code, tables in wanted.items() if not _of_tenant(found, code).equals(tables[name])
        }
        if different:
            forget_version(practice.state_dir / "warehouse")
            write_parquet(path, schema, _in_order(partner, found, different))
        changed |= different.keys()
    return [f"{partner.partner_id}/{code}" for code in wanted if code in changed]


def _in_order(partner: Partner, found: pa.Table, different: Mapping[str, pa.Table]) -> list[pa.Table]:
    """Each tenant's rows, in the order of the partner's tenants, as seeding writes them; then those of other codes."""
    own = [tenant.code for tenant in partner.tenants]
    foreign = sorted({*pc.unique(found["tenant_code"]).to_pylist(), *different} - {*own})
    rows = {code: different[code] if code in different else _of_tenant(found, code) for code in (*own, *foreign)}
    return [table for code, table in rows.items() if code in own or len(table)]


def _of_tenant(table: pa.Table, code: str) -> pa.Table:
    return table.filter(pc.equal(table["tenant_code"], code)).combine_chunks()
