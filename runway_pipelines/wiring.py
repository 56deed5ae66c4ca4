"""Settings in, outside systems out: the one place where a setting meets the client that it configures."""

import dagster as dg
from dagster_aws.s3 import S3Resource
from dagster_aws.secretsmanager import SecretsManagerResource

from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.identity.options import MOST_CALLS_IN_FLIGHT
from runway_pipelines.identity.services import IdentityServices
from runway_pipelines.operations.events import OperatorEvents
from runway_pipelines.rosters.services import RosterPolicy, RosterServices
from runway_pipelines.settings import Settings
from runway_pipelines.systems.aws.object_store import ObjectStore
from runway_pipelines.systems.lml.client import LmlService
from runway_pipelines.systems.lml.limiter import CallLimiter
from runway_pipelines.systems.mongo.client import MongoResource
from runway_pipelines.systems.postgres.databases import ApplicationDatabase, CatalogueDatabase
from runway_pipelines.systems.redis.client import RedisResource
from runway_pipelines.systems.snowflake.client import EduSnowflake
from runway_pipelines.systems.vocabulary import Role


def build_application_database(settings: Settings) -> ApplicationDatabase:
    """The application's database: at a host where one is set, else found by its service, else on this machine."""
    if settings.given("app_db_host") is None and settings.app_db_service:
        return ApplicationDatabase(
            env=settings.stores_env,
            service=settings.app_db_service,
            role=settings.app_db_role,
            db_id=settings.app_db_db_id,
            database=settings.given("app_db_name"),
            username=settings.given("app_db_user"),
            region=settings.aws_region,
            tunnel=settings.db_tunnel,
            ca_file=settings.db_ca_file,
        )
    return ApplicationDatabase(
        host=settings.app_db_host,
        port=settings.app_db_port,
        database=settings.app_db_name,
        username=settings.app_db_user,
        password=dg.EnvVar("RUNWAY_APP_DB_PASSWORD") if settings.app_db_password else None,
        sslmode=settings.app_db_sslmode,
        ca_file=settings.db_ca_file,
    )


def build_catalogue(settings: Settings, role: Role) -> CatalogueDatabase:
    """The catalogue's database, in the same way. ``role`` is the owner where columns are added, and nowhere else."""
    if settings.given("catalogue_db_host") is None and settings.catalogue_db_service:
        return CatalogueDatabase(
            env=settings.stores_env,
            service=settings.catalogue_db_service,
            role=role.value,
            db_id=settings.catalogue_db_db_id,
            database=settings.given("catalogue_db_name"),
            username=settings.given("catalogue_db_user") if role is not Role.OWNER else None,
            region=settings.aws_region,
            tunnel=settings.db_tunnel,
            ca_file=settings.db_ca_file,
        )
    return CatalogueDatabase(
        host=settings.catalogue_db_host,
        port=settings.catalogue_db_port,
        database=settings.catalogue_db_name,
        username=settings.catalogue_db_user,
        password=dg.EnvVar("RUNWAY_CATALOGUE_DB_PASSWORD") if settings.catalogue_db_password else None,
        sslmode=settings.catalogue_db_sslmode,
        ca_file=settings.db_ca_file,
    )


def build_services(settings: Settings) -> RosterServices:
    """Everything outside, wired from settings. The one secret among them is named, not held: the UI shows resources."""
    return RosterServices(
        database=build_application_database(settings),
        secrets=PartnerSecrets(
            secrets_manager=SecretsManagerResource(region_name=settings.aws_region, max_attempts=3),
            envlabel=settings.envlabel,
        ),
        snowflake=EduSnowflake(
            host=settings.snowflake_host,
            port=settings.snowflake_port,
            protocol=settings.snowflake_protocol,
            login_timeout=settings.snowflake_login_timeout,
            network_timeout=settings.snowflake_network_timeout,
        ),
        store=ObjectStore(s3=S3Resource(region_name=settings.aws_region), bucket=settings.bucket),
        policy=RosterPolicy(
            sessions_per_partner=settings.sessions_per_partner,
            lock_wait_seconds=settings.lock_wait_seconds,
            include_switched_off=settings.rosters_without_toggle,
            key_age_warning_days=settings.key_age_warning_days,
            least_students_with_codes=settings.least_students_with_codes,
            most_coverage_drop=settings.most_coverage_drop,
            most_students_lost=settings.most_students_lost,
            roster_fresh_hours=settings.roster_fresh_hours,
        ),
    )


def build_redis(settings: Settings) -> RedisResource | None:
    """What concurrent runs share, where there is one."""
    if not settings.redis_service:
        return None
    return RedisResource(
        env=settings.stores_env,
        service=settings.redis_service,
        region=settings.aws_region,
        ca_file=settings.redis_ca_file,
        attempts=1,  # a run does not wait for it: it limits itself meanwhile
    )


def build_mongo(settings: Settings) -> MongoResource | None:
    """The project's MongoDB, where there is one; for the doctor alone."""
    if not settings.mongo_project:
        return None
    return MongoResource(env=mongo_place(settings), project=settings.mongo_project, region=settings.aws_region)


def build_lml_limiter(settings: Settings) -> CallLimiter:
    """How often LML may be called, by all runs together where they share a Redis."""
    return CallLimiter(name="lml", calls_per_second=settings.lml_calls_per_second, redis=build_redis(settings))


def build_identity(settings: Settings) -> IdentityServices:
    """LML and the catalogue, wired from settings."""
    return IdentityServices(
        lml=LmlService(
            base_url=settings.library_metadata_url,
            api_key=dg.EnvVar("LML_API_KEY") if settings.lml_api_key else None,
            max_in_flight=MOST_CALLS_IN_FLIGHT,
            limiter=build_lml_limiter(settings),
        ),
        catalogue=build_catalogue(settings, Role.APP),
        catalogue_schema=settings.catalogue_schema,
    )


def build_operators(settings: Settings) -> OperatorEvents:
    """Where operators hear of failures."""
    return OperatorEvents(
        event_bus=settings.event_bus,
        envlabel=settings.envlabel,
        region_name=settings.aws_region,
        dagster_url=settings.dagster_url,
    )


def mongo_place(settings: Settings) -> str | None:
    """The environment whose MongoDB is meant, or None where there is none."""
    return settings.mongo_env or settings.stores_env if settings.mongo_project else None
