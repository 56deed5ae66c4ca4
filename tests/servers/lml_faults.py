"""LML's faults, wrapped around the local LML: ``lml_server --wrap tests.servers.lml_faults:FaultyLml``.

POST /_faults   a list of `Rule`, in force from now on ([]: no faults); forgets the calls so far
GET  /_calls    {"connections": how many connections made the calls, "calls": [{"number", "library_ids",
                "include_tracks", "at": seconds since the rules were set, "status", "faults"}, ...]}
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runway_pipelines.local.lml_contract import RESOLVE_PATH

Result = dict[str, Any]
Path = tuple[str | int, ...]

FOREIGN_OFFSET = 900_000_000
# Values that the contract's schema refuses, by what is wrong: the path in a result, and the value.
MALFORMED: dict[str, tuple[Path, Any]] = {
    "library_id as string": (("library_id",), "7"),
    "library_id as float": (("library_id",), 7.5),
    "library_id as bool": (("library_id",), True),
    "library_id null": (("library_id",), None),
    "kind unknown": (("kind",), "duo"),
    "kind null": (("kind",), None),
    "method unknown": (("method",), "guess"),
    "confidence above 1": (("confidence",), 1.01),
    "confidence below 0": (("confidence",), -0.01),
    "confidence NaN": (("confidence",), math.nan),
    "confidence infinite": (("confidence",), math.inf),
    "confidence as string": (("confidence",), "0.9"),
    "confidence as bool": (("confidence",), True),
    "main as list": (("main",), []),
    "discogs_artist_id as string": (("main", "discogs_artist_id"), "7"),
    "discogs_artist_id as bool": (("main", "discogs_artist_id"), True),
    "wikidata_qid as number": (("main", "wikidata_qid"), 7),
    "provenance null": (("provenance",), None),
    "provenance of strings": (("provenance",), ["discogs"]),
    "source unknown": (("provenance", 0, "source"), "myspace"),
    "source's method unknown": (("provenance", 0, "method"), "guess"),
    "source's confidence NaN": (("provenance", 0, "confidence"), math.nan),
    "source's confidence above 1": (("provenance", 0, "confidence"), 2),
    "external_id as number": (("provenance", 0, "external_id"), 7),
}
# Values that the schema accepts and a table refuses.
UNSTORABLE: dict[str, tuple[Path, Any]] = {
    "text with a NUL": (("provenance", 0, "external_id"), "a\x00b"),
    "text with a lone surrogate": (("provenance", 0, "external_id"), "a\ud800b"),
    "confidence null": (("confidence",), None),
    "discogs_artist_id beyond int": (("main", "discogs_artist_id"), 2**31),
    "discogs_artist_id beyond bigint": (("main", "discogs_artist_id"), 2**70),
    "musicbrainz_artist_id no uuid": (("main", "musicbrainz_artist_id"), "no uuid"),
    "source's confidence out of band": (
        ("provenance", 0),
        {
            "source": "discogs",
            "method": "exact_match",
            "confidence": 0.5,
            "external_id": "7",
        },
    ),
}

# Those that cost the library its verdict. Of the others, the member or its entry is left out.
COSTLY = [
    name
    for name, (path, _) in (MALFORMED | UNSTORABLE).items()
    if path in {("library_id",), ("kind",), ("confidence",), ("main",)}
]

_TRICKLED_PIECES = 20

Edit = Literal["short", "long", "duplicate", "foreign", "swapped", "repeated_source", "replace"]


class Rule(BaseModel):
    """One fault, and its calls: those that meet every given condition, at most ``times`` of them.

    =================  ================================================================================================
    ``status``         answer with ``status``, and with ``Retry-After: retry_after`` if given
    ``slow``           wait ``seconds`` before other faults and the answer
    ``cut``            close the connection in the middle of the answer
    ``trickle``        send the answer in pieces over ``seconds``
    ``body``           answer 200 with ``value``, a text, in place of the JSON
    ``huge``           answer 200 with ``size`` bytes of JSON
    ``short``          leave results out
    ``long``           append results a second time
    ``duplicate``      put the neighbour's result in place of results
    ``foreign``        results for libraries that nobody asked about (their ids plus `FOREIGN_OFFSET`)
    ``swapped``        results trade places with their neighbours
    ``repeated_source``  give results' first provenance row twice
    ``replace``        put ``value`` at ``path`` in results (examples: `MALFORMED`, `UNSTORABLE`)
    =================  ================================================================================================

    Faults in results apply to those of ``library_ids``, or else to the first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: Literal["status", "slow", "cut", "trickle", "body", "huge"] | Edit
    calls: tuple[int, ...] | None = Field(None, description="Call numbers, from 1, since the rules were set.")
    library_ids: tuple[int, ...] | None = Field(None, description="Calls that ask about any of these.")
    more_than: int | None = Field(None, description="Calls with more inputs than this.")
    times: int | None = Field(None, ge=1)
    status: int = Field(500, ge=200, le=599)
    retry_after: str | None = None
    seconds: float = Field(0, ge=0)
    size: int = Field(0, ge=0)
    path: Path = ()
    value: Any = None

    def concerns(self, number: int, library_ids: Sequence[int]) -> bool:
        """Whether a call meets every condition."""
        return (
            (self.calls is None or number in self.calls)
            and (self.library_ids is None or not set(self.library_ids).isdisjoint(library_ids))
            and (self.more_than is None or len(library_ids) > self.more_than)
        )


class Script:
    """The rules in force, and how often each still applies."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self._left = [math.inf if rule.times is None else rule.times for rule in rules]

    def rules_for(self, number: int, library_ids: Sequence[int]) -> list[Rule]:
        """The call's rules in the order given; each use counts."""
        concerned = []
        for index, rule in enumerate(self._rules):
            if self._left[index] > 0 and rule.concerns(number, library_ids):
                self._left[index] -= 1
                concerned.append(rule)
        return concerned


class FaultyLml:
    """The local LML's application with scripted faults; records every call to it."""

    def __init__(self, lml: ASGIApp) -> None:
        self._lml = lml
        self._forget([])

    def _forget(self, rules: Sequence[Rule]) -> None:
        self._script = Script(rules)
        self._calls: list[dict[str, Any]] = []
        self._connections: set[Any] = set()
        self._since = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        routes = {RESOLVE_PATH: self._resolve, "/_faults": self._set_faults, "/_calls": self._tell_calls}
        if scope["type"] != "http" or scope["path"] not in routes:
            await self._lml(scope, receive, send)
            return
        response = await routes[scope["path"]](Request(scope, receive))
        await response(scope, receive, send)

    async def _set_faults(self, request: Request) -> Response:
        try:
            # The standard library's decoder accepts NaN and unpaired surrogates, which faults need.
            rules = _RULES.validate_python(json.loads(await request.body()))
        except (ValueError, ValidationError) as error:
            return JSONResponse({"message": str(error)}, 400)
        self._forget(rules)
        return Response(status_code=204)

    async def _tell_calls(self, _: Request) -> Response:
        return JSONResponse({"connections": len(self._connections), "calls": self._calls})

    async def _resolve(self, request: Request) -> Response:
        self._connections.add(request.client)
        call: dict[str, Any] = {
            "number": len(self._calls) + 1,
            "library_ids": [],
            "include_tracks": None,
            "at": round(time.monotonic() - self._since, 3),
            "status": None,
            "faults": [],
        }
        self._calls.append(call)
        response = await self._answer(request)
        if response.status_code == 200:  # rules apply to valid requests alone
            response = await self._with_faults(call, await request.json(), bytes(response.body))
        call["status"] = response.status_code
        return response

    async def _answer(self, request: Request) -> Response:
        """The wrapped application's whole answer."""
        asked: list[Message] = [{"type": "http.request", "body": await request.body(), "more_body": False}]
        told: list[Message] = []

        async def receive() -> Message:
            return asked.pop() if asked else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            told.append(message)

        await self._lml(request.scope, receive, send)
        response = Response(b"".join(message.get("body", b"") for message in told), told[0]["status"])
        response.raw_headers = list(told[0]["headers"])
        return response

    async def _with_faults(self, call: dict[str, Any], asked: dict[str, Any], body: bytes) -> Response:
        call["library_ids"] = [each["library_id"] for each in asked["inputs"]]
        call["include_tracks"] = asked.get("include_tracks", False)
        rules = self._script.rules_for(call["number"], call["library_ids"])
        call["faults"] = [rule.fault for rule in rules]
        await asyncio.sleep(sum(rule.seconds for rule in rules if rule.fault == "slow"))
        for rule in rules:
            if rule.fault == "status":
                headers = {} if rule.retry_after is None else {"Retry-After": rule.retry_after}
                return JSONResponse({"message": "a scripted fault"}, rule.status, headers)
        if any(rule.fault in _EDITS for rule in rules):
            answer = json.loads(body)
            for rule in rules:
                answer["results"] = edited(answer["results"], rule)
            # The standard library's encoder writes NaN, and unpaired surrogates as escapes.
            body = json.dumps(answer).encode()
        return _sent(body, rules)


class CutResponse(Response):
    """The first half of an answer; then the server closes the connection, because the promised rest never comes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})


def _sent(body: bytes, rules: Sequence[Rule]) -> Response:
    """The answer, after the rules' faults in its body and in the connection."""
    for rule in rules:
        if rule.fault == "cut":
            return CutResponse(body, media_type="application/json")
        if rule.fault == "trickle":
            return StreamingResponse(_trickle(body, rule.seconds), media_type="application/json")
        if rule.fault == "body":
            return Response(str(rule.value), media_type="text/html")
        if rule.fault == "huge":
            return Response(b'"' + b"x" * (rule.size - 2) + b'"', media_type="application/json")
    return Response(body, media_type="application/json")


async def _trickle(body: bytes, seconds: float) -> AsyncIterator[bytes]:
    size = max(len(body) // _TRICKLED_PIECES, 1)
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(seconds / _TRICKLED_PIECES)


def edited(results: Sequence[Result], rule: Rule) -> list[Any]:
    """A copy of the results with the rule's fault; faults outside results change nothing."""
    edit = _EDITS.get(rule.fault)
    if edit is None or not results:
        return list(results)
    at = [
        index
        for index, result in enumerate(results)
        if (index == 0 if rule.library_ids is None else result["library_id"] in rule.library_ids)
    ]
    return edit(copy.deepcopy(list(results)), at, rule)


def _short(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    return [result for index, result in enumerate(results) if index not in at]


def _long(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    return results + [results[index] for index in at]


def _duplicate(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    return [results[(index + 1) % len(results)] if index in at else result for index, result in enumerate(results)]


def _foreign(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    for index in at:
        results[index]["library_id"] += FOREIGN_OFFSET
    return results


def _swapped(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    for index in at:
        other = (index + 1) % len(results)
        results[index], results[other] = results[other], results[index]
    return results


def _repeated_source(results: list[Result], at: list[int], rule: Rule) -> list[Result]:
    for index in at:
        results[index]["provenance"] += results[index]["provenance"][:1]
    return results


def _replace(results: list[Any], at: list[int], rule: Rule) -> list[Any]:
    for index in at:
        *parents, last = (index, *rule.path)
        place: Any = results
        for step in parents:
            place = place[step]
        place[last] = rule.value
    return results


_EDITS: Mapping[str, Callable[[list[Any], list[int], Rule], list[Any]]] = {
    "short": _short,
    "long": _long,
    "duplicate": _duplicate,
    "foreign": _foreign,
    "swapped": _swapped,
    "repeated_source": _repeated_source,
    "replace": _replace,
}
_RULES = TypeAdapter(list[Rule])
