"""Large answers in chunks, as Snowflake gives them: the first in the answer, the others behind URLs.

A chunk is a gzipped Arrow stream. Its URL is signed, and whoever asks must send the answer's key, as S3 wants it for
objects that are encrypted with a client's key. Each answer's bytes are in a file without a name, so memory does not
grow with what is held, and a killed server leaves nothing.
"""

from __future__ import annotations

import gzip
import os
import secrets
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
from fakesnow.arrow import to_ipc, to_sf

# Uncompressed bytes of the chunk in the answer, of the first one with a URL, and of the largest; each doubles.
FIRST_BYTES = 128 * 1024
SMALLEST_BYTES = 256 * 1024
LARGEST_BYTES = 16 * 1024 * 1024
# How long a chunk waits for somebody to fetch it. Snowflake's URLs are good for six hours.
UNFETCHED_SECONDS = 600.0
# How long a chunk stays after it was fetched: an answer that broke off on its way is asked for once more.
FETCHED_SECONDS = 15.0
_PIECE_BYTES = 256 * 1024
_GZIP_LEVEL = 1
_ALGORITHM = "x-amz-server-side-encryption-customer-algorithm"
KEY_HEADER = "x-amz-server-side-encryption-customer-key"


@dataclass
class _Answer:
    """What one statement's chunks share; the file goes with the last of them."""

    owner: str
    key: str
    file: IO[bytes]
    left: int = 0


@dataclass
class Chunk:
    """One chunk that is held."""

    answer: _Answer
    signature: str
    start: int
    size: int
    expires_at: float

    def pieces(self) -> Iterator[bytes]:
        """Its bytes; raises ValueError or OSError if it goes meanwhile."""
        for offset in range(0, self.size, _PIECE_BYTES):
            yield os.pread(self.answer.file.fileno(), min(_PIECE_BYTES, self.size - offset), self.start + offset)


class Chunks:
    """The chunks of all sessions; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._chunks: dict[str, Chunk] = {}

    def __len__(self) -> int:
        return len(self._chunks)

    def answer(self, owner: str, table: pa.Table | None, rowtype: Any, base_url: str) -> dict[str, Any]:
        """The members of an answer that hold the rows, and where to fetch those that it does not hold."""
        if not table:
            return {"returned": 0, "rowsetBase64": ""}
        slices = _slices(table)
        first = next(slices)
        members = {
            "returned": first.num_rows,
            "rowsetBase64": b64encode(to_ipc(to_sf(first, rowtype))).decode("ascii"),
        }
        if first.num_rows == table.num_rows:
            return members
        key = b64encode(secrets.token_bytes(32)).decode("ascii")
        answer = _Answer(owner, key, tempfile.TemporaryFile())  # noqa: SIM115 - closed with its last chunk
        try:
            chunks = [self._hold(answer, piece, rowtype, base_url) for piece in slices]
        except BaseException:
            self._drop(lambda chunk: chunk.answer is answer)
            answer.file.close()
            raise
        return members | {"chunks": chunks, "qrmk": key, "chunkHeaders": {_ALGORITHM: "AES256", KEY_HEADER: key}}

    def find(self, name: str, signature: str, key: str) -> Chunk | None:
        """The chunk of that name for whoever may have it."""
        self.sweep()
        with self._lock:
            chunk = self._chunks.get(name)
        if chunk is None or not secrets.compare_digest(chunk.signature, signature):
            return None
        return chunk if secrets.compare_digest(chunk.answer.key, key) else None

    def fetched(self, chunk: Chunk) -> None:
        """Record that the chunk was sent to the end; it goes soon."""
        chunk.expires_at = min(chunk.expires_at, self._clock() + FETCHED_SECONDS)

    def sweep(self) -> None:
        """Drop what has expired."""
        now = self._clock()
        self._drop(lambda chunk: chunk.expires_at <= now)

    def forget(self, owner: str) -> None:
        """Drop all chunks of a session."""
        self._drop(lambda chunk: chunk.answer.owner == owner)

    def _hold(self, answer: _Answer, table: pa.Table, rowtype: Any, base_url: str) -> dict[str, Any]:
        stream = to_ipc(to_sf(table, rowtype))
        compressed = gzip.compress(stream, _GZIP_LEVEL)
        start = answer.file.tell()
        answer.file.write(compressed)
        answer.file.flush()
        name, signature = secrets.token_hex(16), secrets.token_urlsafe(32)
        chunk = Chunk(answer, signature, start, len(compressed), self._clock() + UNFETCHED_SECONDS)
        with self._lock:
            self._chunks[name] = chunk
            answer.left += 1
        return {
            "url": f"{base_url}/chunks/{name}?Signature={signature}",
            "rowCount": table.num_rows,
            "uncompressedSize": stream.size,
            "compressedSize": len(compressed),
        }

    def _drop(self, is_over: Callable[[Chunk], bool]) -> None:
        with self._lock:
            for name, chunk in [(name, chunk) for name, chunk in self._chunks.items() if is_over(chunk)]:
                del self._chunks[name]
                chunk.answer.left -= 1
                if not chunk.answer.left:
                    chunk.answer.file.close()


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    """The rows in parts that grow from `FIRST_BYTES` and `SMALLEST_BYTES` to `LARGEST_BYTES`."""
    row_bytes = max(1.0, table.nbytes / table.num_rows)
    size, position = FIRST_BYTES, 0
    while position < table.num_rows:
        part = table.slice(position, max(1, int(size / row_bytes)))
        yield part
        position += part.num_rows
        size = SMALLEST_BYTES if size == FIRST_BYTES else min(2 * size, LARGEST_BYTES)
