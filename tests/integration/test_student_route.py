"""A file of candidates that is sent is answered in the answer: whole or not at all, and without anybody's name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest

from runway_pipelines.local.dataset import STUDENTS
from runway_pipelines.local.stack import EmbeddedStack
from runway_pipelines.students import resolution, warehouse
from runway_pipelines.students.observables import MOST_LINES
from tests.integration.stream_server import StreamServer, add_run, bearer, raw_client, read_all, stream_server
from tests.integration.student_world import (
    answers,
    candidate,
    children,
    file_of,
    of_another_district,
    resolved_partner,
    write_students,
)
from tests.integration.world import TestPartner, World, world_of
from tests.waiting import PATIENCE_SECONDS, join, wait_until

DISTRICT = children(20)
CANARY = replace(DISTRICT[0], first_name="Canaryfirst", last_name="Canarylast")
NDJSON = {"Content-Type": "application/x-ndjson"}


@dataclass(frozen=True)
class Resolver:
    """A server that resolves for some of the partners, and a run of each."""

    server: StreamServer
    world: World
    partners: dict[str, TestPartner]
    runs: dict[str, int]

    def post(
        self, content: bytes | Iterator[bytes], of: str = "usual", prefix: str = "", **headers: str
    ) -> httpx.Response:
        """Send a file with the token of the partner's run."""
        return self.send(content, self.runs[of], prefix, **bearer(self.runs[of]), **headers)

    def send(self, content: bytes | Iterator[bytes], run: int, prefix: str = "", **headers: str) -> httpx.Response:
        with self.server.client() as client:
            path = f"{prefix}/earthbeam/jobs/{run}/resolutions"
            return client.post(
                path,
                content=content,
                headers=NDJSON | {name.replace("_", "-"): value for name, value in headers.items()},
            )


@pytest.fixture(scope="module")
def resolver(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resolver]:
    with pytest.MonkeyPatch.context() as patch, world_of(stack, patch) as world:
        partners = {
            name: resolved_partner(world, [CANARY, *DISTRICT[1:]]) for name in ("usual", "rotated", "bare", "off")
        }
        partners["bare"].drop_table(STUDENTS)
        runs = {name: add_run(world, partner, "north") for name, partner in partners.items()}
        on = ",".join(partner.partner_id for name, partner in partners.items() if name != "off")
        log = tmp_path_factory.mktemp("resolver") / "server.log"
        with stream_server(log, RUNWAY_STUDENT_RESOLUTION=on) as server:
            yield Resolver(server, world, partners, runs)


def test_a_file_is_answered_line_by_line_and_its_summary_is_last(resolver: Resolver) -> None:
    twice = candidate(DISTRICT[3], "twice")
    wrong = candidate(DISTRICT[1], "wrong-id", obs_student_ids=[DISTRICT[2].code])
    content = file_of([candidate(CANARY), wrong, twice, twice]) + b'{"candidate_id": "\xff"}\r\n\n'
    answer = resolver.post(content)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson" and answer.headers["cache-control"] == "no-store"
    resolutions, summary = answers(answer.content)
    assert [(each["candidate_id"], each["decision"], each["reason"]) for each in resolutions] == [
        ("c-S00000", "accept", "id_confirmed"),
        ("wrong-id", "review", "id_belongs_to_another_student"),
        ("twice", "accept", "id_confirmed"),
        ("twice", "invalid", "candidate_id.repeated"),
        (None, "invalid", "line.not_json"),
    ]
    assert summary["candidates"] == 5 and summary["id_alone"]["to_another_student"] == {"candidates": 0, "records": 0}
    assert {"asked_at", "seconds", "model_version"} <= summary.keys()

    def pieces() -> Iterator[bytes]:
        packed = gzip.compress(content)
        yield from (packed[start : start + 7] for start in range(0, len(packed), 7))

    packed = resolver.post(pieces(), prefix="/api", content_encoding="gzip", accept_encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert answers(packed.content)[0] == resolutions
    assert answers(resolver.post(b"").content)[1]["candidates"] == 0


def test_of_another_districts_file_nothing_is_accepted(resolver: Resolver) -> None:
    resolutions, summary = answers(resolver.post(of_another_district(DISTRICT[1:13], children(12, first=40))).content)
    assert {each["reason"] for each in resolutions} == {"foreign_file"} and summary["is_foreign"]
    assert "another district's file: of 12 candidates" in resolver.server.log()


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


def test_who_may_not_is_refused_as_for_a_roster(resolver: Resolver) -> None:
    usual, off = resolver.runs["usual"], resolver.runs["off"]
    file = file_of([candidate(CANARY)])
    assert error(resolver.send(file, usual)) == (401, "unauthorized")
    assert error(resolver.send(file, usual, **bearer(off))) == (403, "token_of_another_run")
    assert error(resolver.send(file, 999_999, **bearer(999_999))) == (404, "unknown_run")
    assert error(resolver.post(file, "off")) == (409, "student_resolution_is_off")
    with resolver.world.connect() as connection:
        toggle = "update partner set cross_year_matching_enabled = %s where id = %s"
        connection.execute(toggle, [False, resolver.partners["off"].partner_id])
    assert error(resolver.post(file, "off")) == (409, "cross_year_matching_is_off")
    assert resolver.server.get(f"/earthbeam/jobs/{usual}/resolutions", usual).status_code == 405


@pytest.mark.parametrize(
    ("content", "headers", "refusal"),
    [
        (b"", {"Content_Type": "application/json"}, (415, "unsupported_media_type")),
        (b"", {"Content_Type": "application/x-ndjson; charset=latin-1"}, (415, "unsupported_media_type")),
        (b"", {"Content_Encoding": "br"}, (415, "unsupported_content_encoding")),
        (b"plain", {"Content_Encoding": "gzip"}, (400, "broken_gzip")),
        (gzip.compress(b'{"candidate_id": "a"}\n')[:-3], {"Content_Encoding": "gzip"}, (400, "broken_gzip")),
        (gzip.compress(b"{}\n" * (MOST_LINES + 1)), {"Content_Encoding": "gzip"}, (413, "too_many_candidates")),
        (gzip.compress(b"\n" * (2 * MOST_LINES + 1)), {"Content_Encoding": "gzip"}, (413, "too_many_candidates")),
    ],
    ids=["type", "charset", "encoding", "no gzip", "half a gzip", "500,001 lines", "blank lines"],
)
def test_what_cannot_be_resolved_is_refused_whole(
    resolver: Resolver, content: bytes, headers: dict[str, str], refusal: tuple[int, str]
) -> None:
    assert error(resolver.post(content, **headers)) == refusal


def request_head(run: int, *headers: str) -> bytes:
    lines = [f"POST /earthbeam/jobs/{run}/resolutions HTTP/1.1", "Host: stream", "Content-Type: application/x-ndjson"]
    lines += [*(f"{name}: {value}" for name, value in bearer(run).items()), *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_body_that_says_that_it_is_too_large_is_refused_before_it_is_sent(resolver: Resolver) -> None:
    head = request_head(resolver.runs["usual"], f"Content-Length: {3 * 1024**3}", "Expect: 100-continue")
    with raw_client(resolver.server, head) as client:
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_a_body_that_stops_is_no_file(resolver: Resolver, framing: str) -> None:
    before = resolver.server.log().count("the body broke off")
    line = file_of([candidate(CANARY)])
    piece = line if "Length" in framing else f"{len(line):x}\r\n".encode() + line + b"\r\n"
    with raw_client(resolver.server, request_head(resolver.runs["usual"], framing) + piece):
        pass
    wait_until(lambda: resolver.server.log().count("the body broke off") > before)


def test_a_client_that_sends_nothing_more_is_given_up(resolver: Resolver, tmp_path: Path) -> None:
    with stream_server(
        tmp_path / "server.log",
        RUNWAY_STUDENT_RESOLUTION=resolver.partners["usual"].partner_id,
        RUNWAY_STREAM_STALL_SECONDS="1",
    ) as server:
        head = request_head(resolver.runs["usual"], "Content-Length: 10", "Connection: close")
        with raw_client(server, head + b"{") as client:
            assert b'"body_too_slow"' in read_all(client)


class Asked:
    """The warehouse's answers, counted; ``once`` is done before the next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.once: Callable[[], object] | None = None
        real = warehouse.fetch_persons

        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            act, self.once = self.once, None
            if act is not None:
                act()
            return real(*arguments, **options)

        monkeypatch.setattr(warehouse, "fetch_persons", counted)


def test_students_are_asked_for_once_and_end_with_a_rotated_key(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, partner = Asked(monkeypatch), resolver.partners["rotated"]
    newcomer = children(1, "N", first=50)[0]
    file = file_of([candidate(newcomer)])
    statuses: list[int] = []
    senders = [Thread(target=lambda: statuses.append(resolver.post(file, "rotated").status_code)) for _ in range(3)]
    for sender in senders:
        sender.start()
    join(*senders)
    assert statuses == [200] * 3 and asked.count == 1
    assert resolver.server.metric("roster_stream_persons_bytes") > 0

    def decision() -> str:
        resolutions, _ = answers(resolver.post(file, "rotated").content)
        return str(resolutions[0]["decision"])

    assert decision() == "none" and asked.count == 1
    write_students(partner, {"north": [*DISTRICT, newcomer]})
    partner.rotate()  # the server loads the tables at a login of a new key
    # And once more while that is under way: what was read with the key before it serves its own request alone.
    asked.once = partner.rotate
    assert decision() == "accept" and asked.count == 2
    assert decision() == "accept" and asked.count == 3
    assert decision() == "accept" and asked.count == 3


def test_one_file_is_weighed_at_a_time_and_the_server_answers_meanwhile(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, go, at_work, most = resolution.resolve, Event(), [0], [0]

    def slow(*arguments: Any) -> resolution.Resolved:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        assert go.wait(PATIENCE_SECONDS)
        try:
            return real(*arguments)
        finally:
            at_work[0] -= 1

    monkeypatch.setattr(resolution, "resolve", slow)
    statuses: list[int] = []
    file = file_of([candidate(CANARY)])
    senders = [Thread(target=lambda: statuses.append(resolver.post(file).status_code)) for _ in range(3)]
    for sender in senders:
        sender.start()
    wait_until(lambda: at_work == [1])
    assert resolver.server.get("/healthz").status_code == 200 and statuses == []
    go.set()
    join(*senders)
    assert statuses == [200] * 3 and most == [1]


def test_a_warehouse_without_the_students_table_costs_resolution_alone(resolver: Resolver) -> None:
    answer = resolver.post(file_of([candidate(CANARY)]), "bare")
    assert error(answer) == (500, "students_not_readable")
    assert STUDENTS in resolver.server.log()
    run = resolver.runs["bare"]
    assert resolver.server.pull(run, "?source=warehouse").status_code == 200


def test_the_log_and_the_metrics_have_nobodys_name_id_or_birth_date(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = replace(CANARY, first_name="Strangefirst")
    torn = b'{"candidate_id": "torn", "obs_first_name": "Canaryfirst\n'
    answer = resolver.post(file_of([candidate(CANARY, "own"), candidate(stranger, "stranger")]) + torn)
    resolutions, _ = answers(answer.content)
    assert [each["decision"] for each in resolutions] == ["accept", "review", "invalid"]
    wait_until(lambda: "3 candidates resolved" in resolver.server.log())

    def fail(*_: object) -> None:
        raise KeyError(CANARY.first_name)

    monkeypatch.setattr(resolution, "resolve", fail)
    assert error(resolver.post(file_of([candidate(CANARY)]))) == (500, "permanent")
    assert "an unexpected KeyError" in resolver.server.log()
    said = {"answer": answer.text, "log": resolver.server.log(), "metrics": resolver.server.get("/metrics").text}
    names = ["canaryfirst", "canarylast", "strangefirst", CANARY.birth_date.strftime("%m%d%Y"), str(CANARY.birth_date)]
    assert {(place, name) for place, text in said.items() for name in names if name in text.lower()} == set()
    assert not any(CANARY.student_unique_id in said[place] for place in ("log", "metrics"))
    (line,) = [json.loads(each) for each in said["log"].splitlines() if "3 candidates resolved" in each]
    assert line["tenant"] == resolver.partners["usual"].tenant("north").key
