"""The driver's errors mapped to ours, by Snowflake's numbers. Its texts may quote a student's row, so none is kept."""

from __future__ import annotations

import errno
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from typing import TYPE_CHECKING

from runway_pipelines.errors import AuthenticationRefused, QueryFailed, RunwayError, SessionEnded, Unavailable
from runway_pipelines.systems.disk import machine_trouble, temporary_folder
from runway_pipelines.systems.snowflake.connection import EduConnection

if TYPE_CHECKING:
    from snowflake.connector.errors import Error

_COMPARE_KEYS = "compare the secret's key with the user's RSA_PUBLIC_KEY and RSA_PUBLIC_KEY_2, and see DESC USER"
_USABLE_WAREHOUSE = "grant the role USAGE on the secret's warehouse, correct its name in the secret, or leave it out"
# Not every reason of Snowflake's has a public number.
_LOGIN_HISTORY = (
    "see the reason in Snowflake's LOGIN_HISTORY, and mend what it names: the user's key, role, warehouse or network "
    f"policy, or the secret; if it is the key, {_COMPARE_KEYS}"
)
# The token of a key pair is good for a minute; which of the codes means the clock depends on Snowflake's version.
_SET_CLOCK = (
    f"have this machine's clock set by a time server; if runway-pipelines doctor finds it right, {_COMPARE_KEYS}"
)
_REFUSED_LOGIN_REMEDIES = {
    390144: f"{_COMPARE_KEYS}; if they agree, look at this machine's clock with runway-pipelines doctor",
    390101: "the user is disabled: ALTER USER ... SET DISABLED = FALSE, or name another user in the secret",
    390102: "the user is locked after failed logins: wait 15 minutes, or ALTER USER ... SET MINS_TO_UNLOCK = 0",
    390189: "grant the secret's role to the user, correct its name in the secret, or leave it out",
    390422: "add this machine's outbound address to the account's or the user's network policy",
    390201: _USABLE_WAREHOUSE,
    390202: _USABLE_WAREHOUSE,
    390913: "the account is suspended: its owner has to talk to Snowflake",
    394300: _COMPARE_KEYS,
    394301: _SET_CLOCK,
    394302: _SET_CLOCK,
    394303: _SET_CLOCK,
    394304: _SET_CLOCK,
}
# Refused logins: another attempt fails the same way.
_REFUSED_LOGIN = {390100, 390186, 390190, *_REFUSED_LOGIN_REMEDIES}
# The session or one of its tokens is gone or has expired: the numbers after which the driver itself would log in anew,
# and 390111. A new session can be opened, with the credentials as they are by then.
_SESSION_ENDED = {390104, 390110, 390111, 390112, 390113, 390114, 390115, 390195, 390400}
_GRANT_OR_CORRECT = (
    "grant the role USAGE and SELECT on the database, the schema and the stg_ef3 tables, or correct the secret"
)
_REMEDIES = {
    2003: _GRANT_OR_CORRECT,
    2043: _GRANT_OR_CORRECT,
    3001: "grant the secret's role SELECT on the stg_ef3 tables",
    606: "give the user a default warehouse that its role may use, or set warehouse in the secret",
    666: "the account's computing is suspended: its owner has to talk to Snowflake",
    90073: "a resource monitor has suspended the warehouse: raise its quota, or wait until it begins anew",
    630: "see in Snowflake's query history why the statement takes so long, or give the user a larger warehouse",
    90105: "correct database and schema in the secret",
    90106: "correct database and schema in the secret",
    904: "compare the columns of the stg_ef3 tables with the rosters contract, section 1 (docs/contracts)",
}
# Further errors that are this machine's and not the connection's.
_OF_THIS_MACHINE = {errno.ENOMEM, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR}


@contextmanager
def snowflake_errors() -> Iterator[None]:
    """Map what the driver raises within the block, while a statement runs or its rows arrive."""
    from snowflake.connector import errors

    try:
        yield
    except errors.Error as error:
        raise _mapped(error) from None
    except _broken_connection() as error:
        _raise_of_this_machine(error)
        raise Unavailable(
            expected="the statement's answer",
            came=f"a connection that broke off ({type(error).__name__})",
            remedy="try again; if it persists, look at the network's outbound access, and at Snowflake's status page",
        ) from None


@contextmanager
def snowflake_login_errors(connection: EduConnection) -> Iterator[None]:
    """Map what the driver raises within the block, while a session is opened."""
    from snowflake.connector import errors

    started = time.monotonic()
    try:
        yield
    except errors.Error as error:
        raise _mapped_login(error, connection, time.monotonic() - started) from None
    except _broken_connection() as error:
        _raise_of_this_machine(error)
        raise _no_session(connection, time.monotonic() - started, type(error).__name__) from None


@cache
def _broken_connection() -> tuple[type[Exception], ...]:
    """What the driver lets through when a connection breaks off: its own HTTP client's errors, and what lies below."""
    from OpenSSL.SSL import Error as OpenSSLError
    from snowflake.connector.network import RetryRequest
    from snowflake.connector.vendored.requests.exceptions import RequestException
    from snowflake.connector.vendored.urllib3.exceptions import HTTPError

    # EOFError and zlib.error: a compressed chunk that was cut.
    return (RequestException, HTTPError, HTTPException, OSError, OpenSSLError, RetryRequest, EOFError, zlib.error)


def _raise_of_this_machine(error: Exception) -> None:
    """A refusal by this machine says nothing about the partner: its key is not judged, no connection broke."""
    if (trouble := machine_trouble(error, temporary_folder())) is not None:
        raise Unavailable(
            expected=trouble.expected, came=trouble.came, remedy=trouble.remedy, code=trouble.code
        ) from None
    if getattr(error, "errno", None) in _OF_THIS_MACHINE:
        raise error


def _mapped(error: Error) -> RunwayError:
    from snowflake.connector import errors

    number = error.errno or -1
    refused = isinstance(
        error, errors.ProgrammingError | errors.NotSupportedError | errors.IntegrityError | errors.DataError
    )
    if number in _SESSION_ENDED:
        return SessionEnded(
            expected="the statement's answer",
            came=f"a session that Snowflake had ended (error {number})",
            remedy="try again, in a new session",
            code=str(number),
        )
    if refused:
        return QueryFailed(
            expected="the statement to run",
            came=f"Snowflake's error {number} (SQLSTATE {error.sqlstate}, query {error.sfqid})",
            remedy=_REMEDIES.get(number, "look the query id up in Snowflake's query history"),
            code=str(number),
        )
    return Unavailable(
        expected="the statement's answer",
        came=f"{type(error).__name__}, error {number}",
        remedy="try again; if it persists, look at Snowflake's status page",
        code=str(number),
    )


def _mapped_login(error: Error, connection: EduConnection, seconds: float) -> RunwayError:
    number = error.errno or -1
    # 28000 is the SQLSTATE of every refused login, such as the 3943xx of a key pair.
    if number in _REFUSED_LOGIN or error.sqlstate == "28000":
        return AuthenticationRefused(
            expected=_session_of(connection),
            came=f"a refused login (error {number})",
            remedy=_REFUSED_LOGIN_REMEDIES.get(number, _LOGIN_HISTORY),
            code=str(number),
        )
    return _no_session(connection, seconds, f"{type(error).__name__}, error {number}", code=str(number))


def _no_session(connection: EduConnection, seconds: float, reason: str, *, code: str | None = None) -> Unavailable:
    return Unavailable(
        expected=_session_of(connection),
        came=f"no session after {seconds:.0f} s ({reason})",
        remedy="check the account's name in the secret, the network's outbound access, and Snowflake's status page",
        code=code,
    )


def _session_of(connection: EduConnection) -> str:
    return f"a session on account {connection.account} for user {connection.username}"
