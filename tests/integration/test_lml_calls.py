"""Calls to LML over real sockets: each failure's error and effort, and no text shows the key."""

import gzip
import logging
import math
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Event
from typing import Any

import dagster as dg
import pytest

from runway_pipelines.errors import (
    ConfigurationError,
    LmlBatchRefused,
    LmlError,
    LmlInputRefused,
    LmlRefused,
    LmlUnavailable,
    Transient,
)
from runway_pipelines.local.lml_verdicts import resolved
from runway_pipelines.local.processes import start_child
from runway_pipelines.systems.lml import client as lml_module
from runway_pipelines.systems.lml.client import LmlPart, LmlService
from runway_pipelines.systems.lml.limiter import CallLimiter
from runway_pipelines.systems.lml.verdicts import Library
from tests.factories import everything_said_by
from tests.integration.lml_control import WITH_FAULTS, LmlControl, plain
from tests.servers.lml_faults import Rule
from tests.waiting import PATIENCE_SECONDS, join, wait_until

KEY, TITLE = "k3y-c4n4ry", "t1tle-c4n4ry"
ATTEMPTS = 3
LIBRARIES = [Library(number, number, f"Artist {number}", f"{TITLE} {number}") for number in range(1, 101)]
ONE = LIBRARIES[:1]

MakeService = Callable[..., LmlService]


@pytest.fixture
def make_service(lml: LmlControl) -> Iterator[MakeService]:
    """Clients that wait next to nothing between attempts, closed at the end."""
    made = []

    def make(base_url: str = lml.url, **changes: Any) -> LmlService:
        settings = {"timeout_seconds": PATIENCE_SECONDS, "attempts": ATTEMPTS, "first_wait_seconds": 0.01} | changes
        made.append(LmlService(base_url=base_url, **settings))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def service(make_service: MakeService) -> LmlService:
    return make_service()


def test_over_plain_http_the_key_goes_to_lml_itself_and_to_no_proxy(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        make_service(api_key=KEY).resolve(ONE, include_tracks=False)
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody came
            proxy.accept()
    with pytest.raises(LmlUnavailable):  # without a key the environment's proxy is used, which is closed by now
        make_service(attempts=1).resolve(ONE, include_tracks=False)


def failure(service: LmlService, libraries: list[Library] = ONE) -> LmlError:
    """What a call raises."""
    with pytest.raises(LmlError) as raised:
        service.resolve(libraries, include_tracks=False)
    return raised.value


def halved(service: LmlService, libraries: list[Library] = LIBRARIES) -> list[LmlPart]:
    return list(service.resolve_halving(libraries, include_tracks=False))


def ids(part: LmlPart) -> list[int]:
    return [library.library_id for library in part.libraries]


# answers


@pytest.mark.parametrize("ending", ["", "/", "/api/v1", "/api/v1/"])
@pytest.mark.parametrize("include_tracks", [False, True])
def test_a_reply_is_lmls_document_and_its_effort(
    ending: str, include_tracks: bool, lml: LmlControl, make_service: MakeService
) -> None:
    asked = [*LIBRARIES[:5], Library(1000, None, "Various Artists", "Sounds")]
    reply = make_service(lml.url + ending).resolve(asked, include_tracks=include_tracks)
    document = plain(reply.document)
    assert document["results"] == [
        resolved(each.library_id, each.artist_name, each.album_title, include_tracks=include_tracks) for each in asked
    ]
    assert document["tracks_contract_version"] == (1 if include_tracks else None)
    assert (reply.effort.calls, reply.effort.retries) == (1, 0)
    assert reply.effort.latency_ms > 0
    (call,) = lml.calls
    assert call["library_ids"] == [each.library_id for each in asked]
    assert call["include_tracks"] is include_tracks


def test_values_outside_json_reach_the_caller_with_the_other_results(lml: LmlControl, service: LmlService) -> None:
    lml.script(
        Rule(fault="replace", library_ids=(2,), path=("confidence",), value=math.nan),
        Rule(fault="replace", library_ids=(3,), path=("method",), value="a\ud800b"),
    )
    results = service.resolve(LIBRARIES, include_tracks=False).document["results"]
    assert len(results) == 100
    assert math.isnan(results[1]["confidence"])
    assert results[2]["method"] == "a\ud800b"
    assert len(lml.calls) == 1


# trying again


TRANSIENT = {
    "500": (Rule(fault="status", status=500), 500),
    "502": (Rule(fault="status", status=502), 502),
    "503": (Rule(fault="status", status=503), 503),
    "429": (Rule(fault="status", status=429), 429),
    "slow": (Rule(fault="slow", seconds=60), None),
    "trickling": (Rule(fault="trickle", seconds=60), None),
    "cut": (Rule(fault="cut"), None),
    "no JSON": (Rule(fault="body", value=f"<html>{TITLE}</html>"), 200),
    "cut JSON": (Rule(fault="body", value='{"results": ['), 200),
    "no object": (Rule(fault="body", value="[]"), 200),
}
# Long enough for the answers that are to come; what never comes costs it at each attempt.
TIMEOUTS = {"slow": 2.0, "trickling": 2.0}
EACH = [pytest.param(name, marks=pytest.mark.slow if name in TIMEOUTS else ()) for name in TRANSIENT]


@pytest.mark.parametrize("name", EACH)
def test_a_transient_failure_is_retried(name: str, lml: LmlControl, make_service: MakeService) -> None:
    rule, _ = TRANSIENT[name]
    lml.script(rule.model_copy(update={"times": 2}))
    service = make_service(timeout_seconds=TIMEOUTS.get(name, PATIENCE_SECONDS))
    reply = service.resolve(LIBRARIES, include_tracks=False)
    assert len(plain(reply.document)["results"]) == 100
    assert (reply.effort.calls, reply.effort.retries) == (3, 2)
    assert [call["library_ids"] for call in lml.calls] == [list(range(1, 101))] * 3


@pytest.mark.parametrize("name", EACH)
def test_a_lasting_failure_is_an_error_after_the_last_attempt(
    name: str, lml: LmlControl, make_service: MakeService
) -> None:
    rule, status = TRANSIENT[name]
    lml.script(rule)
    error = failure(make_service(timeout_seconds=TIMEOUTS.get(name, PATIENCE_SECONDS)), LIBRARIES)
    assert isinstance(error, LmlUnavailable)
    assert (error.status, isinstance(error, Transient)) == (status, True)
    assert len(lml.calls) == ATTEMPTS


@pytest.mark.slow
def test_a_timeout_names_its_length(lml: LmlControl, make_service: MakeService) -> None:
    for rule, seconds, how in (
        (Rule(fault="slow", seconds=60), 1, "ReadTimeout"),
        (Rule(fault="trickle", seconds=8), 4, "a slow body"),  # its pieces come ten times as often as they must
    ):
        lml.script(rule)
        service = make_service(timeout_seconds=seconds, attempts=1)
        assert f"no answer within {seconds} s ({how})" in str(failure(service))


def test_one_attempt_has_no_retry(lml: LmlControl, make_service: MakeService) -> None:
    lml.script(Rule(fault="status", status=503, times=1))
    assert failure(make_service(attempts=1)).status == 503
    assert len(lml.calls) == 1


def test_a_closed_port_is_a_network_error(make_service: MakeService) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, so that nobody else takes it; not listening
        service = make_service(f"http://127.0.0.1:{closed.getsockname()[1]}")
        error = failure(service)
    assert isinstance(error, LmlUnavailable)
    assert error.status is None
    assert "ConnectError (ConnectionRefusedError)" in str(error)


def test_a_connection_that_is_closed_without_an_answer_is_a_network_error(make_service: MakeService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted = []

        def hang_up() -> None:
            for _ in range(ATTEMPTS):
                connection, _address = listener.accept()
                accepted.append(connection.recv(1024))
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        error = failure(make_service(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        join(thread)
    assert isinstance(error, LmlUnavailable)
    assert (error.status, len(accepted)) == (None, ATTEMPTS)


@pytest.mark.slow
@pytest.mark.parametrize("is_date", [False, True])
def test_retry_after_is_obeyed(is_date: bool, lml: LmlControl, make_service: MakeService) -> None:
    tomorrow = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    lml.script(Rule(fault="status", status=429, retry_after=tomorrow if is_date else "2", times=1))
    make_service(longest_retry_after_seconds=2).resolve(ONE, include_tracks=False)
    first, second = lml.calls
    assert second["at"] - first["at"] > 1.5


def test_retry_after_is_bounded(lml: LmlControl, make_service: MakeService) -> None:
    lml.script(Rule(fault="status", status=503, retry_after="86400"))
    started = time.monotonic()
    assert failure(make_service(longest_retry_after_seconds=0.2)).status == 503
    assert time.monotonic() - started >= 0.4


def test_latency_is_the_time_in_calls_not_between_them(lml: LmlControl, service: LmlService) -> None:
    lml.script(Rule(fault="slow", seconds=0.2), Rule(fault="status", status=429, retry_after="1", times=1))
    started = time.monotonic()
    effort = service.resolve(ONE, include_tracks=False).effort
    assert effort.calls == 2
    assert 400 <= effort.latency_ms <= (time.monotonic() - started) * 1000 - 1000


@pytest.mark.slow
def test_a_limiter_spaces_the_calls_of_all_threads_and_their_retries(
    lml: LmlControl, make_service: MakeService
) -> None:
    lml.script(Rule(fault="status", status=503, times=1))
    limited = make_service(lml.url, limiter=CallLimiter(name="lml", calls_per_second=2), max_in_flight=4)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda library: limited.resolve([library], include_tracks=False), LIBRARIES[:4]))
    moments = sorted(call["at"] for call in lml.calls)
    assert len(moments) == 5
    assert moments[-1] - moments[0] > 1  # 2, less what the first was late; without a limit 0.05


def test_a_run_that_stops_does_not_wait_for_its_turn(lml: LmlControl, make_service: MakeService) -> None:
    limited = make_service(lml.url, limiter=CallLimiter(name="lml", calls_per_second=0.01))
    limited.resolve(ONE, include_tracks=False)
    stopped = Event()
    threading.Timer(0.2, stopped.set).start()
    (part,) = limited.resolve_halving(ONE, include_tracks=False, stopped=stopped)
    assert isinstance(part.outcome, LmlError)
    assert (part.effort.calls, len(lml.calls)) == (0, 1)


# refusals


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_retried(status: int, lml: LmlControl, service: LmlService) -> None:
    lml.script(Rule(fault="status", status=status))
    error = failure(service)
    assert isinstance(error, LmlRefused)
    assert (error.status, isinstance(error, Transient)) == (status, False)
    (refused,) = halved(service)
    assert isinstance(refused.outcome, LmlRefused)
    assert refused.effort.calls == 1
    assert len(lml.calls) == 2


def test_a_key_refused_in_the_middle_of_a_batch_reports_its_effort(lml: LmlControl, service: LmlService) -> None:
    lml.script(Rule(fault="status", status=422, more_than=2), Rule(fault="status", status=401, library_ids=(3,)))
    first, refused = halved(service, LIBRARIES[:4])
    assert ids(first) == [1, 2]
    assert isinstance(refused.outcome, LmlRefused)
    assert first.effort.calls + refused.effort.calls == len(lml.calls) == 3
    lml.script(Rule(fault="status", status=422, more_than=1), Rule(fault="status", status=401, library_ids=(1,)))
    assert len(halved(service, LIBRARIES[:4])) == 1, "after the refusal nothing is asked any more"


def test_a_run_that_stops_does_not_wait_for_a_retry(lml: LmlControl, make_service: MakeService) -> None:
    lml.script(Rule(fault="status", status=503, retry_after="3600"))
    stopped = Event()
    waiting = make_service(lml.url, attempts=5, longest_retry_after_seconds=3600)
    with ThreadPoolExecutor(1) as thread:
        parts = thread.submit(lambda: list(waiting.resolve_halving(ONE, include_tracks=False, stopped=stopped)))
        wait_until(lambda: lml.calls)
        time.sleep(0.2)  # the answer is read, and the hour begins
        stopped.set()
        (part,) = parts.result(PATIENCE_SECONDS)
    assert isinstance(part.outcome, LmlError)
    assert (part.effort.calls, len(lml.calls)) == (1, 1)


@pytest.mark.parametrize("status", [413, 422])
def test_refused_inputs_are_not_retried(status: int, lml: LmlControl, service: LmlService) -> None:
    lml.script(Rule(fault="status", status=status))
    error = failure(service)
    assert isinstance(error, LmlInputRefused)
    assert (error.status, isinstance(error, Transient), len(lml.calls)) == (status, False, 1)


@pytest.mark.parametrize("status", [302, 400, 404, 409])
def test_other_refusals_cost_their_batch_alone(status: int, lml: LmlControl, service: LmlService) -> None:
    lml.script(Rule(fault="status", status=status, times=1))
    (refused,) = halved(service)
    assert isinstance(refused.outcome, LmlBatchRefused)
    assert (refused.outcome.status, isinstance(refused.outcome, Transient)) == (status, False)
    assert ids(refused) == list(range(1, 101))
    (answered,) = halved(service)
    assert not isinstance(answered.outcome, LmlError)
    assert [part.effort.calls for part in (refused, answered)] == [1, 1]


def test_an_oversized_answer_is_not_read_to_its_end(
    lml: LmlControl, service: LmlService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lml_module, "MOST_ANSWER_BYTES", 100_000)
    lml.script(Rule(fault="huge", size=50_000_000))
    error = failure(service)
    assert isinstance(error, LmlBatchRefused)
    assert "100000 bytes" in str(error)
    assert len(lml.calls) == 1


Answers = Callable[..., str]


@pytest.fixture
def answering() -> Iterator[Answers]:
    """A server that gives these raw answers, one to a connection; the last one again and again."""
    with ExitStack() as servers:

        def answer(*answers: bytes) -> str:
            listener = servers.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                left = list(answers)
                with suppress(OSError):  # the test ended
                    while True:
                        connection, _ = listener.accept()
                        with connection, suppress(OSError):
                            connection.recv(1 << 20)
                            connection.sendall(left.pop(0) if len(left) > 1 else left[0])
                            connection.shutdown(socket.SHUT_WR)
                            while connection.recv(1 << 20):
                                pass

            threading.Thread(target=serve, daemon=True).start()
            servers.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield answer


EMPTY = b'{"results": []}'


def raw(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", "Connection: close", *headers, ""))
    return head.encode() + body


@pytest.mark.parametrize(
    "header", ["Set-Cookie: route=café", "Set-Cookie: a=b; Domain=127.0.0.1", "Location: mailto:x"]
)
def test_a_header_that_concerns_nobody_changes_nothing(
    answering: Answers, make_service: MakeService, header: str
) -> None:
    service = make_service(answering(raw(EMPTY, header)), attempts=1)
    for _ in range(2):
        assert plain(service.resolve(ONE, include_tracks=False).document) == {"results": []}


@pytest.mark.parametrize("location", ["mailto:x", "http://xn--/", "http://[::1", "//", "http://example.org/", ""])
def test_wherever_a_redirect_leads_it_costs_its_batch(
    answering: Answers, make_service: MakeService, location: str
) -> None:
    service = make_service(answering(raw(b"", f"Location: {location}", status="302 Found")))
    error = failure(service)
    assert isinstance(error, LmlBatchRefused)
    assert error.status == 302


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
def test_an_answer_in_gzip_is_read(answering: Answers, make_service: MakeService, encoding: str) -> None:
    service = make_service(answering(raw(gzip.compress(EMPTY), f"Content-Encoding: {encoding}")))
    assert plain(service.resolve(ONE, include_tracks=False).document) == {"results": []}


@pytest.mark.parametrize(
    "body",
    [gzip.compress(EMPTY)[:-9], gzip.compress(EMPTY)[:12], EMPTY, b""],
    ids=["cut late", "cut early", "plain", "nothing"],
)
def test_gzip_that_is_none_or_breaks_off_is_tried_again(
    answering: Answers, make_service: MakeService, body: bytes
) -> None:
    packed = "Content-Encoding: gzip"
    service = make_service(answering(raw(body, packed), raw(gzip.compress(EMPTY), packed)))
    reply = service.resolve(ONE, include_tracks=False)
    assert (plain(reply.document), reply.effort.calls) == ({"results": []}, 2)


def test_a_few_bytes_that_stand_for_gigabytes_are_not_inflated(
    answering: Answers, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lml_module, "MOST_ANSWER_BYTES", 1_000_000)
    bomb = gzip.compress(bytes(500_000_000), compresslevel=1)
    services = [
        make_service(answering(raw(body, f"Content-Encoding: {encoding}")), attempts=1)
        for body, encoding in ((bomb, "gzip"), (gzip.compress(bomb), "gzip, gzip"), (bomb, "br"))
    ]
    tracemalloc.start()
    try:
        errors = [failure(service) for service in services]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(isinstance(error, LmlError) for error in errors)
    assert isinstance(errors[0], LmlBatchRefused)
    assert peak < 20_000_000


# halving


def test_without_trouble_there_is_one_part(lml: LmlControl, service: LmlService) -> None:
    (part,) = halved(service)
    assert isinstance(part.outcome, dict)
    assert (part.effort.calls, len(lml.calls)) == (1, 1)


@pytest.mark.parametrize("status", [413, 422])
@pytest.mark.parametrize("offending", [1, 38, 100])
def test_one_refused_input_is_found_among_a_hundred(
    offending: int, status: int, lml: LmlControl, service: LmlService
) -> None:
    lml.script(Rule(fault="status", status=status, library_ids=(offending,)))
    parts = halved(service)
    assert [number for part in parts for number in ids(part)] == list(range(1, 101))
    given_up = [part for part in parts if isinstance(part.outcome, LmlError)]
    assert [(ids(part), type(part.outcome)) for part in given_up] == [([offending], LmlInputRefused)]
    results = [result for part in parts if isinstance(part.outcome, dict) for result in plain(part.outcome)["results"]]
    assert len(results) == 99
    assert len(lml.calls) <= 2 * math.ceil(math.log2(100)) + 1
    assert sum(part.effort.calls for part in parts) == len(lml.calls)
    assert sum(part.effort.retries for part in parts) == 0


def test_a_batch_that_is_too_large_is_answered_in_parts(lml: LmlControl, service: LmlService) -> None:
    lml.script(Rule(fault="status", status=413, more_than=30))
    parts = halved(service)
    assert [len(part.libraries) for part in parts] == [25] * 4
    assert all(isinstance(part.outcome, dict) for part in parts)
    assert [part.effort.calls for part in parts] == [3, 1, 2, 1]


def test_a_part_that_finds_lml_unavailable_does_not_cost_the_others(lml: LmlControl, service: LmlService) -> None:
    lml.script(Rule(fault="status", status=413, more_than=30), Rule(fault="status", status=503, library_ids=(30,)))
    parts = halved(service)
    assert [isinstance(part.outcome, LmlUnavailable) for part in parts] == [False, True, False, False]
    assert [part.effort.retries for part in parts] == [0, ATTEMPTS - 1, 0, 0]


# connections


def test_connections_are_reused(lml: LmlControl, service: LmlService) -> None:
    for _ in range(10):
        service.resolve(LIBRARIES, include_tracks=False)
    assert (len(lml.calls), lml.connections) == (10, 1)


def test_threads_share_as_many_connections_as_calls_may_be_in_flight(
    lml: LmlControl, make_service: MakeService
) -> None:
    service = make_service(max_in_flight=3)
    lml.script(Rule(fault="slow", seconds=0.05))
    with ThreadPoolExecutor(8) as executor:
        replies = list(executor.map(lambda _: service.resolve(LIBRARIES, include_tracks=False), range(24)))
    assert all(len(plain(reply.document)["results"]) == 100 for reply in replies)
    assert (len(lml.calls), lml.connections) == (24, 3)


def test_connections_are_closed_with_the_run_and_can_be_opened_again(lml: LmlControl) -> None:
    @dg.op
    def asking(context: dg.OpExecutionContext, lml: LmlService) -> int:
        clients.append(lml._opened())
        return len(plain(lml.resolve(ONE, include_tracks=False).document)["results"])

    @dg.job(resource_defs={"lml": LmlService(base_url=lml.url)})
    def asking_job() -> None:
        asking()

    clients: list[Any] = []
    assert asking_job.execute_in_process().output_for_node("asking") == 1
    assert clients[0].is_closed
    service = LmlService(base_url=lml.url)
    service.close()
    service.resolve(ONE, include_tracks=False)
    service.close()
    service.resolve(ONE, include_tracks=False)
    service.close()


# the key


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[LmlControl]:
    """An LML that wants a key."""
    command = [sys.executable, "-m", "runway_pipelines.local.lml_server", "--key", KEY, *WITH_FAULTS]
    child = start_child("lml_server", command, tmp_path)
    try:
        yield LmlControl(f"http://127.0.0.1:{child.wait_for_ready_line(PATIENCE_SECONDS)}")
    finally:
        child.stop()


def test_a_server_with_a_key_refuses_calls_without_it(guarded: LmlControl, make_service: MakeService) -> None:
    make_service(guarded.url, api_key=KEY).resolve(ONE, include_tracks=False)
    for wrong in (None, "another"):
        with pytest.raises(LmlRefused, match="LML_API_KEY"):
            make_service(guarded.url, api_key=wrong).resolve(ONE, include_tracks=False)
    assert [call["status"] for call in guarded.calls] == [200, 401, 401]


@pytest.mark.slow
def test_neither_the_key_nor_the_request_nor_the_answer_is_in_a_log_or_an_exception(
    guarded: LmlControl, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    make_service(guarded.url, api_key=KEY).resolve(ONE, include_tracks=False)
    service = make_service(guarded.url, api_key=KEY, timeout_seconds=0.5, attempts=2)
    said = []
    permanent = [Rule(fault="status", status=status) for status in (400, 401, 403, 413, 422)]
    for rule in [*permanent, *(rule for rule, _ in TRANSIENT.values())]:
        guarded.script(rule)
        said.append(everything_said_by(failure(service)))
    said.append(everything_said_by(failure(make_service("http://127.0.0.1:1", api_key=KEY))))
    logged = "\n".join(f"{record.name} {record.getMessage()} {record.exc_text}" for record in caplog.records)
    assert not [record for record in caplog.records if record.name.startswith(("httpx", "httpcore"))]
    for secret in (KEY, TITLE, "Artist 1"):
        assert secret not in "\n".join(said)
        assert secret not in logged


def test_a_missing_base_url_stops_before_anything_is_asked(lml: LmlControl) -> None:
    service = LmlService(base_url=None)
    with pytest.raises(ConfigurationError, match="LIBRARY_METADATA_URL"):
        halved(service)
    assert lml.calls == []
