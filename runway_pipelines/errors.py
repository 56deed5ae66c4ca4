"""The one exception tree.

Every error says what was expected, what came and what to do; none carries a value that may identify a student or open a
door. Errors of libraries are mapped to these at the boundary (``systems/``), with ``raise ... from None``: Dagster
stores the whole chain of an exception in its event log, and a driver's text may quote data.
"""


class RunwayError(Exception):
    """A failure of the pipeline.

    ``expected``, ``came`` and ``remedy`` are sentences without a full stop; ``code`` is the outside system's own error
    code, where it has one.
    """

    def __init__(self, *, expected: str, came: str, remedy: str, code: str | None = None) -> None:
        self.expected = expected
        self.came = came
        self.remedy = remedy
        self.code = code
        super().__init__(f"Expected {expected}; got {came}. To do: {remedy}.")


class Permanent(RunwayError):
    """Trying again gives the same: somebody has to change something."""


class Transient(RunwayError):
    """The outside world may answer differently in a moment."""


class Held(RunwayError):
    """The data was refused: what is published stays as it is, until the data or a decision changes.

    ``check`` names the asset check that refused it.
    """

    def __init__(self, *, check: str, expected: str, came: str, remedy: str) -> None:
        super().__init__(expected=expected, came=came, remedy=remedy)
        self.check = check


class ConfigurationError(Permanent):
    """A setting is missing or has a value that cannot be used."""


class InvalidKey(Permanent):
    """A partner id or tenant code that may not become a partition key, an S3 key or a secret's name."""


class SecretMissing(Permanent):
    """A partner's secret, or a secret or parameter that locates a data store, does not exist; the message names it."""


class SecretMalformed(Permanent):
    """Such a secret or parameter exists but cannot be used; the message names the field, never the value."""


class AuthenticationRefused(Permanent):
    """The server knows the account and refuses the user or the key."""


class QueryFailed(Permanent):
    """The warehouse refused a statement; ``code`` is its error number."""


class RowsUnreadable(Permanent):
    """The rows that came are not of the shape, the types or the order that was asked for."""


class StoredObjectDamaged(Permanent):
    """An object in the bucket does not hold what was written to it, or cannot be read as what it should be."""


class Unavailable(Transient):
    """A server could not be reached, or broke off."""


class LockTimeout(Transient):
    """Another run holds the tenant's lock for longer than we wait."""


class PublicationRaced(Transient):
    """The tenant's pointer was moved by somebody else while we held the lock."""


class LmlError(RunwayError):
    """A call of LML that gave no answer: never a verdict.

    ``status`` is HTTP's, None where there was none (timeouts, network errors); ``code`` is its text.
    """

    def __init__(self, *, status: int | None, expected: str, came: str, remedy: str) -> None:
        super().__init__(expected=expected, came=came, remedy=remedy, code=None if status is None else str(status))
        self.status = status

    @property
    def retryable(self) -> bool:
        """Whether LML may answer the same call in a moment."""
        return isinstance(self, Transient)


class LmlUnavailable(LmlError, Unavailable):
    """LML did not answer: 5xx, 429, a timeout, a network error, an answer that broke off or cannot be decoded.

    ``retry_after`` is how many seconds LML asked us to wait, where it did.
    """

    def __init__(
        self, *, status: int | None, expected: str, came: str, remedy: str, retry_after: float | None = None
    ) -> None:
        super().__init__(status=status, expected=expected, came=came, remedy=remedy)
        self.retry_after = retry_after


class LmlRefused(LmlError, Permanent):
    """LML does not let us in (401, 403): every further call would fail the same way, so the run stops."""


class LmlInputRefused(LmlError, Permanent):
    """LML refuses what it was asked (413: too much, 422: one input at least); a half of it may be answered."""


class LmlBatchRefused(LmlError, Permanent):
    """LML refuses this batch as a whole, and would again (other 4xx, redirections, an answer too large to be one)."""
