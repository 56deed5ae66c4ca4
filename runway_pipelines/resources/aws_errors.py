"""botocore's failures made into ours: by code, without the request's values."""

from typing import NoReturn

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from runway_pipelines.errors import ConfigurationError, Permanent, Unavailable

_MISCONFIGURED = (
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
_TRANSIENT_CODES = {
    "BadDigest",
    "InternalError",
    "NoSuchUpload",  # a completion that was retried after it had arrived
    "InternalFailure",
    "InternalServiceError",
    "OperationAborted",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_REMEDIES = {
    "403": "grant the role the actions that docs/operations.md lists",
    "AccessDenied": "grant the role the actions that docs/operations.md lists",
    "AccessDeniedException": "grant the role the actions that docs/operations.md lists",
    "InvalidRequestException": "see whether the secret is pending deletion; restore it or create it anew",
    "NoSuchBucket": "set RUNWAY_BUCKET to the application's bucket",
}


def error_code(error: ClientError) -> str:
    """The service's own code, such as ``NoSuchKey`` (``404`` where an answer has no body)."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def raise_mapped(action: str, error: Exception) -> NoReturn:
    """Raise the error of our tree for ``error``, which ``action`` ("read secret x") met.

    Call it while handling the error: what it raises hides the original, whose text may quote the request.
    """
    if isinstance(error, ClientError):
        code = error_code(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _TRANSIENT_CODES or status >= 500 or status == 429:
            raise _unavailable(action, code) from None
        raise Permanent(
            expected=f"to {action}",
            came=f"the refusal {code} (HTTP {status})",
            remedy=_REMEDIES.get(code, "look the code up in the service's documentation"),
            code=code,
        ) from None
    if isinstance(error, _MISCONFIGURED):
        raise ConfigurationError(
            expected=f"to {action}",
            came=type(error).__name__,
            remedy="give the process AWS credentials and a region, and the settings usable names",
        ) from None
    if isinstance(error, BotoCoreError):
        raise _unavailable(action, type(error).__name__) from None
    raise error


def _unavailable(action: str, code: str) -> Unavailable:
    return Unavailable(
        expected=f"to {action}", came=code, remedy="try again; if it stays, look at the service's status", code=code
    )
