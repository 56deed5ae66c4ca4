"""The routes as an OpenAPI document, for clients and for the fuzzer of the tests."""

from __future__ import annotations

from typing import Any

from runway_pipelines.stream.sources import Source

_RUN_ID = {
    "name": "run_id",
    "in": "path",
    "required": True,
    "description": "The run's id, as the token has it.",
    "schema": {"type": "string", "pattern": "^[1-9][0-9]{0,9}$"},
}
_ERROR = {
    "type": "object",
    "required": ["error", "message"],
    "additionalProperties": False,
    "properties": {"error": {"type": "string"}, "message": {"type": "string"}},
}
_STATE = {"type": "string", "enum": ["ok", "failed"]}


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all routes."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "The live roster stream", "version": "1"},
        "components": {
            "securitySchemes": {"run": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": {"Error": _ERROR},
        },
        "paths": {
            "/earthbeam/jobs/{run_id}/roster": {"get": _roster("getRoster"), "head": _roster("headRoster")},
            "/earthbeam/jobs/{run_id}/cross-year": {"get": _cross_year()},
            "/healthz": {"get": _plain("getHealth", "The process answers.", {"200": _json("It does.", _health())})},
            "/readyz": {
                "get": _plain(
                    "getReadiness",
                    "Database and bucket can be reached.",
                    {"200": _json("They can.", _readiness()), "503": _json("One cannot.", _readiness())},
                )
            },
            "/metrics": {
                "get": _plain(
                    "getMetrics",
                    "Metrics in Prometheus' text format.",
                    {"200": {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
                )
            },
            "/openapi.json": {
                "get": _plain("getDocument", "This document.", {"200": _json("The document.", {"type": "object"})})
            },
        },
    }


def _roster(operation: str) -> dict[str, Any]:
    is_head = operation.startswith("head")
    body = {} if is_head else {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
    described = {
        "X-Roster-Source": {"schema": {"type": "string", "enum": [Source.SNAPSHOT, Source.WAREHOUSE]}},
        "X-Roster-Sha256": {"schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
        "X-Roster-As-Of": {"schema": {"type": "string", "format": "date-time"}},
    }
    answers: dict[str, Any] = {
        "200": {"description": "The roster, one record a line.", "headers": described, **body},
        "304": {"description": "The client has this snapshot.", "headers": described},
        "400": _error("source is none that there is.", is_head),
        **_refusals(is_head),
        "409": _error("Cross-year matching is off for the run's partner or tenant.", is_head),
        "412": _error("The roster is not the one that If-Match names.", is_head),
        "426": _error("The warehouse's roster is not sent in HTTP/1.0.", is_head),
        "500": _error("No credentials, no session, or the statement failed, before the first byte.", is_head),
    }
    if not is_head:
        answers["206"] = {"description": "A part of a snapshot.", "headers": described, **body}
        answers["416"] = _error("The range begins behind the snapshot's end.", is_head)
    return {
        "operationId": operation,
        "summary": "The cross-year roster of the run's tenant.",
        "description": "A body that ends without its last chunk, or short of Content-Length, is not the whole roster.",
        "security": [{"run": []}],
        "parameters": [
            _RUN_ID,
            {
                "name": "source",
                "in": "query",
                "description": "For operators; auto takes the snapshot while it is fresh.",
                "schema": {"type": "string", "enum": [str(source) for source in Source], "default": "auto"},
            },
            *(_header(name) for name in ("Range", "If-Range", "If-Match", "If-None-Match", "Accept-Encoding")),
        ],
        "responses": answers,
    }


def _cross_year() -> dict[str, Any]:
    payload = {
        "type": "object",
        "required": ["crossYearMatchAvailable", "appUrls"],
        "properties": {
            "crossYearMatchAvailable": {"type": "boolean"},
            "appUrls": {"type": "object", "properties": {"roster": {"type": "string", "format": "uri"}}},
        },
    }
    return {
        "operationId": "getCrossYear",
        "summary": "The part of the executor's payload that concerns cross-year matching.",
        "security": [{"run": []}],
        "parameters": [_RUN_ID],
        "responses": {
            "200": _json("appUrls.roster is there only when matching is available.", payload),
            **_refusals(is_head=False),
            "500": _error("The application's database did not answer.", is_head=False),
        },
    }


def _plain(operation: str, summary: str, answers: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": operation, "summary": summary, "responses": answers}


def _refusals(is_head: bool) -> dict[str, Any]:
    return {
        "401": _error("No token, an invalid one, or one of another run.", is_head),
        "404": _error("There is no such run, or (for source=snapshot) no snapshot.", is_head),
    }


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {"type": "string"}}


def _error(description: str, is_head: bool) -> dict[str, Any]:
    return {"description": description} if is_head else _json(description, {"$ref": "#/components/schemas/Error"})


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _health() -> dict[str, Any]:
    return {"type": "object", "required": ["status"], "properties": {"status": _STATE}}


def _readiness() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["database", "bucket"],
        "additionalProperties": False,
        "properties": {"database": _STATE, "bucket": _STATE},
    }
