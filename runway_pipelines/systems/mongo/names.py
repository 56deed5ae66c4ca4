"""A project's MongoDB: the parameters, secret and CA of each environment, and the connection they lead to."""

from dataclasses import dataclass, field
from enum import StrEnum

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.systems.certificates import checked_ca
from runway_pipelines.systems.lookups import (
    Lookups,
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
    """Where there is a MongoDB. ``staging`` has paths of its own; it is no alias of ``mirror``."""

    MIRROR = "mirror"
    PROD = "prod"
    STAGING = "staging"


DEPRECATED = {MongoEnv.STAGING: "the stores' environment staging is deprecated for MongoDB: use mirror"}
MIRROR_PARAMETER = "/mirror/current/mongodb-shared/{part}"
SHARED_PARAMETER = "/shared/infra/{env}/{part}"
MIRROR_SECRET = "/mirror/current/{project}-mongo-password"  # noqa: S105 - a name
SHARED_SECRET = "{env}/mongodb-shared/{project}-password"  # noqa: S105
MIRROR_PARTS = ("endpoint", "port", "replica-set-name", "ca-secret-arn")
SHARED_PARTS = ("mongodb-hosts", "mongodb-replica-set-name", "mongodb-ca-secret-arn")


@dataclass(frozen=True)
class MongoConnection:
    """Where a connection goes, always over TLS, verified with ``ca``. ``deprecation`` is a warning to log."""

    hosts: tuple[tuple[str, int], ...]
    replica_set: str
    username: str
    database: str
    password: str = field(repr=False)
    ca: str = field(repr=False)
    deprecation: str | None = None


def parse_mongo_env(value: str) -> MongoEnv:
    """The environment of this name; raises `ConfigurationError` (dev has no MongoDB)."""
    try:
        return MongoEnv(value)
    except ValueError:
        raise ConfigurationError(
            expected="MongoDB's environment to be mirror or prod",
            came="dev, which has no MongoDB" if value == "dev" else "another word",
            remedy="correct RUNWAY_MONGO_ENV or RUNWAY_STORES_ENV, or unset RUNWAY_MONGO_PROJECT",
        ) from None


def parameter_paths(env: MongoEnv) -> tuple[str, ...]:
    """The parameters that are read: the hosts, the replica set's name, and last the CA's secret."""
    if env is MongoEnv.MIRROR:
        return tuple(MIRROR_PARAMETER.format(part=part) for part in MIRROR_PARTS)
    return tuple(SHARED_PARAMETER.format(env=env, part=part) for part in SHARED_PARTS)


def project_secret(env: MongoEnv, project: str) -> str:
    """The secret of the project's user."""
    template = MIRROR_SECRET if env is MongoEnv.MIRROR else SHARED_SECRET
    return template.format(env=env, project=checked_name("project", project))


def project_database(project: str) -> str:
    """The project's database, which is also where its user is defined (authSource)."""
    return DATABASE.format(project_snake=snake(checked_name("project", project)))


def load_mongo(lookups: Lookups, *, env: MongoEnv, project: str) -> MongoConnection:
    """Where the project's connection goes in ``env``.

    Raises `ConfigurationError`, `SecretMissing`, `SecretMalformed`, and what the lookups raise.
    """
    *where, replica_set, ca_secret = parameter_paths(env)
    hosts = _one_host(lookups, *where) if env is MongoEnv.MIRROR else _hosts(lookups, *where)
    user = read_members(lookups, project_secret(env, project))
    ca = read_members(lookups, read_parameter(lookups, ca_secret))
    return MongoConnection(
        hosts=hosts,
        replica_set=read_parameter(lookups, replica_set),
        username=user.text("username"),
        password=user.text("password"),
        database=project_database(project),
        ca=checked_ca(ca.text(CA_FIELD), f"the field {CA_FIELD} of {ca.place}"),
        deprecation=DEPRECATED.get(env),
    )


def _one_host(lookups: Lookups, endpoint: str, port: str) -> tuple[tuple[str, int], ...]:
    return ((read_host(lookups, endpoint), read_port(lookups, port)),)


def _hosts(lookups: Lookups, path: str) -> tuple[tuple[str, int], ...]:
    """Comma-separated hosts, each with a port or on MongoDB's default."""
    place = f"parameter {path}"
    named = [each.strip() for each in read_parameter(lookups, path).split(",")]
    if not all(named):
        raise malformed("hosts, separated by single commas,", place, "an empty one among them")
    hosts = []
    for each in named:
        host, colon, port = each.partition(":")
        hosts.append((as_host(host, "each host", place), as_port(port, "a port", place) if colon else DEFAULT_PORT))
    return tuple(hosts)
