"""The one exception tree.

Every error says what was expected, what came and what to do. None carries a value that could identify a student or
grant access. ``systems/`` maps the libraries' errors to these with ``raise ... from None``: Dagster stores the whole
chain of an exception in its event log, and a driver's text may quote data.

    RunwayError
    ├── Permanent    trying again gives the same result
    ├── Transient    trying again may succeed
    └── Held         the data was refused
"""


class RunwayError(Exception):
    """A failure of the pipeline.

    ``expected``, ``came`` and ``remedy`` are phrases without a full stop. ``code`` is the outside system's own error
    code, where there is one.
    """

    def __init__(self, *, expected: str, came: str, remedy: str, code: str | None = None) -> None:
        self.expected = expected
        self.came = came
        self.remedy = remedy
        self.code = code
        super().__init__(f"Expected {expected}; got {came}. To do: {remedy}.")


class Permanent(RunwayError):
    """Trying again gives the same result: somebody has to change something."""


class Transient(RunwayError):
    """Trying again in a moment may succeed."""


class Held(RunwayError):
    """The data was refused, and the published roster stays until the data or a decision changes.

    ``check`` names the asset check that refused it.
    """

    def __init__(self, *, check: str, expected: str, came: str, remedy: str) -> None:
        super().__init__(expected=expected, came=came, remedy=remedy)
        self.check = check


class ConfigurationError(Permanent):
    """A setting is missing or unusable."""


class InvalidKey(Permanent):
    """A partner id or tenant code cannot be a partition key, an S3 key or part of a secret's name."""


class SecretMissing(Permanent):
    """A partner's secret, or a secret or parameter that locates a data store, does not exist; the message names it."""


class SecretMalformed(Permanent):
    """Such a secret or parameter exists but cannot be used; the message names the field, never the value."""


class AuthenticationRefused(Permanent):
    """The server refused the user, the password or the key."""


class QueryFailed(Permanent):
    """The warehouse refused a statement; ``code`` is its error number."""


class RowsUnreadable(Permanent):
    """The rows do not have the shape, types or order that the statement asks for."""


class StoredObjectDamaged(Permanent):
    """An object in the bucket is not what was written there, or cannot be parsed."""


class DecisionRefused(Permanent):
    """A decision about a roster does not fit what is there now."""


class Unavailable(Transient):
    """A server could not be reached, or the connection broke."""


class SessionEnded(Unavailable):
    """The server has ended a session that was open. Its neighbours may be ended too; a new one can be opened."""


class LockTimeout(Transient):
    """Another run held the tenant's lock longer than we wait."""


class PublicationRaced(Transient):
    """Somebody else moved the tenant's pointer while we held the lock."""


class LmlError(RunwayError):
    """A call to LML got no answer, which is never a verdict.

    ``status`` is the HTTP status, or None without one (timeouts, network errors); ``code`` is its text.
    """

    def __init__(self, *, status: int | None, expected: str, came: str, remedy: str) -> None:
        super().__init__(expected=expected, came=came, remedy=remedy, code=None if status is None else str(status))
        self.status = status


class LmlUnavailable(LmlError, Unavailable):
    """LML did not answer: 5xx, 429, a timeout, a network error, or an answer that broke off or cannot be decoded.

    ``retry_after`` is the number of seconds that LML asked us to wait, if it did.
    """

    def __init__(
        self, *, status: int | None, expected: str, came: str, remedy: str, retry_after: float | None = None
    ) -> None:
        super().__init__(status=status, expected=expected, came=came, remedy=remedy)
        self.retry_after = retry_after


class LmlRefused(LmlError, Permanent):
    """LML refused our key (401, 403). Every further call would fail the same way, so the run stops."""


class LmlInputRefused(LmlError, Permanent):
    """LML refused the inputs (413: too many, 422: at least one is bad). Half of them may be answered."""


class LmlBatchRefused(LmlError, Permanent):
    """LML refused the whole batch, and would again (other 4xx, redirections, an oversized answer)."""
