"""The bucket over the real S3 protocol: nothing is lost in a race, half an upload leaves nothing, damage is seen."""

import io
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import (
    ConfigurationError,
    Permanent,
    PublicationRaced,
    RunwayError,
    StoredObjectDamaged,
    Unavailable,
)
from runway_pipelines.systems.aws.object_store import PART_BYTES, ObjectStore, StoredDocument
from tests.factories import digest_of

NewStore = Callable[..., ObjectStore]
Intercept = Callable[[str, Callable[..., object]], None]
SINGLE = b"one line\n" * 1000
# Three parts, the last one short.
MULTIPART_BYTES = 20 * 1024 * 1024 + 7
CANARY = "c4n4ry"


@pytest.fixture(scope="module")
def multipart() -> bytes:
    return os.urandom(MULTIPART_BYTES)


def answer_with(status: int, code: str, after: int = 0) -> Callable[..., AWSResponse | None]:
    """A hook that lets ``after`` requests through and answers the others in the server's place."""
    lock = threading.Lock()
    left = [after]

    def answer(request: Any, **_: Any) -> AWSResponse | None:
        with lock:
            left[0] -= 1
            if left[0] >= 0:
                return None
        body = f"<Error><Code>{code}</Code><Message>{CANARY}</Message></Error>".encode()
        raw = io.BytesIO(body if request.method != "HEAD" else b"")
        raw.stream = lambda *args, **kwargs: iter([raw.getvalue()])  # type: ignore[attr-defined]
        return AWSResponse(request.url, status, {"content-type": "application/xml"}, raw)

    return answer


def pending_uploads(store: ObjectStore) -> list[str]:
    answer = store.client.list_multipart_uploads(Bucket=store.bucket)
    return [upload["Key"] for upload in answer.get("Uploads", ())]


# Documents


def test_a_document_is_read_back_as_it_was_written_and_what_is_not_there_is_none(store: ObjectStore) -> None:
    assert store.read("a/key") is None
    store.write("a/key", b'{"a": 1}', replacing=None)
    stored = store.read("a/key")
    assert stored is not None
    assert stored.body == b'{"a": 1}'
    store.write("a/key", b'{"a": 2}', replacing=stored)
    store.overwrite("a/key", b'{"a": 3}')
    assert store.read("a/key").body == b'{"a": 3}'  # type: ignore[union-attr]
    assert store.client.head_object(Bucket=store.bucket, Key="a/key")["ContentType"] == "application/json"


def test_a_first_write_does_not_replace_what_somebody_else_wrote_meanwhile(store: ObjectStore) -> None:
    store.overwrite("pointer", b"theirs")
    with pytest.raises(PublicationRaced, match=r"s3://runway-test-\d+/pointer as it was read a moment ago"):
        store.write("pointer", b"ours", replacing=None)
    assert store.read("pointer").body == b"theirs"  # type: ignore[union-attr]


def test_a_write_replaces_only_the_version_that_was_read(store: ObjectStore) -> None:
    store.overwrite("pointer", b"old")
    read = store.read("pointer")
    store.overwrite("pointer", b"theirs")
    with pytest.raises(PublicationRaced):
        store.write("pointer", b"ours", replacing=read)
    assert store.read("pointer").body == b"theirs"  # type: ignore[union-attr]


def test_a_write_does_not_bring_back_what_was_deleted_meanwhile(store: ObjectStore) -> None:
    store.overwrite("pointer", b"old")
    read = store.read("pointer")
    store.delete(["pointer"])
    with pytest.raises(PublicationRaced):
        store.write("pointer", b"ours", replacing=read)
    assert store.read("pointer") is None


@pytest.mark.parametrize(
    ("status", "code"), [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict"), (404, "NoSuchKey")]
)
@pytest.mark.parametrize("replacing", [None, StoredDocument(b"", '"etag"')], ids=["nothing", "something"])
def test_every_answer_that_s3_has_for_a_lost_race_is_one(
    status: int, code: str, replacing: StoredDocument | None, store: ObjectStore, intercept: Intercept
) -> None:
    intercept("before-send.s3.PutObject", answer_with(status, code))
    with pytest.raises(PublicationRaced):
        store.write("pointer", b"ours", replacing=replacing)


# Uploads


def test_a_small_file_is_stored_with_its_digest_in_one_request(store: ObjectStore, intercept: Intercept) -> None:
    operations: list[str] = []
    intercept("before-call.s3", lambda model, **_: operations.append(model.name))
    file = io.BytesIO(SINGLE)
    file.seek(100)  # the whole file, wherever its position is
    store.upload("k.jsonl", file, digest_of(SINGLE))
    assert operations[:2] == ["PutObject", "HeadObject"]
    assert store.read("k.jsonl").body == SINGLE  # type: ignore[union-attr]
    assert store.holds("k.jsonl", digest_of(SINGLE))
    assert store.client.head_object(Bucket=store.bucket, Key="k.jsonl")["ContentType"] == "application/x-ndjson"


def test_a_large_file_is_stored_in_parts_with_its_digest(
    store: ObjectStore, multipart: bytes, intercept: Intercept
) -> None:
    sizes: list[int] = []
    intercept("before-send.s3.UploadPart", lambda request, **_: sizes.append(int(request.headers["Content-Length"])))
    store.upload("k.jsonl", io.BytesIO(multipart), digest_of(multipart))
    assert len(sizes) == 3
    assert max(sizes) < PART_BYTES + 10_000  # chunks carry their checksum with them
    assert store.read("k.jsonl").body == multipart  # type: ignore[union-attr]
    assert store.holds("k.jsonl", digest_of(multipart))
    assert pending_uploads(store) == []


def swap_before_verification(intercept: Intercept, other: ObjectStore, body: bytes) -> None:
    """Somebody changes the object between the upload and the look at it; size and metadata may stay the same."""

    def swap(params: dict[str, Any], **_: Any) -> None:
        key = "k.jsonl"
        head = other.client.head_object(Bucket=other.bucket, Key=key)
        other.client.put_object(
            Bucket=other.bucket, Key=key, Body=body, Metadata=head["Metadata"], ChecksumAlgorithm="CRC32"
        )

    intercept("before-call.s3.HeadObject", swap)


@pytest.mark.parametrize("change", ["shorter", "one byte"])
@pytest.mark.parametrize("size", ["single", "multipart"])
def test_an_object_that_is_not_what_was_sent_is_damaged(
    change: str, size: str, store: ObjectStore, new_store: NewStore, multipart: bytes, intercept: Intercept
) -> None:
    body = SINGLE if size == "single" else multipart
    damaged = body[:-1] if change == "shorter" else body[:-1] + bytes([body[-1] ^ 1])
    swap_before_verification(intercept, new_store(store.bucket), damaged)
    with pytest.raises(StoredObjectDamaged, match=r"in s3://runway-test-\d+/k.jsonl; got .* nothing was published"):
        store.upload("k.jsonl", io.BytesIO(body), digest_of(body))


def test_an_object_that_is_gone_before_it_was_verified_is_damaged(store: ObjectStore, intercept: Intercept) -> None:
    intercept("before-call.s3.HeadObject", lambda **_: store.delete(["k.jsonl"]))
    with pytest.raises(StoredObjectDamaged):
        store.upload("k.jsonl", io.BytesIO(SINGLE), digest_of(SINGLE))


@pytest.mark.parametrize("size", ["single", "multipart"])
def test_a_file_that_changed_since_it_was_hashed_is_damaged(size: str, store: ObjectStore, multipart: bytes) -> None:
    body = SINGLE if size == "single" else multipart
    with pytest.raises(StoredObjectDamaged):
        store.upload("k.jsonl", io.BytesIO(body), digest_of(body[::-1]))


@pytest.mark.parametrize("size", ["single", "multipart"])
def test_an_object_that_failed_its_verification_is_not_held_afterwards(
    size: str, store: ObjectStore, multipart: bytes
) -> None:
    body = SINGLE if size == "single" else multipart
    with pytest.raises(StoredObjectDamaged):
        store.upload("k.jsonl", io.BytesIO(body), digest_of(body[::-1]))
    assert not store.holds("k.jsonl", digest_of(body[::-1]))


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize(
    ("status", "code", "error"), [(403, "AccessDenied", Permanent), (503, "SlowDown", Unavailable)]
)
def test_an_upload_that_fails_in_the_middle_leaves_neither_an_object_nor_parts(
    after: int,
    status: int,
    code: str,
    error: type[RunwayError],
    store: ObjectStore,
    multipart: bytes,
    intercept: Intercept,
) -> None:
    intercept("before-send.s3.UploadPart", answer_with(status, code, after))
    with pytest.raises(error) as failed:
        store.upload("k.jsonl", io.BytesIO(multipart), digest_of(multipart))
    assert failed.value.code == code
    assert CANARY not in str(failed.value)
    assert pending_uploads(store) == []
    assert store.read("k.jsonl") is None


def test_an_upload_that_fails_at_its_end_leaves_neither_an_object_nor_parts(
    store: ObjectStore, multipart: bytes, intercept: Intercept
) -> None:
    intercept("before-send.s3.CompleteMultipartUpload", answer_with(400, "BadDigest"))
    with pytest.raises(Unavailable, match="BadDigest"):
        store.upload("k.jsonl", io.BytesIO(multipart), digest_of(multipart))
    assert pending_uploads(store) == []
    assert store.read("k.jsonl") is None


def test_a_failed_upload_leaves_the_object_of_before(store: ObjectStore, intercept: Intercept) -> None:
    store.upload("k.jsonl", io.BytesIO(SINGLE), digest_of(SINGLE))
    intercept("before-send.s3.PutObject", answer_with(403, "AccessDenied"))
    with pytest.raises(Permanent):
        store.upload("k.jsonl", io.BytesIO(b"new\n"), digest_of(b"new\n"))
    assert store.holds("k.jsonl", digest_of(SINGLE))


def test_only_uploads_under_the_prefix_are_aborted(store: ObjectStore) -> None:
    keys = ["a/1/x.jsonl", "a/1/y.jsonl", "a/10/x.jsonl", "a/2/x.jsonl", "b/a/1/x.jsonl"]
    for key in keys:
        store.client.create_multipart_upload(Bucket=store.bucket, Key=key)
    store.overwrite("a/1/whole.json", b"{}")
    assert store.abort_pending_uploads("a/1/") == 2
    assert pending_uploads(store) == keys[2:]
    assert store.abort_pending_uploads("a/1/") == 0
    assert store.read("a/1/whole.json") is not None


# What is there


def test_an_object_is_held_only_with_the_size_and_the_digest(store: ObjectStore) -> None:
    digest = digest_of(SINGLE)
    assert not store.holds("k", digest)
    store.overwrite("k", SINGLE)
    assert not store.holds("k", digest), "without a digest in its metadata"
    store.upload("k", io.BytesIO(SINGLE), digest)
    assert store.holds("k", digest)
    assert not store.holds("k", digest_of(SINGLE[::-1]))
    store.client.put_object(Bucket=store.bucket, Key="k", Body=SINGLE[1:], Metadata={"sha256": digest.sha256})
    assert not store.holds("k", digest), "another size"


@pytest.mark.parametrize("size", ["single", "multipart"])
def test_a_copy_has_the_bytes_the_digest_and_the_type(size: str, store: ObjectStore, multipart: bytes) -> None:
    body = SINGLE if size == "single" else multipart
    store.upload("from", io.BytesIO(body), digest_of(body))
    store.overwrite("to", b"old")
    store.copy_object("from", "to")
    assert store.holds("to", digest_of(body))
    assert store.read("to").body == body  # type: ignore[union-attr]
    assert store.client.head_object(Bucket=store.bucket, Key="to")["ContentType"] == "application/x-ndjson"


def test_a_copy_of_nothing_is_refused_and_leaves_the_target(store: ObjectStore) -> None:
    store.overwrite("to", b"old")
    with pytest.raises(Permanent, match="NoSuchKey"):
        store.copy_object("from", "to")
    assert store.read("to").body == b"old"  # type: ignore[union-attr]


def test_keys_are_listed_beyond_the_first_page_in_order_and_only_under_the_prefix(
    monkeypatch: pytest.MonkeyPatch, store: ObjectStore, intercept: Intercept
) -> None:
    keys = sorted(f"a/{number}" for number in range(25))
    for key in [*keys, "ab/1", "b"]:
        store.overwrite(key, b"{}")

    def small_pages(params: dict[str, Any], **_: Any) -> None:
        params["MaxKeys"] = 10

    intercept("before-parameter-build.s3.ListObjectsV2", small_pages)
    assert list(store.list_keys("a/")) == keys
    assert list(store.list_keys("none/")) == []


def test_deleting_what_is_not_there_is_no_error(store: ObjectStore) -> None:
    store.overwrite("a", b"{}")
    store.delete(["a", "b"])
    assert list(store.list_keys("")) == []


# Streams


some_bytes = st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\xff"]), max_size=6).map(b"".join)


@given(st.lists(some_bytes, max_size=6))
def test_lines_are_the_same_wherever_chunks_end(chunks: list[bytes]) -> None:
    arriving = SimpleNamespace(_chunks=lambda key: iter(chunks))
    lines = list(ObjectStore.lines(arriving, "k"))  # type: ignore[arg-type]
    assert lines == [line for line in re.split(rb"(?<=\n)", b"".join(chunks)) if line]


@pytest.mark.parametrize("end", [b"\n", b""], ids=["newline", "no newline"])
def test_lines_longer_and_shorter_than_a_chunk_come_whole(end: bytes, store: ObjectStore) -> None:
    lines = [b"x" * length for length in (3, 1024 * 1024 - 4, 0, 5, 2_500_000, 1, 1024 * 1024)]
    body = b"\n".join(lines) + end
    store.overwrite("k", body)
    assert list(store.lines("k")) == [line + b"\n" for line in lines[:-1]] + [lines[-1] + end]


def test_an_empty_object_has_no_lines(store: ObjectStore) -> None:
    store.overwrite("k", b"")
    assert list(store.lines("k")) == []


def test_a_download_gives_the_bytes_and_their_digest(store: ObjectStore, multipart: bytes) -> None:
    store.overwrite("k", multipart)
    file = io.BytesIO()
    assert store.download("k", file) == digest_of(multipart).sha256
    assert file.getvalue() == multipart


class _BreaksOff(BaseHTTPRequestHandler):
    """Promises a thousand bytes and sends ten."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.send_header("ETag", '"etag"')
        self.end_headers()
        self.wfile.write(b"a\nb\nc\nd\ne\n")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def store_that_breaks_off(new_store: NewStore) -> Iterator[ObjectStore]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield new_store("runway-test", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_an_answer_that_breaks_off_is_unavailability_and_not_a_shorter_object(
    store_that_breaks_off: ObjectStore,
) -> None:
    for read in (
        lambda: store_that_breaks_off.read("k"),
        lambda: list(store_that_breaks_off.lines("k")),
        lambda: store_that_breaks_off.download("k", io.BytesIO()),
    ):
        with pytest.raises(Unavailable, match="read s3://runway-test/k"):
            read()


# Refusals

OPERATIONS: dict[str, tuple[str, Callable[[ObjectStore], object]]] = {
    "read": ("GetObject", lambda store: store.read("k")),
    "write": ("PutObject", lambda store: store.write("k", b"", replacing=None)),
    "overwrite": ("PutObject", lambda store: store.overwrite("k", b"")),
    "holds": ("HeadObject", lambda store: store.holds("k", digest_of(b""))),
    "upload": ("PutObject", lambda store: store.upload("k", io.BytesIO(b"x"), digest_of(b"x"))),
    "copy_object": ("CopyObject", lambda store: store.copy_object("k", "l")),
    "lines": ("GetObject", lambda store: list(store.lines("k"))),
    "download": ("GetObject", lambda store: store.download("k", io.BytesIO())),
    "list_keys": ("ListObjectsV2", lambda store: list(store.list_keys("k"))),
    "delete": ("DeleteObject", lambda store: store.delete(["k"])),
    "abort_pending_uploads": ("ListMultipartUploads", lambda store: store.abort_pending_uploads("k")),
}


@pytest.mark.parametrize("bucket", [None, ""])
def test_without_a_bucket_every_call_names_the_variable(bucket: str | None, new_store: NewStore) -> None:
    store = new_store(bucket)
    for _, call in OPERATIONS.values():
        with pytest.raises(ConfigurationError, match="RUNWAY_BUCKET"):
            call(store)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_refusal_is_permanent_with_s3s_code_and_without_its_text(
    name: str, store: ObjectStore, intercept: Intercept
) -> None:
    operation, call = OPERATIONS[name]
    intercept(f"before-send.s3.{operation}", answer_with(403, "AccessDenied"))
    with pytest.raises(Permanent) as refused:
        call(store)
    # An answer to HEAD has no body, so no code but the status.
    assert refused.value.code == ("403" if operation == "HeadObject" else "AccessDenied")
    assert CANARY not in str(refused.value)
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_server_in_trouble_is_unavailable(name: str, store: ObjectStore, intercept: Intercept) -> None:
    operation, call = OPERATIONS[name]
    intercept(f"before-send.s3.{operation}", answer_with(500, "InternalError"))
    with pytest.raises(Unavailable):
        call(store)


@pytest.fixture(scope="module")
def nobody_listens(new_store: NewStore) -> ObjectStore:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return new_store("runway-test", f"http://127.0.0.1:{taken.getsockname()[1]}")


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_server_that_is_gone_is_unavailable(name: str, nobody_listens: ObjectStore) -> None:
    with pytest.raises(Unavailable, match="EndpointConnectionError"):
        OPERATIONS[name][1](nobody_listens)


def test_a_bucket_that_does_not_exist_points_to_the_variable(new_store: NewStore) -> None:
    store = new_store("no-such-bucket-anywhere")
    for name in OPERATIONS.keys() - {"holds"}:
        with pytest.raises(Permanent, match=r"NoSuchBucket.*set RUNWAY_BUCKET to the application's bucket"):
            OPERATIONS[name][1](store)


def test_a_bucket_that_does_not_exist_holds_nothing(new_store: NewStore) -> None:
    assert not new_store("no-such-bucket-anywhere").holds("k", digest_of(b""))


def test_the_uri_is_what_a_person_types(store: ObjectStore) -> None:
    assert store.uri("a/b") == f"s3://{store.bucket}/a/b"
