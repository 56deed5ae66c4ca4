"""The board on real servers: kept by the sensor's tick, served to whoever has its token, and shown in the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from runway_pipelines.cli.app import main
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.dagster_events import delete_old_runless, evaluate_sensor
from runway_pipelines.errors import Permanent
from runway_pipelines.local.stack import BUCKET, EmbeddedStack
from runway_pipelines.rosters.board_asset import BOARD, SENSOR_NAME
from runway_pipelines.rosters.events import CROSS_YEAR_ROSTER, PARTNER_ROSTER_INDEX, PUBLISHED_ROSTER
from runway_pipelines.rosters.manifest import BOARD_KEY, pointer_key
from runway_pipelines.systems.aws.object_store import ObjectStore, StoredDocument
from tests.cloudformation import allows
from tests.integration.stream_server import stream_server
from tests.integration.world import TestPartner, Warehouse, World, definitions, run_partner, world_of
from tests.unit.test_deployed_roles import statements

TOKEN = "kJ8f-2hQz_7Lw0PpVbN4tA"


@dataclass
class Night:
    """After a night: `north` is fresh, `empty` was refused, `new` came this morning, and `lost` has no secret."""

    world: World
    instance: dg.DagsterInstance
    partner: TestPartner
    lost: TestPartner
    made: Any

    def tick(self, cursor: str | None) -> Any:
        return evaluate_sensor(definitions(), SENSOR_NAME, self.instance, cursor)

    def page(self) -> str:
        return bytes(self.world.s3.get_object(Bucket=BUCKET, Key=BOARD_KEY)["Body"].read()).decode()


@pytest.fixture(scope="module")
def night(stack: EmbeddedStack) -> Iterator[Night]:
    with (
        pytest.MonkeyPatch.context() as patch,
        world_of(stack, patch) as world,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        warehouse = Warehouse()
        warehouse.students("north", 3)
        partner = world.partner(warehouse, ["north", "empty"])
        run_partner(instance, partner)
        with world.connect() as connection:
            connection.execute("insert into tenant (code, partner_id) values ('new', %s)", [partner.partner_id])
        lost = world.partner(Warehouse(), ["south"])
        lost.delete_secret()
        one = Night(world, instance, partner, lost, None)
        one.made = one.tick(None)
        yield one


def said(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["rosters", *arguments])


def test_the_first_tick_makes_the_page_and_records_the_numbers(night: Night) -> None:
    (event,) = night.made.asset_events
    assert event.asset_key == BOARD and not night.made.run_requests
    metadata = event.metadata
    numbers = {name: metadata[name].value for name in ("fresh", "stale", "held", "failed", "never", "partners")}
    assert numbers == {"fresh": 1, "stale": 0, "held": 1, "failed": 0, "never": 2, "partners": 2}
    rows = {row.data["partner"]: row.data for row in metadata["board"].records}
    mine = rows[night.partner.partner_id]
    not_fresh = {(row.data["partner"], row.data["district"]): row.data for row in metadata["not fresh"].records}
    refused = not_fresh[night.partner.partner_id, "empty"]
    assert refused["state"] == "held" and "no student" in refused["why"] and refused["since"]
    (lost,) = [row for (partner_id, _), row in not_fresh.items() if partner_id == night.lost.partner_id]
    assert "put its secret into Secrets Manager" in lost["next step"]
    assert (
        metadata["what changed"].value == "No roster changed within the last 24 hours, and 1 district got a first one"
    )
    assert "changed most" not in metadata
    # The run recorded the key's age; nobody knows anything of a key that is not there.
    assert (mine["key age"], mine["last rotation"]) == ("0 days", "never")
    assert rows[night.lost.partner_id]["key age"] == "none"
    page = night.page()
    for text in (night.partner.partner_id, "empty", "never had a roster", "there is no such secret"):
        assert text in page
    head = night.world.s3.head_object(Bucket=BUCKET, Key=BOARD_KEY)
    assert head["ContentType"] == "text/html; charset=utf-8"


def test_a_later_tick_makes_it_again_when_a_run_ended_and_records_it_when_it_changed(night: Night) -> None:
    idle = night.tick(night.made.cursor)
    assert not idle.asset_events
    assert idle.cursor == night.made.cursor
    assert "nothing ended" in idle.skip_message
    job = definitions().resolve_job_def("roster_freshness_job")
    assert job.execute_in_process(instance=night.instance).success
    again = night.tick(night.made.cursor)
    assert not again.asset_events and "as before" in again.skip_message
    assert json.loads(again.cursor)["recorded_at"] == json.loads(night.made.cursor)["recorded_at"]
    confirmed_at = night.partner.pointer("north").verified_at  # type: ignore[union-attr]
    night.partner.change_index("north", refreshed_at="2026-01-01T00:00:00+00:00")
    hour_ago = json.dumps(json.loads(again.cursor) | {"made_at": "2026-11-01T00:00:00+00:00"})
    (event,) = night.tick(hour_ago).asset_events
    night.partner.change_index("north", refreshed_at=confirmed_at)
    assert (event.metadata["fresh"].value, event.metadata["stale"].value) == (0, 1)


def test_what_was_decided_on_the_command_line_is_on_dagsters_pages_with_the_next_board(night: Night) -> None:
    north = f"{night.partner.partner_id}/north"
    before = night.tick(night.made.cursor).cursor
    assert said("unpin", north, "--reason", "the load is mended").exit_code == 0
    after = night.tick(before)
    found = {(event.asset_key, event.partition): event for event in after.asset_events}
    assert found[CROSS_YEAR_ROSTER, north].metadata["students"].value == 3
    assert "on the command line" in found[CROSS_YEAR_ROSTER, north].metadata["decided"].value
    assert (PUBLISHED_ROSTER, north) in found
    assert (PARTNER_ROSTER_INDEX, night.partner.partner_id) in found
    assert not night.tick(after.cursor).asset_events


@pytest.mark.parametrize("is_granted", [True, False])
def test_the_code_servers_role_can_show_a_decision_and_no_refusal_stops_the_board(
    night: Night, monkeypatch: pytest.MonkeyPatch, is_granted: bool
) -> None:
    north, may = f"{night.partner.partner_id}/north", statements("CodeServerRole")
    before = night.tick(night.made.cursor).cursor
    assert said("unpin", north, "--reason", "the load is mended").exit_code == 0

    def read(store: ObjectStore, key: str) -> StoredDocument | None:
        if not allows(may, "s3:GetObject", f"arn:aws:s3:::rosters/{key}") or not (is_granted or "index" in key):
            raise Permanent(expected="to read it", came="the refusal AccessDenied (HTTP 403)", remedy="grant it")
        return whole(store, key)

    whole = ObjectStore.read
    monkeypatch.setattr(ObjectStore, "read", read)
    after = night.tick(before)
    assert any(event.asset_key == CROSS_YEAR_ROSTER and event.partition == north for event in after.asset_events)
    assert any(event.asset_key == PUBLISHED_ROSTER for event in after.asset_events) is is_granted
    assert not night.tick(after.cursor).asset_events


def test_a_pointer_that_is_damaged_after_a_decision_stops_no_board(night: Night) -> None:
    north = night.partner.tenant("north")
    before = night.tick(night.made.cursor).cursor
    assert said("unpin", north.key, "--reason", "the load is mended").exit_code == 0
    key = pointer_key(north)
    pointer = night.world.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    night.world.s3.put_object(Bucket=BUCKET, Key=key, Body=b"{}")
    events = night.tick(before).asset_events
    night.world.s3.put_object(Bucket=BUCKET, Key=key, Body=pointer)
    (shown,) = (event for event in events if event.partition == north.key)
    assert isinstance(shown, dg.AssetObservation) and shown.asset_key == CROSS_YEAR_ROSTER


def test_dagster_never_calls_the_board_unsynced(night: Night) -> None:
    """A partner without credentials has no materialization, and the others get newer ones each night."""
    night.instance.report_runless_asset_event(night.made.asset_events[0])
    index = dg.AssetMaterialization(PARTNER_ROSTER_INDEX, partition=night.partner.partner_id)
    night.instance.report_runless_asset_event(index)
    graph = definitions().get_repository_def().asset_graph
    stale = CachingStaleStatusResolver(night.instance, graph, LoadingContextForTest(night.instance))
    assert stale.get_stale_causes(BOARD) == []
    assert stale.get_status(BOARD) is StaleStatus.FRESH


def test_what_was_recorded_long_ago_is_deleted_and_the_newest_stays(night: Night) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for count in range(3):
            instance.report_runless_asset_event(dg.AssetMaterialization(BOARD, metadata={"fresh": count}))
        other = dg.AssetMaterialization(["rosters", "other"])
        instance.report_runless_asset_event(other)
        soon = datetime.now(UTC) + timedelta(minutes=1)
        assert delete_old_runless(instance, BOARD, soon - timedelta(days=1)) == 0
        assert delete_old_runless(instance, BOARD, soon) == 2
        (left,) = instance.fetch_materializations(BOARD, limit=9).records
        assert left.asset_materialization is not None
        assert left.asset_materialization.metadata["fresh"].value == 2
        assert len(instance.fetch_materializations(other.asset_key, limit=9).records) == 1


def test_the_asset_can_be_materialized_by_a_person(night: Night) -> None:
    job = definitions().resolve_implicit_global_asset_job_def()
    run = job.execute_in_process(instance=night.instance, asset_selection=[BOARD])
    (made,) = run.asset_materializations_for_node("rosters__board")
    assert made.metadata["partners"].value == 2


def test_the_stream_shows_the_page_to_the_token_alone(night: Night, tmp_path: Path) -> None:
    with stream_server(tmp_path / "log", RUNWAY_BOARD_TOKEN=TOKEN) as server, server.client() as client:
        refused = client.get("/board")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic ")
        assert client.get("/board", auth=("ann", TOKEN[:-1])).status_code == 401
        shown = [
            client.get("/board", auth=("ann", TOKEN)),
            client.get("/board", headers={"Authorization": f"Bearer {TOKEN}"}),
        ]
        for answer in shown:
            assert answer.status_code == 200
            assert answer.text == night.page()
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            policy = answer.headers["content-security-policy"].split("; ")
            assert {"default-src 'none'", "style-src 'unsafe-inline'", "frame-ancestors 'none'"} <= set(policy)
        assert client.head("/board", auth=("", TOKEN)).status_code == 200
        night.world.s3.delete_object(Bucket=BUCKET, Key=BOARD_KEY)
        none_yet = client.get("/board", auth=("", TOKEN))
        assert (none_yet.status_code, none_yet.json()["error"]) == (404, "no_board_yet")
        assert server.metric('roster_stream_refused_tokens_total{reason="board"}') == 2
    assert TOKEN not in server.log()
    night.tick(None)


def test_without_a_token_of_its_own_there_is_no_such_page(night: Night, tmp_path: Path) -> None:
    with stream_server(tmp_path / "log", RUNWAY_BOARD_TOKEN="") as server, server.client() as client:
        for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {TOKEN}"}):
            assert client.get("/board", headers=headers).status_code == 404


def test_status_says_who_is_not_fresh_and_its_exit_code_too(night: Night) -> None:
    of_all = said("status")
    assert of_all.exit_code == ExitCode.NOT_WELL, of_all.output
    one = night.partner.partner_id
    document = json.loads(said("status", one, "--json").stdout)
    (row,) = document["partners"]
    assert (row["fresh"], row["held"], row["never"], row["is_fine"]) == (1, 1, 1, False)
    assert row["key"]["age_days"] == 0
    text = said("status", one).output
    assert "held empty" in text and "never new" in text and "no run has reached it yet" in text
    lost = said("status", night.lost.partner_id).output
    assert "no usable credentials" in lost and "docs/operations.md#the-secret-of-a-partner" in lost
    unknown = said("status", "nobody")
    assert unknown.exit_code == 1 and unknown.output.startswith("Error: Expected a partner")


def test_list_has_every_district_with_its_state(night: Night) -> None:
    rows = json.loads(said("list", night.partner.partner_id, "--json").stdout)
    assert [(row["tenant_code"], row["state"], row["students"]) for row in rows] == [
        ("empty", "held", 0),
        ("new", "never", 0),
        ("north", "fresh", 3),
    ]
    assert f"{night.lost.partner_id}/south" in said("list").output


def test_show_says_why_nothing_is_published(night: Night) -> None:
    one = night.partner.partner_id
    held = said("show", f"{one}/empty")
    assert held.exit_code == 1
    assert f"Nothing was ever published for {one}/empty. Its last refresh: refused by not_empty" in held.output
    assert "To do: " in held.output
    assert f"something published for {one}/new; got nothing so far. To do: " in said("show", f"{one}/new").output
    document = json.loads(said("show", f"{one}/empty", "--json").stdout)
    assert (document["district"]["state"], document["pointer"]) == ("held", None)


def test_show_says_that_the_last_refresh_failed_and_what_stays(night: Night) -> None:
    reason = "Expected an answer; got none. To do: run again."
    night.partner.change_index("north", status="failed", reason=reason)
    shown = said("show", f"{night.partner.partner_id}/north")
    assert shown.exit_code == 0
    assert shown.output.startswith("Failed: Expected an answer; got none. What was published before stays. To do: run")
    assert json.loads(said("show", f"{night.partner.partner_id}/north", "--json").stdout)["manifest"]["students"] == 3
