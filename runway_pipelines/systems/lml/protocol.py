"""What LML is sent and what its answers mean (library identity contract, section 1): pure, without a connection.

Belongs here: the URL, the request's JSON, what a status is, a body decoded, and which parts a refused batch falls into.
Whether the document is an answer is `identity/answers.py`'s affair; calls and their retries are `lml.py`'s.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from runway_pipelines.errors import (
    ConfigurationError,
    LmlBatchRefused,
    LmlError,
    LmlInputRefused,
    LmlRefused,
    LmlUnavailable,
)
from runway_pipelines.systems.lml.verdicts import Library

RESOLVE_PATH = "/api/v1/identity/bulk-resolve-libraries"
MOST_INPUTS = 1000

Answered = TypeVar("Answered")

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


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
        raise unusable_url() from None
    # httpx would make a user in the URL an Authorization of its own.
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in base_url:
        raise unusable_url()
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
        return unavailable(status, f"HTTP {status}", retry_after_seconds(retry_after, now))
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

    k offending inputs among n cost about 2 k log2(n) calls. The part that meets `LmlRefused` is the last: every other
    one would meet it too.
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
        except LmlError as failed:
            outcome = failed
        yield part, outcome
        if isinstance(outcome, LmlRefused):
            return


def unavailable(status: int | None, came: str, retry_after: float | None = None) -> LmlUnavailable:
    """The error for a call that may be answered in a moment."""
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


def unusable_url() -> ConfigurationError:
    """The error for a base URL that says more or less than where LML is; not quoted, for it may hold a password."""
    return ConfigurationError(
        expected="LIBRARY_METADATA_URL to be http or https with a host, without a user, a query or a fragment",
        came="something else",
        remedy="set it to where LML is",
    )
