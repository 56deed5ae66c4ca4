"""The environment, read once: every variable arrives, a wrong one is named, no value is shown."""

import traceback

import pytest
from pydantic import SecretStr, ValidationError

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.settings import load_settings, sections

CANARY = "c4n4ry"

VARIABLES = {
    "general.env": ("RUNWAY_ENV", "development", "development"),
    "general.envlabel": ("ENVLABEL", "stg", "stg"),
    "aws.region": ("AWS_REGION", "eu-central-1", "eu-central-1"),
    "aws.bucket": ("RUNWAY_BUCKET", "runway-stg", "runway-stg"),
    "stores.env": ("RUNWAY_STORES_ENV", "mirror", "mirror"),
    "stores.db_tunnel": ("RUNWAY_DB_TUNNEL", "bastion:15432", "bastion:15432"),
    "stores.db_ca_file": ("RUNWAY_DB_CA_FILE", "/etc/rds.pem", "/etc/rds.pem"),
    "app_db.service": ("RUNWAY_APP_DB_SERVICE", "runway-app", "runway-app"),
    "app_db.role": ("RUNWAY_APP_DB_ROLE", "app", "app"),
    "app_db.db_id": ("RUNWAY_APP_DB_DB_ID", "main", "main"),
    "app_db.host": ("RUNWAY_APP_DB_HOST", "db.internal", "db.internal"),
    "app_db.port": ("RUNWAY_APP_DB_PORT", "6432", 6432),
    "app_db.name": ("RUNWAY_APP_DB_NAME", "app", "app"),
    "app_db.user": ("RUNWAY_APP_DB_USER", "reader", "reader"),
    "app_db.password": ("RUNWAY_APP_DB_PASSWORD", CANARY, SecretStr(CANARY)),
    "app_db.sslmode": ("RUNWAY_APP_DB_SSLMODE", "verify-full", "verify-full"),
    "snowflake.host": ("RUNWAY_SNOWFLAKE_HOST", "127.0.0.1", "127.0.0.1"),
    "snowflake.port": ("RUNWAY_SNOWFLAKE_PORT", "8084", 8084),
    "snowflake.protocol": ("RUNWAY_SNOWFLAKE_PROTOCOL", "http", "http"),
    "snowflake.login_timeout": ("RUNWAY_SNOWFLAKE_LOGIN_TIMEOUT", "30", 30),
    "snowflake.network_timeout": ("RUNWAY_SNOWFLAKE_NETWORK_TIMEOUT", "60", 60),
    "rosters.sessions_per_partner": ("RUNWAY_SESSIONS_PER_PARTNER", "8", 8),
    "rosters.cron": ("RUNWAY_ROSTERS_CRON", "30 4 * * *", "30 4 * * *"),
    "rosters.timezone": ("RUNWAY_ROSTERS_TIMEZONE", "UTC", "UTC"),
    "rosters.without_toggle": ("RUNWAY_ROSTERS_WITHOUT_TOGGLE", "true", True),
    "rosters.fillers": ("RUNWAY_ROSTER_FILLERS", "false", False),
    "rosters.snapshots_kept": ("RUNWAY_SNAPSHOTS_KEPT", "2", 2),
    "rosters.snapshots_monthly_days": ("RUNWAY_SNAPSHOTS_MONTHLY_DAYS", "0", 0),
    "rosters.lock_wait_seconds": ("RUNWAY_LOCK_WAIT_SECONDS", "5", 5),
    "rosters.least_students_with_codes": ("RUNWAY_LEAST_STUDENTS_WITH_CODES", "0.75", 0.75),
    "rosters.most_coverage_drop": ("RUNWAY_MOST_COVERAGE_DROP", "0", 0.0),
    "rosters.most_students_lost": ("RUNWAY_MOST_STUDENTS_LOST", "1", 1.0),
    "rosters.fresh_hours": ("RUNWAY_ROSTER_FRESH_HOURS", "50", 50.0),
    "guards.students_lost": ("RUNWAY_GUARD_STUDENTS_LOST", "off", 0.0),
    "guards.students_lost_least": ("RUNWAY_GUARD_STUDENTS_LOST_LEAST", "5", 5),
    "guards.students_added": ("RUNWAY_GUARD_STUDENTS_ADDED", "2.5", 2.5),
    "guards.students_added_least": ("RUNWAY_GUARD_STUDENTS_ADDED_LEAST", "0", 0),
    "guards.students_changed": ("RUNWAY_GUARD_STUDENTS_CHANGED", "0.9", 0.9),
    "guards.id_type_lost": ("RUNWAY_GUARD_ID_TYPE_LOST", "0", 0.0),
    "guards.colliding_codes": ("RUNWAY_GUARD_COLLIDING_CODES", "0.2", 0.2),
    "guards.warehouse_moved": ("RUNWAY_GUARD_WAREHOUSE_MOVED", "off", False),
    "dagster.run_retention_days": ("RUNWAY_RUN_RETENTION_DAYS", "30", 30),
    "lml.url": ("LIBRARY_METADATA_URL", "https://lml.internal", "https://lml.internal"),
    "lml.api_key": ("LML_API_KEY", CANARY, SecretStr(CANARY)),
    "catalogue.service": ("RUNWAY_CATALOGUE_DB_SERVICE", "catalogue", "catalogue"),
    "catalogue.db_id": ("RUNWAY_CATALOGUE_DB_DB_ID", "main", "main"),
    "catalogue.host": ("RUNWAY_CATALOGUE_DB_HOST", "catalogue.internal", "catalogue.internal"),
    "catalogue.port": ("RUNWAY_CATALOGUE_DB_PORT", "6433", 6433),
    "catalogue.name": ("RUNWAY_CATALOGUE_DB_NAME", "catalogue", "catalogue"),
    "catalogue.user": ("RUNWAY_CATALOGUE_DB_USER", "writer", "writer"),
    "catalogue.password": ("RUNWAY_CATALOGUE_DB_PASSWORD", CANARY, SecretStr(CANARY)),
    "catalogue.sslmode": ("RUNWAY_CATALOGUE_DB_SSLMODE", "verify-full", "verify-full"),
    "catalogue.schema_name": ("RUNWAY_CATALOGUE_SCHEMA", "catalogue", "catalogue"),
    "identity.cron": ("RUNWAY_IDENTITY_CRON", "30 5 * * *", "30 5 * * *"),
    "identity.timezone": ("RUNWAY_IDENTITY_TIMEZONE", "UTC", "UTC"),
    "stream.token_key": ("RUNWAY_STREAM_TOKEN_KEY", CANARY, SecretStr(CANARY)),
    "stream.token_secret": ("RUNWAY_STREAM_TOKEN_SECRET", "stg-stream-key", "stg-stream-key"),
    "stream.token_secret_encoding": ("RUNWAY_STREAM_TOKEN_SECRET_ENCODING", "text", "text"),
    "stream.token_audience": ("RUNWAY_STREAM_TOKEN_AUDIENCE", "rosters", "rosters"),
    "stream.token_run_claim": ("RUNWAY_STREAM_TOKEN_RUN_CLAIM", "run", "run"),
    "stream.url": ("RUNWAY_STREAM_URL", "https://stream.internal", "https://stream.internal"),
    "stream.board_token": ("RUNWAY_BOARD_TOKEN", CANARY, SecretStr(CANARY)),
    "stream.snapshot_hours": ("RUNWAY_STREAM_SNAPSHOT_HOURS", "1.5", 1.5),
    "stream.sessions_per_partner": ("RUNWAY_STREAM_SESSIONS_PER_PARTNER", "8", 8),
    "stream.acquire_seconds": ("RUNWAY_STREAM_ACQUIRE_SECONDS", "5", 5.0),
    "stream.most_pulls": ("RUNWAY_STREAM_MOST_PULLS", "10", 10),
    "stream.most_pulls_per_partner": ("RUNWAY_STREAM_MOST_PULLS_PER_PARTNER", "5", 5),
    "stream.stall_seconds": ("RUNWAY_STREAM_STALL_SECONDS", "60", 60),
    "stream.least_bytes_per_second": ("RUNWAY_STREAM_LEAST_BYTES_PER_SECOND", "500", 500),
    "stream.grace_seconds": ("RUNWAY_STREAM_GRACE_SECONDS", "0", 0),
    "resolution.partners": ("RUNWAY_STUDENT_RESOLUTION", "acme,borealis", frozenset({"acme", "borealis"})),
    "resolution.persons_minutes": ("RUNWAY_RESOLUTION_PERSONS_MINUTES", "0", 0),
    "resolution.keep_days": ("RUNWAY_RESOLUTION_KEEP_DAYS", "7", 7),
    "ecs.partners": ("RUNWAY_LARGE_PARTNERS", "acme,borealis", frozenset({"acme", "borealis"})),
    "ecs.run_cpu": ("RUNWAY_LARGE_RUN_CPU", "8192", "8192"),
    "ecs.run_memory": ("RUNWAY_LARGE_RUN_MEMORY", "32768", 32768),
    "redis.service": ("RUNWAY_REDIS_SERVICE", "pipelines", "pipelines"),
    "redis.ca_file": ("RUNWAY_REDIS_CA_FILE", "/etc/redis.pem", "/etc/redis.pem"),
    "lml.calls_per_second": ("RUNWAY_LML_CALLS_PER_SECOND", "2.5", 2.5),
    "mongo.env": ("RUNWAY_MONGO_ENV", "prod", "prod"),
    "mongo.project": ("RUNWAY_MONGO_PROJECT", "chat-api", "chat-api"),
    "dagster.sensor_interval_seconds": ("RUNWAY_SENSOR_INTERVAL_SECONDS", "5", 5),
    "credentials.retry_seconds": ("RUNWAY_CREDENTIALS_RETRY_SECONDS", "60", 60),
    "credentials.retry_most_seconds": ("RUNWAY_CREDENTIALS_RETRY_MOST_SECONDS", "3600", 3600),
    "credentials.key_age_warning_days": ("RUNWAY_KEY_AGE_WARNING_DAYS", "30", 30),
    "aws.event_bus": ("RUNWAY_EVENT_BUS", "operators", "operators"),
    "dagster.command": ("RUNWAY_COMMAND", "rw", "rw"),
    "dagster.docs_url": ("RUNWAY_DOCS_URL", "https://code.internal/main", "https://code.internal/main"),
    "dagster.url": ("RUNWAY_DAGSTER_URL", "https://dagster.internal", "https://dagster.internal"),
    "general.log_format": ("RUNWAY_LOG_FORMAT", "json", "json"),
    "dagster.home": ("DAGSTER_HOME", "/opt/dagster", "/opt/dagster"),
    "edu_snowflake.username": ("EDU_SNOWFLAKE_USERNAME", "me", "me"),
    "edu_snowflake.account": ("EDU_SNOWFLAKE_ACCOUNT", "xy1", "xy1"),
    "edu_snowflake.database": ("EDU_SNOWFLAKE_DATABASE", "db", "db"),
    "edu_snowflake.schema_name": ("EDU_SNOWFLAKE_SCHEMA", "s", "s"),
    "edu_snowflake.private_key": ("EDU_SNOWFLAKE_PRIVATE_KEY", CANARY, SecretStr(CANARY)),
    "edu_snowflake.warehouse": ("EDU_SNOWFLAKE_WAREHOUSE", "wh", "wh"),
    "edu_snowflake.role": ("EDU_SNOWFLAKE_ROLE", "r", "r"),
}

# A wrong value for every variable that can have one.
WRONG = {
    "general.env": CANARY,
    "general.envlabel": f"{CANARY} /",
    "stores.env": CANARY,
    "stores.db_tunnel": CANARY,
    "app_db.role": "owner",
    "app_db.port": CANARY,
    "app_db.sslmode": CANARY,
    "snowflake.port": "65536",
    "snowflake.protocol": CANARY,
    "snowflake.login_timeout": "0",
    "snowflake.network_timeout": "-1",
    "rosters.sessions_per_partner": "9",
    "rosters.without_toggle": CANARY,
    "rosters.lock_wait_seconds": "0",
    "lml.url": CANARY,
    "catalogue.port": "0",
    "catalogue.sslmode": CANARY,
    "catalogue.schema_name": f"{CANARY}; drop table",
    "stream.url": CANARY,
    "stream.snapshot_hours": "-1",
    "stream.sessions_per_partner": "21",
    "stream.acquire_seconds": "0",
    "stream.most_pulls": "0",
    "stream.most_pulls_per_partner": "0",
    "stream.stall_seconds": "0",
    "stream.least_bytes_per_second": "0",
    "stream.grace_seconds": CANARY,
    "resolution.partners": f"acme, {CANARY}",
    "resolution.persons_minutes": "1441",
    "resolution.keep_days": "0",
    "ecs.partners": f"acme, {CANARY}",
    "ecs.run_cpu": CANARY,
    "ecs.run_memory": "16000",
    "general.log_format": CANARY,
    "lml.calls_per_second": "0",
    "dagster.sensor_interval_seconds": "0",
    "credentials.retry_seconds": "0",
    "credentials.retry_most_seconds": CANARY,
    "credentials.key_age_warning_days": "0",
    "dagster.url": CANARY,
    "rosters.least_students_with_codes": "1.01",
    "rosters.most_coverage_drop": "-0.01",
    "rosters.most_students_lost": CANARY,
}


def values() -> dict[str, object]:
    """Every setting as it was read."""
    return {
        f"{section}.{field}": value
        for section, fields in load_settings().model_dump().items()
        for field, value in fields.items()
    }


pytestmark = pytest.mark.usefixtures("clean_environment")


def refusal(field: str, value: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLES[field][0], value)
    monkeypatch.setenv("RUNWAY_APP_DB_PASSWORD", CANARY)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    return "".join(traceback.format_exception(refused.value)) + repr(refused.value.__context__)


def test_with_an_empty_environment_it_is_production_with_nothing_to_reach() -> None:
    assert values() == {
        "general.env": "production",
        "general.envlabel": None,
        "aws.region": "us-west-2",
        "aws.bucket": None,
        "stores.env": None,
        "stores.db_tunnel": None,
        "stores.db_ca_file": None,
        "app_db.service": None,
        "app_db.role": "ro",
        "app_db.db_id": None,
        "app_db.host": "localhost",
        "app_db.port": 5432,
        "app_db.name": "runway",
        "app_db.user": "runway_pipelines",
        "app_db.password": None,
        "app_db.sslmode": "prefer",
        "snowflake.host": None,
        "snowflake.port": 443,
        "snowflake.protocol": "https",
        "snowflake.login_timeout": 60,
        "snowflake.network_timeout": 600,
        "rosters.sessions_per_partner": 4,
        "rosters.cron": "0 2 * * *",
        "rosters.timezone": "America/Los_Angeles",
        "rosters.without_toggle": False,
        "rosters.fillers": True,
        "rosters.snapshots_kept": 30,
        "rosters.snapshots_monthly_days": 400,
        "rosters.lock_wait_seconds": 600,
        "rosters.least_students_with_codes": 0.5,
        "rosters.most_coverage_drop": 0.1,
        "rosters.most_students_lost": 0.01,
        "rosters.fresh_hours": 30.0,
        "guards.students_lost": 0.05,
        "guards.students_lost_least": 20,
        "guards.students_added": 0.5,
        "guards.students_added_least": 100,
        "guards.students_changed": 0.75,
        "guards.id_type_lost": 0.25,
        "guards.colliding_codes": 0.1,
        "guards.warehouse_moved": True,
        "dagster.run_retention_days": 90,
        "lml.url": None,
        "lml.api_key": None,
        "catalogue.service": None,
        "catalogue.db_id": None,
        "catalogue.host": "localhost",
        "catalogue.port": 5432,
        "catalogue.name": "wxyc",
        "catalogue.user": "runway_pipelines",
        "catalogue.password": None,
        "catalogue.sslmode": "prefer",
        "catalogue.schema_name": "wxyc_schema",
        "identity.cron": "0 4 * * *",
        "identity.timezone": "America/New_York",
        "stream.token_key": None,
        "stream.token_secret": None,
        "stream.token_secret_encoding": "base64",
        "stream.token_audience": "",
        "stream.token_run_claim": "runId",
        "stream.url": None,
        "stream.board_token": None,
        "resolution.partners": frozenset(),
        "resolution.persons_minutes": 15,
        "resolution.keep_days": 30,
        "stream.snapshot_hours": 24.0,
        "stream.sessions_per_partner": 20,
        "stream.acquire_seconds": 60.0,
        "stream.most_pulls": 200,
        "stream.most_pulls_per_partner": 50,
        "stream.stall_seconds": 300,
        "stream.least_bytes_per_second": 10_000,
        "stream.grace_seconds": 30,
        "ecs.partners": frozenset(),
        "ecs.run_cpu": "4096",
        "ecs.run_memory": 16384,
        "redis.service": None,
        "redis.ca_file": None,
        "lml.calls_per_second": None,
        "mongo.env": None,
        "mongo.project": None,
        "dagster.sensor_interval_seconds": 60,
        "credentials.retry_seconds": 900,
        "credentials.retry_most_seconds": 21600,
        "credentials.key_age_warning_days": 90,
        "aws.event_bus": None,
        "dagster.url": None,
        "dagster.command": "runway-pipelines",
        "dagster.docs_url": None,
        "general.log_format": "auto",
        "dagster.home": None,
    } | {name: None for name in VARIABLES if name.startswith("edu_snowflake.")}


def test_every_setting_has_its_variable_in_the_table_of_these_tests() -> None:
    assert set(VARIABLES) == {
        f"{name}.{field}" for name, section in sections().items() for field in section.model_fields
    }


@pytest.mark.parametrize("field", VARIABLES)
def test_each_variable_is_read_into_its_field_and_no_other(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = values()
    load_settings.cache_clear()
    variable, text, value = VARIABLES[field]
    monkeypatch.setenv(variable, text)
    assert values() == defaults | {field: value}
    assert defaults[field] != value


def test_the_region_is_aws_own_variable_and_the_older_one_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    assert load_settings().aws.region == "us-east-2"
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    load_settings.cache_clear()
    assert load_settings().aws.region == "us-east-1"


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_value_is_refused_without_being_shown(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(field, WRONG[field], monkeypatch)
    assert VARIABLES[field][0] in said
    assert CANARY not in said


def test_a_wrong_value_is_refused_by_its_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for field, value in WRONG.items():
        with monkeypatch.context() as patch:
            assert VARIABLES[field][0] in refusal(field, value, patch)


BOUNDS = [
    ("app_db.port", "1", "65535", ("0", "65536")),
    ("snowflake.port", "1", "65535", ("0", "65536")),
    ("snowflake.login_timeout", "1", "86400", ("0",)),
    ("snowflake.network_timeout", "1", "86400", ("0",)),
    ("rosters.sessions_per_partner", "1", "8", ("0", "9")),
    ("rosters.lock_wait_seconds", "1", "86400", ("0",)),
    ("stream.snapshot_hours", "0", "8760", ("-0.1",)),
    ("stream.sessions_per_partner", "1", "20", ("0", "21")),
    ("stream.acquire_seconds", "0.1", "3600", ("0",)),
    ("stream.most_pulls", "1", "10000", ("0",)),
    ("stream.most_pulls_per_partner", "1", "10000", ("0",)),
    ("stream.stall_seconds", "1", "86400", ("0",)),
    ("stream.least_bytes_per_second", "1", "1000000", ("0",)),
    ("stream.grace_seconds", "0", "3600", ("-1",)),
    ("ecs.run_memory", "2048", "122880", ("1024", "123904", "3000")),
    ("dagster.sensor_interval_seconds", "1", "86400", ("0",)),
    ("credentials.retry_seconds", "1", "86400", ("0",)),
    ("credentials.retry_most_seconds", "1", "86400", ("0",)),
    ("credentials.key_age_warning_days", "1", "3650", ("0",)),
    ("rosters.least_students_with_codes", "0", "1", ("-0.001", "1.001")),
    ("rosters.most_coverage_drop", "0", "1", ("-0.001", "1.001")),
    ("rosters.most_students_lost", "0", "1", ("-0.001", "1.001")),
]


@pytest.mark.parametrize(("field", "least", "most", "outside"), BOUNDS, ids=[field for field, *_ in BOUNDS])
def test_a_number_is_taken_within_its_bounds_and_refused_beyond_them(
    field: str, least: str, most: str, outside: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (least, most):
        monkeypatch.setenv(VARIABLES[field][0], value)
        assert values()[field] == float(value)
        load_settings.cache_clear()
    for value in outside:
        refusal(field, value, monkeypatch)


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_SNOWFLAKE_PORT", "0")
    said = refusal("app_db.port", CANARY, monkeypatch)
    assert "RUNWAY_APP_DB_PORT" in said
    assert "RUNWAY_SNOWFLAKE_PORT" in said


def test_settings_do_not_change_and_do_not_show_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_APP_DB_PASSWORD", CANARY)
    monkeypatch.setenv("EDU_SNOWFLAKE_PRIVATE_KEY", CANARY)
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.aws.bucket = "another"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.aws = settings.aws  # type: ignore[misc]
    assert CANARY not in repr(settings) + str(settings) + settings.model_dump_json()


def test_the_environment_is_read_once_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_settings()
    monkeypatch.setenv("RUNWAY_BUCKET", "later")
    assert load_settings() is first


def test_a_variable_that_is_not_ours_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_UNKNOWN", CANARY)
    load_settings()


EDU_VARIABLES = {
    "EDU_SNOWFLAKE_USERNAME": "username",
    "EDU_SNOWFLAKE_ACCOUNT": "account",
    "EDU_SNOWFLAKE_DATABASE": "database",
    "EDU_SNOWFLAKE_SCHEMA": "schema",
    "EDU_SNOWFLAKE_PRIVATE_KEY": "privateKey",
    "EDU_SNOWFLAKE_WAREHOUSE": "warehouse",
    "EDU_SNOWFLAKE_ROLE": "role",
}


def test_in_development_the_variables_make_a_secret_with_the_contracts_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_ENV", "development")
    for variable, member in EDU_VARIABLES.items():
        monkeypatch.setenv(variable, f"my {member}")
    assert load_settings().development_secret() == {member: f"my {member}" for member in EDU_VARIABLES.values()}


@pytest.mark.parametrize("variable", EDU_VARIABLES)
def test_a_member_that_is_not_set_is_left_out(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_ENV", "development")
    monkeypatch.setenv(variable, "set")
    assert load_settings().development_secret() == {EDU_VARIABLES[variable]: "set"}


@pytest.mark.parametrize("env", [None, "production"])
def test_outside_development_there_is_no_such_secret(env: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if env is not None:
        monkeypatch.setenv("RUNWAY_ENV", env)
    for variable in EDU_VARIABLES:
        monkeypatch.setenv(variable, "set")
    assert load_settings().development_secret() is None


def test_in_development_without_the_variables_there_is_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_ENV", "development")
    monkeypatch.setenv("EDU_SNOWFLAKE_USERNAME", "")
    assert load_settings().development_secret() is None
