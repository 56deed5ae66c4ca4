"""A roster over a real socket: every row of the contract's table, and what the headers say and ask for."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pyarrow as pa
import pytest

from runway_pipelines.errors import Unavailable
from runway_pipelines.local.stack import BUCKET, EmbeddedStack
from runway_pipelines.rosters.manifest import pointer_key, snapshot_key
from runway_pipelines.systems.snowflake.client import EduSession, Selection
from tests.integration.stream_server import (
    KEY,
    StreamServer,
    add_run,
    bearer,
    big_partner,
    change_pointer,
    publish,
    raw_client,
    read_all,
    request_bytes,
    stream_process,
    stream_server,
    unchunked,
)
from tests.integration.world import TestPartner, Warehouse, World, world_of
from tests.waiting import wait_until


def new_partner(world: World) -> TestPartner:
    warehouse = Warehouse()
    warehouse.students("north", 300)
    warehouse.student("north", "0604921", ("Local", "0012"), ("Local", "12"), ("State", "9"), ed_org_id=7)
    warehouse.student("north", "ü'\"\\", ("Local", " 7 "))
    warehouse.students("south", 10, prefix="T")
    return world.partner(warehouse, ["north", "south"])


@pytest.fixture
def partner(world: World) -> TestPartner:
    return new_partner(world)


@pytest.fixture
def run(world: World, partner: TestPartner) -> int:
    return add_run(world, partner, "north")


@dataclass(frozen=True)
class Published:
    """A published roster, for tests that only read."""

    partner: TestPartner
    run: int
    content: bytes


@pytest.fixture(scope="module")
def published(stack: EmbeddedStack) -> Iterator[Published]:
    with pytest.MonkeyPatch.context() as patch, world_of(stack, patch) as world:
        partner = new_partner(world)
        yield Published(partner, add_run(world, partner, "north"), publish(partner, "north"))


def token(**claims: object) -> str:
    standard: dict[str, object] = {
        "runId": 1,
        "exp": datetime.now(UTC) + timedelta(minutes=5),
    }
    merged = {name: value for name, value in (standard | claims).items() if value is not None}
    return jwt.encode(merged, KEY, algorithm="HS256")


def broken_off(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield from batches
    raise Unavailable(expected="the rest of the answer", came="the end of the connection", remedy="run again")


def in_base64(key: str) -> str:
    return base64.b64encode(key.encode()).decode()


class TestWhoMayAsk:
    @pytest.mark.parametrize("path", ["roster", "cross-year"])
    @pytest.mark.parametrize(
        ("authorization", "reason"),
        [
            (lambda run: None, "none"),
            (lambda run: "Basic dTpw", "no bearer token"),
            (lambda run: "Bearer", "no bearer token"),
            (lambda run: "Bearer garbage", "claims"),
            (lambda run: "Bearer " + "[" * 4000, "claims"),
            (lambda run: "Bearer " + token(runId=run).rsplit(".", 1)[0] + ".AAAA", "signature"),
            (lambda run: "Bearer " + jwt.encode({"runId": run}, "another key " * 4, algorithm="HS256"), "signature"),
            (lambda run: "Bearer " + jwt.encode({"runId": run}, None, algorithm="none"), "claims"),
            (lambda run: "Bearer " + jwt.encode({"runId": run}, KEY, algorithm="HS512"), "claims"),
            (lambda run: "Bearer " + token(runId=run, exp=datetime.now(UTC) - timedelta(seconds=1)), "expired"),
            (lambda run: "Bearer " + token(runId=run, exp=None), "claims"),
            (lambda run: "Bearer " + token(runId=run, nbf=datetime.now(UTC) + timedelta(hours=1)), "not yet"),
            (lambda run: "Bearer " + token(runId=run, nbf="now"), "not yet"),
            (lambda run: "Bearer " + token(runId=None), "claims"),
            (lambda run: "Bearer " + token(runId=[run]), "claims"),
            (lambda run: "Bearer " + token(runId=run, type="init"), "type"),
        ],
    )
    def test_without_a_token_for_this_run_it_is_401(
        self, server: StreamServer, authorization: Callable[[int], str | None], reason: str, path: str
    ) -> None:
        run = 7  # nobody looks for it
        said = authorization(run)
        counted = f'roster_stream_refused_tokens_total{{reason="{reason}"}}'
        before = server.metric(counted)
        answer = server.get(f"/earthbeam/jobs/{run}/{path}", **({} if said is None else {"Authorization": said}))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["error"] == "unauthorized"
        assert server.metric(counted) == before + 1
        if said is not None and len(said) > 20:
            assert said.removeprefix("Bearer ") not in server.log()

    @pytest.mark.parametrize("path", ["roster", "cross-year"])
    @pytest.mark.parametrize("claimed", [8, "07"])
    def test_a_good_token_of_another_run_is_403(self, server: StreamServer, claimed: object, path: str) -> None:
        counted = 'roster_stream_refused_tokens_total{reason="run"}'
        before = server.metric(counted)
        said = token(runId=claimed)
        answer = server.get(f"/earthbeam/jobs/7/{path}", Authorization=f"Bearer {said}")
        assert (answer.status_code, answer.json()["error"]) == (403, "token_of_another_run")
        assert server.metric(counted) == before + 1
        assert said not in server.log()

    def test_a_token_that_was_made_a_moment_in_the_future_is_good(self, server: StreamServer, run: int) -> None:
        """Two machines' clocks are never the same."""
        made = token(runId=run, iat=datetime.now(UTC) + timedelta(seconds=5))
        assert server.get(f"/earthbeam/jobs/{run}/cross-year", Authorization=f"Bearer {made}").status_code == 200

    @pytest.mark.parametrize("path", ["roster", "cross-year"])
    def test_an_unknown_run_is_404(self, server: StreamServer, path: str) -> None:
        for run in (999_999, 2**31, 10**10):
            answer = server.get(f"/earthbeam/jobs/{run}/{path}", run)
            assert (answer.status_code, answer.json()["error"]) == (404, "unknown_run")

    def test_a_run_that_is_no_number_is_404(self, server: StreamServer) -> None:
        answer = server.get("/earthbeam/jobs/abc/roster", Authorization=f"Bearer {token(runId='abc')}")
        assert answer.status_code == 404

    @pytest.mark.parametrize(
        "change",
        [
            "update partner set cross_year_matching_enabled = false where id = %s",
            "update partner set deleted_on = now() where id = %s",
            "update tenant set deleted_on = now() where partner_id = %s",
            "update tenant set is_global = true where partner_id = %s",
        ],
    )
    def test_a_tenant_that_has_no_roster_is_409(
        self, world: World, server: StreamServer, partner: TestPartner, run: int, change: str
    ) -> None:
        publish(partner, "north")
        assert server.pull(run).status_code == 200
        with world.connect() as connection:
            connection.execute(change.encode(), [partner.partner_id])
        for query in ("", "?source=snapshot", "?source=warehouse"):
            assert server.pull(run, query).status_code == 409
        assert server.get(f"/earthbeam/jobs/{run}/cross-year", run).json() == {
            "crossYearMatchAvailable": False,
            "appUrls": {},
        }

    def test_a_source_that_there_is_not_is_400(self, server: StreamServer, run: int) -> None:
        assert server.pull(run, "?source=elsewhere").status_code == 400


class TestBytes:
    def test_snapshot_and_warehouse_give_the_bytes_that_were_published(
        self, server: StreamServer, published: Published
    ) -> None:
        expected = published.content
        assert expected == b"".join(published.partner.warehouse.reference("north").lines)
        pointer = published.partner.pointer("north")
        assert pointer is not None
        snapshot = server.pull(published.run)
        assert snapshot.content == expected
        assert snapshot.headers["content-type"] == "application/x-ndjson"
        assert snapshot.headers["content-length"] == str(len(expected))
        assert snapshot.headers["x-roster-source"] == "snapshot"
        assert snapshot.headers["x-roster-sha256"] == hashlib.sha256(expected).hexdigest()
        assert snapshot.headers["x-roster-as-of"] == pointer.verified_at
        assert snapshot.headers["etag"] == f'"{pointer.sha256}"'
        before = datetime.now(UTC)
        warehouse = server.pull(published.run, "?source=warehouse")
        assert warehouse.content == expected
        assert warehouse.headers["content-type"] == "application/x-ndjson"
        assert warehouse.headers["transfer-encoding"] == "chunked"
        assert warehouse.headers["x-roster-source"] == "warehouse"
        assert "x-roster-sha256" not in warehouse.headers
        assert before <= datetime.fromisoformat(warehouse.headers["x-roster-as-of"]) <= datetime.now(UTC)

    @pytest.mark.parametrize("source", ["snapshot", "warehouse"])
    def test_it_is_compressed_when_that_is_asked_for(
        self, server: StreamServer, published: Published, source: str
    ) -> None:
        expected = published.content
        with raw_client(
            server,
            request_bytes(
                published.run, f"roster?source={source}", Connection="close", **{"Accept-Encoding": "br, gzip"}
            ),
        ) as client:
            head, _, body = read_all(client).partition(b"\r\n\r\n")
        assert b"content-encoding: gzip" in head
        assert gzip.decompress(unchunked(body)) == expected
        for refused in ("identity", "gzip;q=0", "br", "*"):
            answer = server.pull(published.run, f"?source={source}", **{"Accept-Encoding": refused})
            assert "content-encoding" not in answer.headers
            assert answer.content == expected

    def test_one_log_line_a_pull_names_partner_tenant_rows_and_milliseconds(
        self, server: StreamServer, partner: TestPartner, run: int
    ) -> None:
        publish(partner, "north")
        server.pull(run)
        server.pull(run, "?source=warehouse")
        said = rf"{partner.tenant('north')}: run {run}, 303 rows from the (\w+) \((.+)\), \d+ bytes, \d+ ms: complete"
        expected = [("snapshot", "the snapshot is fresh"), ("warehouse", "it was asked for, around any hold")]
        # It is written when the client has it all.
        wait_until(lambda: re.findall(said, server.log()) == expected)

    def test_nothing_of_a_student_a_token_or_a_key_is_in_log_or_metrics(
        self, server: StreamServer, published: Published
    ) -> None:
        used = bearer(published.run)
        for query in ("", "?source=warehouse", "?source=elsewhere"):
            server.get(f"/earthbeam/jobs/{published.run}/roster{query}", **used)
        server.get(f"/earthbeam/jobs/{published.run + 1}/roster", **used)
        said = server.log() + server.get("/metrics").text
        assert published.partner.partner_id in said
        assert published.partner.partner_id not in server.get("/metrics").text
        for secret in ("0604921", "S00001", "LS0000", *used["Authorization"].split("."), KEY, "PRIVATE KEY"):
            assert secret not in said


class TestSnapshots:
    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    def test_head_says_what_get_would(self, server: StreamServer, published: Published, encoding: str) -> None:
        got = server.pull(published.run, **{"Accept-Encoding": encoding})
        head = server.get(
            f"/earthbeam/jobs/{published.run}/roster", published.run, "HEAD", **{"Accept-Encoding": encoding}
        )
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers, "date": ""} == {**got.headers, "date": ""}

    @pytest.mark.slow
    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    def test_a_client_that_has_it_gets_304(self, server: StreamServer, published: Published, encoding: str) -> None:
        first = server.pull(published.run, **{"Accept-Encoding": encoding})
        for known in (first.headers["etag"], f"W/{first.headers['etag']}", f'"x", {first.headers["etag"]}', "*"):
            again = server.pull(published.run, **{"Accept-Encoding": encoding, "If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == first.headers["etag"]
        assert server.pull(published.run, **{"If-None-Match": '"other"'}).status_code == 200

    def test_the_two_encodings_have_their_own_validators(self, server: StreamServer, published: Published) -> None:
        plain, compressed = (server.pull(published.run, **{"Accept-Encoding": one}) for one in ("identity", "gzip"))
        assert plain.headers["etag"] != compressed.headers["etag"]
        assert plain.headers["vary"] == compressed.headers["vary"] == "Accept-Encoding"

    @pytest.mark.parametrize(
        ("asked", "first", "last"),
        [("bytes=0-9", 0, 9), ("bytes=100-", 100, None), ("bytes=-5", -5, None), ("bytes=10-9999999", 10, None)],
    )
    def test_a_range_is_a_part_of_the_stored_bytes(
        self, server: StreamServer, published: Published, asked: str, first: int, last: int | None
    ) -> None:
        expected = published.content
        answer = server.pull(published.run, Range=asked, **{"Accept-Encoding": "gzip"})
        wanted = expected[first:] if last is None else expected[first : last + 1]
        assert (answer.status_code, answer.content) == (206, wanted)
        start = first % len(expected)
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(wanted) - 1}/{len(expected)}"

    def test_a_range_behind_the_end_is_416(self, server: StreamServer, published: Published) -> None:
        size = len(published.content)
        answer = server.pull(published.run, Range=f"bytes={size}-")
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}")

    @pytest.mark.parametrize("asked", ["lines=0-1", "bytes=0-1,5-6", "bytes=5-1", "bytes=-", "nonsense"])
    def test_what_is_no_single_range_of_bytes_is_answered_with_the_whole(
        self, server: StreamServer, published: Published, asked: str
    ) -> None:
        expected = published.content
        answer = server.pull(published.run, Range=asked)
        assert (answer.status_code, answer.content) == (200, expected)

    @pytest.mark.slow
    def test_a_download_that_broke_resumes_only_with_the_same_snapshot(
        self, server: StreamServer, partner: TestPartner, run: int
    ) -> None:
        old = publish(partner, "north")
        etag = server.pull(run, Range="bytes=0-99").headers["etag"]
        rest = server.pull(run, Range="bytes=100-", **{"If-Range": etag})
        assert (rest.status_code, old[:100] + rest.content) == (206, old)
        partner.warehouse.students("north", 5, prefix="N")
        partner.write_tables()
        new = publish(partner, "north")
        rest = server.pull(run, Range="bytes=100-", **{"If-Range": etag})
        assert (rest.status_code, rest.content) == (200, new)

    @pytest.mark.slow
    def test_who_wants_to_go_on_with_the_same_bytes_or_none_gets_412_for_others(
        self, server: StreamServer, partner: TestPartner, run: int
    ) -> None:
        publish(partner, "north")
        known = {"If-Match": server.pull(run).headers["etag"]}
        assert server.pull(run, Range="bytes=9-", **known).status_code == 206
        assert server.get(f"/earthbeam/jobs/{run}/roster", run, "HEAD", **known).status_code == 200
        assert server.pull(run, "?source=warehouse", **{"If-Match": "*"}).status_code == 200
        assert server.pull(run, "?source=warehouse", **known).status_code == 412
        partner.warehouse.students("north", 5, prefix="N")
        partner.write_tables()
        publish(partner, "north")
        assert server.pull(run, Range="bytes=9-", **known).status_code == 412


class TestWhereItComesFrom:
    def source(self, server: StreamServer, run: int, query: str = "") -> str:
        answer = server.pull(run, query)
        assert answer.status_code == 200, answer.text
        return str(answer.headers["x-roster-source"])

    def test_without_a_snapshot_it_is_the_warehouse(self, server: StreamServer, run: int) -> None:
        assert self.source(server, run) == "warehouse"
        answer = server.pull(run, "?source=snapshot")
        assert (answer.status_code, answer.json()["error"]) == (404, "no_snapshot")

    @pytest.mark.slow
    def test_a_snapshot_is_fresh_for_a_day(self, server: StreamServer, partner: TestPartner, run: int) -> None:
        publish(partner, "north")
        now = datetime.now(UTC)
        change_pointer(partner, "north", verified_at=(now - timedelta(hours=23, minutes=59)).isoformat())
        assert self.source(server, run) == "snapshot"
        change_pointer(partner, "north", verified_at=(now - timedelta(hours=24, minutes=1)).isoformat())
        assert self.source(server, run) == "warehouse"
        assert self.source(server, run, "?source=snapshot") == "snapshot"
        change_pointer(partner, "north", verified_at="yesterday")
        assert self.source(server, run) == "warehouse"

    @pytest.mark.slow
    def test_a_snapshot_of_other_credentials_is_not_taken(
        self, server: StreamServer, partner: TestPartner, run: int
    ) -> None:
        publish(partner, "north")
        partner.rotate()
        assert self.source(server, run) == "warehouse"
        publish(partner, "north")
        assert self.source(server, run) == "snapshot"
        partner.delete_secret()
        assert server.pull(run).status_code == 500
        assert self.source(server, run, "?source=snapshot") == "snapshot"

    @pytest.mark.slow
    def test_beside_a_pointer_that_cannot_be_read_nothing_can_be_compared(
        self, world: World, server: StreamServer, partner: TestPartner, run: int
    ) -> None:
        publish(partner, "north")
        world.s3.put_object(Bucket=BUCKET, Key=pointer_key(partner.tenant("north")), Body=b"{")
        assert server.pull(run).status_code == 500
        assert server.pull(run, "?source=warehouse").status_code == 200

    @pytest.mark.slow
    @pytest.mark.parametrize("trouble", ["no snapshot", "another digest", "damaged"])
    def test_a_snapshot_that_cannot_be_read_is_replaced_by_the_warehouse(
        self, world: World, server: StreamServer, partner: TestPartner, run: int, trouble: str
    ) -> None:
        expected = publish(partner, "north")
        pointer = partner.pointer("north")
        assert pointer is not None
        key = snapshot_key(partner.tenant("north"), pointer.sha256)
        if trouble == "no snapshot":
            world.s3.delete_object(Bucket=BUCKET, Key=key)
        else:
            digest = pointer.sha256 if trouble == "damaged" else "0" * 64
            world.s3.put_object(Bucket=BUCKET, Key=key, Body=expected[:-1] + b"x", Metadata={"sha256": digest})
        answer = server.pull(run)
        assert (answer.status_code, answer.content) == (200, expected)
        assert answer.headers["x-roster-source"] == "warehouse"
        assert server.pull(run, "?source=snapshot").status_code == 500

    @pytest.mark.slow
    def test_a_snapshot_that_was_found_damaged_tears_one_pull_and_no_other(
        self, world: World, server: StreamServer
    ) -> None:
        """Its end alone is wrong, and it is longer than what is read before the first byte."""
        partner = big_partner(world, 10_000)
        run = add_run(world, partner, "big")
        expected = publish(partner, "big")
        pointer = partner.pointer("big")
        assert pointer is not None
        key = snapshot_key(partner.tenant("big"), pointer.sha256)
        damaged = {"Bucket": BUCKET, "Key": key, "Metadata": {"sha256": pointer.sha256}}
        world.s3.put_object(**damaged, Body=expected[:-2] + b"x\n")
        counted = 'roster_stream_damaged_snapshots_total{met="%s"}'
        found, known = server.metric(counted % "found"), server.metric(counted % "known")
        with pytest.raises(httpx.RemoteProtocolError):
            server.pull(run)
        for times in (1, 2):
            answer = server.pull(run)
            assert (answer.headers["x-roster-source"], answer.content) == ("warehouse", expected)
            warned = f"{partner.tenant('big')}: the snapshot cannot be used"
            wait_until(lambda times=times, warned=warned: server.log().count(warned) == times)
        answer = server.pull(run, "?source=snapshot")
        assert (answer.status_code, answer.json()["error"]) == (500, "stored_object_damaged")
        assert server.metric(counted % "found") == found + 1
        assert server.metric(counted % "known") == known + 3
        world.s3.put_object(**damaged, Body=expected)
        change_pointer(partner, "big", run_id="the next one")  # somebody has looked at it
        assert self.source(server, run) == "snapshot"

    def test_head_of_the_warehouse_runs_no_statement(self, server: StreamServer, run: int) -> None:
        head = server.get(f"/earthbeam/jobs/{run}/roster?source=warehouse", run, "HEAD")
        assert (head.status_code, head.headers["x-roster-source"]) == (200, "warehouse")
        assert "x-roster-as-of" not in head.headers

    def test_a_range_of_the_warehouse_is_the_whole(self, server: StreamServer, run: int) -> None:
        whole = server.pull(run, "?source=warehouse").content
        answer = server.pull(run, "?source=warehouse", Range="bytes=5-9")
        assert (answer.status_code, answer.content) == (200, whole)


class TestFailuresBeforeTheFirstByte:
    def refused(self, server: StreamServer, run: int) -> str:
        """The answer is clean: JSON, of known length, on a connection that may be used again."""
        with server.client() as client:
            for _ in range(2):
                answer = client.get(f"/earthbeam/jobs/{run}/roster", headers=bearer(run))
                assert answer.status_code == 500
                assert int(answer.headers["content-length"]) == len(answer.content)
                assert set(answer.json()) == {"error", "message"}
        reference = answer.json()["message"].rpartition(" ")[2].rstrip(".")
        assert reference in server.log()
        return str(answer.json()["error"])

    def test_no_credentials(self, server: StreamServer, partner: TestPartner, run: int) -> None:
        partner.delete_secret()
        assert self.refused(server, run) == "credentials_missing"
        partner.rotate()
        assert server.pull(run).status_code == 200

    def test_malformed_credentials(self, server: StreamServer, partner: TestPartner, run: int) -> None:
        partner.rotate(account=None)
        assert self.refused(server, run) == "credentials_malformed"
        partner.rotate()
        assert server.pull(run).status_code == 200

    def test_a_key_that_the_account_does_not_know(self, server: StreamServer, partner: TestPartner, run: int) -> None:
        keys = partner.registered_keys()
        partner.rotate(register_key=False)
        assert self.refused(server, run) == "authentication_refused"
        partner.rotate()
        assert server.pull(run).status_code == 200
        partner.register_keys(keys)

    def test_a_table_that_is_not_there(self, world: World, server: StreamServer) -> None:
        partner = world.partner(Warehouse(), ["north"])
        partner.drop_table("stg_ef3__stu_ed_org__identification_codes")
        run = add_run(world, partner, "north")
        assert self.refused(server, run) == "query_failed"
        partner.warehouse.students("north", 3)
        partner.write_tables()
        assert server.pull(run).content == b"".join(partner.warehouse.reference("north").lines)

    def test_no_students(self, world: World, server: StreamServer, partner: TestPartner) -> None:
        """What is never published is not streamed either: consumers refuse an empty file."""
        with world.connect() as connection:
            connection.execute("insert into tenant (code, partner_id) values ('empty', %s)", [partner.partner_id])
        assert self.refused(server, add_run(world, partner, "empty")) == "held"

    def test_an_id_system_that_the_consumer_cannot_read(self, world: World, server: StreamServer) -> None:
        warehouse = Warehouse()
        warehouse.student("north", "one", ("Local, old", "1"))
        partner = world.partner(warehouse, ["north"])
        assert self.refused(server, add_run(world, partner, "north")) == "held"


class TestFailuresAfterTheFirstByte:
    @pytest.fixture
    def late(self, world: World, monkeypatch: pytest.MonkeyPatch) -> int:
        """A run whose answer breaks off at its end. What is wrong with the data is announced before the first line."""
        warehouse = Warehouse()
        warehouse.students("north", 20_000)
        partner = world.partner(warehouse, ["north"])
        select = EduSession.select

        def selected(self: EduSession, *arguments: Any, query_tag: str) -> Selection:
            selection = select(self, *arguments, query_tag=query_tag)
            is_late = str(partner.tenant("north")) in query_tag
            return replace(selection, batches=broken_off(selection.batches)) if is_late else selection

        monkeypatch.setattr(EduSession, "select", selected)
        return add_run(world, partner, "north")

    def test_the_client_sees_an_incomplete_body(self, server: StreamServer, late: int) -> None:
        received = []
        with (
            server.client() as client,
            client.stream("GET", f"/earthbeam/jobs/{late}/roster", headers=bearer(late)) as answer,
        ):
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                received += list(answer.iter_bytes())
        wait_until(lambda: "torn" in server.log())

    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    def test_the_last_chunk_is_missing_on_the_wire_and_so_is_any_word_of_the_error(
        self, server: StreamServer, late: int, encoding: str
    ) -> None:
        with raw_client(server, request_bytes(late, **{"Accept-Encoding": encoding})) as client:
            head, _, body = read_all(client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert len(body) > 10_000
        assert not body.endswith(b"0\r\n\r\n")
        if encoding == "gzip":
            return
        lines = unchunked(body).split(b"\n")
        assert all(line.startswith(b'{"educationOrganizationReference"') for line in lines if line)

    def test_the_next_pull_is_served(self, server: StreamServer, late: int, run: int) -> None:
        with raw_client(server, request_bytes(late)) as client:
            read_all(client)
        assert server.pull(run).status_code == 200

    @pytest.mark.slow
    def test_http_1_0_which_could_not_tell_is_refused_by_the_warehouse_alone(
        self, server: StreamServer, partner: TestPartner, run: int
    ) -> None:
        with raw_client(server, request_bytes(run, version="1.0")) as client:
            assert read_all(client).startswith(b"HTTP/1.1 426")
        expected = publish(partner, "north")
        with raw_client(server, request_bytes(run, version="1.0", **{"Accept-Encoding": "gzip"})) as client:
            head, _, body = read_all(client).partition(b"\r\n\r\n")
        assert f"content-length: {len(expected)}".encode() in head
        assert body == expected


class TestPayload:
    def test_it_names_the_roster_when_the_partner_can_be_connected_to(
        self, server: StreamServer, partner: TestPartner, run: int
    ) -> None:
        payload = server.get(f"/earthbeam/jobs/{run}/cross-year", run).json()
        assert payload["crossYearMatchAvailable"] is True
        url = payload["appUrls"]["roster"]
        assert url == f"{server.url}/earthbeam/jobs/{run}/roster"
        assert server.get(url.removeprefix(server.url), run).status_code == 200

    @pytest.mark.parametrize("trouble", ["none", "malformed"])
    def test_without_a_usable_secret_it_does_not(
        self, server: StreamServer, partner: TestPartner, run: int, trouble: str
    ) -> None:
        if trouble == "none":
            partner.delete_secret()
        else:
            partner.put_secret("not JSON")
        expected = {"crossYearMatchAvailable": False, "appUrls": {}}
        assert server.get(f"/earthbeam/jobs/{run}/cross-year", run).json() == expected
        assert ("matching is reported as unavailable" in server.log()) >= (trouble == "malformed")

    def test_a_live_pool_is_enough(self, server: StreamServer, partner: TestPartner, run: int) -> None:
        assert server.pull(run, "?source=warehouse").status_code == 200
        partner.put_secret("not JSON")
        payload = server.get(f"/earthbeam/jobs/{run}/cross-year", run).json()
        assert payload["crossYearMatchAvailable"] is True


class TestTheProcess:
    def test_health_readiness_and_document(self, server: StreamServer) -> None:
        assert server.get("/healthz").json() == {"status": "ok"}
        assert server.get("/readyz").json() == {"database": "ok", "bucket": "ok"}
        assert server.get("/openapi.json").json()["openapi"].startswith("3.1")
        assert server.get("/metrics").headers["content-type"].startswith("text/plain")

    def test_what_is_not_there_and_what_may_not_be_done(self, server: StreamServer, run: int) -> None:
        assert server.get("/earthbeam/jobs").json()["error"] == "not_found"
        assert server.get(f"/earthbeam/jobs/{run}/roster", run, "POST").status_code == 405

    @pytest.mark.slow
    def test_it_is_not_ready_without_database_or_bucket(
        self,
        stack: EmbeddedStack,
        world: World,
        tmp_path_factory: pytest.TempPathFactory,
        partner: TestPartner,
        run: int,
    ) -> None:
        log = tmp_path_factory.mktemp("unready") / "server.log"
        with stream_server(log, RUNWAY_APP_DB_PORT="1", RUNWAY_BUCKET="no-such-bucket") as unready:
            answer = unready.get("/readyz")
            assert (answer.status_code, answer.json()) == (503, {"database": "failed", "bucket": "failed"})
            assert unready.get("/healthz").status_code == 200
            assert unready.pull(run).status_code == 500

    @pytest.mark.slow
    def test_it_does_not_start_without_a_key(self, world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
        log = tmp_path_factory.mktemp("keyless") / "server.log"
        for key in ("", "short"):
            with (
                pytest.raises(AssertionError, match="RUNWAY_STREAM_TOKEN_KEY"),
                stream_process(log, RUNWAY_STREAM_TOKEN_KEY=key),
            ):
                pass

    def test_the_key_may_be_in_a_secret_that_rotates(
        self, world: World, tmp_path_factory: pytest.TempPathFactory, partner: TestPartner, run: int
    ) -> None:
        name = f"stream-key-{run}"
        older_key = "an older key of at least 32 bytes" * 2
        world.secrets.create_secret(Name=name, SecretString=in_base64(older_key))
        world.secrets.put_secret_value(SecretId=name, SecretString=in_base64(KEY))
        world.secrets.put_secret_value(SecretId=name, SecretString=in_base64("a newer key of at least 32 bytes" * 2))
        log = tmp_path_factory.mktemp("secret") / "server.log"
        with stream_server(log, RUNWAY_STREAM_TOKEN_SECRET=name, RUNWAY_STREAM_TOKEN_KEY="") as secret:
            assert secret.pull(run).status_code == 200  # signed with the key before the current one
            older = jwt.encode(
                {"runId": run, "exp": datetime.now(UTC) + timedelta(minutes=1)}, older_key, algorithm="HS256"
            )
            assert secret.get(f"/earthbeam/jobs/{run}/roster", Authorization=f"Bearer {older}").status_code == 401
