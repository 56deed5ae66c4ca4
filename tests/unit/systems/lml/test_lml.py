"""LML's client without a server: addresses, bodies, statuses, waits, halving."""

import json
import math
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import dagster as dg
import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import (
    ConfigurationError,
    LmlBatchRefused,
    LmlError,
    LmlInputRefused,
    LmlRefused,
    LmlUnavailable,
    Permanent,
    Transient,
)
from runway_pipelines.systems.lml.client import LmlService
from runway_pipelines.systems.lml.protocol import (
    MOST_INPUTS,
    RESOLVE_PATH,
    decoded,
    endpoint_url,
    halving,
    refusal,
    request_body,
    retry_after_seconds,
)
from runway_pipelines.systems.lml.verdicts import Library
from tests.factories import everything_said_by

CANARY = "c4n4ry"
NOW = datetime(2026, 1, 15, 2, 0, 0, tzinfo=UTC)


def library(library_id: int, **changes: Any) -> Library:
    return Library(
        **({"library_id": library_id, "legacy_release_id": None, "artist_name": "Can"} | changes), album_title="T"
    )


@pytest.mark.parametrize(
    ("base_url", "root"),
    [
        ("http://lml", "http://lml"),
        ("http://lml/", "http://lml"),
        ("https://lml:8443/api/v1", "https://lml:8443"),
        ("https://lml/api/v1/", "https://lml"),
        ("https://host/behind/a/proxy/api/v1//", "https://host/behind/a/proxy"),
        ("https://host/api/v1/more", "https://host/api/v1/more"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_base_url_may_end_in_the_apis_path_or_a_slash(base_url: str, root: str) -> None:
    assert endpoint_url(base_url) == root + RESOLVE_PATH


@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_base_url_names_its_variable(missing: str | None) -> None:
    service = LmlService(base_url=missing)
    for ask in (service.require_configured, lambda: service.resolve([library(1)], include_tracks=False)):
        with pytest.raises(ConfigurationError, match="the variable LIBRARY_METADATA_URL"):
            ask()


@pytest.mark.parametrize(
    "base_url",
    [
        "lml",
        "ftp://lml",
        "http://",
        f"http://user:{CANARY}@lml",
        f"http://lml?key={CANARY}",
        "http://lml:port",
        "http://[::",
    ],
)
def test_an_unusable_base_url_is_a_configuration_error_that_does_not_quote_it(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="LIBRARY_METADATA_URL") as refused:
        LmlService(base_url=base_url).require_configured()
    assert CANARY not in everything_said_by(refused.value)


def test_a_url_that_only_httpx_refuses_is_a_configuration_error_too() -> None:
    with pytest.raises(ConfigurationError, match="LIBRARY_METADATA_URL"):
        LmlService(base_url="http://lml\x7f").resolve([library(1)], include_tracks=False)


@pytest.mark.parametrize("key", [f"{CANARY}\n", f"{CANARY} 1", f"{CANARY}é"])
def test_a_key_that_does_not_fit_a_header_is_refused_and_not_shown(key: str) -> None:
    service = LmlService(base_url="http://127.0.0.1:1", api_key=key)
    for ask in (service.require_configured, lambda: service.resolve([library(1)], include_tracks=False)):
        with pytest.raises(ConfigurationError, match="LML_API_KEY") as refused:
            ask()
        assert CANARY not in everything_said_by(refused.value)


def test_no_text_of_the_service_shows_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LML_API_KEY", CANARY)
    unresolved = LmlService(base_url="http://lml", api_key=dg.EnvVar("LML_API_KEY"))
    with unresolved.process_config_and_initialize_cm() as service:
        assert service.api_key == CANARY
        assert CANARY not in repr(service) + str(service)


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_there_is_no_authorization(key: str | None) -> None:
    assert "Authorization" not in LmlService(base_url="http://lml", api_key=key)._headers()
    assert LmlService(base_url="http://lml", api_key="k3y")._headers()["Authorization"] == "Bearer k3y"


def test_a_request_has_the_contracts_members_and_nothing_else() -> None:
    asked = [Library(7, 70, "Björk", "Debut"), Library(8, None, "", "")]
    assert orjson.loads(request_body(asked, include_tracks=True)) == {
        "inputs": [
            {"library_id": 7, "legacy_release_id": 70, "artist_name": "Björk", "album_title": "Debut"},
            {"library_id": 8, "legacy_release_id": None, "artist_name": "", "album_title": ""},
        ],
        "include_tracks": True,
    }


@pytest.mark.parametrize("count", [0, MOST_INPUTS + 1])
def test_a_call_takes_one_library_to_a_thousand(count: int) -> None:
    with pytest.raises(ConfigurationError, match="1 to 1000 libraries a call; got"):
        request_body([library(1)] * count, include_tracks=False)


# answers


INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.dictionaries(st.text(), st.lists(st.none() | st.booleans() | st.text() | INT64)))
def test_any_json_object_is_decoded_however_it_was_written(document: dict[str, Any]) -> None:
    members = decoded(json.dumps(document, ensure_ascii=False).encode())
    assert {name: msgspec.json.decode(member) for name, member in members.items()} == document


def test_values_outside_json_leave_the_rest_decodable() -> None:
    document = decoded(b'{"results": [{"confidence": NaN}, {"confidence": 1e999}, {"text": "\\ud800"}, 7]}')
    nan, infinite, surrogate, seven = document["results"]
    assert math.isnan(nan["confidence"])
    assert infinite["confidence"] == math.inf
    assert (surrogate["text"], seven) == ("\ud800", 7)


@given(st.binary() | st.text().map(lambda text: f'{{"results": [{text}'.encode()))
def test_any_other_bytes_mean_unavailable(body: bytes) -> None:
    with suppress(LmlUnavailable):
        assert isinstance(decoded(body), dict)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"c4n4ry"', b"<html>c4n4ry</html>", b'{"results": ["c4n4ry', b"[" * 100_000, b'{"a":' + b"9" * 5000],
)
def test_a_cut_or_foreign_body_is_retried(body: bytes) -> None:
    with pytest.raises(LmlUnavailable, match="a JSON object from LML") as error:
        decoded(body)
    assert (error.value.status, isinstance(error.value, Transient)) == (200, True)
    assert CANARY not in everything_said_by(error.value)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([500, 502, 503, 504, 529, 599, 429], LmlUnavailable),
        ([401, 403], LmlRefused),
        ([413, 422], LmlInputRefused),
        ([400, 402, 404, 405, 408, 409, 410, 415, 418, 451, 499], LmlBatchRefused),
        ([201, 204, 206, 301, 302, 304, 307], LmlBatchRefused),
    ],
)
def test_a_status_is_one_kind_of_failure(statuses: Sequence[int], expected: type[LmlError]) -> None:
    for status in statuses:
        error = refusal(status, None, NOW)
        assert type(error) is expected
        assert (error.status, error.code) == (status, str(status))
        assert isinstance(error, Transient) != isinstance(error, Permanent)


# waiting


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("inf", None),
        ("nan", None),
        ("1e3", None),
        ("٣", None),
        ("0", 0),
        ("7", 7),
        ("1.5", 1.5),
        ("9" * 400, math.inf),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        ("Thu, 15 Jan 2026 02:00:30 -0000", 30),
        ("Thu, 15 Jan 2026 03:00:30 +0100", 30),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
        ("Thu, 99 Jan 2026 02:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


@given(st.text() | st.from_regex(r"\w{3}, \d{1,3} (Jan|Feb) \d{1,6} \d{2}:\d{2}:\d{2} ([+-]\d{4}|GMT)"))
def test_retry_after_is_never_negative_and_never_raises(value: str) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or seconds >= 0


def waits(service: LmlService, attempt: int, retry_after: float | None = None) -> list[float]:
    """Many draws of the wait after an attempt."""
    failed = LmlUnavailable(status=429, expected="", came="", remedy="", retry_after=retry_after)
    state: Any = SimpleNamespace(attempt_number=attempt, outcome=SimpleNamespace(exception=lambda: failed))
    return [service._wait(state) for _ in range(200)]


def test_waits_grow_exponentially_within_a_bound_and_are_jittered_in_full() -> None:
    service = LmlService(first_wait_seconds=1, longest_wait_seconds=5)
    for attempt, most in ((1, 1), (2, 2), (3, 4), (4, 5), (50, 5)):
        drawn = waits(service, attempt)
        assert 0 <= min(drawn) < most / 4
        assert 3 * most / 4 < max(drawn) <= most


def test_retry_after_is_bounded_and_adds_to_our_own_wait() -> None:
    service = LmlService(first_wait_seconds=1, longest_retry_after_seconds=60)
    assert 7 <= min(waits(service, 1, 7)) < max(waits(service, 1, 7)) <= 8
    assert 60 <= min(waits(service, 1, math.inf)) < max(waits(service, 1, 3600)) <= 61


# halving


def refused(status: int) -> LmlError:
    return refusal(status, None, NOW)


@given(st.integers(1, 60), st.sets(st.integers(0, 59)), st.sets(st.integers(0, 59)), st.integers(1, 60))
def test_every_library_is_in_one_part_and_only_offending_ones_are_skipped(
    count: int, offending: set[int], unlucky: set[int], most: int
) -> None:
    batch = tuple(library(number) for number in range(count))
    calls = []

    def ask(part: tuple[Library, ...]) -> int:
        ids = {each.library_id for each in part}
        calls.append(ids)
        if len(ids) > most:
            raise refused(413)
        if ids & offending:
            raise refused(422)
        if ids & unlucky:
            raise refused(503)
        return len(ids)

    parts = list(halving(batch, ask))
    assert [each for part, _ in parts for each in part] == list(batch)
    assert {part[0].library_id for part, outcome in parts if isinstance(outcome, LmlInputRefused)} == {
        number for number in offending if number < count
    }
    for part, outcome in parts:
        assert isinstance(
            outcome,
            LmlUnavailable if {each.library_id for each in part} & (unlucky - offending) else int | LmlInputRefused,
        )
        assert not isinstance(outcome, LmlInputRefused) or len(part) == 1
    assert len(calls) <= 2 * count - 1


def test_a_part_is_asked_about_once_its_predecessor_is_consumed() -> None:
    asked = []

    def ask(part: tuple[Library, ...]) -> None:
        asked.append(len(part))
        if len(part) > 1:
            raise refused(413)

    parts = halving((library(1), library(2)), ask)
    next(parts)
    assert asked == [2, 1]


def test_a_refused_key_ends_the_halving() -> None:
    def ask(part: tuple[Library, ...]) -> None:
        raise refused(413 if len(part) > 1 else 401)

    ((part, outcome),) = halving((library(1), library(2)), ask)
    assert part == (library(1),)
    assert isinstance(outcome, LmlRefused)


@pytest.mark.parametrize(
    "base_url", ["http://8.8.8.8", "http://8.8.8.8:8000/api/v1", "http://[2606:4700::1111]", "http://[::ffff:8.8.8.8]"]
)
def test_the_key_goes_to_no_public_address_over_plain_http(base_url: str) -> None:
    service = LmlService(base_url=base_url, api_key=CANARY, attempts=1)
    for ask in (service.require_configured, lambda: service.resolve([library(1)], include_tracks=False)):
        with pytest.raises(ConfigurationError, match="https") as refused:
            ask()
        assert "LML_API_KEY" in str(refused.value) and "LIBRARY_METADATA_URL" in refused.value.remedy
        assert CANARY not in everything_said_by(refused.value)


@pytest.mark.parametrize(
    "base_url",
    [
        "https://8.8.8.8",
        "http://127.0.0.1:1",
        "http://[::1]",
        "http://10.1.2.3",
        "http://192.168.0.9",
        "http://[fd00::1]",
    ],
)
def test_the_key_goes_over_tls_anywhere_and_over_plain_http_within_the_network(base_url: str) -> None:
    LmlService(base_url=base_url, api_key="k3y").require_configured()


def test_without_a_key_plain_http_may_go_anywhere() -> None:
    LmlService(base_url="http://8.8.8.8").require_configured()


@pytest.mark.parametrize(
    ("addresses", "is_refused"),
    [(["10.0.0.7"], False), (["10.0.0.7", "8.8.8.8"], True), (["100.64.1.1"], False), (["93.184.216.34"], True)],
)
def test_a_name_counts_by_all_of_its_addresses(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], is_refused: bool
) -> None:
    found = [(2, 1, 6, "", (address, 80)) for address in addresses]
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: found)
    service = LmlService(base_url="http://lml.internal", api_key="k3y")
    if is_refused:
        with pytest.raises(ConfigurationError, match="https"):
            service.require_configured()
    else:
        service.require_configured()


def test_a_name_that_nobody_knows_now_is_unavailable_and_gets_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    service = LmlService(base_url="http://lml.internal", api_key="k3y", attempts=1)
    service.require_configured()
    with pytest.raises(LmlUnavailable):
        service.resolve([library(1)], include_tracks=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("NO_PROXY", "localhost,[::1]"), ("HTTPS_PROXY", "http://[::"), ("ALL_PROXY", "socks9://proxy:1")],
)
def test_a_proxy_setting_that_cannot_be_parsed_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    for each in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(each, raising=False)
        monkeypatch.delenv(each.lower(), raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        LmlService(base_url="http://127.0.0.1:1").resolve([library(1)], include_tracks=False)
    named = {each for each in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") if each in refused.value.remedy}
    assert named == {name}
    assert value not in str(refused.value)
