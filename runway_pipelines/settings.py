"""Environment in, one frozen and validated `Settings` out. The only reader of the environment.

Each field is documented where it is declared; docs/configuration.md is made from that.
"""

from functools import cache
from typing import Literal

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

    library_metadata_url: str | None = Field(
        None,
        validation_alias="LIBRARY_METADATA_URL",
        pattern=r"^(https?://.+)?$",
        description="Where LML, the library metadata lookup service, is.",
    )
    lml_api_key: SecretStr | None = Field(
        None, validation_alias="LML_API_KEY", description="LML's bearer key, where it wants one."
    )
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
