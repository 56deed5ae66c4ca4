"""What a partner's Snowflake does to an answer, a connection and a session; and what a refused login says to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from runway_pipelines.credentials.edu_connection import parse_connection
from runway_pipelines.errors import AuthenticationRefused
from runway_pipelines.settings import load_settings
from runway_pipelines.systems.snowflake.client import EduSnowflake
from tests.factories import secret_text
from tests.integration.stream_server import StreamServer, add_run, stream_server
from tests.integration.world import TestPartner, Warehouse, World, replace, run_partner
from tests.servers.snowflake_front import LOGIN, QUERY, Cut, SnowflakeFront, Verdict, refusal, snowflake_front

STUDENTS = 300


@pytest.fixture
def partner(world: World) -> TestPartner:
    """A partner with one tenant, and nothing published."""
    warehouse = Warehouse()
    warehouse.students("north", STUDENTS)
    return world.partner(warehouse, ["north"])


@pytest.fixture
def front(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[SnowflakeFront]:
    """In front of the stack's Snowflake, where the settings point."""
    with snowflake_front(world.stack.snowflake_host, world.stack.snowflake_port) as front:
        monkeypatch.setenv("RUNWAY_SNOWFLAKE_PORT", str(front.port))
        load_settings.cache_clear()
        yield front
    load_settings.cache_clear()


@pytest.fixture
def server(front: SnowflakeFront, tmp_path: Path) -> Iterator[StreamServer]:
    """The roster stream, whose Snowflake is behind the front."""
    with stream_server(tmp_path / "server.log") as running:
        yield running


def can_connect(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (check,) = (each for each in result.get_asset_check_evaluations() if each.check_name == "can_connect")
    return check


def lines(partner: TestPartner) -> int:
    return (partner.published("north") or b"").count(b"\n")


# what the partner's user was given


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{"ROWS_PER_RESULTSET": 120}, {"PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "JSON"}])
def test_what_the_user_was_given_shortens_no_roster(
    partner: TestPartner, instance: dg.DagsterInstance, parameters: dict[str, Any]
) -> None:
    given = {f"{partner.account}.ROSTER": parameters}
    replace(partner.world.stack.user_parameters_file, json.dumps(given).encode())
    try:
        assert run_partner(instance, partner).success
    finally:
        partner.world.stack.user_parameters_file.unlink()
    assert lines(partner) == STUDENTS


@pytest.mark.slow
def test_a_session_says_what_its_answers_depend_on(
    partner: TestPartner, front: SnowflakeFront, instance: dg.DagsterInstance
) -> None:
    assert run_partner(instance, partner).success
    (login,) = front.asked(LOGIN)
    said = login.document["data"]["SESSION_PARAMETERS"]
    assert (
        said.items()
        >= {
            "ROWS_PER_RESULTSET": 0,
            "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "ARROW",
            "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
            "TIMEZONE": "Etc/UTC",
            "STATEMENT_TIMEOUT_IN_SECONDS": 3600,
            "ABORT_DETACHED_QUERY": True,
        }.items()
    )


# connections that break off

CUTS = pytest.mark.parametrize("cut", [Cut(), Cut(is_reset=True)], ids=["ended", "reset"])


@pytest.mark.slow
@CUTS
@pytest.mark.parametrize(
    ("path", "statement"), [(LOGIN, ""), (QUERY, "limit 1"), (QUERY, "order by")], ids=["login", "trial", "roster"]
)
def test_a_connection_that_breaks_off_is_tried_again_and_is_no_verdict_on_the_key(
    partner: TestPartner, front: SnowflakeFront, instance: dg.DagsterInstance, cut: Cut, path: str, statement: str
) -> None:
    front.first(2, path, cut, statement)
    result = run_partner(instance, partner)
    assert result.success
    assert can_connect(result).passed
    assert lines(partner) == STUDENTS


@pytest.mark.slow
def test_a_connection_that_never_holds_is_no_verdict_on_the_key_either(
    partner: TestPartner, front: SnowflakeFront, instance: dg.DagsterInstance
) -> None:
    front.first(1000, QUERY, Cut())
    result = run_partner(instance, partner)
    assert not result.success
    check = can_connect(result)
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert "No verdict on the credentials" in str(check.description)


@pytest.mark.slow
@CUTS
@pytest.mark.parametrize("path", [LOGIN, QUERY], ids=["login", "query"])
def test_a_pull_is_tried_again_as_long_as_nothing_was_sent(
    partner: TestPartner, front: SnowflakeFront, server: StreamServer, cut: Cut, path: str
) -> None:
    run = add_run(partner.world, partner, "north")
    front.first(2, path, cut)
    pulled = server.pull(run, "?source=warehouse")
    assert (pulled.status_code, pulled.content.count(b"\n")) == (200, STUDENTS)


# sessions that the server has ended


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "renewing"), [(390111, 390114), (390112, 390114), (390112, 390113), (390114, 390114), (390195, 390115)]
)
def test_six_pulls_after_a_pause_are_six_times_200(
    partner: TestPartner, front: SnowflakeFront, server: StreamServer, code: int, renewing: int
) -> None:
    run = add_run(partner.world, partner, "north")

    def pull() -> int:
        return server.pull(run, "?source=warehouse").status_code

    with ThreadPoolExecutor(6) as executor:
        assert list(executor.map(lambda _: pull(), range(6))) == [200] * 6
    front.end_sessions(code, renewing)
    before = len(front.asked(QUERY))
    assert [pull() for _ in range(6)] == [200] * 6
    # one statement met an ended session; none of the others did
    assert len(front.asked(QUERY)) - before == 7


# logins that are refused


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (390144, "RSA_PUBLIC_KEY"),
        (390101, "DISABLED = FALSE"),
        (390102, "MINS_TO_UNLOCK"),
        (390189, "role"),
        (390422, "network policy"),
        (390201, "warehouse"),
        (390202, "warehouse"),
        (390913, "suspended"),
        (394300, "RSA_PUBLIC_KEY"),
        (394301, "time server"),
        (394302, "time server"),
        (394303, "time server"),
        (394304, "time server"),
    ],
)
def test_a_refused_login_says_what_to_do(front: SnowflakeFront, code: int, remedy: str) -> None:
    front.judge = lambda asked: refusal(code) if asked.path.startswith(LOGIN) else None
    snowflake = EduSnowflake(host=front.host, port=front.port, protocol="http", login_timeout=20, network_timeout=20)
    with pytest.raises(AuthenticationRefused) as refused:
        snowflake.open_session(parse_connection("a-secret", secret_text()), secret_version="v1", query_tag="a tag")
    assert refused.value.code == str(code)
    assert remedy in refused.value.remedy


def test_a_user_without_a_warehouse_is_a_verdict_on_the_credentials(
    partner: TestPartner, front: SnowflakeFront, instance: dg.DagsterInstance
) -> None:
    def computes_nothing(asked: Any) -> Verdict:
        is_cheap = "limit 0" in asked.statement or asked.statement == "select 1"
        return refusal(606) if asked.path.startswith(QUERY) and not is_cheap else None

    front.judge = computes_nothing
    result = run_partner(instance, partner)
    assert not result.success
    check = can_connect(result)
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert check.metadata["code"].value == "606"
    assert "give the user a default warehouse" in str(check.description)
    assert "set warehouse in the secret" in str(check.description)
    # found by the trial alone: no tenant asked
    assert len(front.asked(QUERY)) == 1
