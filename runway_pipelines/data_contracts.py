"""Every name and path that the pipeline uses, in one place: for docs/data-contracts.md and for an IAM policy.

Names are made where they are used (`data_stores`, `rosters`, `credentials`); what belongs here brings them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runway_pipelines.credentials.edu_connection import secret_name
from runway_pipelines.data_stores import mongo
from runway_pipelines.data_stores.iam_policy import PostgresUser, Scope, policy_document
from runway_pipelines.data_stores.page import contracts_page
from runway_pipelines.data_stores.vocabulary import Role, parse_env
from runway_pipelines.errors import ConfigurationError
from runway_pipelines.partner_tenants.keys import PartnerTenant, checked_part
from runway_pipelines.rosters import manifest
from runway_pipelines.settings import Settings

_TENANT = PartnerTenant("acme", "ashford")
_SHA256 = "{sha256}"


@dataclass(frozen=True)
class PolicyOptions:
    """What a policy is made of beside the settings; without ``partners``, the secrets of all of them.

    ``with_owner`` lets connect as the owner of the catalogue too, for whoever runs the migration.
    """

    account: str
    partition: str = "aws"
    partners: Sequence[str] = ()
    db_resource_ids: Sequence[str] = ()
    more_db_users: Sequence[str] = ()
    more_secrets: Sequence[str] = ()
    kms_keys: Sequence[str] = ()
    with_owner: bool = False


def page() -> str:
    """docs/data-contracts.md."""
    return contracts_page(
        [
            ("secret of a partner", f"`{secret_name('{ENVLABEL}', '{partner_id}')}`", "EDU connection info, as JSON"),
            ("published roster", f"`{manifest.stable_key(_TENANT, 2026)}`", "what Runway reads"),
            ("snapshot", f"`{manifest.snapshot_key(_TENANT, _SHA256)}`", "a roster that was ever published"),
            ("manifest", f"`{manifest.manifest_key(_TENANT, _SHA256)}`", "the snapshot, in numbers"),
            ("pointer", f"`{manifest.pointer_key(_TENANT)}`", "which snapshot is published"),
            ("index", f"`{manifest.index_key(_TENANT.partner_id)}`", "the partner's tenants"),
        ]
    )


def policy(settings: Settings, options: PolicyOptions) -> dict[str, Any]:
    """What the pipeline's role may do, with these settings; raises `ConfigurationError` where a name is missing."""
    return policy_document(
        Scope(
            account=options.account,
            region=settings.aws_region,
            partition=options.partition,
            partner_secrets=_partner_secrets(settings, options.partners),
            named_secrets=(settings.stream_token_secret,) if settings.stream_token_secret else (),
            bucket=settings.bucket,
            bucket_prefixes=(manifest.ROSTERS_PREFIX, manifest.SNAPSHOTS_PREFIX),
            event_bus=settings.event_bus,
            env=parse_env(settings.stores_env) if settings.stores_env else None,
            postgres_users=tuple(_postgres_users(settings, with_owner=options.with_owner)),
            more_db_users=tuple(options.more_db_users),
            db_resource_ids=tuple(options.db_resource_ids),
            redis_service=settings.redis_service,
            mongo_env=mongo.parse_env(place) if (place := mongo_place(settings)) else None,
            mongo_project=settings.mongo_project,
            more_secrets=tuple(options.more_secrets),
            kms_keys=tuple(options.kms_keys),
        )
    )


def mongo_place(settings: Settings) -> str | None:
    """The environment whose MongoDB is meant, or None where there is none."""
    return settings.mongo_env or settings.stores_env if settings.mongo_project else None


def _partner_secrets(settings: Settings, partners: Sequence[str]) -> tuple[str, ...]:
    if not settings.envlabel:
        raise ConfigurationError(
            expected="the variable ENVLABEL (dev, stg or prod)",
            came="no value",
            remedy="set ENVLABEL: partners' secrets begin with it",
        )
    if not partners:
        return (secret_name(settings.envlabel, "*"),)
    return tuple(secret_name(settings.envlabel, checked_part("partner_id", partner)) for partner in partners)


def _postgres_users(settings: Settings, *, with_owner: bool) -> list[PostgresUser]:
    """Those that are found by their service; at a plain host nobody asks IAM."""
    users: list[PostgresUser] = []
    if settings.app_db_service and settings.given("app_db_host") is None:
        role, username = Role(settings.app_db_role), settings.given("app_db_user")
        users.append(PostgresUser(settings.app_db_service, role, settings.app_db_db_id, username))
    if settings.catalogue_db_service and settings.given("catalogue_db_host") is None:
        service, db_id = settings.catalogue_db_service, settings.catalogue_db_db_id
        users.append(PostgresUser(service, Role.APP, db_id, settings.given("catalogue_db_user")))
        if with_owner:
            users.append(PostgresUser(service, Role.OWNER, db_id))
    return users
