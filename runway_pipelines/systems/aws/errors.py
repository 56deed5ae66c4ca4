"""Errors of boto3 and of what is below it (botocore, urllib3, ssl) mapped to ours, without the request's values."""

import http.client
import socket
import ssl
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from runway_pipelines.errors import ConfigurationError, Permanent, RunwayError, Unavailable
from runway_pipelines.systems.disk import machine_trouble, temporary_folder

_MISCONFIGURED = (
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
_LIBRARIES = {"boto3", "botocore", "s3transfer", "urllib3"}
_OF_THE_CONNECTION = (ConnectionError, TimeoutError, ssl.SSLError, socket.gaierror, http.client.HTTPException)
# Includes the codes that botocore retries itself.
_TRANSIENT_CODES = {
    "BadDigest",
    "BandwidthLimitExceeded",
    "InternalError",
    "NoSuchUpload",  # a retried completion whose first attempt had arrived
    "InternalFailure",
    "InternalServiceError",
    "LimitExceededException",
    "OperationAborted",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
}
_CLOCK = "set this machine's clock by a time server (chronyc tracking): AWS refuses what was signed at another time"
_REMEDIES = {
    "403": "grant the role the actions that docs/operations.md lists",
    "AccessDenied": "grant the role the actions that docs/operations.md lists",
    "AccessDeniedException": "grant the role the actions that docs/operations.md lists",
    "InvalidRequestException": "if the secret is pending deletion, restore it or create it anew",
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "NoSuchBucket": "set RUNWAY_BUCKET to the application's bucket",
}


@contextmanager
def aws_errors(action: str, *, absent: Collection[str] = ()) -> Iterator[None]:
    """Map what boto3 and its libraries raise within the block; ``action`` ("read secret x") says what was tried.

    An error whose code is in ``absent`` ends the block quietly, and the statement after it runs. The original exception
    is dropped from the chain, because its text may quote the request.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_aws(error):
            raise
        met = _cause(error)
        if isinstance(met, ClientError) and error_code(met) in absent:
            return
        raise _mapped(action, met) from None


def _is_of_aws(error: Exception) -> bool:
    """Whether the libraries or the connection raised it: botocore maps no connection error within a body.

    An error of the local disk, which an upload reads, does not count.
    """
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return not libraries.isdisjoint(_LIBRARIES) or isinstance(error, _OF_THE_CONNECTION)


def error_code(error: ClientError) -> str:
    """The service's own code, such as ``NoSuchKey`` (``404`` where an answer has no body)."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _mapped(action: str, error: Exception) -> RunwayError:
    if isinstance(error, ClientError):
        code = error_code(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _TRANSIENT_CODES or status >= 500 or status == 429:
            return _unavailable(action, code)
        return Permanent(
            expected=f"to {action}",
            came=f"the refusal {code} (HTTP {status})",
            remedy=_REMEDIES.get(code, "look the code up in the service's documentation"),
            code=code,
        )
    if (trouble := machine_trouble(error, temporary_folder())) is not None:  # no socket could be opened
        return trouble
    if isinstance(error, _MISCONFIGURED):
        return ConfigurationError(
            expected=f"to {action}",
            came=type(error).__name__,
            remedy="give the process AWS credentials and a region, and correct the names in the settings",
        )
    return _unavailable(action, type(error).__name__)


def _cause(error: Exception) -> Exception:
    """The botocore error inside one of boto3's transfer errors, if there is one; else the error itself."""
    wrapped = error.__cause__ or error.__context__
    return wrapped if isinstance(error, Boto3Error) and isinstance(wrapped, ClientError | BotoCoreError) else error


def _unavailable(action: str, code: str) -> Unavailable:
    return Unavailable(
        expected=f"to {action}", came=code, remedy="try again; if it persists, look at the service's status", code=code
    )
