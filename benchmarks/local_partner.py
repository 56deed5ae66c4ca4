"""A partner on an embedded stack of its own, in a temporary folder: what the benchmarks with servers run against."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import boto3
import psycopg

from runway_pipelines.local.partners import Partner, Tenant
from runway_pipelines.local.seed import partner_keys, seed_application_database, seed_secrets
from runway_pipelines.local.stack import APP_DATABASE, EmbeddedStack
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services

CHECKOUT = Path(__file__).parents[1]
SCHOOL_YEAR = 2026


def partner_with(tenants: tuple[Tenant, ...], partner_id: str = "benchmark") -> Partner:
    """A partner with one enabled school year without an ODS."""
    return Partner(
        partner_id=partner_id,
        name="Benchmark Cooperative",
        account=f"synth-{partner_id}",
        user="RUNWAY_ROSTER_BENCHMARK",
        database="BENCHMARK_EDU",
        schema="PROD_STAGE",
        warehouse=None,
        role=None,
        tenants=tenants,
        enabled_years=((SCHOOL_YEAR, False),),
    )


@contextmanager
def stack_with(*partners: Partner) -> Iterator[EmbeddedStack]:
    """The stack with the partners registered, this process and its children pointed at it; the warehouses are empty.

    The caller fills the warehouse before anybody logs in.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True) as folder:
        try:
            with EmbeddedStack(Path(folder)) as stack:
                os.environ.update(stack.environment())
                os.environ["DAGSTER_HOME"] = str(_dagster_home(stack))
                _register(stack, partners)
                yield stack
        finally:
            os.environ.clear()
            os.environ.update(before)


def warehouse_folder(stack: EmbeddedStack, partner: Partner) -> Path:
    """Where the partner's tables are, one parquet file each."""
    names = (partner.account.upper(), partner.database.upper(), partner.schema.upper())
    folder = stack.warehouse_dir.joinpath(*names)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def key_file(stack: EmbeddedStack, partner: Partner) -> Path:
    """The partner's private key."""
    return stack.state_dir / "partner_keys" / f"{partner.partner_id}.pem"


@contextmanager
def roster_services() -> Iterator[RosterServices]:
    """The pipeline's own services, wired from the environment."""
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        yield services


def forget_rosters(services: RosterServices) -> None:
    """Empty the bucket, so that the next snapshot is a first one."""
    services.store.delete(list(services.store.list_keys("__roster")))


def _dagster_home(stack: EmbeddedStack) -> Path:
    home = stack.state_dir / "dagster_home"
    home.mkdir(mode=0o700)
    shutil.copyfile(CHECKOUT / "dagster.yaml", home / "dagster.yaml")
    return home


def _register(stack: EmbeddedStack, partners: Sequence[Partner]) -> None:
    folder = stack.state_dir / "partner_keys"
    keys = partner_keys(folder, public_keys_file=stack.public_keys_file, partners=partners)
    seed_secrets(boto3.client("secretsmanager"), os.environ["ENVLABEL"], keys, partners=partners)
    with psycopg.connect(stack.postgres.dsn(APP_DATABASE)) as connection:
        seed_application_database(connection, partners=partners)
