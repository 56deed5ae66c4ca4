"""A tenant code is whatever the application has: it works everywhere, or it is shown, told and truly explained."""

from __future__ import annotations

import json
import unicodedata
import uuid
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from runway_pipelines.cli.app import main
from runway_pipelines.local.stack import BUCKET
from runway_pipelines.operations.events import OperatorEvents
from runway_pipelines.operations.outcome_sensor import Watched, build_run_outcome_sensor
from runway_pipelines.rosters.freshness_check import TENANTS_FRESH
from runway_pipelines.rosters.manifest import index_key
from tests.integration.event_bus import Bus, make_bus
from tests.integration.stream_server import StreamServer, add_run
from tests.integration.world import (
    TestPartner,
    Warehouse,
    World,
    definitions,
    materialized,
    run_partner,
    run_tenants,
)

CODES = [
    "St. Mary",
    "O'Brien ISD",
    "district.12",
    unicodedata.normalize("NFC", "Académie"),
    unicodedata.normalize("NFD", "Académie"),  # another tenant: nothing is normalized
    "R&D (East) +1 @x_-",
    "東京都",
    "जिला १२",
    "index.json",
    "a" * 128,
]
UNUSABLE = {
    "a/b": "U+002F",
    "x" * 129: "129 characters",
    "🏫": "U+1F3EB",
    " lead": "begins or ends with a space",
    "..": "the name of a folder",
    "x...y": "separates partitions",
    "a\nb": "U+000A",
}

pytestmark = pytest.mark.slow


def stored_index(partner: TestPartner) -> dict[str, dict[str, Any]]:
    body = partner.world.s3.get_object(Bucket=BUCKET, Key=index_key(partner.partner_id))["Body"].read()
    return {entry["tenant_code"]: entry for entry in json.loads(body)["tenants"]}


def test_every_code_that_a_key_can_hold_works_everywhere(
    world: World, instance: dg.DagsterInstance, server: StreamServer, tmp_path: Path
) -> None:
    warehouse = Warehouse()
    for number, code in enumerate(CODES):
        warehouse.students(code, 2 + number, prefix=f"S{number}-")
    partner = world.partner(warehouse, CODES)
    result = run_partner(instance, partner)
    assert result.success
    keys = sorted(partner.tenant(code).key for code in CODES)
    assert materialized(result, "published_roster") == materialized(result, "cross_year_roster") == keys
    assert set(keys) <= set(instance.get_dynamic_partitions("partner_tenants"))
    assert stored_index(partner).keys() == set(CODES)
    for code in CODES:
        expected = b"".join(warehouse.reference(code).lines)
        assert partner.published(code) == expected
        assert partner.manifest(code).tenant_code == code
        run = add_run(world, partner, code)
        for query in ("", "?source=warehouse"):
            answer = server.pull(run, query)
            assert (answer.status_code, answer.content) == (200, expected), code
        assert server.get(f"/earthbeam/jobs/{run}/cross-year", run).json()["crossYearMatchAvailable"] is True
        shown = CliRunner().invoke(main, ["rosters", "show", partner.tenant(code).key])
        assert shown.exit_code == 0, shown.output
        file = tmp_path / "roster.jsonl"
        loaded = CliRunner().invoke(main, ["rosters", "load", partner.tenant(code).key, "--to", str(file)])
        assert loaded.exit_code == 0, loaded.output
        assert file.read_bytes() == expected
    again = run_tenants(instance, partner, "O'Brien ISD", "O'Brien ISD")
    assert again.success
    assert materialized(again, "published_roster") == [partner.tenant("O'Brien ISD").key]
    with world.connect() as connection:
        connection.execute(
            "update tenant set deleted_on = now() where partner_id = %s and code = 'St. Mary'", [partner.partner_id]
        )
    purged = CliRunner().invoke(main, ["rosters", "purge", partner.tenant("St. Mary").key, "--yes", "--reason", "left"])
    assert purged.exit_code == 0, purged.output
    assert partner.published("St. Mary") is None
    assert partner.published("O'Brien ISD") is not None
    assert stored_index(partner).keys() == set(CODES) - {"St. Mary"}


def test_a_code_that_none_can_hold_is_shown_told_once_and_truly_explained(
    world: World, instance: dg.DagsterInstance, server: StreamServer
) -> None:
    warehouse = Warehouse()
    warehouse.students("fine", 3)
    partner = world.partner(warehouse, ["fine", *UNUSABLE])
    alone = world.partner(Warehouse(), ["only/this"])
    bus = make_bus(f"operators-{uuid.uuid4().hex[:8]}")
    tick = ticking(instance, bus)

    result = run_partner(instance, partner)
    assert result.success  # its other tenant is published, and nothing failed
    assert partner.published("fine") is not None
    index = stored_index(partner)
    assert index.keys() == {"fine", *UNUSABLE}
    for code, word in UNUSABLE.items():
        assert index[code]["status"] == "unusable_code"
        assert word in index[code]["reason"]
    check = next(each for each in result.get_asset_check_evaluations() if each.asset_check_key == TENANTS_FRESH)
    assert not check.passed
    assert f"{len(UNUSABLE)} of them can have no roster, because of their codes" in str(check.description)
    assert "'a/b'" in str(check.description)
    assert "a\nb" not in str(check.description)

    result = run_partner(instance, alone)  # a partner all of whose tenants are such
    assert result.success
    assert stored_index(alone)["only/this"]["status"] == "unusable_code"

    for _ in range(2):
        assert definitions().resolve_job_def("roster_freshness_job").execute_in_process(instance=instance).success
        tick()
    events = bus.received()
    told = {event["detail"]["partner"]: event for event in events}
    assert len(events) == len(told) == 2
    assert {event["detail-type"] for event in told.values()} == {"tenant_code_unusable"}
    assert told[partner.partner_id]["detail"]["counts"] == {"unusable": len(UNUSABLE)}
    reason = told[partner.partner_id]["detail"]["reasons"][f"{partner.partner_id}/'a/b'"]
    assert reason.startswith("unusable_code: the code has the character U+002F")

    for code, word in UNUSABLE.items():
        run = add_run(world, partner, code)
        answer = server.pull(run)
        assert (answer.status_code, answer.json()["error"]) == (409, "unusable_code")
        assert word in answer.json()["message"]
        assert server.get(f"/earthbeam/jobs/{run}/cross-year", run).json()["crossYearMatchAvailable"] is False


def ticking(instance: dg.DagsterInstance, bus: Bus) -> Any:
    """One tick after the other of the sensor that tells operators, from now on."""
    watched = Watched("partner_rosters_job", "roster_freshness_job", frozenset(), TENANTS_FRESH, TENANTS_FRESH)
    sensor = build_run_outcome_sensor(watched, interval_seconds=60)
    operators = OperatorEvents(event_bus=bus.name, envlabel="dev", region_name="us-west-2")
    cursor: list[str | None] = [None]

    def tick() -> None:
        context = dg.build_sensor_context(instance=instance, cursor=cursor[0], resources={"operators": operators})
        cursor[0] = sensor.evaluate_tick(context).cursor

    tick()
    return tick
