"""Which errors are retried; the writer's tests use a real server's errors."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest

from runway_pipelines.errors import AuthenticationRefused, Permanent, RunwayError, Unavailable
from runway_pipelines.identity import transactions
from runway_pipelines.identity.transactions import Refused, in_transaction

WHAT = {"expected": "a", "came": "b", "remedy": "c"}


class FakeConnection:
    def __init__(self) -> None:
        self.statements: list[str] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    def execute(self, statement: str) -> None:
        self.statements.append(statement)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "_LONGEST_WAIT_SECONDS", 0)


def failing(
    *errors: RunwayError,
) -> tuple[list[FakeConnection], Callable[[], AbstractContextManager[Any]]]:
    """Connections of which the first ones fail with these errors."""
    left = list(errors)
    opened: list[FakeConnection] = []

    @contextmanager
    def connection() -> Iterator[Any]:
        opened.append(FakeConnection())
        if left:
            raise left.pop(0)
        yield opened[-1]

    return opened, connection


def test_a_transient_failure_is_retried_with_a_new_connection() -> None:
    opened, connections = failing(Unavailable(**WHAT), Unavailable(**WHAT))
    assert in_transaction(connections, lambda connection: "done") == "done"
    assert len(opened) == 3


def test_after_the_last_attempt_the_error_is_raised() -> None:
    opened, connections = failing(*[Unavailable(**WHAT)] * 100)
    with pytest.raises(Unavailable):
        in_transaction(connections, lambda connection: "done")
    assert len(opened) == transactions.ATTEMPTS


@pytest.mark.parametrize("error", [AuthenticationRefused(**WHAT), Permanent(**WHAT)])
def test_a_permanent_failure_is_not_retried(error: RunwayError) -> None:
    opened, connections = failing(error)
    with pytest.raises(type(error)):
        in_transaction(connections, lambda connection: "done")
    assert len(opened) == 1


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.CheckViolation("a row's text"),
        psycopg.errors.NumericValueOutOfRange("a row's text"),
        psycopg.errors.RaiseException("a row's text"),
        psycopg.errors.WithCheckOptionViolation("a row's text"),
        psycopg.errors.ProgramLimitExceeded("a row's text"),
        psycopg.DataError("a row's text"),
        UnicodeEncodeError("utf-8", "a row's text", 0, 1, "surrogates not allowed"),
    ],
)
def test_an_error_about_the_rows_is_a_refusal_that_quotes_none(error: Exception) -> None:
    opened, connections = failing()

    def work(connection: Any) -> None:
        raise error

    with pytest.raises(Refused) as refused:
        in_transaction(connections, work)
    assert len(opened) == 1
    assert "a row's text" not in str(refused.value) and refused.value.__context__ is None


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.DeadlockDetected(),
        psycopg.errors.SerializationFailure(),
        psycopg.errors.AdminShutdown(),
        psycopg.errors.QueryCanceled(),
        psycopg.errors.LockNotAvailable(),
        psycopg.errors.UndefinedColumn(),
        psycopg.OperationalError("the connection is lost"),
    ],
)
def test_an_error_not_about_the_rows_is_not_a_refusal(error: psycopg.Error) -> None:
    _, connections = failing()

    def work(connection: Any) -> None:
        raise error

    with pytest.raises(type(error)):  # the real connections map it
        in_transaction(connections, work)


def test_a_missing_right_is_named_as_one_without_a_rows_text() -> None:
    opened, connections = failing()

    def work(connection: Any) -> None:
        raise psycopg.errors.InsufficientPrivilege("a row's text")

    with pytest.raises(Permanent, match=r"a missing right.*grant it") as failed:
        in_transaction(connections, work)
    assert len(opened) == 1 and failed.value.code == "42501"
    assert "a row's text" not in str(failed.value) and failed.value.__context__ is None


def test_a_read_only_transaction_cannot_write() -> None:
    opened, connections = failing()
    in_transaction(connections, lambda connection: None, read_only=True)
    assert opened[0].statements == ["set transaction read only"]
    in_transaction(connections, lambda connection: None)
    assert opened[1].statements == []
