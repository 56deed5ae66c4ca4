"""``iam-policy``: what a role may do, made from the settings and from the names that the code uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from runway_pipelines.credentials.edu_connection import partner_secret_name
from runway_pipelines.errors import ConfigurationError
from runway_pipelines.partner_tenants.keys import checked_part
from runway_pipelines.rosters import manifest
from runway_pipelines.settings import Database, Settings
from runway_pipelines.students.files import RESOLUTIONS_PREFIX
from runway_pipelines.systems.aws.iam_policy import Scope, policy_document
from runway_pipelines.systems.mongo import names as mongo
from runway_pipelines.systems.postgres import names as postgres
from runway_pipelines.systems.redis import names as redis
from runway_pipelines.systems.vocabulary import Env, Role
from runway_pipelines.wiring import mongo_place

_ONLY_RUNS_USE = (manifest.ROSTERS_PREFIX, RESOLUTIONS_PREFIX)


class Process(StrEnum):
    """Whose role a policy is for."""

    ALL = "all"  # one role for everything that the settings name
    PIPELINE = "pipeline"  # the runs and the commands: everything but the key of the stream's tokens
    CODE_SERVER = "code-server"  # sensors and schedules: they see that a secret changed, and make the board
    STREAM = "stream"  # `runway-pipelines serve`, which writes nothing


@dataclass(frozen=True)
class PolicyOptions:
    """What a policy needs besides the settings.

    Without ``partners``, it covers all partners' secrets. With ``with_owner`` it also allows connecting as the
    catalogue's owner, for `identity migrate`.
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


@dataclass(frozen=True)
class _Access:
    """What a process uses to locate one store and to log in."""

    secrets: Sequence[str] = ()
    parameters: Sequence[str] = ()
    db_users: Sequence[str] = ()


def policy(settings: Settings, options: PolicyOptions) -> dict[str, Any]:
    """What a role may do with these settings; raises `ConfigurationError` if a name is missing or unusable."""
    is_stream, is_code_server = options.process == Process.STREAM, options.process == Process.CODE_SERVER
    runs = not is_stream and not is_code_server
    stores = list(_stores(settings, runs=runs, with_owner=options.with_owner))
    token_secret = settings.stream.token_secret if options.process in (Process.ALL, Process.STREAM) else None
    return policy_document(
        Scope(
            account=options.account,
            region=settings.aws.region,
            partition=options.partition,
            partner_secrets=_partner_secrets(settings, options.partners),
            lists_secrets=not is_stream,  # the stream looks at one partner at a time
            reads_secrets=not is_code_server,
            secrets=[*([token_secret] if token_secret else []), *(name for one in stores for name in one.secrets)],
            secret_arns=options.more_secrets,
            parameters=[path for one in stores for path in one.parameters],
            db_users=[*options.more_db_users, *(user for one in stores for user in one.db_users)],
            db_resource_ids=options.db_resource_ids,
            bucket=settings.aws.bucket,
            bucket_prefixes=[
                *([] if is_code_server else [manifest.SNAPSHOTS_PREFIX]),
                *(_ONLY_RUNS_USE if runs else []),
            ],
            record_prefixes=[manifest.AUDIT_PREFIX] if runs else [],
            only_reads=not runs,
            read_keys=[manifest.ALL_INDEXES, manifest.ALL_POINTERS, manifest.ALL_MANIFESTS] if is_code_server else [],
            written_keys=[manifest.BOARD_KEY] if is_code_server else [],
            event_bus=None if is_stream else settings.aws.event_bus,
            kms_keys=options.kms_keys,
        )
    )


def _stores(settings: Settings, *, runs: bool, with_owner: bool) -> Iterator[_Access]:
    env = Env(settings.stores.env) if settings.stores.env else None
    app_db, catalogue, redis_service = settings.app_db, settings.catalogue, settings.redis.service
    if env and app_db.is_looked_up:
        yield _postgres(env, app_db, Role(app_db.role), app_db.given("user"))
    if not runs:
        return
    if env and catalogue.is_looked_up:
        yield _postgres(env, catalogue, Role.APP, catalogue.given("user"))
        if with_owner:
            yield _postgres(env, catalogue, Role.OWNER)
    if env and redis_service:
        yield _Access([redis.service_secret(env, redis_service)], [redis.endpoint_path(env)])
    place, project = mongo_place(settings), settings.mongo.project
    if place and project:
        mongo_env = mongo.parse_mongo_env(place)
        yield _Access([mongo.project_secret(mongo_env, project)], mongo.parameter_paths(mongo_env))


def _postgres(env: Env, database: Database, role: Role, username: str | None = None) -> _Access:
    """In dev the user's password is in a secret; elsewhere parameters say where, and IAM logs the user in."""
    service = database.service or ""
    if env is Env.DEV:
        return _Access([postgres.role_secret(service, role, database.db_id)])
    paths = [postgres.endpoint_path(env), postgres.port_path(env)]
    return _Access(parameters=paths, db_users=[username or postgres.user_name(service, role)])


def _partner_secrets(settings: Settings, partners: Sequence[str]) -> list[str]:
    envlabel = settings.general.envlabel
    if not envlabel:
        raise ConfigurationError(
            expected="the variable ENVLABEL (dev, stg or prod)",
            came="no value",
            remedy="set ENVLABEL: partners' secrets begin with it",
        )
    if not partners:
        return [partner_secret_name(envlabel, "*")]
    return [partner_secret_name(envlabel, checked_part("partner_id", partner)) for partner in partners]
