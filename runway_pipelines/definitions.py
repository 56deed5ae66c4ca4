"""The composition root, and the table of contents: everything that Dagster loads is listed here."""

import dagster as dg
from dagster_aws.s3 import S3Resource
from dagster_aws.secretsmanager import SecretsManagerResource

from runway_pipelines.resources.object_store import ObjectStore
from runway_pipelines.resources.postgres import ApplicationDatabase
from runway_pipelines.resources.secrets_manager import PartnerSecrets
from runway_pipelines.resources.snowflake import EduSnowflake
from runway_pipelines.rosters.assets import partner_roster_index, tenant_rosters
from runway_pipelines.rosters.automation import build_daily_schedule, partner_rosters_job
from runway_pipelines.rosters.services import RosterPolicy, RosterServices
from runway_pipelines.settings import Settings, load_settings


def build_services(settings: Settings) -> RosterServices:
    """Everything outside, wired from settings. The one secret among them is named, not held: the UI shows resources."""
    return RosterServices(
        database=ApplicationDatabase(
            host=settings.app_db_host,
            port=settings.app_db_port,
            database=settings.app_db_name,
            user=settings.app_db_user,
            password=dg.EnvVar("RUNWAY_APP_DB_PASSWORD") if settings.app_db_password else None,
            sslmode=settings.app_db_sslmode,
        ),
        secrets=PartnerSecrets(
            secrets_manager=SecretsManagerResource(region_name=settings.aws_region), envlabel=settings.envlabel
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
            least_students_with_codes=settings.least_students_with_codes,
            most_coverage_drop=settings.most_coverage_drop,
            most_students_lost=settings.most_students_lost,
        ),
    )


def build_definitions(settings: Settings) -> dg.Definitions:
    """The code location for these settings."""
    services = build_services(settings)
    return dg.Definitions(
        assets=[tenant_rosters, partner_roster_index],
        jobs=[partner_rosters_job],
        schedules=[build_daily_schedule(settings.rosters_cron, settings.rosters_timezone)],
        resources={"rosters": services},
        # Ten steps cost 5 CPU-seconds in one process and 53 with a process each.
        executor=dg.in_process_executor,
    )


defs = build_definitions(load_settings())
