"""Every path of the contract: what is read where, what comes of it, and what is said of what is not there."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from runway_pipelines.errors import ConfigurationError, RunwayError, SecretMalformed, SecretMissing
from runway_pipelines.systems.mongo import names as mongo
from runway_pipelines.systems.mongo.names import MongoConnection, MongoEnv, load_mongo
from runway_pipelines.systems.postgres import names as postgres
from runway_pipelines.systems.postgres.names import PostgresConnection, load_postgres
from runway_pipelines.systems.redis import names as redis
from runway_pipelines.systems.redis.names import RedisConnection, load_redis
from runway_pipelines.systems.vocabulary import Env, Role, parse_env, parse_role
from tests.servers.certificates import new_authority

CANARY = "c4n4ry"
DEV = {"host": "db.dev", "port": 5432, "password": CANARY}
RDS = {
    "/mirror/current/postgres-rds/endpoint": "rds.mirror",
    "/mirror/current/postgres-rds/port": "5433",
    "/prod/postgres-rds/endpoint": "rds.prod\n",
    "/prod/postgres-rds/port": "5434",
}
USER = {"username": "chat", "password": CANARY}


class Account:
    """What AWS holds, and what was asked for."""

    def __init__(self, secrets: Mapping[str, Any], parameters: Mapping[str, str] | None = None) -> None:
        self.texts = {name: text if isinstance(text, str) else json.dumps(text) for name, text in secrets.items()}
        self.parameters = dict(parameters or {})
        self.asked: list[str] = []

    def get_secret(self, name: str) -> str | None:
        self.asked.append(name)
        return self.texts.get(name)

    def get_parameter(self, path: str) -> str | None:
        self.asked.append(path)
        return self.parameters.get(path)

    def load(self, loader: Callable[..., Any], **arguments: Any) -> Any:
        return loader(self, **arguments)


chat_api = partial(load_postgres, service="chat-api")


def described(error: RunwayError) -> str:
    """Everything that an exception may leave in a log, its context with it."""
    return "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(error.__context__)


@pytest.mark.parametrize(
    ("name", "arguments", "secret", "expected"),
    [
        ("dev/postgres-shared/chat-api/app", {}, {}, ("chat_api_app", "chat_api")),
        ("dev/postgres-shared/chat-api/owner", {"role": Role.OWNER}, {}, ("chat_api_owner", "chat_api")),
        ("dev/postgres-shared/chat-api/ro", {"role": Role.RO}, {}, ("chat_api_ro", "chat_api")),
        (
            "dev/postgres-shared/chat-api/history/app",
            {"db_id": "history"},
            {},
            ("chat_api_app", "chat_api_history_db"),
        ),
        ("dev/postgres-shared/chat-api/app", {}, {"username": "me", "database": "mine"}, ("me", "mine")),
        ("dev/postgres-shared/chat-api/app", {}, {"dbname": "mine"}, ("chat_api_app", "mine")),
        ("dev/postgres-shared/chat-api/app", {}, {"dbname": "mine", "database": None}, ("chat_api_app", "mine")),
        ("dev/postgres-shared/chat-api/app", {}, {"dbname": "mine", "database": ""}, ("chat_api_app", "mine")),
        (
            "dev/postgres-shared/chat-api/app",
            {"database": "other", "username": "she"},
            {"username": "me", "database": "mine"},
            ("she", "other"),
        ),
    ],
)
def test_postgres_in_dev_is_the_secrets(
    name: str, arguments: dict[str, Any], secret: dict[str, Any], expected: tuple[str, str]
) -> None:
    account = Account({name: DEV | secret})
    loaded = account.load(chat_api, env=Env.DEV, **arguments)
    assert loaded == PostgresConnection("db.dev", 5432, expected[1], expected[0], CANARY)
    assert (loaded.is_iam, loaded.is_tls) == (False, False)
    assert account.asked == [name]
    assert CANARY not in repr(loaded)


@pytest.mark.parametrize(("env", "host", "port"), [(Env.MIRROR, "rds.mirror", 5433), (Env.PROD, "rds.prod", 5434)])
@pytest.mark.parametrize(
    ("arguments", "user", "database"),
    [
        ({}, "chat_api_app", "chat_api"),
        ({"role": Role.RO}, "chat_api_ro", "chat_api"),
        ({"role": Role.OWNER, "db_id": "history"}, "chat_api_owner", "chat_api_history_db"),
        ({"database": "other", "username": "she"}, "she", "other"),
    ],
)
def test_postgres_in_rds_is_the_parameters_and_a_token(
    env: Env, host: str, port: int, arguments: dict[str, Any], user: str, database: str
) -> None:
    account = Account({}, RDS)
    loaded = account.load(chat_api, env=env, **arguments)
    assert loaded == PostgresConnection(host, port, database, user, password=None, is_iam=True, is_tls=True)
    assert account.asked == [path for path in RDS if path.startswith(f"/{env}/")]


@pytest.mark.parametrize(
    ("env", "secret", "parameters", "expected"),
    [
        (Env.DEV, {"endpoint": "r.dev"}, {}, RedisConnection("r.dev", 6379, "chat", CANARY, is_tls=False)),
        (Env.DEV, {"endpoint": "r", "tls": True}, {}, RedisConnection("r", 6379, "chat", CANARY, is_tls=True)),
        (Env.MIRROR, {"endpoint": "r", "port": "6380"}, {}, RedisConnection("r", 6380, "chat", CANARY, is_tls=True)),
        (Env.PROD, {"endpoint": "r", "tls": "false"}, {}, RedisConnection("r", 6379, "chat", CANARY, is_tls=False)),
        (
            Env.PROD,
            {"port": 6390},
            {"/shared/infra/prod/redis-endpoint": "r.prod"},
            RedisConnection("r.prod", 6390, "chat", CANARY, is_tls=True),
        ),
        (
            Env.DEV,
            {"endpoint": ""},
            {"/shared/infra/dev/redis-endpoint": "r.dev"},
            RedisConnection("r.dev", 6379, "chat", CANARY, is_tls=False),
        ),
    ],
)
def test_redis(env: Env, secret: dict[str, Any], parameters: dict[str, str], expected: RedisConnection) -> None:
    account = Account({f"{env}/redis/chat-api": USER | secret}, parameters)
    loaded = account.load(load_redis, env=env, service="chat-api")
    assert loaded == expected
    assert account.asked == [f"{env}/redis/chat-api", *parameters]
    assert CANARY not in repr(loaded)


MIRROR = {
    "/mirror/current/mongodb-shared/endpoint": "m.mirror",
    "/mirror/current/mongodb-shared/port": "27018",
    "/mirror/current/mongodb-shared/replica-set-name": "rs0",
    "/mirror/current/mongodb-shared/ca-secret-arn": "arn:aws:secretsmanager:us-west-2:123456789012:secret:ca-AbCdEf",
}
CA_ARN = MIRROR["/mirror/current/mongodb-shared/ca-secret-arn"]


def shared(env: str, hosts: str = "a.prod:27019, b.prod") -> dict[str, str]:
    parts = {"mongodb-hosts": hosts, "mongodb-replica-set-name": "rs1", "mongodb-ca-secret-arn": CA_ARN}
    return {f"/shared/infra/{env}/{part}": value for part, value in parts.items()}


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_authority(tmp_path_factory.mktemp("ca")).certificate.read_text()


MONGO = [
    (MongoEnv.MIRROR, "/mirror/current/chat-api-mongo-password", MIRROR, (("m.mirror", 27018),), "rs0"),
    (
        MongoEnv.PROD,
        "prod/mongodb-shared/chat-api-password",
        shared("prod"),
        (("a.prod", 27019), ("b.prod", 27017)),
        "rs1",
    ),
    (
        MongoEnv.STAGING,
        "staging/mongodb-shared/chat-api-password",
        shared("staging"),
        (("a.prod", 27019), ("b.prod", 27017)),
        "rs1",
    ),
]


@pytest.mark.parametrize(("env", "secret", "parameters", "hosts", "replica_set"), MONGO)
def test_mongo(
    env: MongoEnv,
    secret: str,
    parameters: dict[str, str],
    hosts: tuple[tuple[str, int], ...],
    replica_set: str,
    ca: str,
) -> None:
    account = Account({secret: USER, CA_ARN: {"ca_cert": ca}}, parameters)
    loaded = account.load(load_mongo, env=env, project="chat-api")
    deprecation = loaded.deprecation
    assert loaded == MongoConnection(hosts, replica_set, "chat", "chat_api_db", CANARY, ca, deprecation)
    assert (deprecation is not None) == (env is MongoEnv.STAGING)
    assert sorted(account.asked) == sorted([secret, CA_ARN, *parameters])
    assert CANARY not in repr(loaded)


@pytest.mark.parametrize("env", ["dev", "qa", "", "PROD"])
def test_there_is_no_mongo_elsewhere(env: str) -> None:
    with pytest.raises(ConfigurationError, match="mirror or prod"):
        mongo.parse_mongo_env(env)


DEV_NAME = "dev/postgres-shared/chat-api/app"
MALFORMED: list[tuple[str, str, str]] = [
    ("not json", CANARY, "JSON in secret"),
    ("not json at all", "{" + CANARY, "JSON in secret"),
    ("too deep", "[" * 100_000, "JSON in secret"),
    ("half a surrogate", '{"host": "\\ud800' + CANARY + '"}', "JSON in secret"),
    ("a list", json.dumps([CANARY]), "a JSON object in secret"),
    ("null", "null", "a JSON object in secret"),
    ("no host", json.dumps(DEV | {"host": None}), "the field host in secret"),
    ("a host with a port", json.dumps(DEV | {"host": f"{CANARY}:5432"}), "the name of a host alone"),
    ("a host that is a URL", json.dumps(DEV | {"host": f"tcp://{CANARY}"}), "the name of a host alone"),
    ("a host that cannot be looked up", json.dumps(DEV | {"host": f"{CANARY}..internal"}), "the name of a host alone"),
    ("a host with a label of 64", json.dumps(DEV | {"host": "c" * 64}), "the name of a host alone"),
    ("a host that is a number", json.dumps(DEV | {"host": 7}), "a text in the field host"),
    ("no port", json.dumps({key: DEV[key] for key in DEV if key != "port"}), "the field port in secret"),
    ("a port that is a word", json.dumps(DEV | {"port": CANARY}), "the field port to be a number"),
    ("a port that is true", json.dumps(DEV | {"port": True}), "the field port to be a number"),
    ("a port that is 5432.0", json.dumps(DEV | {"port": 5432.0}), "the field port to be a number"),
    ("port 0", json.dumps(DEV | {"port": 0}), "the field port to be a number"),
    ("port 65536", json.dumps(DEV | {"port": "65536"}), "the field port to be a number"),
    ("a port in other digits", json.dumps(DEV | {"port": "٥٤٣٢"}), "the field port to be a number"),
    ("no password", json.dumps(DEV | {"password": ""}), "the field password in secret"),
    ("a password that is a number", json.dumps(DEV | {"password": 5}), "a text in the field password"),
    ("two databases", json.dumps(DEV | {"database": "a", "dbname": "a"}), "database or dbname in secret"),
]


@pytest.mark.parametrize(("text", "message"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_a_malformed_secret_names_the_field_and_the_place_and_never_the_value(text: str, message: str) -> None:
    with pytest.raises(SecretMalformed) as malformed:
        Account({DEV_NAME: text}).load(chat_api, env=Env.DEV)
    assert message in str(malformed.value)
    assert DEV_NAME in str(malformed.value)
    assert CANARY not in described(malformed.value)


@pytest.mark.parametrize(
    ("loader", "arguments", "secrets", "parameters", "missing"),
    [
        (chat_api, {"env": Env.DEV}, {}, {}, f"secret {DEV_NAME}"),
        (chat_api, {"env": Env.MIRROR}, {}, {}, "parameter /mirror/current/postgres-rds/endpoint"),
        (
            chat_api,
            {"env": Env.PROD},
            {},
            {"/prod/postgres-rds/endpoint": "rds"},
            "parameter /prod/postgres-rds/port",
        ),
        (load_redis, {"env": Env.PROD, "service": "chat-api"}, {}, {}, "secret prod/redis/chat-api"),
        (
            load_redis,
            {"env": Env.PROD, "service": "chat-api"},
            {"prod/redis/chat-api": USER},
            {},
            "parameter /shared/infra/prod/redis-endpoint",
        ),
        *[
            (
                load_mongo,
                {"env": MongoEnv.MIRROR, "project": "chat-api"},
                {"/mirror/current/chat-api-mongo-password": USER, CA_ARN: {"ca_cert": "-"}},
                {path: value for path, value in MIRROR.items() if path != missing},
                f"parameter {missing}",
            )
            for missing in list(MIRROR)[:2] + list(MIRROR)[3:]
        ],
        (
            load_mongo,
            {"env": MongoEnv.PROD, "project": "chat-api"},
            {},
            shared("prod"),
            "secret prod/mongodb-shared/chat-api-password",
        ),
        (
            load_mongo,
            {"env": MongoEnv.PROD, "project": "chat-api"},
            {"prod/mongodb-shared/chat-api-password": USER},
            shared("prod"),
            f"secret {CA_ARN}",
        ),
    ],
)
def test_what_is_missing_is_named(
    loader: Callable[..., Any],
    arguments: dict[str, Any],
    secrets: dict[str, Any],
    parameters: dict[str, str],
    missing: str,
) -> None:
    with pytest.raises(SecretMissing) as error:
        Account(secrets, parameters).load(loader, **arguments)
    assert missing in str(error.value)
    assert CANARY not in described(error.value)


def test_a_replica_set_without_a_name_is_named(ca: str) -> None:
    path = "/mirror/current/mongodb-shared/replica-set-name"
    account = Account(
        {"/mirror/current/chat-api-mongo-password": USER, CA_ARN: {"ca_cert": ca}}, MIRROR | {path: " \n"}
    )
    with pytest.raises(SecretMalformed, match=f"a text in parameter {path}"):
        account.load(load_mongo, env=MongoEnv.MIRROR, project="chat-api")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"/mirror/current/postgres-rds/port": CANARY}, "a port to be a number from 1 to 65535"),
        ({"/mirror/current/postgres-rds/port": ""}, "a text in parameter /mirror/current/postgres-rds/port"),
        ({"/mirror/current/postgres-rds/endpoint": f"{CANARY}:5432"}, "the name of a host alone"),
    ],
)
def test_a_malformed_parameter_names_its_path(changed: dict[str, str], message: str) -> None:
    with pytest.raises(SecretMalformed) as malformed:
        Account({}, RDS | changed).load(chat_api, env=Env.MIRROR)
    assert message in str(malformed.value)
    assert next(iter(changed)) in str(malformed.value)
    assert CANARY not in described(malformed.value)


@pytest.mark.parametrize("hosts", ["a,,b", ",", "a:x", "a:70000", "a b", ":27017"])
def test_a_malformed_list_of_hosts_names_its_path(hosts: str, ca: str) -> None:
    account = Account({"prod/mongodb-shared/chat-api-password": USER, CA_ARN: {"ca_cert": ca}}, shared("prod", hosts))
    with pytest.raises(SecretMalformed, match="parameter /shared/infra/prod/mongodb-hosts"):
        account.load(load_mongo, env=MongoEnv.PROD, project="chat-api")


@pytest.mark.parametrize("flag", ["yes", 1, [], "True "])
def test_tls_is_true_or_false(flag: object) -> None:
    account = Account({"prod/redis/chat-api": USER | {"endpoint": "r", "tls": flag}})
    with pytest.raises(SecretMalformed, match="true or false in the field tls in secret prod/redis/chat-api"):
        account.load(load_redis, env=Env.PROD, service="chat-api")


KEY = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "text", ["", CANARY, f"-----BEGIN CERTIFICATE-----\n{CANARY}\n-----END CERTIFICATE-----\n", f"é{CANARY}", KEY]
)
def test_a_ca_that_is_no_pem_is_named(text: str) -> None:
    secrets = {"prod/mongodb-shared/chat-api-password": USER, CA_ARN: {"ca_cert": text}}
    with pytest.raises(SecretMalformed, match="ca_cert") as malformed:
        Account(secrets, shared("prod")).load(load_mongo, env=MongoEnv.PROD, project="chat-api")
    assert CA_ARN in str(malformed.value)
    assert CANARY not in described(malformed.value)


def test_a_bundle_of_several_certificates_is_one_and_a_key_in_it_is_not(ca: str) -> None:
    secrets = {"prod/mongodb-shared/chat-api-password": USER, CA_ARN: {"ca_cert": f"# é\n{ca}{ca}"}}
    loaded = Account(secrets, shared("prod")).load(load_mongo, env=MongoEnv.PROD, project="chat-api")
    assert loaded.ca == secrets[CA_ARN]["ca_cert"]
    secrets[CA_ARN] = {"ca_cert": ca + KEY}
    with pytest.raises(SecretMalformed, match="a private key among them"):
        Account(secrets, shared("prod")).load(load_mongo, env=MongoEnv.PROD, project="chat-api")


@pytest.mark.parametrize("word", ["", "Dev", "production", "staging"])
def test_an_unknown_environment_is_refused(word: str) -> None:
    with pytest.raises(ConfigurationError, match="dev, mirror or prod"):
        parse_env(word)


@pytest.mark.parametrize("word", ["", "App", "admin", "rw"])
def test_an_unknown_role_is_refused(word: str) -> None:
    with pytest.raises(ConfigurationError, match="owner, app or ro"):
        parse_role(word)


@pytest.mark.parametrize("name", ["", "a/b", "*", "-a", "a b", "a" * 64, "a\n", "é"])
@pytest.mark.parametrize(
    "make",
    [
        lambda name: postgres.role_secret(name, Role.APP),
        lambda name: postgres.role_secret("chat-api", Role.APP, name),
        lambda name: postgres.user_name(name, Role.APP),
        lambda name: postgres.database_name(name),
        lambda name: postgres.database_name("chat-api", name),
        lambda name: redis.service_secret(Env.DEV, name),
        lambda name: mongo.project_secret(MongoEnv.PROD, name),
        lambda name: mongo.project_database(name),
    ],
)
def test_no_name_leads_out_of_what_a_policy_grants(name: str, make: Callable[[str], str]) -> None:
    with pytest.raises(ConfigurationError):
        make(name)


def test_a_name_that_postgres_would_cut_is_refused() -> None:
    service = "s" * 60
    assert postgres.database_name(service) == service
    for make in (lambda: postgres.user_name(service, Role.OWNER), lambda: postgres.database_name(service, "history")):
        with pytest.raises(ConfigurationError, match="at most 63"):
            make()
    loaded = Account({}, RDS).load(load_postgres, env=Env.PROD, service=service, username="me")
    assert loaded.username == "me"


def test_dev_has_no_parameters_of_postgres() -> None:
    with pytest.raises(ConfigurationError, match="mirror or prod"):
        postgres.endpoint_path(Env.DEV)
