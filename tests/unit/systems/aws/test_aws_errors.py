"""botocore's failures become permanent or transient ones of ours, by their code and without their text."""

import http.client
import importlib
import socket
import traceback
from typing import Any

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError
from hypothesis import example, given
from hypothesis import strategies as st

from runway_pipelines.errors import Permanent, RunwayError, Transient, Unavailable
from runway_pipelines.systems.aws.errors import aws_errors, error_code

CANARY = "c4n4ry"


def client_error(code: str | None, status: int | None = 400) -> ClientError:
    response: dict[str, Any] = {"Error": {"Message": CANARY}}
    if code is not None:
        response["Error"]["Code"] = code
    if status is not None:
        response["ResponseMetadata"] = {"HTTPStatusCode": status}
    return ClientError(response, "GetObject")


def mapped(error: Exception) -> RunwayError:
    """What a caller gets."""
    with pytest.raises(RunwayError) as raised, aws_errors("read secret x"):
        raise error
    assert CANARY not in "".join(traceback.format_exception(raised.value))
    return raised.value


@pytest.mark.parametrize(
    "code",
    [
        *("InternalError", "InternalFailure", "InternalServiceError", "OperationAborted", "RequestTimeout"),
        *("RequestTimeoutException", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException"),
        "TooManyRequestsException",
    ],
)
def test_trouble_on_the_services_side_may_pass_whatever_the_status(code: str) -> None:
    error = mapped(client_error(code, 400))
    assert isinstance(error, Unavailable)
    assert error.code == code
    assert str(error).startswith(f"Expected to read secret x; got {code}.")


@example(429, "Whatever")
@given(st.integers(400, 599), st.sampled_from(["500", "429", "503", "404", "Whatever"]))
def test_an_unknown_code_is_transient_for_a_status_of_the_servers_and_for_too_many_requests(
    status: int, code: str
) -> None:
    error = mapped(client_error(code, status))
    assert isinstance(error, Transient) == (status >= 500 or status == 429)
    assert isinstance(error, Permanent) == (status < 500 and status != 429)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("AccessDenied", "grant the role the action"),
        ("AccessDeniedException", "grant the role the action"),
        ("InvalidRequestException", "pending deletion"),
        ("NoSuchBucket", "set RUNWAY_BUCKET"),
        ("NoSuchKey", "look the code up"),
    ],
)
def test_a_refusal_says_the_action_the_code_the_status_and_what_to_do(code: str, remedy: str) -> None:
    error = mapped(client_error(code, 403))
    assert isinstance(error, Permanent)
    assert error.code == code
    assert f"Expected to read secret x; got the refusal {code} (HTTP 403). To do: " in str(error)
    assert remedy in str(error)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.EndpointConnectionError(endpoint_url=f"http://{CANARY}"),
        exceptions.ConnectTimeoutError(endpoint_url=f"http://{CANARY}"),
        exceptions.ReadTimeoutError(endpoint_url=f"http://{CANARY}"),
        exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        exceptions.ResponseStreamingError(error=CANARY),
        exceptions.FlexibleChecksumError(error_msg=CANARY),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_that_fails_is_unavailable_and_named_by_its_type(error: Exception) -> None:
    found = mapped(error)
    assert isinstance(found, Unavailable)
    assert found.came == found.code == type(error).__name__


@pytest.mark.parametrize(
    "error",
    [
        exceptions.NoCredentialsError(),
        exceptions.PartialCredentialsError(provider="env", cred_var=CANARY),
        exceptions.NoRegionError(),
        exceptions.ParamValidationError(report=CANARY),
        exceptions.ProfileNotFound(profile=CANARY),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_wrong_on_our_side_is_permanent(error: Exception) -> None:
    assert isinstance(mapped(error), Permanent)


def test_an_error_of_nobodys_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError), aws_errors("read secret x"):
        raise ZeroDivisionError


@pytest.mark.parametrize(("code", "status"), [(None, None), (None, 400), ("X", None)])
def test_an_answer_without_a_code_or_a_status_is_a_refusal(code: str | None, status: int | None) -> None:
    error = client_error(code, status)
    assert error_code(error) == (code or "unknown")
    assert isinstance(mapped(error), Permanent)


def exceptions_of(*modules: str) -> list[type[Exception]]:
    """Every exception class that these modules define."""
    found = []
    for name in modules:
        for member in vars(importlib.import_module(name)).values():
            if isinstance(member, type) and issubclass(member, Exception) and not issubclass(member, Warning):
                found += [member] if member.__module__.partition(".")[0] == name.partition(".")[0] else []
    return found


@pytest.mark.parametrize(
    "kind",
    [
        *exceptions_of("botocore.exceptions", "botocore.parsers", "botocore.eventstream", "botocore.compat"),
        *exceptions_of("boto3.exceptions", "s3transfer.exceptions", "urllib3.exceptions", "ssl"),
        *(ConnectionResetError, BrokenPipeError, TimeoutError, http.client.IncompleteRead, socket.gaierror),
    ],
    ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}",
)
def test_whatever_the_libraries_raise_is_an_error_of_ours(kind: type[Exception]) -> None:
    error = kind.__new__(kind, CANARY)
    if isinstance(error, ClientError):
        error.response = {}
    assert isinstance(mapped(error), RunwayError)


@pytest.mark.parametrize(
    "error", [OSError(28, CANARY), PermissionError(13, CANARY), ValueError(CANARY), KeyError(CANARY)]
)
def test_what_is_no_trouble_with_aws_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)), aws_errors("upload x"):
        raise error
