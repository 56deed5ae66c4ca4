"""A roster reaches its readers: the whole way, through Dagster, Snowflake's protocol, S3 and Postgres."""

import json
import logging
import re
from datetime import datetime

import dagster as dg
import pytest
from click.testing import CliRunner

from runway_pipelines.cli.app import main
from runway_pipelines.local.stack import BUCKET
from runway_pipelines.rosters.events import CROSS_YEAR_ROSTER
from runway_pipelines.rosters.manifest import index_key
from tests.integration.fault_proxy import fault_proxy
from tests.integration.world import (
    Warehouse,
    World,
    bring_in_line,
    definitions,
    failed_checks,
    materialized,
    reexecute,
    run_partner,
    run_tenants,
)


@pytest.fixture
def warehouse() -> Warehouse:
    one = Warehouse()
    for tenant in ("north", "south"):
        one.students(tenant, 30)
        one.student(
            tenant, "0604921", ("Local", "0012"), ("Local", "12"), ("State", "9"), ed_org_id=7, ed_org_type=None
        )
        one.student(tenant, "0604921", ("Local", "old"), year=2024)
        one.student(tenant, "no-code")
        one.student(tenant, "ü'\"\\", ("Local", None), ("", "x"), (None, "y"), ("Local", " 7 "))
        one.student(tenant, "twin-1", ("Local", "same"))
        one.student(tenant, "twin-2", ("Local", "same"), ("State", "own"))
    return one


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    """The failed step's own words."""
    (event,) = (event for event in result.all_events if event.is_step_failure)
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    return str(failure.description)


def observation(result: dg.ExecuteInProcessResult, asset: str) -> dg.AssetObservation:
    """The one observation of ``rosters/<asset>`` that a run made."""
    (found,) = (
        event.event_specific_data.asset_observation  # type: ignore[union-attr]
        for event in result.all_events
        if event.event_type_value == "ASSET_OBSERVATION" and event.asset_key == dg.AssetKey(["rosters", asset])
    )
    return found


def test_every_enabled_year_without_an_ods_gets_the_reference_bytes(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north", "south"], years={2024: False, 2025: True, 2026: False})
    result = run_partner(instance, partner)
    assert result.success
    for code in partner.tenant_codes:
        expected = b"".join(warehouse.reference(code).lines)
        assert partner.published(code, 2024) == expected
        assert partner.published(code, 2026) == expected
        assert partner.published(code, 2025) is None
    assert materialized(result, "cross_year_roster") == [partner.tenant(c).key for c in ("north", "south")]
    assert materialized(result, "published_roster") == [partner.tenant(c).key for c in ("north", "south")]
    assert materialized(result, "partner_roster_index") == [partner.partner_id]


@pytest.mark.slow
def test_the_manifest_counts_what_is_in_the_roster(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north"])
    secret_version = partner.rotate()
    result = run_partner(instance, partner)
    manifest, reference = partner.manifest("north"), warehouse.reference("north")
    assert (manifest.records, manifest.students, manifest.lines) == (
        reference.records,
        reference.students,
        len(reference.lines),
    )
    assert manifest.bytes == len(b"".join(reference.lines))
    assert manifest.colliding_codes == reference.colliding_codes == 1
    assert manifest.students_by_id_system == {"Local": 32, "State": 2}
    assert manifest.students_without_codes == 2
    assert manifest.students_by_school_year == {"2026": 35}
    assert (manifest.run_id, manifest.secret_version_id) == (result.run_id, secret_version)
    assert manifest.query_id
    assert manifest.previous_sha256 is None
    assert manifest.students_added is None


def test_unchanged_content_moves_nothing_but_the_time_of_verification(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north"])
    run_partner(instance, partner)
    keys, etag, before = partner.object_keys(), partner.etag("north"), partner.pointer("north")
    result = run_partner(instance, partner)
    assert result.success
    after = partner.pointer("north")
    assert before is not None
    assert after is not None
    assert (partner.object_keys(), partner.etag("north")) == (keys, etag)
    assert after.sha256 == before.sha256
    assert datetime.fromisoformat(after.verified_at) > datetime.fromisoformat(before.verified_at)
    assert after.run_id == result.run_id


def test_changed_content_is_a_new_snapshot_that_counts_its_changes(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north"])
    run_partner(instance, partner)
    first = partner.pointer("north")
    warehouse.student("north", "new-1", ("Local", "n1"))
    warehouse.student("north", "new-2")
    warehouse.student("north", "S00001", ("State", "more"))
    warehouse.associations = [row for row in warehouse.associations if row["student_unique_id"] != "S00002"]
    partner.write_tables()
    assert run_partner(instance, partner).success
    manifest = partner.manifest("north")
    assert first is not None
    assert manifest.previous_sha256 == first.sha256 != manifest.sha256
    assert (manifest.students_added, manifest.students_removed, manifest.students_changed) == (2, 1, 1)
    assert [students for _, students in manifest.trend] == [manifest.students - 1]
    newest = instance.fetch_materializations(CROSS_YEAR_ROSTER, limit=1).records[0].asset_materialization
    assert newest is not None and "students over its snapshots" in newest.metadata
    assert partner.published("north") == b"".join(warehouse.reference("north").lines)


@pytest.mark.slow
def test_a_year_that_was_enabled_since_gets_its_copy_of_unchanged_bytes(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north"])
    run_partner(instance, partner)
    etag = partner.etag("north")
    partner.enable_year(2025)
    assert run_partner(instance, partner).success
    assert partner.published("north", 2025) == partner.published("north", 2026)
    assert partner.etag("north") == etag


@pytest.mark.slow
def test_a_stable_key_that_somebody_overwrote_is_healed(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north"])
    run_partner(instance, partner)
    (key,) = (key for key in partner.object_keys() if key.startswith("__rosters/"))
    world.s3.put_object(Bucket="runway-local", Key=key, Body=b"something else")
    assert run_partner(instance, partner).success
    assert partner.published("north") == b"".join(warehouse.reference("north").lines)


@pytest.mark.slow
def test_a_partner_without_a_year_to_publish_to_says_so_and_keeps_its_snapshots(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north"], years={2026: True})
    result = run_partner(instance, partner)
    assert result.success
    assert partner.published("north") is None
    assert partner.pointer("north") is not None
    assert materialized(result, "published_roster") == []
    publication = observation(result, "published_roster")
    assert publication.metadata["keys"].value == 0
    assert str(publication.metadata["reason"].value).startswith("not published: the partner has no enabled school year")
    (check,) = (each for each in result.get_asset_check_evaluations() if each.check_name == "tenants_published")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    shown = CliRunner().invoke(main, ["rosters", "show", partner.tenant("north").key])
    assert shown.output.startswith("Kept, and not published: the partner has no enabled school year")


@pytest.mark.slow
def test_a_direct_materialization_records_both_assets_and_the_checks(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north", "south"])
    result = run_tenants(instance, partner, "north", "south")
    assert result.success
    both = [partner.tenant(code).key for code in ("north", "south")]
    assert materialized(result, "cross_year_roster") == both
    assert materialized(result, "published_roster") == both
    assert {(e.partition, e.check_name) for e in result.get_asset_check_evaluations()} == {
        (key, name)
        for key in both
        for name in (
            *("rows_of_tenant", "not_empty", "consumer_contract", "not_masked", "plausible_years", "merged_students"),
            *("colliding_codes", "unsafe_ids", "id_type_coverage", "students_lost"),
            *("students_added", "students_changed", "id_type_lost", "warehouse_moved"),
        )
    }
    assert partner.published("south") == b"".join(warehouse.reference("south").lines)


@pytest.mark.slow
def test_at_most_the_set_number_of_sessions_is_opened_and_none_for_nobody(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNWAY_SESSIONS_PER_PARTNER", "3")
    warehouse = Warehouse()
    codes = [f"t{number}" for number in range(12)]
    for code in codes:
        warehouse.students(code, 3)
    partner = world.partner(warehouse, codes)
    result = run_partner(instance, partner)
    (line,) = (e.user_message for e in instance.all_logs(result.run_id) if "Snowflake sessions" in e.user_message)
    assert line == f"{partner.partner_id}: 12 tenants over 3 Snowflake sessions"
    single = world.partner(warehouse, codes[:1])
    result = run_partner(instance, single)
    (line,) = (e.user_message for e in instance.all_logs(result.run_id) if "Snowflake session" in e.user_message)
    assert line.endswith("1 tenant over 1 Snowflake session")


def test_one_tenants_failure_is_red_stops_nobody_and_is_alone_redone(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north", "empty", "south"])
    result = run_partner(instance, partner)
    assert not result.success
    empty = partner.tenant("empty").key
    assert failed_checks(result) == {(empty, "not_empty")}
    said = failure_text(result)
    assert said.startswith(
        f"1 of 3 tenants is not published: {empty} refused by not_empty, and nobody can approve it: "
        "the warehouse has no student of this tenant"
    )
    assert f"on the page of rosters/partner_roster_index, partition {partner.partner_id}" in said
    for code in ("north", "south"):
        assert partner.published(code) == b"".join(warehouse.reference(code).lines)
    for asset in ("cross_year_roster", "published_roster"):
        statuses = instance.get_status_by_partition(
            dg.AssetKey(["rosters", asset]),
            [partner.tenant(code).key for code in partner.tenant_codes],
            dg.DynamicPartitionsDefinition(name="partner_tenants"),
        )
        assert statuses is not None
        assert {key.split("/")[1]: status.name for key, status in statuses.items() if status} == {
            "north": "MATERIALIZED",
            "south": "MATERIALIZED",
            "empty": "FAILED",
        }

    warehouse.students("empty", 2)
    partner.write_tables()
    before = partner.pointer("north")
    with reexecute(instance, result.run_id) as again:
        assert again.success
        assert materialized(again, "published_roster") == [empty]
        assert materialized(again, "partner_roster_index") == [partner.partner_id]
    assert partner.published("empty") == b"".join(warehouse.reference("empty").lines)
    assert partner.pointer("north") == before


@pytest.mark.slow
def test_a_selected_tenant_that_has_no_roster_any_more_fails_alone(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north", "south"])
    bring_in_line(instance)
    with world.connect() as connection:
        connection.execute(
            "update tenant set deleted_on = now() where partner_id = %s and code = 'north'", [partner.partner_id]
        )
    result = run_tenants(instance, partner, "north", "south", bring_partitions_in_line=False)
    assert not result.success
    assert partner.published("north") is None
    assert partner.published("south") == b"".join(warehouse.reference("south").lines)


@pytest.mark.slow
def test_a_partner_that_was_switched_off_says_what_is_still_published(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north"])
    assert run_partner(instance, partner).success
    with world.connect() as connection:
        connection.execute("update partner set cross_year_matching_enabled = false where id = %s", [partner.partner_id])
    result = run_partner(instance, partner, bring_partitions_in_line=False)
    assert not result.success
    assert any("1 files are still published" in entry.user_message for entry in instance.all_logs(result.run_id))
    document = world.s3.get_object(Bucket=BUCKET, Key=index_key(partner.partner_id))["Body"].read()
    (entry,) = json.loads(document)["tenants"]
    assert (entry["tenant_code"], entry["status"]) == ("north", "not in the registry")
    assert "purge" in entry["reason"]
    assert partner.published("north") is not None


@pytest.mark.slow
def test_the_table_of_a_failed_partner_has_the_reason_beside_the_status(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north", "empty"])
    result = run_partner(instance, partner)
    district = observation(result, "cross_year_roster")
    assert district.partition == partner.tenant("empty").key
    (event,) = (
        each.materialization
        for each in result.get_asset_materialization_events()
        if each.asset_key == dg.AssetKey(["rosters", "partner_roster_index"])
    )
    assert {each.check_name for each in result.get_asset_check_evaluations() if not each.passed} >= {
        "not_empty",
        "tenants_published",
    }
    assert district.metadata["state"].value == "refused"
    assert "the warehouse has no student" in district.description
    assert event.partition == partner.partner_id
    (empty,) = (record.data for record in event.metadata["problems"].records)
    assert list(empty)[:5] == ["tenant", "status", "since", "students", "reason"]
    assert empty["status"] == "held"
    assert str(empty["since"]).endswith(" UTC, never had a roster")
    assert str(empty["reason"]).startswith(
        "refused by not_empty, and nobody can approve it: the warehouse has no student"
    )
    assert str(empty["next step"]).startswith("correct the data")
    (north,) = (record.data for record in event.metadata["rosters"].records)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", str(north["refreshed_at"]))
    assert event.metadata["tenants with a snapshot"].value == 1


@pytest.mark.parametrize(
    "key", ["rosters/cross_year_roster", "rosters/partner_roster_index", "credentials/edu_connection"]
)
@pytest.mark.parametrize("are_checks_alone", [True, False])
@pytest.mark.usefixtures("world")
def test_a_run_of_no_partition_says_to_choose_some(
    instance: dg.DagsterInstance, key: str, are_checks_alone: bool
) -> None:
    asset = dg.AssetKey.from_user_string(key)
    job = definitions().resolve_implicit_global_asset_job_def()
    checks = {check for check in job.asset_layer.asset_graph.asset_check_keys if check.asset_key == asset}
    assert checks
    # "Execute all" of the tab of checks asks for the checks alone.
    selected = job.get_subset(
        asset_selection=set() if are_checks_alone else {asset},
        asset_check_selection=checks if are_checks_alone else None,
    )
    result = selected.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert failure_text(result).startswith("Choose partitions: use Materialize on the asset's page")


@pytest.mark.slow
def test_the_index_knows_every_tenant_whichever_route_refreshed_it(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north", "south", "empty"])
    run_partner(instance, partner)
    run_tenants(instance, partner, "north", "north")
    document = world.s3.get_object(Bucket=BUCKET, Key=index_key(partner.partner_id))["Body"].read()
    statuses = {entry["tenant_code"]: entry["status"] for entry in json.loads(document)["tenants"]}
    assert statuses == {"north": "unchanged", "south": "new", "empty": "held"}


@pytest.mark.slow
def test_statements_carry_the_partner_the_tenant_and_the_run_in_their_query_tags(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    partner = world.partner(warehouse, ["north"])
    with fault_proxy(f"http://127.0.0.1:{world.stack.snowflake_port}") as proxy:
        monkeypatch.setenv("RUNWAY_SNOWFLAKE_PORT", proxy.url.rsplit(":", 1)[1])
        result = run_partner(instance, partner)
    assert result.success
    sent = b"".join(proxy.bodies).decode()
    assert f"runway_pipelines partner={partner.partner_id} run={result.run_id}" in sent
    assert f"runway_pipelines tenant={partner.tenant('north')} run={result.run_id}" in sent


@pytest.mark.slow
def test_the_log_has_a_line_for_each_tenant_with_rows_time_and_how_far_the_run_is(
    world: World, instance: dg.DagsterInstance, warehouse: Warehouse
) -> None:
    partner = world.partner(warehouse, ["north", "south"])
    result = run_partner(instance, partner)
    messages = [entry.user_message for entry in instance.all_logs(result.run_id) if " ms: " in entry.user_message]
    assert len(messages) == 2
    rows = len(warehouse.reference("north").lines)
    for number, message in enumerate(messages, start=1):
        start = rf"{partner.partner_id}/(north|south): new, {rows} lines, [0-9]+ ms: published to 1 school year "
        assert re.match(start, message)
        assert message.endswith(f"[{number} of 2 tenants, {rows * number} lines so far]")
    assert logging.getLogger("snowflake").level == logging.WARNING
