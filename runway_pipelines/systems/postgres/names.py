"""A service's Postgres: its secret or parameters, its users and databases by name, and where a connection goes."""

from dataclasses import dataclass, field

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.systems.lookups import GetParameter, GetSecret, malformed, read_host, read_members, read_port
from runway_pipelines.systems.vocabulary import DEFAULT_REGION, Env, Role, checked_name, snake

DEV_SECRET = "dev/postgres-shared/{service}/{role}"  # noqa: S105 - a name
DEV_SECRET_WITH_DB_ID = "dev/postgres-shared/{service}/{db_id}/{role}"  # noqa: S105
# One instance serves all services of an environment.
RDS_PARAMETERS = {Env.MIRROR: "/mirror/current/postgres-rds/{part}", Env.PROD: "/prod/postgres-rds/{part}"}
USER = "{service_snake}_{role}"
DATABASE = "{service_snake}"
DATABASE_WITH_DB_ID = "{service_snake}_{db_id}_db"
# Postgres cuts a longer name, and would then find another one.
LONGEST_IDENTIFIER = 63


@dataclass(frozen=True)
class PostgresConnection:
    """Where a connection goes. ``is_iam``: its password is a token, made for each connection; else ``password``."""

    host: str
    port: int
    database: str
    username: str
    password: str | None = field(default=None, repr=False)
    is_iam: bool = False
    is_tls: bool = False
    region: str = DEFAULT_REGION


def secret_name(service: str, role: Role, db_id: str | None = None) -> str:
    """The secret of a user in development."""
    template = DEV_SECRET if db_id is None else DEV_SECRET_WITH_DB_ID
    return template.format(service=checked_name("service", service), role=role, db_id=_checked_id(db_id))


def endpoint_path(env: Env) -> str:
    """The parameter with the host of an environment's instance."""
    return _parameters(env).format(part="endpoint")


def port_path(env: Env) -> str:
    """The parameter with its port."""
    return _parameters(env).format(part="port")


def user_name(service: str, role: Role) -> str:
    """The database user of a service in a role."""
    name = USER.format(service_snake=snake(checked_name("service", service)), role=role)
    return _checked_identifier("user", name)


def database_name(service: str, db_id: str | None = None) -> str:
    """The service's database; with ``db_id`` one of its others."""
    template = DATABASE if db_id is None else DATABASE_WITH_DB_ID
    service_snake = snake(checked_name("service", service))
    return _checked_identifier("database", template.format(service_snake=service_snake, db_id=_checked_id(db_id)))


def load_postgres(
    get_secret: GetSecret,
    get_parameter: GetParameter,
    *,
    env: Env,
    service: str,
    role: Role = Role.APP,
    db_id: str | None = None,
    database: str | None = None,
    username: str | None = None,
    region: str = DEFAULT_REGION,
) -> PostgresConnection:
    """Where the service's connection goes in ``env``; ``database`` and ``username`` override the convention's.

    Raises `ConfigurationError`, `SecretMissing`, `SecretMalformed`, and what the callables raise.
    """
    if env is Env.DEV:
        return _from_secret(get_secret, service, role, db_id, database, username)
    return PostgresConnection(
        host=read_host(get_parameter, endpoint_path(env)),
        port=read_port(get_parameter, port_path(env)),
        database=database or database_name(service, db_id),
        username=username or user_name(service, role),
        is_iam=True,
        is_tls=True,
        region=region,
    )


def _from_secret(
    get_secret: GetSecret, service: str, role: Role, db_id: str | None, database: str | None, username: str | None
) -> PostgresConnection:
    members = read_members(get_secret, secret_name(service, role, db_id))
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
            expected="mirror or prod, which have their Postgres in parameters",
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
            came=f"{len(name)}, made of the service's name",
            remedy=f"set the {what} instead of deriving it",
        )
    return name
