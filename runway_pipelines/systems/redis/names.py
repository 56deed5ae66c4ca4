"""A service's Redis: its secret, the environment's endpoint, and where a connection goes."""

from dataclasses import dataclass, field

from runway_pipelines.systems.lookups import GetParameter, GetSecret, read_host, read_members
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


def secret_name(env: Env, service: str) -> str:
    """The secret of the service's ACL user."""
    return SECRET.format(env=env, service=checked_name("service", service))


def endpoint_path(env: Env) -> str:
    """The parameter with the environment's host, for secrets that name none."""
    return ENDPOINT_PARAMETER.format(env=env)


def load_redis(get_secret: GetSecret, get_parameter: GetParameter, *, env: Env, service: str) -> RedisConnection:
    """Where the service's connection goes in ``env``.

    Raises `ConfigurationError`, `SecretMissing`, `SecretMalformed`, and what the callables raise.
    """
    members = read_members(get_secret, secret_name(env, service))
    is_here = "endpoint" in members
    return RedisConnection(
        host=members.host("endpoint") if is_here else read_host(get_parameter, endpoint_path(env)),
        port=members.port("port") if "port" in members else DEFAULT_PORT,
        username=members.text("username"),
        password=members.text("password"),
        is_tls=members.flag("tls", default=env is not Env.DEV),
    )
