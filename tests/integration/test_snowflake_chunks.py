"""An answer in chunks: what is fetched is whole, whatever happens to a chunk, and what nobody fetches goes."""

from __future__ import annotations

import gzip
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pyarrow as pa
import pytest
from snowflake.connector import result_batch

from runway_pipelines.errors import Unavailable
from runway_pipelines.local.snowflake_chunks import FETCHED_SECONDS, UNFETCHED_SECONDS, Chunks
from runway_pipelines.local.stack import EmbeddedStack
from runway_pipelines.settings import load_settings
from tests.integration.stream_server import big_partner, publish
from tests.integration.test_local_snowflake import KeyPair, connect, keys  # noqa: F401
from tests.integration.world import TestPartner, World, world_of
from tests.servers.snowflake_front import CHUNK, Asked, Body, Cut, Slow, SnowflakeFront, Verdict, snowflake_front

STUDENTS = 20_000
ROWTYPE = [{"type": "FIXED", "precision": 38, "scale": 0, "length": None}]


@pytest.fixture(scope="module")
def whole(stack: EmbeddedStack) -> Iterator[tuple[TestPartner, bytes]]:
    """A partner whose roster takes several chunks, and the roster, as it is published without any fault."""
    with pytest.MonkeyPatch.context() as patch, world_of(stack, patch) as world:
        partner = big_partner(world, STUDENTS)
        yield partner, publish(partner, "big")


@pytest.fixture
def front(whole: tuple[TestPartner, bytes], world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[SnowflakeFront]:
    with snowflake_front(world.stack.snowflake_host, world.stack.snowflake_port) as front:
        monkeypatch.setenv("RUNWAY_SNOWFLAKE_PORT", str(front.port))
        # The driver waits 1, 2, 4 ... s between attempts.
        monkeypatch.setattr(result_batch, "time", SimpleNamespace(sleep=lambda seconds: None))
        load_settings.cache_clear()
        yield front
    load_settings.cache_clear()


def on_chunk(position: int, verdict: Verdict, front: SnowflakeFront, times: int = 1) -> None:
    """Give the verdict on the chunk that is asked for as the ``position``-th, as often as that."""
    names: list[str] = []
    left = [times]

    def judge(asked: Asked) -> Verdict:
        if not asked.path.startswith(CHUNK):
            return None
        if asked.path not in names:
            names.append(asked.path)
        if names.index(asked.path) != position or not left[0]:
            return None
        left[0] -= 1
        return verdict

    front.judge = judge


def fewer_rows(content: bytes) -> bytes:
    """The same chunk with half of its rows: a stream that nothing is wrong with."""
    table = pa.ipc.open_stream(gzip.decompress(content)).read_all()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.slice(0, table.num_rows // 2))
    return gzip.compress(sink.getvalue().to_pybytes())


def test_a_large_answer_comes_in_chunks_that_grow(front: SnowflakeFront, whole: tuple[TestPartner, bytes]) -> None:
    partner, content = whole
    assert publish(partner, "big") == content
    fetched = front.asked(CHUNK)
    assert len(fetched) == len({asked.path for asked in fetched}) >= 3


@pytest.mark.parametrize(
    "verdict",
    [Body(status=403), Body(status=503), Cut(), Cut(is_reset=True), Slow(0.5)],
    ids=["refused", "unavailable", "cut", "reset", "slow"],
)
def test_a_chunk_that_does_not_come_is_fetched_again(
    front: SnowflakeFront, whole: tuple[TestPartner, bytes], verdict: Verdict
) -> None:
    partner, content = whole
    on_chunk(1, verdict, front)
    assert publish(partner, "big") == content


def test_two_chunks_that_arrive_the_other_way_round_are_in_order(
    front: SnowflakeFront, whole: tuple[TestPartner, bytes]
) -> None:
    partner, content = whole
    on_chunk(0, Slow(2), front)
    assert publish(partner, "big") == content


@pytest.mark.parametrize("status", [403, 404])
def test_a_chunk_that_has_expired_is_a_failure_that_may_pass_and_no_url_is_in_the_log(
    front: SnowflakeFront, whole: tuple[TestPartner, bytes], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    partner, content = whole
    on_chunk(1, Body(status=status), front, times=100)
    with caplog.at_level(logging.WARNING), pytest.raises(Unavailable):
        publish(partner, "big")
    assert "Failed to fetch the large result set batch" in caplog.text
    assert "Signature" not in caplog.text
    assert partner.published("big") == content


@pytest.mark.parametrize(
    "verdict",
    [Body(change=fewer_rows), Body(change=lambda content: gzip.compress(gzip.decompress(content)[:-5000]))],
    ids=["fewer rows", "cut within"],
)
def test_a_chunk_that_comes_short_is_never_published(
    front: SnowflakeFront, whole: tuple[TestPartner, bytes], verdict: Verdict
) -> None:
    partner, content = whole
    on_chunk(1, verdict, front)
    with pytest.raises(Unavailable):
        publish(partner, "big")
    assert partner.published("big") == content


def test_a_chunk_that_the_answer_does_not_name_is_missed(
    front: SnowflakeFront, whole: tuple[TestPartner, bytes]
) -> None:
    partner, content = whole

    def without_one(body: bytes) -> bytes:
        answer = json.loads(body)
        dropped = answer["data"].get("chunks", [{}]).pop(0)
        answer["data"]["total"] -= dropped.get("rowCount", 0)
        return json.dumps(answer).encode()

    front.judge = lambda asked: Body(change=without_one) if "order by" in asked.statement else None
    with pytest.raises(Unavailable):
        publish(partner, "big")
    assert partner.published("big") == content


# what is held


def ask(url: str, key: str) -> httpx.Response:
    headers = {"x-amz-server-side-encryption-customer-key": key}
    return httpx.get(url, headers=headers, trust_env=False)


LARGE = "select seq4() as number, uuid_string() as text from table(generator(rowcount => 20000))"


def held_by(connection: Any, statement: str) -> tuple[list[str], str]:
    """Where the chunks of a statement's answer are, and their key; nothing is fetched."""
    data = connection.cursor()._execute_helper(statement)["data"]
    assert sum(chunk["rowCount"] for chunk in data["chunks"]) + data["returned"] == data["total"]
    return [chunk["url"] for chunk in data["chunks"]], data["chunkHeaders"]["x-amz-server-side-encryption-customer-key"]


def test_a_chunk_is_for_whoever_has_its_url_and_key_until_the_session_ends(
    stack: EmbeddedStack,
    keys: tuple[KeyPair, KeyPair],  # noqa: F811
) -> None:
    connection = connect(stack, keys[0])
    urls, key = held_by(connection, LARGE)
    assert ask(urls[0], key).status_code == 200
    assert ask(urls[0], "another").status_code == ask(urls[0].replace("=", "=x"), key).status_code == 403
    connection.close()
    assert {ask(url, key).status_code for url in urls} == {403}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_nobody_fetches_goes_and_so_does_what_was_fetched() -> None:
    now = [0.0]
    before = open_files()
    chunks = Chunks(clock=lambda: now[0])
    table = pa.table({"N": pa.array(range(400_000), pa.int64())})

    def hold(owner: str) -> list[tuple[str, str, str]]:
        answer = chunks.answer(owner, table, ROWTYPE, "http://here")
        *growing, _ = (chunk["rowCount"] for chunk in answer["chunks"])
        assert growing == sorted(growing)
        split = [chunk["url"].partition("/chunks/")[2].partition("?Signature=") for chunk in answer["chunks"]]
        return [(name, signature, answer["qrmk"]) for name, _, signature in split]

    killed, slow = hold("killed"), hold("slow")
    assert len(chunks) == len(killed) + len(slow)
    chunk = chunks.find(*slow[0])
    assert chunk is not None
    assert sum(map(len, chunk.pieces())) == chunk.size
    chunks.fetched(chunk)
    assert chunks.find(*slow[0]) is chunk  # it broke off on its way, and is asked for once more
    now[0] += FETCHED_SECONDS
    assert chunks.find(*slow[0]) is None
    assert chunks.find(*slow[1]) is not None
    chunks.forget("slow")
    assert len(chunks) == len(killed)
    now[0] += UNFETCHED_SECONDS
    chunks.sweep()
    assert (len(chunks), open_files()) == (0, before)


def test_the_server_leaves_no_folder_in_the_temporary_folder(tmp_path: Path) -> None:
    program = "import runway_pipelines.local.snowflake_accounts"
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []
