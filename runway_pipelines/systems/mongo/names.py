"""A project's MongoDB: parameters, secret and CA of each environment, and where a connection goes."""

from dataclasses import dataclass, field
from enum import StrEnum

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.systems.certificates import checked_ca
from runway_pipelines.systems.lookups import (
    GetParameter,
    GetSecret,
    as_host,
    as_port,
    malformed,
    read_host,
    read_members,
    read_parameter,
    read_port,
)
from runway_pipelines.systems.vocabulary import checked_name, snake

DEFAULT_PORT = 27017
CA_FIELD = "ca_cert"
DATABASE = "{project_snake}_db"


class MongoEnv(StrEnum):
    """Where there is a MongoDB; ``staging`` is the old name of another place than ``mirror``."""

    MIRROR = "mirror"
    PROD = "prod"
    STAGING = "staging"


DEPRECATED = {MongoEnv.STAGING: "the stores' environment staging is deprecated for MongoDB: say mirror"}
MIRROR_PARAMETER = "/mirror/current/mongodb-shared/{part}"
SHARED_PARAMETER = "/shared/infra/{env}/{part}"
MIRROR_SECRET = "/mirror/current/{project}-mongo-password"  # noqa: S105 - a name
SHARED_SECRET = "{env}/mongodb-shared/{project}-password"  # noqa: S105
MIRROR_PARTS = ("endpoint", "port", "replica-set-name", "ca-secret-arn")
SHARED_PARTS = ("mongodb-hosts", "mongodb-replica-set-name", "mongodb-ca-secret-arn")


@dataclass(frozen=True)
class MongoConnection:
    """Where a connection goes, always over TLS, verified with ``ca``; where there is a ``deprecation``, log it."""

    hosts: tuple[tuple[str, int], ...]
    replica_set: str
    username: str
    database: str
    password: str = field(repr=False)
    ca: str = field(repr=False)
    deprecation: str | None = None


def parse_env(value: str) -> MongoEnv:
    """The environment of this name; raises `ConfigurationError` (dev has no MongoDB)."""
    try:
        return MongoEnv(value)
    except ValueError:
        raise ConfigurationError(
            expected="MongoDB's environment to be mirror or prod",
            came="dev, which has none" if value == "dev" else "another word",
            remedy="correct RUNWAY_MONGO_ENV or RUNWAY_STORES_ENV, or do without MongoDB: unset RUNWAY_MONGO_PROJECT",
        ) from None


def parameter_paths(env: MongoEnv) -> tuple[str, ...]:
    """The parameters that are read: where, the replica set's name, and last the CA's secret."""
    if env is MongoEnv.MIRROR:
        return tuple(MIRROR_PARAMETER.format(part=part) for part in MIRROR_PARTS)
    return tuple(SHARED_PARAMETER.format(env=env, part=part) for part in SHARED_PARTS)


def secret_name(env: MongoEnv, project: str) -> str:
    """The secret of the project's user."""
    template = MIRROR_SECRET if env is MongoEnv.MIRROR else SHARED_SECRET
    return template.format(env=env, project=checked_name("project", project))


def database_name(project: str) -> str:
    """The project's database, in which its user is too (authSource)."""
    return DATABASE.format(project_snake=snake(checked_name("project", project)))


def load_mongo(get_secret: GetSecret, get_parameter: GetParameter, *, env: MongoEnv, project: str) -> MongoConnection:
    """Where the project's connection goes in ``env``.

    Raises `ConfigurationError`, `SecretMissing`, `SecretMalformed`, and what the callables raise.
    """
    *where, replica_set, ca_secret = parameter_paths(env)
    hosts = _one_host(get_parameter, *where) if env is MongoEnv.MIRROR else _hosts(get_parameter, *where)
    user = read_members(get_secret, secret_name(env, project))
    ca = read_members(get_secret, read_parameter(get_parameter, ca_secret))
    return MongoConnection(
        hosts=hosts,
        replica_set=read_parameter(get_parameter, replica_set),
        username=user.text("username"),
        password=user.text("password"),
        database=database_name(project),
        ca=checked_ca(ca.text(CA_FIELD), f"the field {CA_FIELD} of {ca.place}"),
        deprecation=DEPRECATED.get(env),
    )


def _one_host(get_parameter: GetParameter, endpoint: str, port: str) -> tuple[tuple[str, int], ...]:
    return ((read_host(get_parameter, endpoint), read_port(get_parameter, port)),)


def _hosts(get_parameter: GetParameter, path: str) -> tuple[tuple[str, int], ...]:
    """Comma separated, each with its port or on MongoDB's own."""
    place = f"parameter {path}"
    named = [each.strip() for each in read_parameter(get_parameter, path).split(",")]
    if not all(named):
        raise malformed("hosts, separated by single commas,", place, "an empty one among them")
    hosts = []
    for each in named:
        host, colon, port = each.partition(":")
        hosts.append((as_host(host, "each host", place), as_port(port, "a port", place) if colon else DEFAULT_PORT))
    return tuple(hosts)
