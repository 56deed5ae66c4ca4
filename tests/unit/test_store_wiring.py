"""Settings lead to the stores that they mean: a plain host wins, a role is never more than is needed."""

from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from runway_pipelines.cli.app import main
from runway_pipelines.errors import ConfigurationError
from runway_pipelines.settings import Settings, load_settings
from runway_pipelines.systems.vocabulary import Role
from runway_pipelines.wiring import (
    build_application_database,
    build_catalogue,
    build_lml_limiter,
    build_mongo,
    build_redis,
)

pytestmark = pytest.mark.usefixtures("clean_environment")

BY_SERVICE = {
    "RUNWAY_STORES_ENV": "mirror",
    "RUNWAY_APP_DB_SERVICE": "runway-app",
    "RUNWAY_CATALOGUE_DB_SERVICE": "catalogue",
    "RUNWAY_DB_CA_FILE": "/etc/rds.pem",
    "RUNWAY_DB_TUNNEL": "127.0.0.1:15432",
    "AWS_REGION": "us-east-1",
}
FIELDS = ("env", "service", "role", "db_id", "database", "username", "region", "tunnel", "ca_file", "host")


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    return load_settings()


def fields(resource: Any, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(resource, name) for name in names)


def test_without_anything_the_databases_are_on_this_machine() -> None:
    for database, name in (
        (build_application_database(load_settings()), "runway"),
        (build_catalogue(load_settings(), Role.APP), "wxyc"),
    ):
        assert fields(database, "host", "port", "database", "username", "password", "sslmode", "env") == (
            "localhost",
            5432,
            name,
            "runway_pipelines",
            None,
            "prefer",
            None,
        )


def test_with_a_service_the_databases_are_found_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, **BY_SERVICE, RUNWAY_APP_DB_DB_ID="main")
    common = ("us-east-1", "127.0.0.1:15432", "/etc/rds.pem", None)
    assert fields(build_application_database(found), *FIELDS) == (
        *("mirror", "runway-app", "ro", "main", None, None),
        *common,
    )
    assert fields(build_catalogue(found, Role.APP), *FIELDS) == (
        "mirror",
        "catalogue",
        "app",
        None,
        None,
        None,
        *common,
    )
    assert build_catalogue(found, Role.OWNER).role == "owner"


def test_the_names_can_be_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(
        monkeypatch,
        **BY_SERVICE,
        RUNWAY_APP_DB_NAME="other",
        RUNWAY_APP_DB_USER="she",
        RUNWAY_APP_DB_ROLE="app",
        RUNWAY_CATALOGUE_DB_USER="he",
    )
    assert fields(build_application_database(found), "database", "username", "role") == ("other", "she", "app")
    assert fields(build_catalogue(found, Role.APP), "database", "username") == (None, "he")
    assert build_catalogue(found, Role.OWNER).username is None  # the one who owns the tables stays who it is


def test_a_plain_host_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, **BY_SERVICE, RUNWAY_APP_DB_HOST="db.internal", RUNWAY_CATALOGUE_DB_HOST="localhost")
    assert fields(build_application_database(found), "host", "env", "username") == (
        "db.internal",
        None,
        "runway_pipelines",
    )
    assert fields(build_catalogue(found, Role.OWNER), "host", "env") == ("localhost", None)


def test_a_service_without_an_environment_is_said_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, RUNWAY_APP_DB_SERVICE="runway-app")
    with pytest.raises(ConfigurationError, match="RUNWAY_STORES_ENV"):
        build_application_database(found).destination()


def test_stores_that_are_not_configured_are_not_there() -> None:
    assert build_redis(load_settings()) is None
    assert build_mongo(load_settings()) is None
    assert build_lml_limiter(load_settings()).reserve() == 0


def test_stores_that_are_configured_are_found_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(
        monkeypatch,
        RUNWAY_STORES_ENV="prod",
        RUNWAY_REDIS_SERVICE="pipelines",
        RUNWAY_REDIS_CA_FILE="/etc/redis.pem",
        RUNWAY_MONGO_PROJECT="chat-api",
        RUNWAY_LML_CALLS_PER_SECOND="4",
    )
    redis, mongo, limiter = build_redis(found), build_mongo(found), build_lml_limiter(found)
    assert redis is not None
    assert mongo is not None
    assert limiter.redis is not None
    assert fields(redis, "env", "service", "ca_file", "attempts") == ("prod", "pipelines", "/etc/redis.pem", 1)
    assert fields(mongo, "env", "project") == ("prod", "chat-api")
    assert fields(limiter, "name", "calls_per_second") == ("lml", 4.0)
    assert limiter.redis.service == "pipelines"
    assert settings(monkeypatch, RUNWAY_MONGO_ENV="mirror").mongo.env == "mirror"
    elsewhere = build_mongo(load_settings())
    assert elsewhere is not None
    assert elsewhere.env == "mirror"


def test_no_password_is_in_a_repr() -> None:
    from runway_pipelines.systems.postgres.databases import PostgresResource

    assert "c4n4ry" not in repr(PostgresResource(host="h", database="d", username="u", password="c4n4ry"))


def policy(*arguments: str) -> dict[str, list[str]]:
    """What `runway-pipelines iam-policy` grants: resources by statement."""
    result = CliRunner().invoke(main, ["iam-policy", "--account", "123456789012", *arguments])
    assert result.exit_code == 0, result.output
    return {statement["Sid"]: statement["Resource"] for statement in orjson.loads(result.stdout)["Statement"]}


def test_the_policy_follows_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(
        monkeypatch,
        **BY_SERVICE,
        ENVLABEL="stg",
        RUNWAY_BUCKET="runway-stg",
        RUNWAY_EVENT_BUS="operators",
        RUNWAY_REDIS_SERVICE="pipelines",
        RUNWAY_MONGO_PROJECT="chat-api",
        RUNWAY_STREAM_TOKEN_SECRET="stg-stream-key",
    )
    granted = policy("--db-resource-id", "db-ABC", "--db-user", "dagster", "--partner", "acme")
    prefix = "arn:aws:{}:us-east-1:123456789012:".format
    users = ("catalogue_app", "dagster", "runway_app_ro")
    assert granted["ConnectToPostgres"] == [f"{prefix('rds-db')}dbuser:db-ABC/{user}" for user in users]
    assert granted["PartnerSecrets"] == [f"{prefix('secretsmanager')}secret:stg-edu-connection-info-acme-??????"]
    assert f"{prefix('secretsmanager')}secret:stg-stream-key-??????" in granted["OtherSecrets"]
    assert f"{prefix('secretsmanager')}secret:mirror/redis/pipelines-??????" in granted["OtherSecrets"]
    assert f"{prefix('ssm')}parameter/mirror/current/mongodb-shared/ca-secret-arn" in granted["StoreParameters"]
    assert granted["Objects"] == [
        "arn:aws:s3:::runway-stg/__resolutions/*",
        "arn:aws:s3:::runway-stg/__roster_snapshots/*",
        "arn:aws:s3:::runway-stg/__rosters/*",
    ]
    assert policy()["PartnerSecrets"] == [f"{prefix('secretsmanager')}secret:stg-edu-connection-info-*"]
    of_stream, of_pipeline = policy("--for", "stream"), policy("--for", "pipeline")
    assert of_stream["OtherSecrets"] == [f"{prefix('secretsmanager')}secret:stg-stream-key-??????"]
    assert of_stream["Objects"] == ["arn:aws:s3:::runway-stg/__roster_snapshots/*"]
    assert of_stream["ConnectToPostgres"] == [f"{prefix('rds-db')}dbuser:*/runway_app_ro"]
    assert not [arn for arn in of_pipeline["OtherSecrets"] if "stg-stream-key" in arn]
    owner = f"{prefix('rds-db')}dbuser:*/catalogue_owner"
    assert owner not in policy()["ConnectToPostgres"]
    assert owner in policy("--with-owner")["ConnectToPostgres"]


def test_at_a_plain_host_nobody_asks_iam(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, **BY_SERVICE, ENVLABEL="stg", RUNWAY_APP_DB_HOST="a", RUNWAY_CATALOGUE_DB_HOST="b")
    assert "ConnectToPostgres" not in policy()
    assert "StoreParameters" not in policy()


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--account", "1"], "12 digits"), (["--account", "123456789012"], "ENVLABEL")]
)
def test_a_policy_that_cannot_be_made_says_why(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(
        main, ["iam-policy", *arguments], env={"ENVLABEL": "stg"} if said == "12 digits" else {}
    )
    assert result.exit_code == 1
    assert said in result.output
