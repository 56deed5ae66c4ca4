"""Environment in, one frozen and validated `Settings` out. The only reader of the environment.

Each field is documented where it is declared; docs/configuration.md is made from that.
"""

from functools import cache
from typing import Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from runway_pipelines.errors import ConfigurationError

_DEV = "In development only: stands in for a partner's secret that does not exist."


class Settings(BaseSettings):
    """What differs between a laptop and production. Each field's variable is ``RUNWAY_<FIELD>`` unless it says so."""

    model_config = SettingsConfigDict(
        env_prefix="RUNWAY_", frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True
    )

    env: Literal["development", "production"] = Field("production", description="`development` on one's own machine.")
    envlabel: str | None = Field(
        None,
        validation_alias=AliasChoices("ENVLABEL", "envlabel"),
        description="`dev`, `stg` or `prod`: the first part of every secret's name.",
        pattern=r"^[A-Za-z0-9_-]{1,32}$",
    )
    aws_region: str = Field(
        "us-west-2",
        validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION", "aws_region"),
        description="Region of Secrets Manager and S3.",
    )
    bucket: str | None = Field(None, description="The application's bucket, where rosters are published.")

    stores_env: Literal["dev", "mirror", "prod"] | None = Field(
        None, description="Where data stores are looked up by their service: see data-contracts.md."
    )
    db_tunnel: str | None = Field(
        None,
        pattern=r"^[^\s:]+:[0-9]{1,5}$",
        description="`host:port` to connect to in place of the looked up Postgres, such as a bastion's.",
    )
    db_ca_file: str | None = Field(
        None, description="PEM bundle that Postgres' certificates are verified with; without it, the system's."
    )
    app_db_service: str | None = Field(
        None, description="The service whose database is the application's; used while `RUNWAY_APP_DB_HOST` is not set."
    )
    app_db_role: Literal["app", "ro"] = Field("ro", description="The service's role to connect in.")
    app_db_db_id: str | None = Field(None, description="Which of the service's databases, where it has several.")
    app_db_host: str = Field("localhost", description="Host of the application's Postgres.")
    app_db_port: int = Field(5432, ge=1, le=65535, description="Its port.")
    app_db_name: str = Field("runway", description="Its database.")
    app_db_user: str = Field("runway_pipelines", description="A user that may read the registry's tables.")
    app_db_password: SecretStr | None = Field(None, description="The user's password.")
    app_db_sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "prefer", description="TLS to the application's Postgres, as libpq names it."
    )

    snowflake_host: str | None = Field(None, description="Another host than the account's own; for a local server.")
    snowflake_port: int = Field(443, ge=1, le=65535, description="Port of `RUNWAY_SNOWFLAKE_HOST`.")
    snowflake_protocol: Literal["http", "https"] = Field("https", description="Protocol of `RUNWAY_SNOWFLAKE_HOST`.")
    snowflake_login_timeout: int = Field(60, ge=1, description="Seconds to wait for a session (opening takes 20).")
    snowflake_network_timeout: int = Field(
        600, ge=1, description="Seconds before the driver gives up on an answer; without it, it retries for ever."
    )
    sessions_per_partner: int = Field(
        4,
        ge=1,
        le=8,
        description="Sessions opened at most for one partner in a run; each takes a lock too.",
    )

    rosters_cron: str = Field(
        "0 2 * * *", description="When every partner's rosters are refreshed: once a day at most."
    )
    rosters_timezone: str = Field("America/Los_Angeles", description="Time zone of `RUNWAY_ROSTERS_CRON`.")
    rosters_without_toggle: bool = Field(
        False, description="Take rosters also for partners whose cross-year toggle is off (older Runways read them)."
    )
    lock_wait_seconds: int = Field(
        600, ge=1, description="Seconds to wait for a tenant that another run is publishing."
    )
    least_students_with_codes: float = Field(
        0.5, ge=0, le=1, description="Warn when a smaller share of a tenant's students has an ID code."
    )
    most_coverage_drop: float = Field(
        0.1, ge=0, le=1, description="Warn when an ID type's share of students falls by more than this."
    )
    most_students_lost: float = Field(
        0.01, ge=0, le=1, description="Warn when a larger share of students vanished since the last snapshot."
    )

    roster_fresh_hours: float = Field(
        30,
        gt=0,
        description="Warn of a tenant whose roster was last confirmed correct longer ago: a night and some hours.",
    )

    run_retention_days: int = Field(
        90, ge=7, description="Runs that ended longer ago are deleted from Dagster's storage, with their events."
    )

    library_metadata_url: str | None = Field(
        None,
        validation_alias="LIBRARY_METADATA_URL",
        pattern=r"^(https?://.+)?$",
        description="Where LML, the library metadata lookup service, is.",
    )
    lml_api_key: SecretStr | None = Field(
        None, validation_alias="LML_API_KEY", description="LML's bearer key, where it wants one."
    )
    catalogue_db_service: str | None = Field(
        None,
        description="The service whose database the catalogue is; used while `RUNWAY_CATALOGUE_DB_HOST` is not set.",
    )
    catalogue_db_db_id: str | None = Field(None, description="Which of the service's databases, where it has several.")
    catalogue_db_host: str = Field("localhost", description="Host of the catalogue's Postgres.")
    catalogue_db_port: int = Field(5432, ge=1, le=65535, description="Its port.")
    catalogue_db_name: str = Field("wxyc", description="Its database.")
    catalogue_db_user: str = Field("runway_pipelines", description="A user that may write the identity's tables.")
    catalogue_db_password: SecretStr | None = Field(None, description="The user's password.")
    catalogue_db_sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "prefer", description="TLS to the catalogue's Postgres, as libpq names it."
    )
    catalogue_schema: str = Field(
        "wxyc_schema", pattern=r"^[a-z_][a-z0-9_]{0,62}$", description="The schema of the catalogue's tables."
    )
    identity_cron: str = Field("0 4 * * *", description="When the library's identity is resolved.")
    identity_timezone: str = Field("America/New_York", description="Time zone of `RUNWAY_IDENTITY_CRON`.")

    stream_token_key: SecretStr | None = Field(
        None, description="The key (HS256, at least 32 bytes) that the application signs a run's token with."
    )
    stream_token_secret: str | None = Field(
        None, description="The name of a secret whose text is that key; read anew each minute, so that it can rotate."
    )
    stream_token_audience: str = Field("earthbeam", min_length=1, description="The audience (`aud`) of those tokens.")
    stream_token_run_claim: str = Field("runId", min_length=1, description="Their claim that holds the run's id.")
    stream_url: str | None = Field(
        None, pattern=r"^https?://", description="Where executors reach the stream; else as the request came."
    )
    stream_snapshot_hours: float = Field(
        24, ge=0, description="A snapshot that was verified within this time is streamed instead of the warehouse."
    )
    stream_sessions_per_partner: int = Field(
        20, ge=1, le=20, description="Sessions that the stream opens at most for one partner."
    )
    stream_acquire_seconds: float = Field(60, gt=0, description="Seconds that a pull waits for a session.")
    stream_most_pulls: int = Field(
        200, ge=1, description="Pulls at the same time; each holds a thread and a few megabytes. Others wait."
    )
    stream_most_pulls_per_partner: int = Field(
        50, ge=1, description="Of them at most so many of one partner, whose warehouse may be stuck."
    )
    stream_stall_seconds: int = Field(
        300, ge=1, description="Seconds after which a client that takes nothing is given up (where the system can)."
    )
    stream_least_bytes_per_second: int = Field(
        10_000,
        ge=1,
        description="Bytes a second that a client takes at least, on average; those seconds on top of that.",
    )
    stream_grace_seconds: int = Field(
        30, ge=0, description="Seconds that pulls in flight get to finish when the stream is told to stop."
    )

    redis_service: str | None = Field(
        None, description="The service whose Redis holds what concurrent runs share; without it each run is on its own."
    )
    redis_ca_file: str | None = Field(
        None, description="PEM bundle that Redis' certificate is verified with; without it, the system's."
    )
    lml_calls_per_second: float | None = Field(
        None, gt=0, le=1000, description="Most calls of LML a second; shared by all runs where there is a Redis."
    )
    mongo_env: str | None = Field(
        None, description="Where MongoDB is looked up, if elsewhere than `RUNWAY_STORES_ENV`: `mirror` or `prod`."
    )
    mongo_project: str | None = Field(
        None, description="The project whose MongoDB the doctor examines; nothing else uses it."
    )

    large_partners: str = Field(
        "",
        pattern=r"^([A-Za-z0-9_@-]{1,64}(,[A-Za-z0-9_@-]{1,64})*)?$",
        description="Partners whose requested runs get a large task on ECS, with commas between them.",
    )
    large_run_cpu: Literal["1024", "2048", "4096", "8192", "16384"] = Field(
        "4096", description="CPU units of a large task; 1024 are a core."
    )
    large_run_memory: int = Field(
        16_384,
        ge=2048,
        le=122_880,
        multiple_of=1024,
        description="Its memory in MiB; Fargate has two to eight GiB a core.",
    )

    sensor_interval_seconds: int = Field(60, ge=1, description="Seconds between two ticks of a sensor.")
    credentials_retry_seconds: int = Field(
        900, ge=1, description="Seconds until credentials that failed are tried again; doubled after each attempt."
    )
    credentials_retry_most_seconds: int = Field(
        21_600, ge=1, description="The longest wait between two attempts with credentials that failed."
    )
    key_age_warning_days: int = Field(90, ge=1, description="Warn when a partner's current key is older than this.")
    event_bus: str | None = Field(
        None, description="EventBridge bus that operators' events go to; without it they are only logged."
    )
    dagster_url: str | None = Field(
        None, pattern=r"^https?://", description="Where people open the Dagster UI; events link to runs there."
    )

    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`json`: one object a line; `text`: as Dagster does; `auto`: text on a terminal, else JSON."
    )
    dagster_home: str | None = Field(
        None, validation_alias="DAGSTER_HOME", description="Dagster's own: the folder of its dagster.yaml."
    )

    edu_snowflake_username: str | None = Field(None, validation_alias="EDU_SNOWFLAKE_USERNAME", description=_DEV)
    edu_snowflake_account: str | None = Field(None, validation_alias="EDU_SNOWFLAKE_ACCOUNT", description=_DEV)
    edu_snowflake_database: str | None = Field(None, validation_alias="EDU_SNOWFLAKE_DATABASE", description=_DEV)
    edu_snowflake_schema: str | None = Field(None, validation_alias="EDU_SNOWFLAKE_SCHEMA", description=_DEV)
    edu_snowflake_private_key: SecretStr | None = Field(
        None, validation_alias="EDU_SNOWFLAKE_PRIVATE_KEY", description=_DEV
    )
    edu_snowflake_warehouse: str | None = Field(None, validation_alias="EDU_SNOWFLAKE_WAREHOUSE", description=_DEV)
    edu_snowflake_role: str | None = Field(None, validation_alias="EDU_SNOWFLAKE_ROLE", description=_DEV)

    def given(self, name: str) -> Any:
        """A field's value where the environment gives one, else None: its default is not what anybody asked for."""
        return getattr(self, name) if name in self.model_fields_set else None

    def development_secret(self) -> dict[str, str] | None:
        """The members of a partner's secret from ``EDU_SNOWFLAKE_*``; None outside development, or when none is set."""
        values = {
            "username": self.edu_snowflake_username,
            "account": self.edu_snowflake_account,
            "database": self.edu_snowflake_database,
            "schema": self.edu_snowflake_schema,
            "privateKey": self.edu_snowflake_private_key and self.edu_snowflake_private_key.get_secret_value(),
            "warehouse": self.edu_snowflake_warehouse,
            "role": self.edu_snowflake_role,
        }
        present = {name: value for name, value in values.items() if value}
        return present if self.env == "development" and present else None


def settings_markdown() -> str:
    """docs/configuration.md: every setting with its variable, default and meaning."""
    rows = [
        f"| `{_variable(name)}` | {'' if field.default is None else f'`{field.default}`'} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    head = ["# Configuration", "", "Made by `runway-pipelines settings`.", ""]
    return "\n".join([*head, "| variable | default | meaning |", "| --- | --- | --- |", *rows, ""])


def _variable(name: str) -> str:
    """The variable of a field (or ``name`` itself, which pydantic gives where a field has an alias)."""
    if name not in Settings.model_fields:
        return name
    alias = Settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return str(alias or f"RUNWAY_{name.upper()}")


@cache
def load_settings() -> Settings:
    """Read the environment, once for a process; raises `ConfigurationError` that names every wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(f"{_variable(str(e['loc'][0]))}: {e['msg']}" for e in error.errors(include_input=False))
    raise ConfigurationError(
        expected="settings as docs/configuration.md lists them", came=wrong, remedy="correct the environment"
    )
