"""The driver's errors mapped to ours: which are refusals, which may pass, and none of their text."""

import pytest
from snowflake.connector import errors

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.errors import AuthenticationRefused, QueryFailed, RunwayError, Unavailable
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
    [(2003, QueryFailed), (904, QueryFailed), (390114, Unavailable), (390195, Unavailable), (390111, Unavailable)],
)
def test_an_expired_session_is_not_a_refused_statement(errno: int, expected: type) -> None:
    with pytest.raises(RunwayError) as mapped, snowflake_errors():
        raise errors.ProgrammingError(msg=CANARY, errno=errno, sqlstate="42S02")
    assert type(mapped.value) is expected
    assert CANARY not in str(mapped.value)
