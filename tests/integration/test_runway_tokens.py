"""Runway's own tokens, made by its JWT library (tests/runway_tokens.json), at the address that Runway builds."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from tests.integration.stream_server import StreamServer, add_run, publish, stream_server
from tests.integration.world import Warehouse, world_of

if TYPE_CHECKING:
    from runway_pipelines.local.stack import EmbeddedStack

RUN = 17  # the run that the tokens name
FIXED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "runway_tokens.json").read_text())
TOKENS: dict[str, str] = FIXED["tokens"]
ROSTER = f"/api/earthbeam/jobs/{RUN}/roster"
PATHS = [f"{prefix}/earthbeam/jobs/{RUN}/{part}" for prefix in ("/api", "") for part in ("roster", "cross-year")]
NAME = "runway-jwt-key"


@pytest.fixture(scope="module")
def runway(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StreamServer, bytes]]:
    """A server that has Runway's secret as it is, and the published roster of run 17's tenant."""
    with pytest.MonkeyPatch.context() as patch, world_of(stack, patch) as world:
        world.secrets.create_secret(Name=NAME, SecretString=FIXED["secret"])
        warehouse = Warehouse()
        warehouse.students("north", 20)
        partner = world.partner(warehouse, ["north"])
        add_run(world, partner, "north", run=RUN)
        published = publish(partner, "north")
        with stream_server(tmp_path_factory.mktemp("runway") / "log", RUNWAY_STREAM_TOKEN_SECRET=NAME) as server:
            yield server, published


def ask(server: StreamServer, path: str, token: str) -> Any:
    return server.get(path, Authorization=f"Bearer {token}")


def test_the_token_that_runway_mints_gets_the_roster_at_the_address_that_runway_builds(
    runway: tuple[StreamServer, bytes],
) -> None:
    server, published = runway
    answer = ask(server, ROSTER, TOKENS["access"])
    assert (answer.status_code, answer.content) == (200, published)
    assert ask(server, ROSTER.removeprefix("/api"), TOKENS["access"]).content == published


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("access", 200),
        ("run as text", 200),
        ("with audience", 200),  # Runway's library ignores an audience that nobody asks for
        ("with another audience", 200),
        ("without type", 200),
        ("made in the future", 200),
        ("valid since it was made", 200),
        ("another run", 403),
        ("init", 401),
        ("another type", 401),
        ("expired", 401),
        ("without exp", 401),
        ("without run", 401),
        ("base64 text as key", 401),
        ("HS384", 401),
        ("none", 401),
        ("not valid before 2099", 401),
    ],
)
def test_every_token_of_runways_library(runway: tuple[StreamServer, bytes], name: str, status: int, path: str) -> None:
    server, _ = runway
    answer = ask(server, path, TOKENS[name])
    assert answer.status_code == status
    if status != 200:
        error = "unauthorized" if status == 401 else "token_of_another_run"
        assert answer.json()["error"] == error
        assert TOKENS[name] not in answer.text + server.log()


def test_each_fixed_token_is_tried() -> None:
    tried = [mark for mark in test_every_token_of_runways_library.pytestmark if mark.args[0] == ("name", "status")]  # type: ignore[attr-defined]
    assert {name for name, _ in tried[0].args[1]} == TOKENS.keys()


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"nbf": timedelta(seconds=30)}, 200),
        ({"nbf": timedelta(minutes=4)}, 200),
        ({"nbf": timedelta(minutes=10)}, 401),
        ({"iat": timedelta(seconds=30)}, 200),
        ({"iat": timedelta(days=1)}, 200),  # iat says when, not since when
        ({"exp": timedelta(seconds=-2)}, 401),
    ],
)
def test_two_clocks_a_little_apart_do_not_matter(
    runway: tuple[StreamServer, bytes], claims: dict[str, timedelta], status: int
) -> None:
    server, _ = runway
    now = datetime.now(UTC)
    standard = {"runId": RUN, "type": "access", "iat": now, "exp": now + timedelta(days=1)}
    key = base64.b64decode(FIXED["secret"])
    token = jwt.encode(standard | {name: now + away for name, away in claims.items()}, key, algorithm="HS256")
    assert ask(server, ROSTER, token).status_code == status


def test_the_address_in_the_payload_has_the_prefix_of_the_request(runway: tuple[StreamServer, bytes]) -> None:
    server, published = runway
    for prefix in ("/api", ""):
        payload = ask(server, f"{prefix}/earthbeam/jobs/{RUN}/cross-year", TOKENS["access"]).json()
        assert payload["crossYearMatchAvailable"] is True
        roster = payload["appUrls"]["roster"]
        assert roster == f"{server.url}{prefix}/earthbeam/jobs/{RUN}/roster"
        assert ask(server, roster, TOKENS["access"]).content == published


def test_an_audience_is_checked_where_the_setting_asks_for_one(
    runway: tuple[StreamServer, bytes], stack: EmbeddedStack, tmp_path: Path
) -> None:
    with (
        pytest.MonkeyPatch.context() as patch,
        world_of(stack, patch),
        stream_server(
            tmp_path / "log", RUNWAY_STREAM_TOKEN_SECRET=NAME, RUNWAY_STREAM_TOKEN_AUDIENCE="earthbeam"
        ) as server,
    ):
        statuses = {
            name: ask(server, ROSTER, TOKENS[name]).status_code
            for name in ("with audience", "with another audience", "access")
        }
    assert statuses == {"with audience": 200, "with another audience": 401, "access": 401}


def test_a_secret_of_text_is_the_key_itself(
    runway: tuple[StreamServer, bytes], stack: EmbeddedStack, tmp_path: Path
) -> None:
    with (
        pytest.MonkeyPatch.context() as patch,
        world_of(stack, patch),
        stream_server(
            tmp_path / "log", RUNWAY_STREAM_TOKEN_SECRET=NAME, RUNWAY_STREAM_TOKEN_SECRET_ENCODING="text"
        ) as server,
    ):
        assert ask(server, ROSTER, TOKENS["base64 text as key"]).status_code == 200
        assert ask(server, ROSTER, TOKENS["access"]).status_code == 401
