"""The driver's errors mapped to ours, by Snowflake's numbers. Its texts may quote a student's row, so none is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runway_pipelines.errors import AuthenticationRefused, QueryFailed, RunwayError, Unavailable
from runway_pipelines.systems.snowflake.connection import EduConnection

if TYPE_CHECKING:
    from snowflake.connector.errors import Error

# Logins that another attempt does not mend: user, password, key (JWT), disabled user, network policy, role or account.
_REFUSED_LOGIN = {390100, 390101, 390102, 390144, 390186, 390189, 390190, 390201, 390422}
# The session or its token has expired; a new session can be opened, with the credentials as they are by then.
_SESSION_ENDED = {390111, 390112, 390114, 390195}
_GRANT_OR_CORRECT = (
    "grant the role USAGE and SELECT on the database, the schema and the stg_ef3 tables, or correct the secret"
)
_REMEDIES = {
    2003: _GRANT_OR_CORRECT,
    2043: _GRANT_OR_CORRECT,
    3001: "grant the secret's role SELECT on the stg_ef3 tables",
    606: "put a warehouse into the secret, or give the user a default one",
    90105: "correct database and schema in the secret",
    90106: "correct database and schema in the secret",
    904: "compare the columns of the stg_ef3 tables with the rosters contract, section 1 (docs/contracts)",
}


@contextmanager
def snowflake_errors() -> Iterator[None]:
    """Map what the driver raises within the block, while a statement runs or its rows arrive."""
    from snowflake.connector import errors

    try:
        yield
    except errors.Error as error:
        raise _mapped(error) from None


@contextmanager
def snowflake_login_errors(connection: EduConnection) -> Iterator[None]:
    """Map what the driver raises within the block, while a session is opened."""
    from snowflake.connector import errors

    started = time.monotonic()
    try:
        yield
    except errors.Error as error:
        raise _mapped_login(error, connection, time.monotonic() - started) from None


def _mapped(error: Error) -> RunwayError:
    from snowflake.connector import errors

    number = error.errno or -1
    refused = isinstance(
        error, errors.ProgrammingError | errors.NotSupportedError | errors.IntegrityError | errors.DataError
    )
    if refused and number not in _SESSION_ENDED:
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
    session = f"a session on account {connection.account} for user {connection.username}"
    # 28000 is the SQLSTATE of every refused login, such as the 3943xx of a key pair.
    if number in _REFUSED_LOGIN or error.sqlstate == "28000":
        return AuthenticationRefused(
            expected=session,
            came=f"a refused login (error {number})",
            remedy="compare the secret's key with the user's RSA_PUBLIC_KEY and RSA_PUBLIC_KEY_2, and see DESC USER",
            code=str(number),
        )
    return Unavailable(
        expected=session,
        came=f"no session after {seconds:.0f} s ({type(error).__name__}, error {number})",
        remedy="check the account's name in the secret, the network's way out, and Snowflake's status page",
        code=str(number),
    )
