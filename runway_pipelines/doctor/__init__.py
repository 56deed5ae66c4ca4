"""Tries everything that the pipeline depends on over the real protocols: ``runway-pipelines doctor``.

A module per area has its checks, each with a fix for its failure. This one has their order; the command line shows the
findings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

from runway_pipelines.doctor.bucket import examine_bucket
from runway_pipelines.doctor.dagster_instance import examine_dagster
from runway_pipelines.doctor.findings import (
    ALL_CHECKS,
    CheckStatus,
    Finding,
    Seen,
    examined,
    finding,
    seen_error,
    skipped,
)
from runway_pipelines.doctor.identity import examine_identity
from runway_pipelines.doctor.partners import examine_database, examine_partner, examine_partners, see_secrets_list
from runway_pipelines.doctor.stores import OtherStores, examine_stores

if TYPE_CHECKING:
    from runway_pipelines.identity.services import IdentityServices
    from runway_pipelines.rosters.services import RosterServices
    from runway_pipelines.settings import Settings

SUBJECTS = (
    "application database", "bucket", "Secrets Manager", "partners", "LML", "catalogue", "Redis", "MongoDB", "Dagster"
)  # fmt: skip


def diagnose(
    open_services: Callable[[], AbstractContextManager[tuple[RosterServices, IdentityServices]]],
    partner_id: str | None = None,
    open_stores: Callable[[], OtherStores] = OtherStores,
) -> Iterator[Finding]:
    """Examine every dependency; with ``partner_id``, that partner alone. Without services, skip everything else."""
    started = time.monotonic()
    with ExitStack() as opened:
        try:
            services, identity = opened.enter_context(open_services())
        except Exception as error:  # noqa: BLE001 - any error here is the doctor's finding
            yield finding("settings", "load", seen_error(error), started)
            yield from (skipped(subject, ALL_CHECKS, "load failed") for subject in SUBJECTS)
            return
        yield examined("settings", "load", _see_settings)
        registry = yield from examine_database(services)
        yield from examine_bucket(services.store)
        yield examined("Secrets Manager", "list", lambda: see_secrets_list(services.secrets))
        if partner_id is not None:
            yield from examine_partner(services, registry, partner_id)
        elif registry is None:
            yield skipped("partners", ALL_CHECKS, "the registry is unreadable")
        else:
            yield from examine_partners(services, registry)
        yield from examine_identity(identity)
        yield from examine_stores(open_stores())
        yield from examine_dagster(_settings().dagster.home)


def _settings() -> Settings:
    from runway_pipelines.settings import load_settings

    return load_settings()


def _see_settings() -> Seen:
    settings = _settings()
    envlabel = settings.general.envlabel or "not set"
    return Seen(
        CheckStatus.OK, f"environment {settings.general.env}, ENVLABEL {envlabel}, region {settings.aws.region}"
    )
