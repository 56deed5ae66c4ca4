"""The words in every store's names: environment, role, service.

Once checked here, a word is safe in a secret's name, a parameter's path and a policy's ARN.
"""

import re
from enum import StrEnum

from runway_pipelines.errors import ConfigurationError

DEFAULT_REGION = "us-west-2"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class Env(StrEnum):
    """Where a service runs."""

    DEV = "dev"
    MIRROR = "mirror"
    PROD = "prod"


class Role(StrEnum):
    """What a database user may do: DDL, DML, or only read."""

    OWNER = "owner"
    APP = "app"
    RO = "ro"


def parse_env(value: str) -> Env:
    """The environment of this name; raises `ConfigurationError`."""
    try:
        return Env(value)
    except ValueError:
        raise ConfigurationError(
            expected="the stores' environment to be dev, mirror or prod",
            came="another word",
            remedy="correct RUNWAY_STORES_ENV",
        ) from None


def parse_role(value: str) -> Role:
    """The role of this name; raises `ConfigurationError`."""
    try:
        return Role(value)
    except ValueError:
        raise ConfigurationError(
            expected="a database role to be owner, app or ro", came="another word", remedy="use one of them"
        ) from None


def checked_name(what: str, value: str) -> str:
    """``value``, if it can be the name of a ``what`` ("service"); raises `ConfigurationError`.

    A slash or a ``*`` would escape the names that a policy grants.
    """
    if not _NAME.fullmatch(value):
        raise ConfigurationError(
            expected=f"a {what} of at most 63 letters, digits, hyphens and underscores",
            came="another name" if value else "an empty one",
            remedy=f"set the {what} to its deployed name, such as chat-api",
        )
    return value


def snake(name: str) -> str:
    """The name as used inside a database, where hyphens would need quoting."""
    return name.replace("-", "_")
