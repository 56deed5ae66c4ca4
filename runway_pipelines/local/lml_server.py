"""A server for LML's bulk lookup on loopback: deterministic verdicts, and faults on demand.

    python -m runway_pipelines.local.lml_server --port N [--key KEY] [--latency-ms MS]

Requests and its own answers are held to the OpenAPI file (`lml_contract`); what it answers is in `lml_verdicts`. For
tests, with neither key nor latency:

    POST /_faults   a list of `lml_faults.Rule` in force from now on; forgets the calls so far ([]: no faults)
    GET  /_calls    {"connections": how many the calls came over, "calls": [{"number", "library_ids",
                    "include_tracks", "at": seconds since the rules were set, "status", "faults"}, ...]}
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
import uvicorn
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from runway_pipelines.local.lml_contract import RESOLVE_PATH, first_error
from runway_pipelines.local.lml_faults import Rule, Script, edited
from runway_pipelines.local.lml_verdicts import TRACKS_CONTRACT_VERSION, resolved
from runway_pipelines.local.processes import announce_ready, listen_on_loopback

MOST_INPUTS = 1000
_TRICKLED_PIECES = 20
_RULES = TypeAdapter(list[Rule])


class Rejected(Exception):
    """A request that the contract refuses, with the status it names for that."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BrokenAnswer(RuntimeError):
    """The stub would answer what the contract does not allow: a defect of the stub."""


class LmlServer:
    """The routes, the verdicts made so far, and what was asked since the rules were set."""

    def __init__(self, key: str | None = None, latency_seconds: float = 0.0) -> None:
        self._key = key
        self._latency_seconds = latency_seconds
        self._prepared: dict[tuple[int, str, str, bool], bytes] = {}
        self._forget([])

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route(RESOLVE_PATH, self._resolve, methods=["POST"]),
                Route("/_faults", self._set_faults, methods=["POST"]),
                Route("/_calls", self._tell_calls, methods=["GET"]),
            ]
        )

    def _forget(self, rules: Sequence[Rule]) -> None:
        self._script = Script(rules)
        self._calls: list[dict[str, Any]] = []
        self._connections: set[Any] = set()
        self._since = time.monotonic()

    async def _resolve(self, request: Request) -> Response:
        """Record the call, apply its faults, answer."""
        self._connections.add(request.client)
        at = round(time.monotonic() - self._since, 3)
        call: dict[str, Any] = {"number": len(self._calls) + 1, "library_ids": [], "include_tracks": None, "at": at}
        call |= {"status": None, "faults": []}
        self._calls.append(call)
        response = await self._response(request, call)
        call["status"] = response.status_code
        return response

    async def _response(self, request: Request, call: dict[str, Any]) -> Response:
        try:
            self._check_key(request)
            document = checked_request(request.headers.get("Content-Type", ""), await request.body())
        except Rejected as rejected:
            return _problem(rejected.status, str(rejected))
        call["library_ids"] = [each["library_id"] for each in document["inputs"]]
        call["include_tracks"] = document.get("include_tracks", False)
        rules = self._script.rules_for(call["number"], call["library_ids"])
        call["faults"] = [rule.fault for rule in rules]
        await asyncio.sleep(self._latency_seconds + sum(rule.seconds for rule in rules if rule.fault == "slow"))
        for rule in rules:
            if rule.fault == "status":
                headers = {} if rule.retry_after is None else {"Retry-After": rule.retry_after}
                return _problem(rule.status, "a fault on demand", headers)
        return _sent(self._answer(document["inputs"], call["include_tracks"], rules), rules)

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("Authorization", "")
        if self._key is not None and not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
            raise Rejected(401, "missing or invalid key")

    def _answer(self, inputs: Sequence[dict[str, Any]], include_tracks: bool, rules: Sequence[Rule]) -> bytes:
        """The JSON; valid, unless a rule edits the results."""
        before = len(self._prepared)
        results = [self._prepare(each, include_tracks) for each in inputs]
        misses = len(self._prepared) - before
        envelope: dict[str, Any] = {
            "cache_stats": {"hits": len(inputs) - misses, "misses": misses, "backend": "memory"},
            "tracks_contract_version": TRACKS_CONTRACT_VERSION if include_tracks else None,
        }
        _check_answer("Response", envelope | {"results": []})
        if not any(rule.edits_results for rule in rules):
            return orjson.dumps({"results": [orjson.Fragment(result) for result in results]} | envelope)
        faulty = [orjson.loads(result) for result in results]
        for rule in rules:
            faulty = edited(faulty, rule)
        # The standard library's encoder: it writes NaN, and unpaired surrogates as escapes.
        return json.dumps({"results": faulty} | envelope).encode()

    def _prepare(self, each: dict[str, Any], include_tracks: bool) -> bytes:
        """A library's result, made and validated once."""
        asked = (each["library_id"], each["artist_name"], each["album_title"], include_tracks)
        if asked not in self._prepared:
            result = resolved(*asked[:3], include_tracks=include_tracks)
            _check_answer("Result", result)
            self._prepared[asked] = orjson.dumps(result)
        return self._prepared[asked]

    async def _set_faults(self, request: Request) -> Response:
        try:
            # The standard library's decoder: NaN and unpaired surrogates are faults to be had.
            rules = _RULES.validate_python(json.loads(await request.body()))
        except (ValueError, ValidationError) as error:
            return _problem(400, str(error))
        self._forget(rules)
        return Response(status_code=204)

    async def _tell_calls(self, request: Request) -> Response:
        return _json(orjson.dumps({"connections": len(self._connections), "calls": self._calls}))


class CutResponse(Response):
    """The first half of an answer; then the server closes the connection, for the promised rest never comes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})


def checked_request(content_type: str, body: bytes) -> dict[str, Any]:
    """A request's document; raises `Rejected` with the contract's status."""
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


def _sent(body: bytes, rules: Sequence[Rule]) -> Response:
    """The answer, with what the rules do to its body or to the connection."""
    for rule in rules:
        if rule.fault == "cut":
            return CutResponse(body, media_type="application/json")
        if rule.fault == "trickle":
            return StreamingResponse(_trickle(body, rule.seconds), media_type="application/json")
        if rule.fault == "body":
            return Response(str(rule.value), media_type="text/html")
        if rule.fault == "huge":
            return _json(b'"' + b"x" * (rule.size - 2) + b'"')
    return _json(body)


async def _trickle(body: bytes, seconds: float) -> AsyncIterator[bytes]:
    size = max(len(body) // _TRICKLED_PIECES, 1)
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(seconds / _TRICKLED_PIECES)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps({"detail": message}), status, headers, media_type="application/json")


def main(arguments: list[str] | None = None) -> None:
    """Run the server with the command line's options until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one, which the readiness line names")
    parser.add_argument("--key", help="answer 401 to calls without this bearer key")
    parser.add_argument("--latency-ms", type=float, default=0, help="how long to wait before each answer")
    options = parser.parse_args(arguments)
    listener = listen_on_loopback(options.port)
    server = LmlServer(options.key, options.latency_ms / 1000)
    config = uvicorn.Config(server.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    announce_ready(listener.getsockname()[1])  # it listens: who connects now is answered as soon as uvicorn runs
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
