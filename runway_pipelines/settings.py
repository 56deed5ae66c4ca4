"""Environment in, one frozen and validated `Settings` out, nested by system. The only reader of the environment.

Each setting is documented where it is declared; docs/configuration.md is generated from that.
"""

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from runway_pipelines.errors import ConfigurationError

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]

_PartnerId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_@-]{1,64}$")]


def _split_at_commas(value: str) -> list[str]:
    return value.split(",") if value else []


_Partners = Annotated[frozenset[_PartnerId], NoDecode, BeforeValidator(_split_at_commas)]


class Section(BaseSettings):
    """The settings of one system. A field's variable is the section's prefix and the field's name, or its alias."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    @classmethod
    def variable(cls, field: str) -> str:
        """The environment variable of a field (or ``field`` itself, which pydantic reports where there is an alias)."""
        if field not in cls.model_fields:
            return field
        alias = cls.model_fields[field].validation_alias
        if isinstance(alias, AliasChoices):
            return str(alias.choices[0])
        return str(alias or f"{cls.model_config['env_prefix']}{field.upper()}")

    @classmethod
    def default(cls, field: str) -> Any:
        """The field's default, as its variable would give it."""
        value = cls.model_fields[field].default
        return ",".join(sorted(value)) if isinstance(value, frozenset) else value

    def given(self, field: str) -> Any:
        """The field's value where the environment sets it, else None: nobody asked for a default."""
        return getattr(self, field) if field in self.model_fields_set else None


class General(Section, env_prefix="RUNWAY_"):
    """What belongs to no single system."""

    env: Literal["development", "production"] = Field("production", description="`development` on your own machine.")
    envlabel: str | None = Field(
        None,
        validation_alias="ENVLABEL",
        description="`dev`, `stg` or `prod`: every secret's name begins with it.",
        pattern=r"^[A-Za-z0-9_-]{1,32}$",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`json`: one object a line; `text`: Dagster's own; `auto`: text on a terminal, else JSON."
    )


class Aws(Section, env_prefix="RUNWAY_"):
    """AWS: Secrets Manager, S3 and EventBridge."""

    region: str = Field(
        "us-west-2",
        validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"),
        description="The region of Secrets Manager, S3 and EventBridge.",
    )
    bucket: str | None = Field(None, description="The application's bucket, where rosters are published.")
    event_bus: str | None = Field(
        None, description="EventBridge bus for operators' events; without one they are only logged."
    )


class Stores(Section, env_prefix="RUNWAY_"):
    """How Postgres, Redis and MongoDB are found by their service."""

    env: Literal["dev", "mirror", "prod"] | None = Field(
        None,
        validation_alias="RUNWAY_STORES_ENV",
        description="The environment in which data stores are looked up by service: see data-contracts.md.",
    )
    db_tunnel: str | None = Field(
        None,
        pattern=r"^[^\s:]+:[0-9]{1,5}$",
        description="`host:port` to connect to instead of the Postgres that was looked up, such as a bastion's.",
    )
    db_ca_file: str | None = Field(
        None, description="PEM bundle that verifies Postgres' certificates; the system's by default."
    )


class Database(Section):
    """A Postgres database: at a host where one is set, else looked up by service."""

    service: str | None
    db_id: str | None = Field(None, description="Which of the service's databases, where it has several.")
    host: str
    port: int = Field(5432, ge=1, le=65535, description="Its port.")
    name: str
    user: str
    password: SecretStr | None = Field(None, description="The user's password.")
    sslmode: SslMode = Field("prefer", description="TLS to this Postgres, in libpq's words.")

    @property
    def is_looked_up(self) -> bool:
        """Whether the database is found by its service rather than at a plain host."""
        return self.given("host") is None and bool(self.service)


class AppDatabase(Database, env_prefix="RUNWAY_APP_DB_"):
    """The application's database, which is only read."""

    service: str | None = Field(
        None, description="The service that owns the application's database; used while `RUNWAY_APP_DB_HOST` is unset."
    )
    role: Literal["app", "ro"] = Field("ro", description="The service's role to connect as.")
    host: str = Field("localhost", description="Host of the application's Postgres.")
    name: str = Field("runway", description="Its database.")
    user: str = Field("runway_pipelines", description="A user that may read the registry's tables.")


class Catalogue(Database, env_prefix="RUNWAY_CATALOGUE_DB_"):
    """The radio library's catalogue, in which its identity is written."""

    service: str | None = Field(
        None, description="The service that owns the catalogue; used while `RUNWAY_CATALOGUE_DB_HOST` is unset."
    )
    host: str = Field("localhost", description="Host of the catalogue's Postgres.")
    name: str = Field("wxyc", description="Its database.")
    user: str = Field("runway_pipelines", description="A user that may write the identity's tables.")
    schema_name: str = Field(
        "wxyc_schema",
        validation_alias="RUNWAY_CATALOGUE_SCHEMA",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="The schema of the catalogue's tables.",
    )


class Redis(Section, env_prefix="RUNWAY_REDIS_"):
    """Redis, which holds what concurrent runs share."""

    service: str | None = Field(
        None, description="The service whose Redis holds what concurrent runs share; without it, each run is alone."
    )
    ca_file: str | None = Field(
        None, description="PEM bundle that verifies Redis' certificate; the system's by default."
    )


class Mongo(Section, env_prefix="RUNWAY_MONGO_"):
    """MongoDB, which only the doctor uses."""

    env: str | None = Field(
        None, description="Where MongoDB is looked up, if not in `RUNWAY_STORES_ENV`: `mirror` or `prod`."
    )
    project: str | None = Field(None, description="The project whose MongoDB the doctor checks; nothing else uses it.")


class Snowflake(Section, env_prefix="RUNWAY_SNOWFLAKE_"):
    """The partners' Snowflake accounts."""

    host: str | None = Field(None, description="A host to use instead of the account's own, for a local server.")
    port: int = Field(443, ge=1, le=65535, description="Port of `RUNWAY_SNOWFLAKE_HOST`.")
    protocol: Literal["http", "https"] = Field("https", description="Protocol of `RUNWAY_SNOWFLAKE_HOST`.")
    login_timeout: int = Field(60, ge=1, description="Seconds to wait for a session (opening one takes 20).")
    network_timeout: int = Field(
        600, ge=1, description="Seconds before the driver gives up on an answer; by itself it retries for ever."
    )


class Lml(Section, env_prefix="RUNWAY_LML_"):
    """LML, the library metadata lookup service."""

    url: str | None = Field(
        None,
        validation_alias="LIBRARY_METADATA_URL",
        pattern=r"^(https?://.+)?$",
        description="The address of LML, the library metadata lookup service.",
    )
    api_key: SecretStr | None = Field(
        None,
        validation_alias="LML_API_KEY",
        description="LML's bearer key, where it wants one. Over plain http it goes to private addresses only.",
    )
    calls_per_second: float | None = Field(
        None, gt=0, le=1000, description="Caps the rate of LML calls; all runs share it where there is a Redis."
    )


class Rosters(Section, env_prefix="RUNWAY_"):
    """How rosters are refreshed, and when a check warns."""

    cron: str = Field(
        "0 2 * * *",
        validation_alias="RUNWAY_ROSTERS_CRON",
        description="When every partner's rosters are refreshed: at most once a day.",
    )
    timezone: str = Field(
        "America/Los_Angeles",
        validation_alias="RUNWAY_ROSTERS_TIMEZONE",
        description="Time zone of `RUNWAY_ROSTERS_CRON`.",
    )
    without_toggle: bool = Field(
        False,
        validation_alias="RUNWAY_ROSTERS_WITHOUT_TOGGLE",
        description="Refresh rosters also for partners whose cross-year toggle is off (older Runways read them).",
    )
    sessions_per_partner: int = Field(
        4, ge=1, le=8, description="Most sessions for one partner in a run; each also holds a lock."
    )
    lock_wait_seconds: int = Field(
        600, ge=1, description="Seconds to wait for a tenant that another run is publishing."
    )
    fillers: bool = Field(
        True,
        validation_alias="RUNWAY_ROSTER_FILLERS",
        description="Give each student without a code of one of the tenant's ID types the code `no-code:...`; without "
        "it, consumers write a row with a blank ID to every such student.",
    )
    snapshots_kept: int = Field(30, ge=2, description="How many of each tenant's newest snapshots are kept.")
    snapshots_monthly_days: int = Field(
        400, ge=0, le=36_500, description="Days for which each month's first snapshot is kept as well; `0` keeps none."
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
    fresh_hours: float = Field(
        30,
        gt=0,
        validation_alias="RUNWAY_ROSTER_FRESH_HOURS",
        description="Warn about a tenant whose roster was confirmed longer ago than this; the default is a night and "
        "some hours.",
    )


def _zero_if_off(value: object) -> object:
    return 0 if isinstance(value, str) and value.casefold() == "off" else value


_Share = Annotated[float, BeforeValidator(_zero_if_off), Field(ge=0, le=1)]
_Growth = Annotated[float, BeforeValidator(_zero_if_off), Field(ge=0)]


class Guards(Section, env_prefix="RUNWAY_GUARD_"):
    """What holds a roster until a person decides; `0` or `off` turns a guard off."""

    students_lost: _Share = Field(
        0.05,
        description="Hold a roster that has lost a larger share of the published students, and more than "
        "`RUNWAY_GUARD_STUDENTS_LOST_LEAST` of them.",
    )
    students_lost_least: int = Field(
        20, ge=0, description="Losing this many students or fewer never holds a roster, whatever their share."
    )
    students_added: _Growth = Field(
        0.5,
        description="Hold a roster with more new students than this share of the published ones, and more than "
        "`RUNWAY_GUARD_STUDENTS_ADDED_LEAST` of them.",
    )
    students_added_least: int = Field(
        100, ge=0, description="This many new students or fewer never hold a roster, whatever their share."
    )
    students_changed: _Share = Field(
        0.75, description="Hold a roster in which a larger share of the students that stayed have other lines."
    )
    id_type_lost: _Share = Field(
        0.25, description="Hold a roster in which an ID type fell by more than this share of all students."
    )
    colliding_codes: _Share = Field(
        0.1,
        description="Hold a roster whose codes shared by two students are a larger share of its students, and more "
        "than twice the published one's share.",
    )
    warehouse_moved: bool = Field(
        True, description="Hold a roster that comes from another account, database or schema than the published one."
    )

    @field_validator("warehouse_moved", mode="before")
    @classmethod
    def _off_is_false(cls, value: object) -> object:
        return _zero_if_off(value)


class Credentials(Section, env_prefix="RUNWAY_"):
    """How partners' credentials are retried, and when a key is old."""

    retry_seconds: int = Field(
        900,
        ge=1,
        validation_alias="RUNWAY_CREDENTIALS_RETRY_SECONDS",
        description="Seconds until failed credentials are tried again; doubled after each attempt.",
    )
    retry_most_seconds: int = Field(
        21_600,
        ge=1,
        validation_alias="RUNWAY_CREDENTIALS_RETRY_MOST_SECONDS",
        description="The longest wait between two attempts with failed credentials.",
    )
    key_age_warning_days: int = Field(90, ge=1, description="Warn when a partner's current key is older than this.")


class Identity(Section, env_prefix="RUNWAY_IDENTITY_"):
    """When the library's identity is resolved."""

    cron: str = Field("0 4 * * *", description="When the library's identity is resolved.")
    timezone: str = Field("America/New_York", description="Time zone of `RUNWAY_IDENTITY_CRON`.")


class Stream(Section, env_prefix="RUNWAY_STREAM_"):
    """The live roster stream."""

    token_key: SecretStr | None = Field(
        None, description="The key (HS256, at least 32 bytes) with which the application signs a run's token."
    )
    token_secret: str | None = Field(
        None,
        description="The name of a secret that holds this key, read every minute: the application's own "
        "`JWT_ENCRYPTION_KEY_SECRET`.",
    )
    token_secret_encoding: Literal["base64", "text"] = Field(
        "base64",
        description="How the key is written in that secret; the application's is in `base64`. "
        "`RUNWAY_STREAM_TOKEN_KEY` is text.",
    )
    token_audience: str = Field(
        "",
        description="The audience (`aud`) that those tokens must have; empty where none is asked for. The "
        "application's have none.",
    )
    token_run_claim: str = Field("runId", min_length=1, description="The claim that holds the run's id.")
    url: str | None = Field(
        None, pattern=r"^https?://", description="Where executors reach the stream; else the request's own address."
    )
    board_token: SecretStr | None = Field(
        None,
        validation_alias="RUNWAY_BOARD_TOKEN",
        description="The token that opens the stream's page `/board`: at least 20 characters. Without one, there is no "
        "such page.",
    )
    snapshot_hours: float = Field(
        24, ge=0, description="A snapshot verified within this time is streamed instead of the warehouse's rows."
    )
    sessions_per_partner: int = Field(20, ge=1, le=20, description="Most sessions that the stream opens for a partner.")
    acquire_seconds: float = Field(60, gt=0, description="Seconds that a pull waits for a session.")
    most_pulls: int = Field(
        200, ge=1, description="Most pulls at a time; each holds a thread and a few megabytes. The others wait."
    )
    most_pulls_per_partner: int = Field(
        50, ge=1, description="Most pulls at a time for one partner, whose warehouse may be stuck."
    )
    stall_seconds: int = Field(
        300, ge=1, description="Seconds until a client that reads nothing is disconnected (where the system can)."
    )
    least_bytes_per_second: int = Field(
        10_000,
        ge=1,
        description="Lowest average rate at which a client may read, after `RUNWAY_STREAM_STALL_SECONDS`.",
    )
    grace_seconds: int = Field(30, ge=0, description="Seconds that pulls may take to finish when the stream stops.")


class Resolution(Section, env_prefix="RUNWAY_RESOLUTION_"):
    """Student resolution: whose row is it."""

    partners: _Partners = Field(
        frozenset(),
        validation_alias="RUNWAY_STUDENT_RESOLUTION",
        description="Partners whose students are resolved, separated by commas. It reads more of their warehouses than "
        "rosters do (names, birth dates, schools), so each partner decides.",
    )
    persons_minutes: int = Field(
        15,
        ge=0,
        le=1440,
        description="Minutes for which a server keeps a tenant's students in memory; `0`: it does not.",
    )
    keep_days: int = Field(
        30, ge=1, le=3650, description="Days after which a resolved file and its answers are deleted from the bucket."
    )


class Ecs(Section, env_prefix="RUNWAY_LARGE_"):
    """Which runs get a larger task on ECS."""

    partners: _Partners = Field(
        frozenset(), description="Partners whose requested runs get a large task on ECS, separated by commas."
    )
    run_cpu: Literal["1024", "2048", "4096", "8192", "16384"] = Field(
        "4096", description="CPU units of a large task; a core is 1024."
    )
    run_memory: int = Field(
        16_384,
        ge=2048,
        le=122_880,
        multiple_of=1024,
        description="Its memory in MiB; Fargate takes two to eight GiB for each core.",
    )


class Dagster(Section, env_prefix="RUNWAY_"):
    """Dagster itself."""

    sensor_interval_seconds: int = Field(60, ge=1, description="Seconds between two ticks of a sensor.")
    run_retention_days: int = Field(
        90, ge=7, description="Days after which an ended run is deleted from Dagster's storage, with its events."
    )
    url: str | None = Field(
        None,
        validation_alias="RUNWAY_DAGSTER_URL",
        pattern=r"^https?://",
        description="Where people open the Dagster UI; events link to runs there.",
    )
    command: str = Field(
        "runway-pipelines", description="What people type to call the command line, as Dagster's pages show it."
    )
    docs_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where people read this repository, such as its main branch on a code host; runbooks link there.",
    )
    home: str | None = Field(
        None, validation_alias="DAGSTER_HOME", description="Dagster's own: the folder of its dagster.yaml."
    )


_STAND_IN = "In development only: stands in for a partner's secret that does not exist."


class DevelopmentSecret(Section, env_prefix="EDU_SNOWFLAKE_"):
    """Stands in, in development, for a partner's secret that does not exist."""

    username: str | None = Field(None, description=_STAND_IN)
    account: str | None = Field(None, description=_STAND_IN)
    database: str | None = Field(None, description=_STAND_IN)
    schema_name: str | None = Field(None, validation_alias="EDU_SNOWFLAKE_SCHEMA", description=_STAND_IN)
    private_key: SecretStr | None = Field(None, description=_STAND_IN)
    warehouse: str | None = Field(None, description=_STAND_IN)
    role: str | None = Field(None, description=_STAND_IN)

    def members(self) -> dict[str, str]:
        """The members of the secret that are set."""
        values = {
            "username": self.username,
            "account": self.account,
            "database": self.database,
            "schema": self.schema_name,
            "privateKey": self.private_key and self.private_key.get_secret_value(),
            "warehouse": self.warehouse,
            "role": self.role,
        }
        return {name: value for name, value in values.items() if value}


class Settings(BaseModel):
    """What differs between a laptop and production, a section for each system."""

    model_config = ConfigDict(frozen=True)

    general: General = Field(default_factory=General)
    aws: Aws = Field(default_factory=Aws)
    stores: Stores = Field(default_factory=Stores)
    app_db: AppDatabase = Field(default_factory=AppDatabase)
    snowflake: Snowflake = Field(default_factory=Snowflake)
    rosters: Rosters = Field(default_factory=Rosters)
    guards: Guards = Field(default_factory=Guards)
    credentials: Credentials = Field(default_factory=Credentials)
    lml: Lml = Field(default_factory=Lml)
    catalogue: Catalogue = Field(default_factory=Catalogue)
    identity: Identity = Field(default_factory=Identity)
    stream: Stream = Field(default_factory=Stream)
    resolution: Resolution = Field(default_factory=Resolution)
    redis: Redis = Field(default_factory=Redis)
    mongo: Mongo = Field(default_factory=Mongo)
    dagster: Dagster = Field(default_factory=Dagster)
    ecs: Ecs = Field(default_factory=Ecs)
    edu_snowflake: DevelopmentSecret = Field(default_factory=DevelopmentSecret)

    def development_secret(self) -> dict[str, str] | None:
        """A partner's secret from ``EDU_SNOWFLAKE_*``; None outside development, or when no member is set."""
        return (self.edu_snowflake.members() or None) if self.general.env == "development" else None


def sections() -> dict[str, type[Section]]:
    """The sections of `Settings`, by name."""
    types = ((name, field.annotation) for name, field in Settings.model_fields.items())
    return {name: kind for name, kind in types if isinstance(kind, type) and issubclass(kind, Section)}


def settings_markdown() -> str:
    """docs/configuration.md: every setting with its variable, default and meaning."""
    lines = ["# Configuration", "", "Generated by `runway-pipelines settings`."]
    for section in sections().values():
        lines += ["", f"## {(section.__doc__ or '').rstrip('.')}", ""]
        lines += ["| variable | default | meaning |", "| --- | --- | --- |"]
        for name, field in section.model_fields.items():
            default = section.default(name)
            shown = "" if default in (None, "") else f"`{default}`"
            lines.append(f"| `{section.variable(name)}` | {shown} | {field.description} |")
    return "\n".join([*lines, ""])


@cache
def load_settings() -> Settings:
    """Read the environment, once for a process; raises `ConfigurationError` that names every wrong variable."""
    read: dict[str, Section] = {}
    wrong: list[str] = []
    for name, section in sections().items():
        try:
            read[name] = section()
        except ValidationError as error:
            wrong += [f"{section.variable(str(e['loc'][0]))}: {e['msg']}" for e in error.errors(include_input=False)]
    if wrong:
        raise ConfigurationError(
            expected="settings as docs/configuration.md lists them",
            came="; ".join(wrong),
            remedy="correct the environment",
        )
    return Settings.model_validate(read)
