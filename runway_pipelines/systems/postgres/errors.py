"""Postgres' and psycopg's failures made into ours: by SQLSTATE, or by libpq's own words where there is none.

A driver's text can quote a connection string, so none of it is passed on.
"""

import re
from dataclasses import dataclass

import psycopg
from psycopg_pool import PoolTimeout

from runway_pipelines.errors import AuthenticationRefused, ConfigurationError, Permanent, RunwayError, Unavailable

# A session that stood idle for too long, and a server that is not the primary any more: psycopg takes them for defects.
PASSING_STATES = ("25P03", "25P04", "25006")
# A connection that never stood has no SQLSTATE, only a text.
_REFUSED = re.compile(
    "authentication failed|no pg_hba.conf entry|is not permitted to log in|no password supplied"
    '|role "[^"]*" does not exist|permission denied for database'
)
_UNTRUSTED = re.compile(
    "certificate verify failed|does not match host name|server does not support SSL|root certificate"
)
_NO_DATABASE = re.compile('database "[^"]*" does not exist')


@dataclass(frozen=True)
class Whereabouts:
    """What a message may say of a connection: where to, as whom, and what to correct."""

    place: str  # the database x at host:port
    user: str
    login: str  # what to correct when a login is refused
    contract: str  # where the tables are told


def is_refused_login(error: BaseException) -> bool:
    """Whether the server knows us and does not let us in: trying again gives the same."""
    if getattr(error, "sqlstate", None) in ("28P01", "28000"):
        return True
    return isinstance(error, psycopg.OperationalError) and error.sqlstate is None and _says(error, _REFUSED)


def is_final(error: BaseException) -> bool:
    """Whether another attempt to connect would fail the same way."""
    if isinstance(error, RunwayError):
        return isinstance(error, Permanent)
    if not isinstance(error, Exception) or isinstance(error, UnicodeError):  # told to stop; a host that is no name
        return True
    return is_refused_login(error) or _says(error, _UNTRUSTED) or _says(error, _NO_DATABASE)


def mapped(error: Exception, where: Whereabouts) -> RunwayError:
    """The error of our tree; one that is of it already stays what it is."""
    if isinstance(error, RunwayError):
        return error
    expected, state = where.place, getattr(error, "sqlstate", None)
    if is_refused_login(error):
        return AuthenticationRefused(
            expected=f"{expected} to let user {where.user} in",
            came="a refused login",
            remedy=f"correct {where.login}",
            code=state,
        )
    if isinstance(error, UnicodeError):
        return ConfigurationError(
            expected=f"a host's name in {expected}", came="what cannot be one", remedy="correct the host"
        )
    if isinstance(error, PoolTimeout):
        return Unavailable(
            expected=expected, came="no free connection", remedy="run fewer things at once, or see what holds them"
        )
    if isinstance(error, psycopg.OperationalError) and state is None:
        return _never_stood(error, expected)
    if isinstance(error, psycopg.OperationalError) or state in PASSING_STATES:
        return Unavailable(expected=expected, came="a broken connection", remedy="try again", code=state)
    return Permanent(
        expected=f"{expected} to answer",
        came=f"{type(error).__name__} ({state})",
        remedy=f"compare its tables with {where.contract}",
        code=state,
    )


def _never_stood(error: Exception, expected: str) -> RunwayError:
    if _says(error, _UNTRUSTED):
        return Permanent(
            expected=f"{expected} to prove over TLS that it is the one",
            came="no TLS, or a certificate that nothing here vouches for",
            remedy="set RUNWAY_DB_CA_FILE to the bundle of certificates that the server's is made from, and the host "
            "to the name in its certificate",
        )
    if _says(error, _NO_DATABASE):
        return Permanent(expected=expected, came="no database of that name", remedy="correct the database's name")
    return Unavailable(expected=expected, came="no connection", remedy="see whether the server is up")


def _says(error: BaseException, sign: re.Pattern[str]) -> bool:
    return sign.search(str(error)) is not None
