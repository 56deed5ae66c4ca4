"""The OpenAPI document: valid, and in step with the code."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from openapi_spec_validator import validate
from starlette.routing import Route, Router

from runway_pipelines.settings import Settings
from runway_pipelines.stream.app import StreamApi
from runway_pipelines.stream.runs import API_PREFIX, ROSTER_PATH, RUN_ID
from runway_pipelines.stream.sources import Source
from runway_pipelines.wiring import build_services

DOCUMENT: dict[str, Any] = json.loads(files("runway_pipelines.stream").joinpath("openapi.json").read_text())


def test_the_document_is_valid() -> None:
    validate(DOCUMENT)


def test_the_document_names_every_route_and_its_methods(clean_environment: pytest.MonkeyPatch) -> None:
    routes: list[Route] = []

    def note(self: Router, given: list[Route], **options: Any) -> None:
        routes.extend(given)

    clean_environment.setattr(Router, "__init__", note)
    clean_environment.setenv("RUNWAY_BOARD_TOKEN", "x" * 20)
    settings = Settings()
    StreamApi(settings, build_services(settings), lambda: ()).app()
    served = {route.path: {method.lower() for method in route.methods or ()} - {"head"} for route in routes}
    documented = {
        server["url"].rstrip("/") + path: item.keys() - {"head", "servers"}
        for path, item in DOCUMENT["paths"].items()
        for server in item.get("servers", [{"url": "/"}])
    }
    assert served == documented
    assert {f"{API_PREFIX}{ROSTER_PATH}", ROSTER_PATH} < served.keys()


def test_the_documents_values_are_the_codes() -> None:
    components = DOCUMENT["components"]
    assert components["parameters"]["runId"]["schema"]["pattern"] == f"^{RUN_ID.pattern}$"
    assert components["parameters"]["source"]["schema"]["enum"] == [*Source]
    assert components["parameters"]["source"]["schema"]["default"] == Source.AUTO
    assert components["headers"]["X-Roster-Source"]["schema"]["enum"] == [Source.SNAPSHOT, Source.WAREHOUSE]
