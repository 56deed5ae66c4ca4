"""A local server for LML's bulk lookup, with deterministic verdicts.

    python -m runway_pipelines.local.lml_server --port N [--key KEY] [--latency-ms MS] [--wrap MODULE:NAME]

`lml_contract` validates requests and answers against the OpenAPI file; `lml_verdicts` makes the answers. ``--wrap``
names an ASGI middleware, by which tests script faults.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import pkgutil
from collections.abc import Sequence
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from runway_pipelines.local.lml_contract import RESOLVE_PATH, first_error
from runway_pipelines.local.lml_verdicts import TRACKS_CONTRACT_VERSION, resolved
from runway_pipelines.local.processes import announce_ready, listen_on_loopback

MOST_INPUTS = 1000
# The real service's statistics.
CACHE_STATS = ("memory_hits", "pg_hits", "pg_misses", "api_calls", "pg_time_ms", "api_time_ms")


class Rejected(Exception):
    """A request that breaks the contract; ``status`` is the contract's for that."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BrokenAnswer(RuntimeError):
    """An answer of ours that breaks the contract: a defect of this server."""


class LmlServer:
    """The route, and the results made so far."""

    def __init__(self, key: str | None = None, latency_seconds: float = 0.0) -> None:
        self._key = key
        self._latency_seconds = latency_seconds
        self._prepared: dict[tuple[int, str, str, bool], bytes] = {}

    def app(self) -> Starlette:
        return Starlette(routes=[Route(RESOLVE_PATH, self._resolve, methods=["POST"])])

    async def _resolve(self, request: Request) -> Response:
        try:
            self._check_key(request)
            document = checked_request(request.headers.get("Content-Type", ""), await request.body())
        except Rejected as rejected:
            return _json(orjson.dumps({"message": str(rejected)}), rejected.status)
        await asyncio.sleep(self._latency_seconds)
        return _json(self._answer(document["inputs"], document.get("include_tracks", False)))

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("Authorization", "")
        if self._key is not None and not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
            raise Rejected(401, "missing or invalid key")

    def _answer(self, inputs: Sequence[dict[str, Any]], include_tracks: bool) -> bytes:
        before = len(self._prepared)
        results = [self._prepare(each, include_tracks) for each in inputs]
        misses = len(self._prepared) - before
        envelope: dict[str, Any] = {
            "cache_stats": dict.fromkeys(CACHE_STATS, 0) | {"memory_hits": len(inputs) - misses, "pg_hits": misses},
            "tracks_contract_version": TRACKS_CONTRACT_VERSION if include_tracks else None,
        }
        _check_answer("Response", envelope | {"results": []})
        return orjson.dumps({"results": [orjson.Fragment(result) for result in results]} | envelope)

    def _prepare(self, each: dict[str, Any], include_tracks: bool) -> bytes:
        """A library's result, made and validated once."""
        asked = (each["library_id"], each["artist_name"], each["album_title"], include_tracks)
        if asked not in self._prepared:
            result = resolved(*asked[:3], include_tracks=include_tracks)
            _check_answer("Result", result)
            self._prepared[asked] = orjson.dumps(result)
        return self._prepared[asked]


def checked_request(content_type: str, body: bytes) -> dict[str, Any]:
    """The request's document, validated; raises `Rejected`."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Rejected(400, "Content-Type is not application/json")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Rejected(400, f"malformed body: {error}") from None
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if isinstance(inputs, list) and len(inputs) > MOST_INPUTS:
        raise Rejected(413, f"more than {MOST_INPUTS} inputs")
    if (violation := first_error("Request", document)) is not None:
        is_of_an_input = len(violation.instance_path) > 1
        raise Rejected(422 if is_of_an_input else 400, f"{violation.message} at {violation.instance_path}")
    return dict(document)


def _check_answer(schema: str, document: dict[str, Any]) -> None:
    if (error := first_error(schema, document)) is not None:
        raise BrokenAnswer(f"{schema}: {error.message} at {error.instance_path}")


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def serve(app: ASGIApp, port: int) -> None:
    """Serve on loopback until told to stop; the readiness line names the port."""
    listener = listen_on_loopback(port)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    announce_ready(listener.getsockname()[1])  # the socket listens already: uvicorn answers whoever connects now
    uvicorn.Server(config).run(sockets=[listener])


def main(arguments: list[str] | None = None) -> None:
    """Serve with the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, which the readiness line names")
    parser.add_argument("--key", help="answer 401 to calls without this bearer key")
    parser.add_argument("--latency-ms", type=float, default=0, help="how long to wait before each answer")
    parser.add_argument("--wrap", metavar="MODULE:NAME", help="an ASGI middleware around the server")
    options = parser.parse_args(arguments)
    app: ASGIApp = LmlServer(options.key, options.latency_ms / 1000).app()
    serve(pkgutil.resolve_name(options.wrap)(app) if options.wrap else app, options.port)


if __name__ == "__main__":
    main()
