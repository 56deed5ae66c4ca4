"""Settings in, outside systems out: the one place where a setting meets the client that it configures."""

from datetime import timedelta
from typing import TypeVar

import dagster as dg
from dagster_aws.s3 import S3Resource
from dagster_aws.secretsmanager import SecretsManagerResource

from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.credentials.rotation import Pacing
from runway_pipelines.identity.options import MOST_CALLS_IN_FLIGHT
from runway_pipelines.identity.services import IdentityServices
from runway_pipelines.operations.events import OperatorEvents
from runway_pipelines.partner_tenants.runs import LargeRuns
from runway_pipelines.rosters.advice import Advice
from runway_pipelines.rosters.services import GuardPolicy, RosterPolicy, RosterServices
from runway_pipelines.settings import Database, Section, Settings
from runway_pipelines.students.services import ResolutionPolicy, StudentServices
from runway_pipelines.systems.aws.object_store import ObjectStore
from runway_pipelines.systems.lml.client import LmlService
from runway_pipelines.systems.lml.limiter import CallLimiter
from runway_pipelines.systems.mongo.client import MongoResource
from runway_pipelines.systems.postgres.databases import ApplicationDatabase, CatalogueDatabase
from runway_pipelines.systems.redis.client import RedisResource
from runway_pipelines.systems.snowflake.client import EduSnowflake
from runway_pipelines.systems.vocabulary import Role

AnyDatabase = TypeVar("AnyDatabase", ApplicationDatabase, CatalogueDatabase)


def build_application_database(settings: Settings) -> ApplicationDatabase:
    """The application's database."""
    return _database(ApplicationDatabase, settings, settings.app_db, settings.app_db.role)


def build_catalogue(settings: Settings, role: Role) -> CatalogueDatabase:
    """The catalogue's database. ``role`` is the owner only where columns are added."""
    return _database(CatalogueDatabase, settings, settings.catalogue, role.value)


def _database(resource: type[AnyDatabase], settings: Settings, database: Database, role: str) -> AnyDatabase:
    """A database at a host where one is set, else looked up by its service, else on this machine."""
    if database.is_looked_up:
        return resource(
            env=settings.stores.env,
            service=database.service,
            role=role,
            db_id=database.db_id,
            database=database.given("name"),
            username=database.given("user") if role != Role.OWNER.value else None,
            region=settings.aws.region,
            tunnel=settings.stores.db_tunnel,
            ca_file=settings.stores.db_ca_file,
        )
    return resource(
        host=database.host,
        port=database.port,
        database=database.name,
        username=database.user,
        password=_secret(database, "password"),
        sslmode=database.sslmode,
        ca_file=settings.stores.db_ca_file,
    )


def _secret(section: Section, field: str) -> dg.EnvVar | None:
    """A secret by its variable's name, because the UI shows what a resource holds."""
    return dg.EnvVar(section.variable(field)) if getattr(section, field) else None


def build_services(settings: Settings) -> RosterServices:
    """The services that refresh rosters."""
    return RosterServices(
        database=build_application_database(settings),
        secrets=PartnerSecrets(
            secrets_manager=SecretsManagerResource(region_name=settings.aws.region, max_attempts=3),
            envlabel=settings.general.envlabel,
        ),
        snowflake=EduSnowflake(
            host=settings.snowflake.host,
            port=settings.snowflake.port,
            protocol=settings.snowflake.protocol,
            login_timeout=settings.snowflake.login_timeout,
            network_timeout=settings.snowflake.network_timeout,
        ),
        store=ObjectStore(s3=S3Resource(region_name=settings.aws.region), bucket=settings.aws.bucket),
        policy=build_roster_policy(settings),
    )


def build_roster_policy(settings: Settings) -> RosterPolicy:
    """How rosters are refreshed, judged and kept."""
    return RosterPolicy(
        sessions_per_partner=settings.rosters.sessions_per_partner,
        lock_wait_seconds=settings.rosters.lock_wait_seconds,
        include_switched_off=settings.rosters.without_toggle,
        fillers=settings.rosters.fillers,
        snapshots_kept=settings.rosters.snapshots_kept,
        snapshots_monthly_days=settings.rosters.snapshots_monthly_days,
        key_age_warning_days=settings.credentials.key_age_warning_days,
        least_students_with_codes=settings.rosters.least_students_with_codes,
        most_coverage_drop=settings.rosters.most_coverage_drop,
        most_students_lost=settings.rosters.most_students_lost,
        roster_fresh_hours=settings.rosters.fresh_hours,
        docs_url=settings.dagster.docs_url,
        command=settings.dagster.command,
        guards=GuardPolicy(**settings.guards.model_dump()),
    )


def build_advice(settings: Settings) -> Advice:
    """What the board's next steps tell its readers to run and open; for that it needs Dagster's address."""
    return Advice(settings.dagster.command, settings.dagster.url, settings.dagster.docs_url)


def build_student_services(settings: Settings) -> StudentServices:
    """The services that resolve students."""
    return StudentServices(
        rosters=build_services(settings),
        policy=ResolutionPolicy(
            partners=sorted(settings.resolution.partners),
            keep_days=settings.resolution.keep_days,
        ),
    )


def build_redis(settings: Settings) -> RedisResource | None:
    """The Redis that concurrent runs share, where there is one."""
    if not settings.redis.service:
        return None
    return RedisResource(
        env=settings.stores.env,
        service=settings.redis.service,
        region=settings.aws.region,
        ca_file=settings.redis.ca_file,
        attempts=1,  # a run does not wait for Redis: meanwhile it limits itself
    )


def build_mongo(settings: Settings) -> MongoResource | None:
    """The project's MongoDB, where there is one; only the doctor uses it."""
    if not settings.mongo.project:
        return None
    return MongoResource(env=mongo_place(settings), project=settings.mongo.project, region=settings.aws.region)


def build_lml_limiter(settings: Settings) -> CallLimiter:
    """The cap on the rate of LML calls, which all runs share where there is a Redis."""
    return CallLimiter(name="lml", calls_per_second=settings.lml.calls_per_second, redis=build_redis(settings))


def build_identity(settings: Settings) -> IdentityServices:
    """The services that resolve the library's identity."""
    return IdentityServices(
        lml=LmlService(
            base_url=settings.lml.url,
            api_key=_secret(settings.lml, "api_key"),
            max_in_flight=MOST_CALLS_IN_FLIGHT,
            limiter=build_lml_limiter(settings),
        ),
        catalogue=build_catalogue(settings, Role.APP),
        catalogue_schema=settings.catalogue.schema_name,
    )


def build_operators(settings: Settings) -> OperatorEvents:
    """Where operators are told of failures."""
    return OperatorEvents(
        event_bus=settings.aws.event_bus,
        envlabel=settings.general.envlabel,
        region_name=settings.aws.region,
        dagster_url=settings.dagster.url,
    )


def mongo_place(settings: Settings) -> str | None:
    """The environment in which MongoDB is looked up, or None without a project."""
    return settings.mongo.env or settings.stores.env if settings.mongo.project else None


def build_pacing(settings: Settings) -> Pacing:
    """How long failed credentials wait until they are tried again."""
    return Pacing(
        first=timedelta(seconds=settings.credentials.retry_seconds),
        longest=timedelta(seconds=settings.credentials.retry_most_seconds),
    )


def build_large_runs(settings: Settings) -> LargeRuns:
    """The partners whose runs get a larger task on ECS."""
    return LargeRuns(
        partners=settings.ecs.partners,
        cpu=int(settings.ecs.run_cpu),
        memory=settings.ecs.run_memory,
    )
