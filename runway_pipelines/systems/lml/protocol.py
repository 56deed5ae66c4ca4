"""LML's wire protocol, without a connection (library identity contract, section 1).

Belongs here: the URL, the request's JSON, the error for a status, decoding a body, and halving a refused batch.
`answers.py` checks the document; `client.py` makes the calls and retries them.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

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
    """The bulk lookup's URL; ``base_url`` may end in ``/api/v1`` or ``/``. Raises `ConfigurationError`."""
    if not base_url:
        raise ConfigurationError(
            expected="the variable LIBRARY_METADATA_URL", came="no value", remedy="set it to LML's URL"
        )
    try:
        parts = urlsplit(base_url)
        _ = parts.port  # reading it validates it
    except ValueError:
        raise unusable_url() from None
    # httpx would turn a user in the URL into an Authorization header.
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in base_url:
        raise unusable_url()
    return base_url.rstrip("/").removesuffix("/api/v1").rstrip("/") + RESOLVE_PATH


def host_over_plain_http(base_url: str | None) -> str | None:
    """The host that is spoken to without TLS; None with TLS."""
    parts = urlsplit(endpoint_url(base_url))
    return parts.hostname if parts.scheme == "http" else None


def is_within(address: str) -> bool:
    """Whether an IP address is loopback or private, so that the way to it does not cross the Internet."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    parsed = mapped or parsed
    return not parsed.is_global and not parsed.is_multicast


def key_in_the_open() -> ConfigurationError:
    """What to raise instead of sending the key over plain HTTP to a public address."""
    return ConfigurationError(
        expected="https in LIBRARY_METADATA_URL, where LML_API_KEY is set",
        came="plain http to a public address, on which anybody on the way reads the key",
        remedy="set LIBRARY_METADATA_URL to LML's https address; plain http is for loopback and private addresses",
    )


def request_body(libraries: Sequence[Library], *, include_tracks: bool) -> bytes:
    """The request's JSON; raises `ConfigurationError` for a batch size that LML refuses."""
    if not 1 <= len(libraries) <= MOST_INPUTS:
        raise ConfigurationError(
            expected=f"1 to {MOST_INPUTS} libraries a call",
            came=str(len(libraries)),
            remedy=f"set a batch size from 1 to {MOST_INPUTS}",
        )
    return msgspec.json.encode({"inputs": libraries, "include_tracks": include_tracks})


def decoded(body: bytes) -> Mapping[str, Any]:
    """The members of an answer's JSON object, undecoded (`msgspec.Raw`), so that each result is decoded once.

    Raises `LmlUnavailable` for anything else: with status 200 that is a truncated body without a length, or a proxy's
    page, and both pass. The standard library decodes what only msgspec refuses (NaN, an unpaired surrogate), so that
    one bad value costs one library instead of the batch; the members are plain values then.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        pass
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise _undecodable("bytes that are not JSON") from None
    if not isinstance(document, dict):
        raise _undecodable("JSON that is not an object")
    return document


def refusal(status: int, retry_after: str | None, now: datetime) -> LmlError:
    """The error for a status other than 200."""
    if status >= 500 or status == 429:
        return unavailable(status, f"HTTP {status}", retry_after_seconds(retry_after, now))
    if status in (401, 403):
        return LmlRefused(
            status=status,
            expected="LML to accept our key",
            came=f"HTTP {status}",
            remedy="set LML_API_KEY to a key that LML accepts, then run again",
        )
    if status in (413, 422):
        return LmlInputRefused(
            status=status,
            expected="LML to accept these inputs",
            came=f"HTTP {status}",
            remedy="check the skipped library's artist and title in the catalogue",
        )
    return LmlBatchRefused(
        status=status,
        expected="LML to answer",
        came=f"HTTP {status}",
        remedy="check that LIBRARY_METADATA_URL is LML's, and that its version follows the contract",
    )


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """The seconds that a ``Retry-After`` asks for, as a number or a date; None if unreadable."""
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
    """Ask about a batch and halve what LML refuses, down to single inputs. Every library is in one part.

    k offending inputs among n cost about 2 k log2(n) calls. A part with `LmlRefused` is the last, because every other
    would meet the same refusal.
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
    """The error for a call that may succeed later."""
    return LmlUnavailable(
        status=status,
        expected="LML to answer",
        came=came,
        remedy="try again; if it persists, check that LML is up and LIBRARY_METADATA_URL is right",
        retry_after=retry_after,
    )


def _undecodable(came: str) -> LmlUnavailable:
    return LmlUnavailable(
        status=200,
        expected="a JSON object from LML",
        came=came,
        remedy="try again; if it persists, check what answers at LIBRARY_METADATA_URL",
    )


def unusable_url() -> ConfigurationError:
    """The error for a malformed base URL; does not quote it, because it may hold a password."""
    return ConfigurationError(
        expected="LIBRARY_METADATA_URL to be http or https with a host, without a user, a query or a fragment",
        came="something else",
        remedy="set it to LML's URL",
    )
