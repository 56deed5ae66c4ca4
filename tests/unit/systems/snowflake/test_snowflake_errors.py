"""The driver's errors, made ours: what is a refusal, what passes, and none of their text."""

import pytest
from snowflake.connector import errors

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.errors import AuthenticationRefused, QueryFailed, Unavailable
from runway_pipelines.systems.snowflake.client import mapped_login_error, mapped_query_error
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
def test_every_refused_login_is_one_and_the_rest_may_pass(
    errno: int | None, sqlstate: str | None, expected: type
) -> None:
    error = errors.DatabaseError(msg=CANARY, errno=errno, sqlstate=sqlstate)
    mapped = mapped_login_error(error, CONNECTION, 1.0)
    assert type(mapped) is expected
    assert CANARY not in str(mapped)


@pytest.mark.parametrize(
    ("errno", "expected"),
    [(2003, QueryFailed), (904, QueryFailed), (390114, Unavailable), (390195, Unavailable), (390111, Unavailable)],
)
def test_a_session_that_ended_is_no_refused_statement(errno: int, expected: type) -> None:
    mapped = mapped_query_error(errors.ProgrammingError(msg=CANARY, errno=errno, sqlstate="42S02"))
    assert type(mapped) is expected
    assert CANARY not in str(mapped)
