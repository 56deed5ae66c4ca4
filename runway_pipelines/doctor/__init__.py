"""Everything that the pipeline depends on, tried over the real protocols: ``runway-pipelines doctor``.

Each area has a module with one small check for each thing, and what to do where it fails; what belongs here is their
order. How findings are shown is the command line's affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

from runway_pipelines.doctor.bucket import PROBE_FOLDER, examine_bucket
from runway_pipelines.doctor.dagster_instance import DAGSTER_CHECKS, examine_dagster, seen_daemons
from runway_pipelines.doctor.findings import (
    ALL_CHECKS,
    Finding,
    Seen,
    Status,
    document,
    examined,
    finding,
    is_healthy,
    seen_error,
    skipped,
)
from runway_pipelines.doctor.identity import examine_identity
from runway_pipelines.doctor.partners import (
    DATABASE_CHECKS,
    PARTNER_CHECKS,
    examine_database,
    examine_partner,
    examine_partners,
    see_secrets_list,
    seen_partner,
    seen_registry,
)
from runway_pipelines.doctor.stores import OtherStores, examine_stores

if TYPE_CHECKING:
    from runway_pipelines.identity.services import IdentityServices
    from runway_pipelines.rosters.services import RosterServices
    from runway_pipelines.settings import Settings

__all__ = [
    "DAGSTER_CHECKS",
    "DATABASE_CHECKS",
    "PARTNER_CHECKS",
    "PROBE_FOLDER",
    "SUBJECTS",
    "Finding",
    "OtherStores",
    "Seen",
    "Status",
    "diagnose",
    "document",
    "examine",
    "examine_bucket",
    "examine_dagster",
    "examine_partners",
    "is_healthy",
    "seen_daemons",
    "seen_error",
    "seen_partner",
    "seen_registry",
]
SUBJECTS = (
    "application database",
    "bucket",
    "Secrets Manager",
    "partners",
    "LML",
    "catalogue",
    "Redis",
    "MongoDB",
    "Dagster",
)


def diagnose(
    open_services: Callable[[], AbstractContextManager[tuple[RosterServices, IdentityServices]]],
    partner_id: str | None = None,
    open_stores: Callable[[], OtherStores] = OtherStores,
) -> Iterator[Finding]:
    """`examine` the services that ``open_services`` gives; where it cannot, say why and skip everything else."""
    started = time.monotonic()
    with ExitStack() as opened:
        try:
            services, identity = opened.enter_context(open_services())
        except Exception as error:  # noqa: BLE001 - whatever keeps us from the services is what the doctor is to say
            yield finding("settings", "load", seen_error(error), started)
            yield from (skipped(subject, ALL_CHECKS, "load failed") for subject in SUBJECTS)
            return
        yield examined("settings", "load", _see_settings)
        yield from examine(services, identity, partner_id, open_stores())


def examine(
    services: RosterServices,
    identity: IdentityServices,
    partner_id: str | None = None,
    stores: OtherStores | None = None,
) -> Iterator[Finding]:
    """Everything outside, in turn; of the partners all that the registry has, or ``partner_id`` alone."""
    registry = yield from examine_database(services)
    yield from examine_bucket(services.store)
    yield examined("Secrets Manager", "list", lambda: see_secrets_list(services.secrets))
    if partner_id is not None:
        yield from examine_partner(services, registry, partner_id)
    elif registry is None:
        yield skipped("partners", ALL_CHECKS, "the registry could not be read")
    else:
        yield from examine_partners(services, registry)
    yield from examine_identity(identity)
    yield from examine_stores(stores or OtherStores())
    yield from examine_dagster(_settings().dagster.home)


def _settings() -> Settings:
    from runway_pipelines.settings import load_settings

    return load_settings()


def _see_settings() -> Seen:
    settings = _settings()
    return Seen(
        Status.OK,
        f"environment {settings.general.env}, ENVLABEL {settings.general.envlabel or 'not set'}, region {settings.aws.region}",
    )
