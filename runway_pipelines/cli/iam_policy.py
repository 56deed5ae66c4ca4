"""``iam-policy``: what a role may do, made from the settings and from the names that the code uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from runway_pipelines.credentials.edu_connection import partner_secret_name
from runway_pipelines.errors import ConfigurationError
from runway_pipelines.partner_tenants.keys import checked_part
from runway_pipelines.rosters import manifest
from runway_pipelines.settings import Settings
from runway_pipelines.systems.aws.iam_policy import PostgresUser, Scope, policy_document
from runway_pipelines.systems.mongo import names as mongo
from runway_pipelines.systems.vocabulary import Role, parse_env
from runway_pipelines.wiring import mongo_place


class Process(StrEnum):
    """Whose role a policy is for."""

    ALL = "all"  # one role for everything that the settings name
    PIPELINE = "pipeline"  # the code server, the runs and the commands: all but the key of the stream's tokens
    STREAM = "stream"  # `runway-pipelines serve`, which writes nothing


@dataclass(frozen=True)
class PolicyOptions:
    """What a policy is made of beside the settings; without ``partners``, the secrets of all of them.

    ``with_owner`` lets connect as the owner of the catalogue too, for whoever runs the migration.
    """

    account: str
    process: Process = Process.ALL
    partition: str = "aws"
    partners: Sequence[str] = ()
    db_resource_ids: Sequence[str] = ()
    more_db_users: Sequence[str] = ()
    more_secrets: Sequence[str] = ()
    kms_keys: Sequence[str] = ()
    with_owner: bool = False


def policy(settings: Settings, options: PolicyOptions) -> dict[str, Any]:
    """What a role may do, with these settings; raises `ConfigurationError` where a name is missing."""
    scope = Scope(
        account=options.account,
        region=settings.aws.region,
        partition=options.partition,
        partner_secrets=_partner_secrets(settings, options.partners),
        bucket=settings.aws.bucket,
        env=parse_env(settings.stores.env) if settings.stores.env else None,
        more_db_users=tuple(options.more_db_users),
        db_resource_ids=tuple(options.db_resource_ids),
        more_secrets=tuple(options.more_secrets),
        kms_keys=tuple(options.kms_keys),
    )
    if options.process == Process.STREAM:
        return policy_document(_for_stream(scope, settings))
    scope = _for_pipeline(scope, settings, with_owner=options.with_owner)
    named = _token_secret(settings) if options.process == Process.ALL else ()
    return policy_document(replace(scope, named_secrets=named))


def _for_pipeline(scope: Scope, settings: Settings, *, with_owner: bool) -> Scope:
    place = mongo_place(settings)
    return replace(
        scope,
        bucket_prefixes=(manifest.ROSTERS_PREFIX, manifest.SNAPSHOTS_PREFIX),
        event_bus=settings.aws.event_bus,
        postgres_users=(*_app_db_users(settings), *_catalogue_users(settings, with_owner=with_owner)),
        redis_service=settings.redis.service,
        mongo_env=mongo.parse_env(place) if place else None,
        mongo_project=settings.mongo.project,
    )


def _for_stream(scope: Scope, settings: Settings) -> Scope:
    """It looks at one partner at a time, and of the bucket it reads snapshots and their pointers."""
    return replace(
        scope,
        lists_secrets=False,
        named_secrets=_token_secret(settings),
        bucket_prefixes=(manifest.SNAPSHOTS_PREFIX,),
        only_reads=True,
        postgres_users=tuple(_app_db_users(settings)),
    )


def _token_secret(settings: Settings) -> tuple[str, ...]:
    return (settings.stream.token_secret,) if settings.stream.token_secret else ()


def _partner_secrets(settings: Settings, partners: Sequence[str]) -> tuple[str, ...]:
    envlabel = settings.general.envlabel
    if not envlabel:
        raise ConfigurationError(
            expected="the variable ENVLABEL (dev, stg or prod)",
            came="no value",
            remedy="set ENVLABEL: partners' secrets begin with it",
        )
    if not partners:
        return (partner_secret_name(envlabel, "*"),)
    return tuple(partner_secret_name(envlabel, checked_part("partner_id", partner)) for partner in partners)


def _app_db_users(settings: Settings) -> list[PostgresUser]:
    """One, where the database is found by its service; at a plain host nobody asks IAM."""
    if not settings.app_db.service or settings.app_db.given("host") is not None:
        return []
    role, username = Role(settings.app_db.role), settings.app_db.given("user")
    return [PostgresUser(settings.app_db.service, role, settings.app_db.db_id, username)]


def _catalogue_users(settings: Settings, *, with_owner: bool) -> list[PostgresUser]:
    service, db_id = settings.catalogue.service, settings.catalogue.db_id
    if not service or settings.catalogue.given("host") is not None:
        return []
    users = [PostgresUser(service, Role.APP, db_id, settings.catalogue.given("user"))]
    return [*users, PostgresUser(service, Role.OWNER, db_id)] if with_owner else users
