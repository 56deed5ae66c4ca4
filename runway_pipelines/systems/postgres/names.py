"""A service's Postgres: its secret or parameters, its users and databases, and the connection they lead to."""

from dataclasses import dataclass, field

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.systems.lookups import Lookups, malformed, read_host, read_members, read_port
from runway_pipelines.systems.vocabulary import Env, Role, checked_name, snake

DEV_SECRET = "dev/postgres-shared/{service}/{role}"  # noqa: S105 - a name
DEV_SECRET_WITH_DB_ID = "dev/postgres-shared/{service}/{db_id}/{role}"  # noqa: S105
# One instance serves all services of an environment.
RDS_PARAMETERS = {Env.MIRROR: "/mirror/current/postgres-rds/{part}", Env.PROD: "/prod/postgres-rds/{part}"}
USER = "{service_snake}_{role}"
DATABASE = "{service_snake}"
DATABASE_WITH_DB_ID = "{service_snake}_{db_id}_db"
# Postgres truncates a longer name, which could then be another one.
LONGEST_IDENTIFIER = 63


@dataclass(frozen=True)
class PostgresConnection:
    """Where a connection goes. With ``is_iam``, each connection gets a fresh token instead of ``password``."""

    host: str
    port: int
    database: str
    username: str
    password: str | None = field(default=None, repr=False)
    is_iam: bool = False
    is_tls: bool = False


def role_secret(service: str, role: Role, db_id: str | None = None) -> str:
    """The secret of a service's user in dev."""
    template = DEV_SECRET if db_id is None else DEV_SECRET_WITH_DB_ID
    return template.format(service=checked_name("service", service), role=role, db_id=_checked_id(db_id))


def endpoint_path(env: Env) -> str:
    """The parameter with the host of an environment's instance."""
    return _parameters(env).format(part="endpoint")


def port_path(env: Env) -> str:
    """The parameter with the instance's port."""
    return _parameters(env).format(part="port")


def user_name(service: str, role: Role) -> str:
    """The database user of a service in a role."""
    name = USER.format(service_snake=snake(checked_name("service", service)), role=role)
    return _checked_identifier("user", name)


def database_name(service: str, db_id: str | None = None) -> str:
    """The service's main database, or another one by its ``db_id``."""
    template = DATABASE if db_id is None else DATABASE_WITH_DB_ID
    service_snake = snake(checked_name("service", service))
    return _checked_identifier("database", template.format(service_snake=service_snake, db_id=_checked_id(db_id)))


def load_postgres(
    lookups: Lookups,
    *,
    env: Env,
    service: str,
    role: Role = Role.APP,
    db_id: str | None = None,
    database: str | None = None,
    username: str | None = None,
) -> PostgresConnection:
    """Where the service's connection goes in ``env``; ``database`` and ``username`` override the convention's.

    Raises `ConfigurationError`, `SecretMissing`, `SecretMalformed`, and what the lookups raise.
    """
    if env is Env.DEV:
        return _from_secret(lookups, service, role, db_id, database, username)
    return PostgresConnection(
        host=read_host(lookups, endpoint_path(env)),
        port=read_port(lookups, port_path(env)),
        database=database or database_name(service, db_id),
        username=username or user_name(service, role),
        is_iam=True,
        is_tls=True,
    )


def _from_secret(
    lookups: Lookups, service: str, role: Role, db_id: str | None, database: str | None, username: str | None
) -> PostgresConnection:
    members = read_members(lookups, role_secret(service, role, db_id))
    if "database" in members and "dbname" in members:
        raise malformed("database or dbname", members.place, "both")
    in_secret = members.optional_text("database") or members.optional_text("dbname")
    return PostgresConnection(
        host=members.host("host"),
        port=members.port("port"),
        database=database or in_secret or database_name(service, db_id),
        username=username or members.optional_text("username") or user_name(service, role),
        password=members.text("password"),
    )


def _parameters(env: Env) -> str:
    if env not in RDS_PARAMETERS:
        raise ConfigurationError(
            expected="mirror or prod, whose Postgres is located by parameters",
            came=str(env),
            remedy="read the service's secret instead",
        )
    return RDS_PARAMETERS[env]


def _checked_id(db_id: str | None) -> str:
    return "" if db_id is None else checked_name("db_id", db_id)


def _checked_identifier(what: str, name: str) -> str:
    if len(name) > LONGEST_IDENTIFIER:
        raise ConfigurationError(
            expected=f"a {what}'s name of at most {LONGEST_IDENTIFIER} characters",
            came=f"{len(name)}, derived from the service's name",
            remedy=f"set the {what} instead of deriving it",
        )
    return name
