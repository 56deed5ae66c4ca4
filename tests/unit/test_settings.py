"""The environment, read once: every variable arrives, a wrong one is named, no value is shown."""

import traceback

import pytest
from pydantic import SecretStr, ValidationError

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.settings import Settings, load_settings

CANARY = "c4n4ry"

VARIABLES = {
    "env": ("RUNWAY_ENV", "development", "development"),
    "envlabel": ("ENVLABEL", "stg", "stg"),
    "aws_region": ("AWS_REGION", "eu-central-1", "eu-central-1"),
    "bucket": ("RUNWAY_BUCKET", "runway-stg", "runway-stg"),
    "stores_env": ("RUNWAY_STORES_ENV", "mirror", "mirror"),
    "db_tunnel": ("RUNWAY_DB_TUNNEL", "bastion:15432", "bastion:15432"),
    "db_ca_file": ("RUNWAY_DB_CA_FILE", "/etc/rds.pem", "/etc/rds.pem"),
    "app_db_service": ("RUNWAY_APP_DB_SERVICE", "runway-app", "runway-app"),
    "app_db_role": ("RUNWAY_APP_DB_ROLE", "app", "app"),
    "app_db_db_id": ("RUNWAY_APP_DB_DB_ID", "main", "main"),
    "app_db_host": ("RUNWAY_APP_DB_HOST", "db.internal", "db.internal"),
    "app_db_port": ("RUNWAY_APP_DB_PORT", "6432", 6432),
    "app_db_name": ("RUNWAY_APP_DB_NAME", "app", "app"),
    "app_db_user": ("RUNWAY_APP_DB_USER", "reader", "reader"),
    "app_db_password": ("RUNWAY_APP_DB_PASSWORD", CANARY, SecretStr(CANARY)),
    "app_db_sslmode": ("RUNWAY_APP_DB_SSLMODE", "verify-full", "verify-full"),
    "snowflake_host": ("RUNWAY_SNOWFLAKE_HOST", "127.0.0.1", "127.0.0.1"),
    "snowflake_port": ("RUNWAY_SNOWFLAKE_PORT", "8084", 8084),
    "snowflake_protocol": ("RUNWAY_SNOWFLAKE_PROTOCOL", "http", "http"),
    "snowflake_login_timeout": ("RUNWAY_SNOWFLAKE_LOGIN_TIMEOUT", "30", 30),
    "snowflake_network_timeout": ("RUNWAY_SNOWFLAKE_NETWORK_TIMEOUT", "60", 60),
    "sessions_per_partner": ("RUNWAY_SESSIONS_PER_PARTNER", "8", 8),
    "rosters_cron": ("RUNWAY_ROSTERS_CRON", "30 4 * * *", "30 4 * * *"),
    "rosters_timezone": ("RUNWAY_ROSTERS_TIMEZONE", "UTC", "UTC"),
    "rosters_without_toggle": ("RUNWAY_ROSTERS_WITHOUT_TOGGLE", "true", True),
    "lock_wait_seconds": ("RUNWAY_LOCK_WAIT_SECONDS", "5", 5),
    "least_students_with_codes": ("RUNWAY_LEAST_STUDENTS_WITH_CODES", "0.75", 0.75),
    "most_coverage_drop": ("RUNWAY_MOST_COVERAGE_DROP", "0", 0.0),
    "most_students_lost": ("RUNWAY_MOST_STUDENTS_LOST", "1", 1.0),
    "roster_fresh_hours": ("RUNWAY_ROSTER_FRESH_HOURS", "50", 50.0),
    "run_retention_days": ("RUNWAY_RUN_RETENTION_DAYS", "30", 30),
    "library_metadata_url": ("LIBRARY_METADATA_URL", "https://lml.internal", "https://lml.internal"),
    "lml_api_key": ("LML_API_KEY", CANARY, SecretStr(CANARY)),
    "catalogue_db_service": ("RUNWAY_CATALOGUE_DB_SERVICE", "catalogue", "catalogue"),
    "catalogue_db_db_id": ("RUNWAY_CATALOGUE_DB_DB_ID", "main", "main"),
    "catalogue_db_host": ("RUNWAY_CATALOGUE_DB_HOST", "catalogue.internal", "catalogue.internal"),
    "catalogue_db_port": ("RUNWAY_CATALOGUE_DB_PORT", "6433", 6433),
    "catalogue_db_name": ("RUNWAY_CATALOGUE_DB_NAME", "catalogue", "catalogue"),
    "catalogue_db_user": ("RUNWAY_CATALOGUE_DB_USER", "writer", "writer"),
    "catalogue_db_password": ("RUNWAY_CATALOGUE_DB_PASSWORD", CANARY, SecretStr(CANARY)),
    "catalogue_db_sslmode": ("RUNWAY_CATALOGUE_DB_SSLMODE", "verify-full", "verify-full"),
    "catalogue_schema": ("RUNWAY_CATALOGUE_SCHEMA", "catalogue", "catalogue"),
    "identity_cron": ("RUNWAY_IDENTITY_CRON", "30 5 * * *", "30 5 * * *"),
    "identity_timezone": ("RUNWAY_IDENTITY_TIMEZONE", "UTC", "UTC"),
    "stream_token_key": ("RUNWAY_STREAM_TOKEN_KEY", CANARY, SecretStr(CANARY)),
    "stream_token_secret": ("RUNWAY_STREAM_TOKEN_SECRET", "stg-stream-key", "stg-stream-key"),
    "stream_token_audience": ("RUNWAY_STREAM_TOKEN_AUDIENCE", "rosters", "rosters"),
    "stream_token_run_claim": ("RUNWAY_STREAM_TOKEN_RUN_CLAIM", "run", "run"),
    "stream_url": ("RUNWAY_STREAM_URL", "https://stream.internal", "https://stream.internal"),
    "stream_snapshot_hours": ("RUNWAY_STREAM_SNAPSHOT_HOURS", "1.5", 1.5),
    "stream_sessions_per_partner": ("RUNWAY_STREAM_SESSIONS_PER_PARTNER", "8", 8),
    "stream_acquire_seconds": ("RUNWAY_STREAM_ACQUIRE_SECONDS", "5", 5.0),
    "stream_most_pulls": ("RUNWAY_STREAM_MOST_PULLS", "10", 10),
    "stream_most_pulls_per_partner": ("RUNWAY_STREAM_MOST_PULLS_PER_PARTNER", "5", 5),
    "stream_stall_seconds": ("RUNWAY_STREAM_STALL_SECONDS", "60", 60),
    "stream_least_bytes_per_second": ("RUNWAY_STREAM_LEAST_BYTES_PER_SECOND", "500", 500),
    "stream_grace_seconds": ("RUNWAY_STREAM_GRACE_SECONDS", "0", 0),
    "large_partners": ("RUNWAY_LARGE_PARTNERS", "acme,borealis", "acme,borealis"),
    "large_run_cpu": ("RUNWAY_LARGE_RUN_CPU", "8192", "8192"),
    "large_run_memory": ("RUNWAY_LARGE_RUN_MEMORY", "32768", 32768),
    "redis_service": ("RUNWAY_REDIS_SERVICE", "pipelines", "pipelines"),
    "redis_ca_file": ("RUNWAY_REDIS_CA_FILE", "/etc/redis.pem", "/etc/redis.pem"),
    "lml_calls_per_second": ("RUNWAY_LML_CALLS_PER_SECOND", "2.5", 2.5),
    "mongo_env": ("RUNWAY_MONGO_ENV", "prod", "prod"),
    "mongo_project": ("RUNWAY_MONGO_PROJECT", "chat-api", "chat-api"),
    "sensor_interval_seconds": ("RUNWAY_SENSOR_INTERVAL_SECONDS", "5", 5),
    "credentials_retry_seconds": ("RUNWAY_CREDENTIALS_RETRY_SECONDS", "60", 60),
    "credentials_retry_most_seconds": ("RUNWAY_CREDENTIALS_RETRY_MOST_SECONDS", "3600", 3600),
    "key_age_warning_days": ("RUNWAY_KEY_AGE_WARNING_DAYS", "30", 30),
    "event_bus": ("RUNWAY_EVENT_BUS", "operators", "operators"),
    "dagster_url": ("RUNWAY_DAGSTER_URL", "https://dagster.internal", "https://dagster.internal"),
    "log_format": ("RUNWAY_LOG_FORMAT", "json", "json"),
    "dagster_home": ("DAGSTER_HOME", "/opt/dagster", "/opt/dagster"),
    "edu_snowflake_username": ("EDU_SNOWFLAKE_USERNAME", "me", "me"),
    "edu_snowflake_account": ("EDU_SNOWFLAKE_ACCOUNT", "xy1", "xy1"),
    "edu_snowflake_database": ("EDU_SNOWFLAKE_DATABASE", "db", "db"),
    "edu_snowflake_schema": ("EDU_SNOWFLAKE_SCHEMA", "s", "s"),
    "edu_snowflake_private_key": ("EDU_SNOWFLAKE_PRIVATE_KEY", CANARY, SecretStr(CANARY)),
    "edu_snowflake_warehouse": ("EDU_SNOWFLAKE_WAREHOUSE", "wh", "wh"),
    "edu_snowflake_role": ("EDU_SNOWFLAKE_ROLE", "r", "r"),
}

# A wrong value for every variable that can have one.
WRONG = {
    "env": CANARY,
    "envlabel": f"{CANARY} /",
    "stores_env": CANARY,
    "db_tunnel": CANARY,
    "app_db_role": "owner",
    "app_db_port": CANARY,
    "app_db_sslmode": CANARY,
    "snowflake_port": "65536",
    "snowflake_protocol": CANARY,
    "snowflake_login_timeout": "0",
    "snowflake_network_timeout": "-1",
    "sessions_per_partner": "9",
    "rosters_without_toggle": CANARY,
    "lock_wait_seconds": "0",
    "library_metadata_url": CANARY,
    "catalogue_db_port": "0",
    "catalogue_db_sslmode": CANARY,
    "catalogue_schema": f"{CANARY}; drop table",
    "stream_url": CANARY,
    "stream_snapshot_hours": "-1",
    "stream_sessions_per_partner": "21",
    "stream_acquire_seconds": "0",
    "stream_most_pulls": "0",
    "stream_most_pulls_per_partner": "0",
    "stream_stall_seconds": "0",
    "stream_least_bytes_per_second": "0",
    "stream_grace_seconds": CANARY,
    "large_partners": f"acme, {CANARY}",
    "large_run_cpu": CANARY,
    "large_run_memory": "16000",
    "log_format": CANARY,
    "lml_calls_per_second": "0",
    "sensor_interval_seconds": "0",
    "credentials_retry_seconds": "0",
    "credentials_retry_most_seconds": CANARY,
    "key_age_warning_days": "0",
    "dagster_url": CANARY,
    "least_students_with_codes": "1.01",
    "most_coverage_drop": "-0.01",
    "most_students_lost": CANARY,
}

pytestmark = pytest.mark.usefixtures("clean_environment")


def refusal(field: str, value: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLES[field][0], value)
    monkeypatch.setenv("RUNWAY_APP_DB_PASSWORD", CANARY)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    return "".join(traceback.format_exception(refused.value)) + repr(refused.value.__context__)


def test_with_an_empty_environment_it_is_production_with_nothing_to_reach() -> None:
    assert load_settings().model_dump() == {
        "env": "production",
        "envlabel": None,
        "aws_region": "us-west-2",
        "bucket": None,
        "stores_env": None,
        "db_tunnel": None,
        "db_ca_file": None,
        "app_db_service": None,
        "app_db_role": "ro",
        "app_db_db_id": None,
        "app_db_host": "localhost",
        "app_db_port": 5432,
        "app_db_name": "runway",
        "app_db_user": "runway_pipelines",
        "app_db_password": None,
        "app_db_sslmode": "prefer",
        "snowflake_host": None,
        "snowflake_port": 443,
        "snowflake_protocol": "https",
        "snowflake_login_timeout": 60,
        "snowflake_network_timeout": 600,
        "sessions_per_partner": 4,
        "rosters_cron": "0 2 * * *",
        "rosters_timezone": "America/Los_Angeles",
        "rosters_without_toggle": False,
        "lock_wait_seconds": 600,
        "least_students_with_codes": 0.5,
        "most_coverage_drop": 0.1,
        "most_students_lost": 0.01,
        "roster_fresh_hours": 30.0,
        "run_retention_days": 90,
        "library_metadata_url": None,
        "lml_api_key": None,
        "catalogue_db_service": None,
        "catalogue_db_db_id": None,
        "catalogue_db_host": "localhost",
        "catalogue_db_port": 5432,
        "catalogue_db_name": "wxyc",
        "catalogue_db_user": "runway_pipelines",
        "catalogue_db_password": None,
        "catalogue_db_sslmode": "prefer",
        "catalogue_schema": "wxyc_schema",
        "identity_cron": "0 4 * * *",
        "identity_timezone": "America/New_York",
        "stream_token_key": None,
        "stream_token_secret": None,
        "stream_token_audience": "earthbeam",
        "stream_token_run_claim": "runId",
        "stream_url": None,
        "stream_snapshot_hours": 24.0,
        "stream_sessions_per_partner": 20,
        "stream_acquire_seconds": 60.0,
        "stream_most_pulls": 200,
        "stream_most_pulls_per_partner": 50,
        "stream_stall_seconds": 300,
        "stream_least_bytes_per_second": 10_000,
        "stream_grace_seconds": 30,
        "large_partners": "",
        "large_run_cpu": "4096",
        "large_run_memory": 16384,
        "redis_service": None,
        "redis_ca_file": None,
        "lml_calls_per_second": None,
        "mongo_env": None,
        "mongo_project": None,
        "sensor_interval_seconds": 60,
        "credentials_retry_seconds": 900,
        "credentials_retry_most_seconds": 21600,
        "key_age_warning_days": 90,
        "event_bus": None,
        "dagster_url": None,
        "log_format": "auto",
        "dagster_home": None,
    } | {name: None for name in VARIABLES if name.startswith("edu_snowflake_")}


def test_every_setting_has_its_variable_in_the_table_of_these_tests() -> None:
    assert set(VARIABLES) == set(Settings.model_fields)


@pytest.mark.parametrize("field", VARIABLES)
def test_each_variable_is_read_into_its_field_and_no_other(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = load_settings().model_dump()
    load_settings.cache_clear()
    variable, text, value = VARIABLES[field]
    monkeypatch.setenv(variable, text)
    assert load_settings().model_dump() == defaults | {field: value}
    assert defaults[field] != value


def test_the_region_is_aws_own_variable_and_the_older_one_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    assert load_settings().aws_region == "us-east-2"
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    load_settings.cache_clear()
    assert load_settings().aws_region == "us-east-1"


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_value_is_refused_without_being_shown(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(field, WRONG[field], monkeypatch)
    assert field in said.lower()
    assert CANARY not in said


def test_a_wrong_value_is_refused_by_its_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for field, value in WRONG.items():
        with monkeypatch.context() as patch:
            assert VARIABLES[field][0] in refusal(field, value, patch)


BOUNDS = [
    ("app_db_port", "1", "65535", ("0", "65536")),
    ("snowflake_port", "1", "65535", ("0", "65536")),
    ("snowflake_login_timeout", "1", "86400", ("0",)),
    ("snowflake_network_timeout", "1", "86400", ("0",)),
    ("sessions_per_partner", "1", "8", ("0", "9")),
    ("lock_wait_seconds", "1", "86400", ("0",)),
    ("stream_snapshot_hours", "0", "8760", ("-0.1",)),
    ("stream_sessions_per_partner", "1", "20", ("0", "21")),
    ("stream_acquire_seconds", "0.1", "3600", ("0",)),
    ("stream_most_pulls", "1", "10000", ("0",)),
    ("stream_most_pulls_per_partner", "1", "10000", ("0",)),
    ("stream_stall_seconds", "1", "86400", ("0",)),
    ("stream_least_bytes_per_second", "1", "1000000", ("0",)),
    ("stream_grace_seconds", "0", "3600", ("-1",)),
    ("large_run_memory", "2048", "122880", ("1024", "123904", "3000")),
    ("sensor_interval_seconds", "1", "86400", ("0",)),
    ("credentials_retry_seconds", "1", "86400", ("0",)),
    ("credentials_retry_most_seconds", "1", "86400", ("0",)),
    ("key_age_warning_days", "1", "3650", ("0",)),
    ("least_students_with_codes", "0", "1", ("-0.001", "1.001")),
    ("most_coverage_drop", "0", "1", ("-0.001", "1.001")),
    ("most_students_lost", "0", "1", ("-0.001", "1.001")),
]


@pytest.mark.parametrize(("field", "least", "most", "outside"), BOUNDS, ids=[field for field, *_ in BOUNDS])
def test_a_number_is_taken_within_its_bounds_and_refused_beyond_them(
    field: str, least: str, most: str, outside: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (least, most):
        monkeypatch.setenv(VARIABLES[field][0], value)
        assert getattr(load_settings(), field) == float(value)
        load_settings.cache_clear()
    for value in outside:
        refusal(field, value, monkeypatch)


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_SNOWFLAKE_PORT", "0")
    said = refusal("app_db_port", CANARY, monkeypatch).lower()
    assert "app_db_port" in said
    assert "snowflake_port" in said


def test_settings_do_not_change_and_do_not_show_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_APP_DB_PASSWORD", CANARY)
    monkeypatch.setenv("EDU_SNOWFLAKE_PRIVATE_KEY", CANARY)
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.bucket = "another"  # type: ignore[misc]
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
