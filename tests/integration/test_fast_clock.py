"""A run whose clock was fast: what it left heals with the next run, and is never taken for fresh meanwhile."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from runway_pipelines.cli.app import main
from runway_pipelines.local.stack import BUCKET
from runway_pipelines.rosters.freshness_check import TENANTS_FRESH
from runway_pipelines.rosters.manifest import index_key
from tests.integration.stream_server import change_pointer
from tests.integration.world import TestPartner, Warehouse, World, run_partner

YEAR = timedelta(days=365)


@pytest.fixture
def partner(world: World, instance: dg.DagsterInstance) -> TestPartner:
    """Two tenants with a published roster."""
    warehouse = Warehouse()
    for tenant in ("north", "south"):
        warehouse.students(tenant, 3)
    one = world.partner(warehouse, ["north", "south"])
    assert run_partner(instance, one).success
    return one


def index_of(partner: TestPartner) -> dict[str, Any]:
    body = partner.world.s3.get_object(Bucket=BUCKET, Key=index_key(partner.partner_id))["Body"].read()
    return {entry["tenant_code"]: entry for entry in json.loads(body)["tenants"]}


def freshness(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (check,) = (each for each in result.get_asset_check_evaluations() if each.asset_check_key == TENANTS_FRESH)
    return check


def date(partner: TestPartner, code: str, moment: datetime, *, query: datetime | None = None) -> None:
    """The tenant's pointer as a run of that moment leaves it."""
    change_pointer(
        partner, code, verified_at=moment.isoformat(), query_started_at=(query or moment).isoformat(), run_id="fast"
    )


@pytest.mark.slow
def test_a_pointer_from_the_future_is_said_and_replaced(partner: TestPartner, instance: dg.DagsterInstance) -> None:
    begun = datetime.now(UTC)
    for code in ("north", "south"):
        date(partner, code, begun + YEAR)
        partner.change_index(code, refreshed_at=(begun + YEAR).isoformat())
    partner.warehouse.students("north", 2, prefix="N")
    partner.write_tables()
    result = run_partner(instance, partner)
    assert result.success
    for code, status in (("north", "new"), ("south", "unchanged")):
        pointer, entry = partner.pointer(code), index_of(partner)[code]
        assert pointer is not None
        for moment in (pointer.verified_at, pointer.query_started_at, entry["refreshed_at"]):
            assert begun - timedelta(seconds=1) < datetime.fromisoformat(moment) < begun + timedelta(hours=1)
        assert entry["status"] == status
        assert "from the future" in entry["reason"] and "run fast" in entry["reason"]
    assert partner.published("north") == b"".join(partner.warehouse.reference("north").lines)
    told = [entry.user_message for entry in instance.all_logs(result.run_id) if "from the future" in entry.user_message]
    assert any(partner.tenant("south").key in message for message in told)
    assert freshness(result).passed


@pytest.mark.slow
def test_a_superseded_run_confirms_nothing(partner: TestPartner, instance: dg.DagsterInstance) -> None:
    now = datetime.now(UTC)
    date(partner, "north", now - timedelta(hours=40), query=now + timedelta(minutes=3))
    result = run_partner(instance, partner)
    assert result.success
    entry = index_of(partner)["north"]
    assert entry["status"] == "superseded"
    assert datetime.fromisoformat(entry["refreshed_at"]) == (now - timedelta(hours=40)).replace(microsecond=0)
    check = freshness(result)
    assert not check.passed
    assert check.description == "1 of 2 tenants were not confirmed correct within 30 hours: north"


@pytest.mark.slow
def test_a_tenant_that_is_dated_in_the_future_is_not_fresh_until_a_run_confirms_it(
    partner: TestPartner, instance: dg.DagsterInstance
) -> None:
    from tests.integration.world import definitions

    partner.change_index("north", refreshed_at=(datetime.now(UTC) + YEAR).isoformat())
    job = definitions().resolve_job_def("roster_freshness_job")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    (check,) = (each for each in result.get_asset_check_evaluations() if each.partition == partner.partner_id)
    assert not check.passed
    assert check.description is not None and "1 of them is dated in the future" in check.description
    assert freshness(run_partner(instance, partner)).passed


def test_the_doctor_compares_every_servers_clock_with_ours(partner: TestPartner) -> None:
    from runway_pipelines.doctor.bucket import examine_bucket
    from runway_pipelines.doctor.findings import CheckStatus
    from runway_pipelines.doctor.partners import examine_database, examine_partner
    from runway_pipelines.settings import load_settings
    from runway_pipelines.wiring import build_services

    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        for ahead, status in ((timedelta(), CheckStatus.OK), (timedelta(hours=2), CheckStatus.WARNING)):

            def now(ahead: timedelta = ahead) -> datetime:
                return datetime.now(UTC) + ahead

            found = [
                *examine_database(services, now),
                *examine_bucket(services.store, now),
                *examine_partner(services, services.registry(), partner.partner_id, now),
            ]
            clocks = {finding.subject: finding for finding in found if finding.check == "clock"}
            assert set(clocks) == {"application database", "bucket", f"partner {partner.partner_id}"}
            assert {finding.status for finding in clocks.values()} == {status}, clocks
            if ahead:
                assert all("ahead of" in finding.detail for finding in clocks.values())
            assert [each for each in found if each.check != "clock" and each.status is not CheckStatus.OK] == []


def test_show_says_that_a_pointer_is_from_the_future(partner: TestPartner) -> None:
    def said() -> str:
        result = CliRunner().invoke(main, ["rosters", "show", partner.tenant("north").key])
        assert result.exit_code == 0, result.output
        return result.output

    assert "in the future" not in said()
    date(partner, "north", datetime.now(UTC) + YEAR)
    assert "It is dated 364 days" in said() and "in the future" in said()
