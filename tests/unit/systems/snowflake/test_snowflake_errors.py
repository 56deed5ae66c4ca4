"""The driver's errors mapped to ours: which are refusals, which may pass, and none of their text."""

import errno as numbers
import ssl
import zlib
from collections.abc import Callable
from http.client import BadStatusLine, IncompleteRead
from typing import Any

import pytest
from snowflake.connector import errors
from snowflake.connector.network import RetryRequest
from snowflake.connector.vendored.requests import exceptions as requests
from snowflake.connector.vendored.urllib3 import exceptions as urllib3

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.errors import AuthenticationRefused, QueryFailed, RunwayError, SessionEnded, Unavailable
from runway_pipelines.systems.snowflake.errors import snowflake_errors, snowflake_login_errors
from tests.factories import secret_text

CANARY = "c4n4ry"
CONNECTION = parse_connection("a-secret", secret_text())


@pytest.mark.parametrize(
    ("errno", "sqlstate", "expected"),
    [
        (390144, "08001", AuthenticationRefused),
        (394304, "28000", AuthenticationRefused),  # the fingerprint is not the registered one
        (390100, "28000", AuthenticationRefused),
        (250001, "08001", Unavailable),
        (None, None, Unavailable),
    ],
)
def test_a_refused_login_is_permanent_and_any_other_failure_may_pass(
    errno: int | None, sqlstate: str | None, expected: type
) -> None:
    with pytest.raises(RunwayError) as mapped, snowflake_login_errors(CONNECTION):
        raise errors.DatabaseError(msg=CANARY, errno=errno, sqlstate=sqlstate)
    assert type(mapped.value) is expected
    assert CANARY not in str(mapped.value)


@pytest.mark.parametrize(
    ("errno", "expected"),
    [
        *((2003, QueryFailed), (904, QueryFailed), (606, QueryFailed), (630, QueryFailed)),
        *((390111, SessionEnded), (390112, SessionEnded), (390114, SessionEnded), (390195, SessionEnded)),
        *((390104, SessionEnded), (390110, SessionEnded), (390113, SessionEnded), (390115, SessionEnded)),
        (390400, SessionEnded),
    ],
)
def test_an_expired_session_is_not_a_refused_statement(errno: int, expected: type) -> None:
    with pytest.raises(RunwayError) as mapped, snowflake_errors():
        raise errors.ProgrammingError(msg=CANARY, errno=errno, sqlstate="42S02")
    assert type(mapped.value) is expected
    assert CANARY not in str(mapped.value)


@pytest.mark.parametrize(
    "block", [snowflake_errors, lambda: snowflake_login_errors(CONNECTION)], ids=["query", "login"]
)
@pytest.mark.parametrize(
    "raised",
    [
        *(requests.ChunkedEncodingError(CANARY), requests.ConnectionError(CANARY), requests.ReadTimeout(CANARY)),
        *(requests.SSLError(CANARY), requests.ContentDecodingError(CANARY)),
        *(urllib3.ProtocolError(CANARY), urllib3.IncompleteRead(1, 2), urllib3.SSLError(CANARY)),
        urllib3.ReadTimeoutError(None, "", CANARY),  # type: ignore[arg-type]
        *(IncompleteRead(CANARY.encode()), BadStatusLine(CANARY)),
        *(ConnectionResetError(CANARY), BrokenPipeError(CANARY), TimeoutError(CANARY), ssl.SSLEOFError(CANARY)),
        *(EOFError(CANARY), zlib.error(CANARY), RetryRequest(ValueError(CANARY))),
    ],
    ids=lambda raised: f"{type(raised).__module__.rpartition('.')[2]}.{type(raised).__name__}",
)
def test_a_connection_that_breaks_off_may_pass_whoever_says_so(raised: Exception, block: Callable[[], Any]) -> None:
    with pytest.raises(RunwayError) as mapped, block():
        raise raised
    assert type(mapped.value) is Unavailable
    assert CANARY not in str(mapped.value)
    assert mapped.value.__suppress_context__


@pytest.mark.parametrize("number", [numbers.ENOSPC, numbers.EMFILE])
@pytest.mark.parametrize(
    "block", [snowflake_errors, lambda: snowflake_login_errors(CONNECTION)], ids=["query", "login"]
)
def test_what_the_machine_refuses_is_no_verdict_on_the_partner_and_no_broken_connection(
    number: int, block: Callable[[], Any]
) -> None:
    with pytest.raises(Unavailable, match="at /") as mapped, block():
        raise OSError(number, CANARY)
    assert mapped.value.code == numbers.errorcode[number]
    assert "report it" not in mapped.value.remedy
    assert CANARY not in str(mapped.value)


def test_a_file_that_is_missing_is_neither() -> None:
    with pytest.raises(FileNotFoundError), snowflake_errors():
        raise FileNotFoundError(numbers.ENOENT, "a certificate")


def test_a_refusal_without_a_public_number_names_all_that_it_may_be() -> None:
    with pytest.raises(AuthenticationRefused, match="LOGIN_HISTORY") as mapped, snowflake_login_errors(CONNECTION):
        raise errors.DatabaseError(msg=CANARY, errno=390999, sqlstate="28000")
    for cause in ("key", "role", "warehouse", "network"):
        assert cause in mapped.value.remedy
