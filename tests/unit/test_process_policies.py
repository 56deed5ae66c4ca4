"""`runway-pipelines iam-policy`: the names that each process's settings lead to."""

import pytest

from runway_pipelines.cli.iam_policy import PolicyOptions, Process, policy
from runway_pipelines.errors import ConfigurationError
from runway_pipelines.settings import Settings

ACCOUNT = "123456789012"
EVERYTHING = {
    "ENVLABEL": "prod",
    "RUNWAY_BUCKET": "runway-prod",
    "RUNWAY_EVENT_BUS": "operators",
    "RUNWAY_STORES_ENV": "prod",
    "RUNWAY_APP_DB_SERVICE": "runway-app",
    "RUNWAY_CATALOGUE_DB_SERVICE": "catalogue",
    "RUNWAY_CATALOGUE_DB_USER": "writer",
    "RUNWAY_REDIS_SERVICE": "pipelines",
    "RUNWAY_MONGO_PROJECT": "chat-api",
    "RUNWAY_STREAM_TOKEN_SECRET": "prod/stream-key",
}
TOKEN_KEY = "prod/stream-key"
OWN_NAMES = {"db_resource_ids": ["db-ABC"], "more_db_users": ["dagster"]}


@pytest.fixture(autouse=True)
def _settings(clean_environment: pytest.MonkeyPatch) -> None:
    for name, value in EVERYTHING.items():
        clean_environment.setenv(name, value)


def granted(process: Process) -> dict[str, list[str]]:
    """What a process is granted with the environment's settings: names by statement, without what ARNs begin with."""
    document = policy(Settings(), PolicyOptions(ACCOUNT, process, **OWN_NAMES))
    return {
        statement["Sid"]: [_name(resource) for resource in statement["Resource"]] for statement in document["Statement"]
    }


def _name(resource: str) -> str:
    for beginning in ("secret:", "parameter", "dbuser:", ":::"):
        resource = resource.partition(f"{ACCOUNT}:{beginning}")[2] or resource
    return resource.removesuffix("-??????")


def test_the_pipeline_gets_every_name_but_the_key_of_the_streams_tokens() -> None:
    pipeline = granted(Process.PIPELINE)
    assert pipeline["OtherSecrets"] == ["prod/mongodb-shared/chat-api-password", "prod/redis/pipelines"]
    assert pipeline["StoreParameters"] == [
        "/prod/postgres-rds/endpoint",
        "/prod/postgres-rds/port",
        "/shared/infra/prod/mongodb-ca-secret-arn",
        "/shared/infra/prod/mongodb-hosts",
        "/shared/infra/prod/mongodb-replica-set-name",
        "/shared/infra/prod/redis-endpoint",
    ]
    assert pipeline["ConnectToPostgres"] == [f"db-ABC/{user}" for user in ("dagster", "runway_app_ro", "writer")]
    assert {"ListSecrets", "OperatorEvents"} <= pipeline.keys()
    everything = granted(Process.ALL)
    assert set(everything.pop("OtherSecrets")) == {*pipeline.pop("OtherSecrets"), TOKEN_KEY}
    assert everything == pipeline


def test_the_stream_gets_the_key_of_its_tokens_and_nothing_that_only_runs_use() -> None:
    stream = granted(Process.STREAM)
    assert stream["OtherSecrets"] == [TOKEN_KEY]
    assert stream["ConnectToPostgres"] == ["db-ABC/dagster", "db-ABC/runway_app_ro"]
    assert stream["StoreParameters"] == ["/prod/postgres-rds/endpoint", "/prod/postgres-rds/port"]
    assert stream["Objects"] == ["arn:aws:s3:::runway-prod/__roster_snapshots/*"]
    assert not {"ListSecrets", "OperatorEvents"} & stream.keys()


def test_in_dev_a_databases_secret_is_granted_and_no_instance(clean_environment: pytest.MonkeyPatch) -> None:
    clean_environment.setenv("RUNWAY_STORES_ENV", "dev")
    clean_environment.setenv("RUNWAY_MONGO_ENV", "prod")
    pipeline = granted(Process.PIPELINE)
    databases = ["dev/postgres-shared/catalogue/app", "dev/postgres-shared/runway-app/ro"]
    assert set(databases) <= set(pipeline["OtherSecrets"])
    assert pipeline["ConnectToPostgres"] == ["db-ABC/dagster"]
    assert not any("postgres" in path for path in pipeline["StoreParameters"])


@pytest.mark.parametrize(("variable", "value"), [("RUNWAY_REDIS_SERVICE", "*"), ("RUNWAY_MONGO_PROJECT", "a/b")])
def test_a_name_that_would_escape_its_path_is_refused(
    variable: str, value: str, clean_environment: pytest.MonkeyPatch
) -> None:
    clean_environment.setenv(variable, value)
    with pytest.raises(ConfigurationError):
        granted(Process.PIPELINE)
