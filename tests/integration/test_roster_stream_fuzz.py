"""What the OpenAPI document promises, asked at random: every answer is one that it names."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from runway_pipelines.local.stack import EmbeddedStack
from tests.integration.stream_server import StreamServer, add_run, bearer, publish, stream_server
from tests.integration.student_world import children, resolved_partner
from tests.integration.world import world_of
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

load_all_checks()
SCHEMA = schemathesis.openapi.from_path(str(files("runway_pipelines.stream") / "openapi.json"))
CHECKS = (status_code_conformance, content_type_conformance, response_schema_conformance)


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: Any, value: Any) -> bytes:
    """A body of candidates, as it was drawn."""
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")


@pytest.fixture(scope="module")
def served(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StreamServer, int]]:
    """A server, and a run whose roster is published and whose partner's students are resolved."""
    with pytest.MonkeyPatch.context() as patch, world_of(stack, patch) as world:
        partner = resolved_partner(world, children(3))
        publish(partner, "north")
        run = add_run(world, partner, "north")
        log = tmp_path_factory.mktemp("stream") / "server.log"
        with stream_server(log, RUNWAY_STUDENT_RESOLUTION=partner.partner_id) as server:
            yield server, run


def ask(case: Any, server: StreamServer, headers: dict[str, str] | None) -> None:
    response = case.call(base_url=server.url, headers=headers, timeout=PATIENCE_SECONDS)
    allowed = {int(status) for status in case.operation.definition.raw["responses"]} | {405}
    assert response.status_code in allowed, response.status_code
    assert response.status_code < 500, response.text  # nothing is wrong with the server's surroundings
    case.validate_response(response, checks=CHECKS)


@SCHEMA.parametrize()
@hypothesis.settings(
    max_examples=25,
    database=None,
)
def test_without_a_token(case: Any, served: tuple[StreamServer, int]) -> None:
    ask(case, served[0], None)


@SCHEMA.include(path_regex="/earthbeam/").parametrize()
@hypothesis.settings(
    max_examples=40,
    database=None,
)
def test_with_the_token_of_a_run(case: Any, served: tuple[StreamServer, int]) -> None:
    server, run = served
    case.path_parameters["run_id"] = str(run)
    ask(case, server, bearer(run))
