"""Postgres' and psycopg's errors mapped to ours: by SQLSTATE, or by libpq's wording where there is none.

A driver's text can quote a connection string, so none of it is kept.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg_pool import PoolTimeout

from runway_pipelines.errors import AuthenticationRefused, Permanent, RunwayError, Unavailable

# A session idle for too long, and a server that is no longer the primary: psycopg does not count them as operational.
PASSING_STATES = ("25P03", "25P04", "25006")
# A connection that was never established has no SQLSTATE, only a text.
_REFUSED = re.compile(
    "authentication failed|no pg_hba.conf entry|is not permitted to log in|no password supplied"
    '|role "[^"]*" does not exist|permission denied for database'
)
_NOT_BELIEVED = re.compile("authentication failed")
_WRONG_PASSWORD = ("28P01", "28000")
_UNTRUSTED = re.compile(
    "certificate verify failed|does not match host name|server does not support SSL|root certificate"
)
_NO_DATABASE = re.compile('database "[^"]*" does not exist')


@dataclass(frozen=True)
class Whereabouts:
    """What a message may say about a connection."""

    place: str  # "the database x at host:port"
    user: str
    login: str  # what to correct after a refused login
    contract: str  # where the tables are specified


@contextmanager
def postgres_errors(where: Whereabouts) -> Iterator[None]:
    """Map what psycopg raises within the block, on a connection to ``where``."""
    try:
        yield
    except psycopg.Error as error:
        raise _mapped(error, where) from None


def is_final(error: BaseException) -> bool:
    """Whether another attempt to connect would fail the same way."""
    if isinstance(error, RunwayError):
        return isinstance(error, Permanent)
    if not isinstance(error, Exception) or isinstance(error, UnicodeError):  # an interrupt; an impossible host name
        return True
    return _is_refused_login(error) or _says(error, _UNTRUSTED) or _says(error, _NO_DATABASE)


def is_refused_password(error: Exception) -> bool:
    """Whether the server refused the password or the token, whoever the user is."""
    return getattr(error, "sqlstate", None) in _WRONG_PASSWORD or _says(error, _NOT_BELIEVED)


def _is_refused_login(error: Exception) -> bool:
    state = getattr(error, "sqlstate", None)
    never_stood = isinstance(error, psycopg.OperationalError) and state is None
    return state in _WRONG_PASSWORD or (never_stood and _says(error, _REFUSED))


def _mapped(error: psycopg.Error, where: Whereabouts) -> RunwayError:
    place, state = where.place, error.sqlstate
    if _is_refused_login(error):
        return AuthenticationRefused(
            expected=f"{place} to let user {where.user} in",
            came="a refused login",
            remedy=f"correct {where.login}",
            code=state,
        )
    if isinstance(error, PoolTimeout):
        return Unavailable(
            expected=place, came="no free connection", remedy="run fewer things at once, or find what holds them"
        )
    if isinstance(error, psycopg.OperationalError) and state is None:
        return _never_stood(error, place)
    if isinstance(error, psycopg.OperationalError) or state in PASSING_STATES:
        return Unavailable(expected=place, came="a broken connection", remedy="try again", code=state)
    return Permanent(
        expected=f"{place} to answer",
        came=f"{type(error).__name__} ({state})",
        remedy=f"compare its tables with {where.contract}",
        code=state,
    )


def _never_stood(error: Exception, place: str) -> RunwayError:
    if _says(error, _UNTRUSTED):
        return Permanent(
            expected=f"{place} to identify itself over TLS",
            came="no TLS, or a certificate that no trusted authority issued for it",
            remedy="set RUNWAY_DB_CA_FILE to the bundle of the authority that issued the server's certificate, and the"
            " host to the name in it",
        )
    if _says(error, _NO_DATABASE):
        return Permanent(expected=place, came="no database of that name", remedy="correct the database's name")
    return Unavailable(expected=place, came="no connection", remedy="check that the server is up")


def _says(error: BaseException, sign: re.Pattern[str]) -> bool:
    return sign.search(str(error)) is not None
