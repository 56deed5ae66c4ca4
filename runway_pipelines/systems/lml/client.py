"""Calls LML: connections, retries, and halving of refused batches (library identity contract, section 1).

`protocol.py` makes requests and reads statuses; `identity` decides how many batches may fail in a row. ``httpx`` is
imported at the first call: it costs half a second, and the code server never needs it.
"""

from __future__ import annotations

import logging
import re
import socket
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from threading import Event, Lock
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import dagster as dg
from pydantic import Field, PrivateAttr
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    wait_random_exponential,
)

from runway_pipelines.errors import ConfigurationError, LmlBatchRefused, LmlError, LmlUnavailable
from runway_pipelines.systems.lml.limiter import CallLimiter
from runway_pipelines.systems.lml.protocol import (
    decoded,
    endpoint_url,
    halving,
    host_over_plain_http,
    is_within,
    key_in_the_open,
    refusal,
    request_body,
    unavailable,
    unusable_url,
)
from runway_pipelines.systems.lml.verdicts import Library

if TYPE_CHECKING:
    import httpx

# 1,000 compilations of 30 tracks each are 9 MB.
MOST_ANSWER_BYTES = 64 * 1024 * 1024
# Longer than writing a batch takes, so that the next call finds the connection open.
KEEP_ALIVE_SECONDS = 60

_KEY = re.compile(r"[!-~]+")


@dataclass
class Effort:
    """The cost of an answer or a failure. ``calls`` include ``retries``; ``latency_ms`` excludes waits between them."""

    calls: int = 0
    retries: int = 0
    latency_ms: float = 0.0


@dataclass(frozen=True)
class LmlReply:
    """The members of LML's JSON object, undecoded and unchecked."""

    document: Mapping[str, Any]
    effort: Effort


@dataclass(frozen=True)
class LmlPart:
    """A part of a halved batch (without trouble, all of it), with LML's JSON object or an error.

    A lone library with `LmlInputRefused` is the offending input; no part follows `LmlRefused`. ``effort`` includes the
    refused calls since the previous part, so a batch's parts add up to all of its calls.
    """

    libraries: tuple[Library, ...]
    outcome: Mapping[str, Any] | LmlError
    effort: Effort


class LmlService(dg.ConfigurableResource):  # type: ignore[type-arg]
    """LML's bulk lookup for up to ``max_in_flight`` threads; more wait for a connection, which counts as latency.
    Connections open at first use, stay open between calls, and close when the run ends.

    ``limiter`` caps the call rate, retries included; None is unlimited. ``timeout_seconds`` bounds the wait for a
    connection, for each piece of the answer's head, and for the whole body.
    """

    base_url: str | None = None
    api_key: str | None = Field(default=None, repr=False)
    timeout_seconds: float = Field(default=30, gt=0)
    max_in_flight: int = Field(default=4, ge=1)
    attempts: int = Field(default=5, ge=1)
    first_wait_seconds: float = Field(default=1, ge=0, description="Longest wait before the first retry.")
    longest_wait_seconds: float = Field(default=30, ge=0, description="Longest wait that we choose ourselves.")
    longest_retry_after_seconds: float = Field(default=120, ge=0, description="Longest wait that LML can ask for.")
    limiter: CallLimiter | None = None

    _client: httpx.Client | None = PrivateAttr(default=None)
    _way_is_private: bool = PrivateAttr(default=False)
    _opening: Lock = PrivateAttr(default_factory=Lock)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    @property
    def endpoint(self) -> str:
        """The URL to call; raises `ConfigurationError`."""
        return endpoint_url(self.base_url)

    def require_configured(self) -> None:
        """Raise `ConfigurationError` if the URL or the key is unusable; call this before reading anything."""
        _ = self.endpoint, self._headers()
        with suppress(LmlUnavailable):  # a name that does not resolve now: the calls try again
            self._require_private_way()

    def resolve(self, libraries: Sequence[Library], *, include_tracks: bool) -> LmlReply:
        """Ask about 1 to 1,000 libraries in one call; retry while LML is unavailable.

        Raises `LmlRefused`, `LmlInputRefused`, `LmlBatchRefused`, `ConfigurationError`, or `LmlUnavailable` after the
        last attempt.
        """
        effort = Effort()
        return LmlReply(self._document(libraries, include_tracks, effort), effort)

    def resolve_halving(
        self, libraries: Sequence[Library], *, include_tracks: bool, stopped: Event | None = None
    ) -> Iterator[LmlPart]:
        """Ask about libraries, halving what LML refuses until the offending input stands alone.

        Parts keep the libraries' order. Each is asked once its predecessor is consumed, so a caller may stop in
        between. Setting ``stopped`` ends retries. A failure is its part's outcome; only `ConfigurationError` is raised.
        """
        effort = Effort()
        parts = halving(tuple(libraries), lambda part: self._document(part, include_tracks, effort, stopped))
        for part, outcome in parts:
            yield LmlPart(part, outcome, effort)
            effort = Effort()

    def _document(
        self, libraries: Sequence[Library], include_tracks: bool, effort: Effort, stopped: Event | None = None
    ) -> Mapping[str, Any]:
        body = request_body(libraries, include_tracks=include_tracks)
        stopped = stopped or Event()
        before = effort.calls

        def attempt() -> Mapping[str, Any]:
            # A failure elsewhere ends the wait for a retry, which would fail the same way.
            if effort.calls > before and stopped.is_set():
                raise _stopped()
            if self.limiter is not None and stopped.wait(self.limiter.reserve()):
                raise _stopped()
            return self._call(body, effort)

        retrying = Retrying(
            retry=retry_if_exception_type(LmlUnavailable),
            stop=stop_after_attempt(self.attempts),
            wait=self._wait,
            sleep=sleep_using_event(stopped),
            reraise=True,
        )
        try:
            return retrying(attempt)  # type: ignore[no-any-return]
        finally:
            effort.retries += max(effort.calls - before - 1, 0)

    def _wait(self, state: RetryCallState) -> float:
        """Exponential with full jitter, plus LML's Retry-After: calls that failed together return spread out."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, LmlUnavailable) and error.retry_after else 0.0
        own = wait_random_exponential(multiplier=self.first_wait_seconds, max=self.longest_wait_seconds)(state)
        return min(asked, self.longest_retry_after_seconds) + own

    def _call(self, body: bytes, effort: Effort) -> Mapping[str, Any]:
        """One attempt."""
        client, url, headers = self._opened(), self.endpoint, self._headers()
        effort.calls += 1
        self._require_private_way()
        started = time.monotonic()
        try:
            return decoded(self._exchange(client, url, headers, body))
        finally:
            effort.latency_ms += (time.monotonic() - started) * 1000

    def _exchange(self, client: httpx.Client, url: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """The answer's body. Drops httpx's error texts, which may quote the key."""
        import httpx

        try:
            with client.stream("POST", url, content=body, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise refusal(response.status_code, response.headers.get("Retry-After"), datetime.now(UTC))
                is_gzip = response.headers.get("Content-Encoding", "").strip().lower() in ("gzip", "x-gzip")
                return self._read(response.iter_raw(), is_gzip=is_gzip)
        except httpx.TimeoutException as error:
            raise self._timed_out(type(error).__name__) from None
        except httpx.InvalidURL:
            raise unusable_url() from None
        except httpx.RequestError as error:
            raise unavailable(None, f"{type(error).__name__} ({_first_cause(error)})") from None
        except (ValueError, zlib.error) as error:  # a header that httpx cannot use, or a body that is no gzip
            raise unavailable(None, f"an answer that is no HTTP ({type(error).__name__})") from None

    def _read(self, chunks: Iterator[bytes], *, is_gzip: bool) -> bytes:
        """The whole body, bounded in size and time; the socket's timeout bounds only each chunk.

        A few bytes of gzip can stand for gigabytes, so no more is inflated than may come. A body in another encoding,
        for which nobody asked, is no JSON.
        """
        deadline = time.monotonic() + self.timeout_seconds
        inflating = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        body = bytearray()
        for chunk in chunks:
            body += inflating.decompress(chunk, MOST_ANSWER_BYTES + 1 - len(body)) if is_gzip else chunk
            if len(body) > MOST_ANSWER_BYTES:
                raise LmlBatchRefused(
                    status=200,
                    expected=f"an answer of at most {MOST_ANSWER_BYTES} bytes",
                    came="more than that",
                    remedy="use a smaller batch size; if that does not help, look at LML's answers",
                )
            if time.monotonic() > deadline:
                raise self._timed_out("a slow body")
        if is_gzip and not inflating.eof:
            raise unavailable(None, "a body of gzip that breaks off")
        return bytes(body)

    def _timed_out(self, how: str) -> LmlUnavailable:
        return unavailable(None, f"no answer within {self.timeout_seconds:g} s ({how})")

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "gzip"}
        if not self.api_key:
            return headers
        if not _KEY.fullmatch(self.api_key):
            raise ConfigurationError(
                expected="LML_API_KEY to be printable ASCII without spaces",
                came="another character",
                remedy="set LML_API_KEY to the key alone, without a line break",
            )
        return headers | {"Authorization": f"Bearer {self.api_key}"}

    def _require_private_way(self) -> None:
        """Raise `ConfigurationError` before the key goes over plain HTTP to a public address.

        All addresses of a name must be private; a name that passed is not looked up again. Raises `LmlUnavailable` for
        a name that does not resolve now.
        """
        host = host_over_plain_http(self.base_url) if self.api_key and not self._way_is_private else None
        if host is None:
            return
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise unavailable(None, f"no address of its host ({type(error).__name__})") from None
        if not all(is_within(str(address[4][0])) for address in found):
            raise key_in_the_open()
        self._way_is_private = True

    def _opened(self) -> httpx.Client:
        """The client that all threads share."""
        with self._opening:
            if self._client is None:
                # At INFO they log every request.
                for library in ("httpx", "httpcore"):
                    logging.getLogger(library).setLevel(logging.WARNING)
                self._client = self._new_client()
            return self._client

    def _new_client(self) -> httpx.Client:
        import httpx

        try:
            return httpx.Client(
                timeout=httpx.Timeout(self.timeout_seconds, pool=None),
                # LML keeps nothing here and sends nobody elsewhere; httpx fails at a cookie or a Location that is odd.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                event_hooks={"response": [lambda response: response.headers.pop("Location", None)]},
                # Over plain HTTP the key goes to LML itself: the environment's proxy may be anywhere.
                mounts={"http://": None} if self.api_key else None,
                limits=httpx.Limits(
                    max_connections=self.max_in_flight,
                    max_keepalive_connections=self.max_in_flight,
                    keepalive_expiry=KEEP_ALIVE_SECONDS,
                ),
            )
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
            named = ", ".join(_unusable_proxies()) or "SSL_CERT_FILE or SSL_CERT_DIR"
            hint = " (an IPv6 address stands there without brackets, ::1)" if "NO_PROXY" in named else ""
            raise ConfigurationError(
                expected="usable proxy and certificate settings in the environment",
                came=type(error).__name__,
                remedy=f"correct {named}{hint}",
            ) from None


def _unusable_proxies() -> list[str]:
    """The environment's proxy settings that httpx cannot parse, by name; it takes them as urllib does."""
    import httpx

    settings = getproxies()
    unusable = []
    for name in ("http", "https", "all"):
        if value := settings.get(name):
            try:
                httpx.HTTPTransport(proxy=value if "://" in value else f"http://{value}").close()
            except (ValueError, ImportError, httpx.InvalidURL):
                unusable.append(f"{name.upper()}_PROXY")
    for host in filter(None, map(str.strip, settings.get("no", "").split(","))):
        try:
            ip_address(host)
        except ValueError:
            try:
                httpx.URL(host if "://" in host else f"all://*{host}")
            except (ValueError, httpx.InvalidURL):
                return [*unusable, "NO_PROXY"]
    return unusable


def _stopped() -> LmlError:
    return LmlError(
        status=None,
        expected="LML to answer",
        came="the end of the run before the next attempt",
        remedy="run again: it resumes with what is left",
    )


def _first_cause(error: BaseException) -> str:
    """The type of an error's first cause (``ConnectionRefusedError``)."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return type(error).__name__
