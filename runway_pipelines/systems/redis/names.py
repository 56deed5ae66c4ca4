"""A service's Redis: its secret, the environment's endpoint, and the connection they lead to."""

from dataclasses import dataclass, field

from runway_pipelines.systems.lookups import Lookups, read_host, read_members
from runway_pipelines.systems.vocabulary import Env, checked_name

SECRET = "{env}/redis/{service}"  # noqa: S105 - a name
ENDPOINT_PARAMETER = "/shared/infra/{env}/redis-endpoint"
DEFAULT_PORT = 6379


@dataclass(frozen=True)
class RedisConnection:
    """Where a connection goes, and as whom."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    is_tls: bool = True


def service_secret(env: Env, service: str) -> str:
    """The secret of the service's ACL user."""
    return SECRET.format(env=env, service=checked_name("service", service))


def endpoint_path(env: Env) -> str:
    """The parameter with the environment's host, for a secret that names none."""
    return ENDPOINT_PARAMETER.format(env=env)


def load_redis(lookups: Lookups, *, env: Env, service: str) -> RedisConnection:
    """Where the service's connection goes in ``env``.

    Raises `ConfigurationError`, `SecretMissing`, `SecretMalformed`, and what the lookups raise.
    """
    members = read_members(lookups, service_secret(env, service))
    return RedisConnection(
        host=members.host("endpoint") if "endpoint" in members else read_host(lookups, endpoint_path(env)),
        port=members.port("port") if "port" in members else DEFAULT_PORT,
        username=members.text("username"),
        password=members.text("password"),
        is_tls=members.flag("tls", default=env is not Env.DEV),
    )
