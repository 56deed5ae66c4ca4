"""LML, the library metadata lookup service (library identity contract, section 1): calls, their retries, and halving.

What belongs here ends with the decoded JSON document; whether it is an answer is `identity/answers.py`'s affair. The
circuit (how many batches may fail in a row) is the pipeline's. ``httpx`` is imported at the first call: it costs half a
second, which the code server never needs.
"""

from __future__ import annotations

import email.utils
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import dagster as dg
import orjson
from pydantic import Field, PrivateAttr
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from runway_pipelines.errors import (
    ConfigurationError,
    LmlBatchRefused,
    LmlError,
    LmlInputRefused,
    LmlRefused,
    LmlUnavailable,
)
from runway_pipelines.identity.verdicts import Library

if TYPE_CHECKING:
    import httpx

RESOLVE_PATH = "/api/v1/identity/bulk-resolve-libraries"
MOST_INPUTS = 1000
# 1,000 compilations of 30 tracks each are 9 MB.
MOST_ANSWER_BYTES = 64 * 1024 * 1024
# Longer than a batch takes to be written, so that the next call finds the connection open.
KEEP_ALIVE_SECONDS = 60

Answered = TypeVar("Answered")

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_KEY = re.compile(r"[!-~]+")


@dataclass
class Effort:
    """What an answer, or its absence, cost: calls made, how many of them were retries, and the time spent in calls.

    Waiting between two attempts is not in ``latency_ms``.
    """

    calls: int = 0
    retries: int = 0
    latency_ms: float = 0.0


@dataclass(frozen=True)
class LmlReply:
    """The JSON object that LML answered, decoded and otherwise as it came: nothing in it is to be trusted."""

    document: Mapping[str, Any]
    effort: Effort


@dataclass(frozen=True)
class LmlPart:
    """What halving left of a batch (without trouble: all of it), with LML's JSON object or why there is none.

    A lone library with `LmlInputRefused` is the offending input. ``effort`` is that since the part before, the refused
    calls that led here with it: a batch's parts add up to all of its calls.
    """

    libraries: tuple[Library, ...]
    outcome: Mapping[str, Any] | LmlError
    effort: Effort


class LmlService(dg.ConfigurableResource):  # type: ignore[type-arg]
    """LML's bulk lookup, for as many threads as ``max_in_flight``: more of them wait for each other, and that waiting
    counts as latency. Connections are opened at first use, kept between calls, and closed when the run ends.

    ``timeout_seconds`` bounds the wait for a connection, for the answer's first byte and for the whole of its body.
    """

    base_url: str | None = None
    api_key: str | None = Field(default=None, repr=False)
    timeout_seconds: float = Field(default=30, gt=0)
    max_in_flight: int = Field(default=4, ge=1)
    attempts: int = Field(default=5, ge=1)
    first_wait_seconds: float = Field(default=1, ge=0, description="Most that is waited before the first retry.")
    longest_wait_seconds: float = Field(default=30, ge=0, description="Most that is waited of our own accord.")
    longest_retry_after_seconds: float = Field(default=120, ge=0, description="Most that LML can make us wait.")

    _client: httpx.Client | None = PrivateAttr(default=None)
    _opening: Lock = PrivateAttr(default_factory=Lock)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; opening them again is possible."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    @property
    def endpoint(self) -> str:
        """The URL that is called; raises `ConfigurationError` when there is none to be made."""
        return endpoint_url(self.base_url)

    def require_configured(self) -> None:
        """Raise `ConfigurationError` when LML cannot be called: to be asked before anything is read."""
        _ = self.endpoint, self._headers()

    def resolve(self, libraries: Sequence[Library], *, include_tracks: bool) -> LmlReply:
        """Ask about 1 to 1,000 libraries in one call, tried again while LML is unavailable.

        Raises `LmlRefused`, `LmlInputRefused`, `LmlBatchRefused`, after the last attempt `LmlUnavailable`, and
        `ConfigurationError`.
        """
        effort = Effort()
        return LmlReply(self._document(libraries, include_tracks, effort), effort)

    def resolve_halving(self, libraries: Sequence[Library], *, include_tracks: bool) -> Iterator[LmlPart]:
        """Ask about libraries; what LML refuses is halved until the offending input stands alone.

        Parts come in the order of the libraries, each asked when the one before has been consumed, so that a caller may
        stop in between. Raises `LmlRefused` and `ConfigurationError`, for every part would meet them; any other failure
        is its part's outcome.
        """
        effort = Effort()
        parts = halving(tuple(libraries), lambda part: self._document(part, include_tracks, effort))
        for part, outcome in parts:
            yield LmlPart(part, outcome, effort)
            effort = Effort()

    def _document(self, libraries: Sequence[Library], include_tracks: bool, effort: Effort) -> Mapping[str, Any]:
        body = request_body(libraries, include_tracks=include_tracks)
        retrying = Retrying(
            retry=retry_if_exception_type(LmlUnavailable),
            stop=stop_after_attempt(self.attempts),
            wait=self._wait,
            reraise=True,
        )
        before = effort.calls
        try:
            return retrying(self._call, body, effort)  # type: ignore[no-any-return]
        finally:
            effort.retries += max(effort.calls - before - 1, 0)

    def _wait(self, state: RetryCallState) -> float:
        """Exponential with full jitter, so that calls that failed together do not come back together; on top of what
        LML asked for, for the same reason.
        """
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, LmlUnavailable) and error.retry_after else 0.0
        own = wait_random_exponential(multiplier=self.first_wait_seconds, max=self.longest_wait_seconds)(state)
        return min(asked, self.longest_retry_after_seconds) + own

    def _call(self, body: bytes, effort: Effort) -> Mapping[str, Any]:
        """One attempt."""
        client, url, headers = self._opened(), self.endpoint, self._headers()
        effort.calls += 1
        started = time.monotonic()
        try:
            return decoded(self._exchange(client, url, headers, body))
        finally:
            effort.latency_ms += (time.monotonic() - started) * 1000

    def _exchange(self, client: httpx.Client, url: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """The body of LML's answer. A library's text is dropped: it may quote the key."""
        import httpx

        try:
            with client.stream("POST", url, content=body, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise refusal(response.status_code, response.headers.get("Retry-After"), datetime.now(UTC))
                return self._read(response.iter_bytes())
        except httpx.TimeoutException as error:
            raise self._timed_out(type(error).__name__) from None
        except httpx.InvalidURL:
            raise _unusable_url() from None
        except httpx.RequestError as error:
            raise _unavailable(None, f"{type(error).__name__} ({_first_cause(error)})") from None

    def _read(self, chunks: Iterator[bytes]) -> bytes:
        """All of an answer, bounded in size and time: a timeout of the socket bounds only the wait for each chunk."""
        deadline = time.monotonic() + self.timeout_seconds
        body = bytearray()
        for chunk in chunks:
            body += chunk
            if len(body) > MOST_ANSWER_BYTES:
                raise LmlBatchRefused(
                    status=200,
                    expected=f"an answer of at most {MOST_ANSWER_BYTES} bytes",
                    came="more than that",
                    remedy="ask about fewer libraries a call; if that does not help, look at what LML answers",
                )
            if time.monotonic() > deadline:
                raise self._timed_out("a body that trickles")
        return bytes(body)

    def _timed_out(self, how: str) -> LmlUnavailable:
        return _unavailable(None, f"no answer within {self.timeout_seconds:g} s ({how})")

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if not self.api_key:
            return headers
        if not _KEY.fullmatch(self.api_key):
            raise ConfigurationError(
                expected="LML_API_KEY to be printable ASCII without spaces",
                came="another character in it",
                remedy="set LML_API_KEY to the key alone, without a line end",
            )
        return headers | {"Authorization": f"Bearer {self.api_key}"}

    def _opened(self) -> httpx.Client:
        """The client that all threads share, made once."""
        with self._opening:
            if self._client is None:
                # Their INFO lines tell of every request, their DEBUG lines of its parts: not louder than we are.
                for library in ("httpx", "httpcore"):
                    logging.getLogger(library).setLevel(logging.WARNING)
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> httpx.Client:
        import httpx

        try:
            return httpx.Client(
                timeout=httpx.Timeout(self.timeout_seconds, pool=None),
                limits=httpx.Limits(
                    max_connections=self.max_in_flight,
                    max_keepalive_connections=self.max_in_flight,
                    keepalive_expiry=KEEP_ALIVE_SECONDS,
                ),
            )
        except (OSError, ValueError, httpx.InvalidURL) as error:
            raise ConfigurationError(
                expected="proxy and certificate settings of the environment that can be used",
                came=type(error).__name__,
                remedy="correct HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR",
            ) from None


def endpoint_url(base_url: str | None) -> str:
    """Where the bulk lookup is; ``base_url`` may end in ``/api/v1`` or ``/``. Raises `ConfigurationError`."""
    if not base_url:
        raise ConfigurationError(
            expected="the variable LIBRARY_METADATA_URL", came="no value", remedy="set it to where LML is"
        )
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # reading it validates it
    except ValueError:
        raise _unusable_url() from None
    # httpx would make a user in the URL an Authorization of its own.
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in base_url:
        raise _unusable_url()
    return base_url.rstrip("/").removesuffix("/api/v1").rstrip("/") + RESOLVE_PATH


def request_body(libraries: Sequence[Library], *, include_tracks: bool) -> bytes:
    """The request's JSON; raises `ConfigurationError` for a batch that LML does not take."""
    if not 1 <= len(libraries) <= MOST_INPUTS:
        raise ConfigurationError(
            expected=f"1 to {MOST_INPUTS} libraries a call",
            came=str(len(libraries)),
            remedy=f"set the batch size within 1 and {MOST_INPUTS}",
        )
    inputs = [
        {
            "library_id": library.library_id,
            "legacy_release_id": library.legacy_release_id,
            "artist_name": library.artist_name,
            "album_title": library.album_title,
        }
        for library in libraries
    ]
    return orjson.dumps({"inputs": inputs, "include_tracks": include_tracks})


def decoded(body: bytes) -> Mapping[str, Any]:
    """An answer's JSON object.

    What is none is `LmlUnavailable`: with status 200 it is a body that was cut where nothing says its length, or the
    page of something in between, and both pass. What only orjson refuses (NaN, an unpaired surrogate) is decoded by the
    standard library, so that one bad value costs one library instead of its whole batch. An integer beyond 64 bits
    becomes a float, which is no id.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise _undecodable("bytes that are no JSON") from None
    if not isinstance(document, dict):
        raise _undecodable("JSON that is no object")
    return document


def refusal(status: int, retry_after: str | None, now: datetime) -> LmlError:
    """The error for an answer that is not 200, by its status alone."""
    if status >= 500 or status == 429:
        return _unavailable(status, f"HTTP {status}", retry_after_seconds(retry_after, now))
    if status in (401, 403):
        return LmlRefused(
            status=status,
            expected="LML to let us in",
            came=f"HTTP {status}",
            remedy="set LML_API_KEY to a key that LML accepts, then run again",
        )
    if status in (413, 422):
        return LmlInputRefused(
            status=status,
            expected="LML to take these inputs",
            came=f"HTTP {status}",
            remedy="look at the library that was skipped: its artist and title in the catalogue",
        )
    return LmlBatchRefused(
        status=status,
        expected="LML to answer",
        came=f"HTTP {status}",
        remedy="see that LIBRARY_METADATA_URL is LML's and that LML speaks the contract's version",
    )


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """What a ``Retry-After`` asks for, given as seconds or as a date; None where it says nothing."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds(), 0.0)


def halving(
    batch: tuple[Library, ...], ask: Callable[[tuple[Library, ...]], Answered]
) -> Iterator[tuple[tuple[Library, ...], Answered | LmlError]]:
    """Ask about a batch, about its halves where LML refuses the inputs, and so on: every library is in one part.

    k offending inputs among n cost about 2 k log2(n) calls. Only `LmlRefused` is raised.
    """
    waiting = [batch]
    while waiting:
        part = waiting.pop()
        outcome: Answered | LmlError
        try:
            outcome = ask(part)
        except LmlInputRefused as refused:
            if len(part) > 1:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
                continue
            outcome = refused
        except (LmlUnavailable, LmlBatchRefused) as failed:
            outcome = failed
        yield part, outcome


def _unavailable(status: int | None, came: str, retry_after: float | None = None) -> LmlUnavailable:
    return LmlUnavailable(
        status=status,
        expected="LML to answer",
        came=came,
        remedy="try again; if it stays, see whether LML is up and LIBRARY_METADATA_URL is right",
        retry_after=retry_after,
    )


def _undecodable(came: str) -> LmlUnavailable:
    return LmlUnavailable(
        status=200,
        expected="a JSON object from LML",
        came=came,
        remedy="try again; if it stays, see what answers at LIBRARY_METADATA_URL",
    )


def _unusable_url() -> ConfigurationError:
    return ConfigurationError(
        expected="LIBRARY_METADATA_URL to be http or https with a host, without a user, a query or a fragment",
        came="something else",
        remedy="set it to where LML is",
    )


def _first_cause(error: BaseException) -> str:
    """The type's name of what a library's error began with (``ConnectionRefusedError``)."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return type(error).__name__
