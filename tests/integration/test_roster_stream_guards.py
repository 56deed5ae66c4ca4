"""The stream under a hold or a pin, and what the guards see of the warehouse's roster before its first row is sent."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime

import pytest

from runway_pipelines.local.stack import BUCKET
from runway_pipelines.rosters.decisions import Decision, What
from runway_pipelines.rosters.index import record_outcomes
from runway_pipelines.rosters.manifest import hold_key, manifest_key, snapshot_key
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services
from tests.integration.stream_server import StreamServer, add_run, change_pointer, publish, refresh
from tests.integration.world import TestPartner, Warehouse, World
from tests.waiting import wait_until

STALE = "2020-01-01T00:00:00+00:00"


@pytest.fixture
def partner(world: World) -> TestPartner:
    warehouse = Warehouse()
    warehouse.students("north", 300)
    return world.partner(warehouse, ["north", "south"])


@pytest.fixture
def run(world: World, partner: TestPartner) -> int:
    return add_run(world, partner, "north")


def lose(partner: TestPartner, students: int) -> None:
    """The first students vanish from the warehouse."""
    gone = {f"S{number:05d}" for number in range(students)}
    rows = partner.warehouse.associations
    partner.warehouse.associations = [row for row in rows if row["student_unique_id"] not in gone]
    partner.write_tables()


def hold(partner: TestPartner) -> None:
    """A refresh finds half of the students, and the tenant is held."""
    lose(partner, 150)
    assert refresh(partner, "north").hold is not None


def services_of(partner: TestPartner) -> AbstractContextManager[RosterServices]:
    load_settings.cache_clear()
    return build_services(load_settings()).process_config_and_initialize_cm()


def decide(partner: TestPartner, what: What, sha256: str | None = None) -> None:
    with services_of(partner) as services:
        services.decide(partner.tenant("north"), Decision(what, "ann", "a test", sha256), "test")


def test_under_a_hold_what_is_published_is_served_however_old_and_after_a_rotation(
    server: StreamServer, partner: TestPartner, run: int
) -> None:
    publish(partner, "north")
    good = partner.published("north")
    hold(partner)
    change_pointer(partner, "north", verified_at=STALE)
    partner.rotate()
    answer = server.pull(run)
    assert (answer.status_code, answer.content) == (200, good)
    assert (answer.headers["X-Roster-Source"], answer.headers["X-Roster-Held"]) == ("snapshot", "true")
    wait_until(lambda: "held since" in server.log())  # the line is written when the client has it all


def test_an_operator_goes_around_a_hold_by_asking_for_the_warehouse(
    server: StreamServer, partner: TestPartner, run: int
) -> None:
    publish(partner, "north")
    hold(partner)
    answer = server.pull(run, "?source=warehouse")
    assert answer.content == b"".join(partner.warehouse.reference("north").lines)
    assert answer.headers["X-Roster-Source"] == "warehouse"
    wait_until(lambda: "around any hold" in server.log())


def test_while_a_tenant_is_pinned_its_old_snapshot_is_served(
    server: StreamServer, partner: TestPartner, run: int
) -> None:
    publish(partner, "north")
    old = partner.published("north")
    partner.warehouse.student("north", "new", ("Local", "n"))
    partner.write_tables()
    publish(partner, "north")
    decide(partner, What.ROLLBACK)
    change_pointer(partner, "north", verified_at=STALE)
    answer = server.pull(run)
    assert (answer.content, answer.headers["X-Roster-Pinned"]) == (old, "true")
    decide(partner, What.UNPIN)
    assert "X-Roster-Pinned" not in server.pull(run).headers


def test_a_damaged_snapshot_that_is_pinned_is_no_reason_to_ask_the_warehouse(
    server: StreamServer, partner: TestPartner, run: int
) -> None:
    publish(partner, "north")
    old = partner.pointer("north")
    partner.warehouse.student("north", "new", ("Local", "n"))
    partner.write_tables()
    publish(partner, "north")
    decide(partner, What.ROLLBACK)
    assert old is not None
    partner.world.s3.delete_object(Bucket=BUCKET, Key=snapshot_key(partner.tenant("north"), old.sha256))
    assert server.pull(run).status_code == 500


def test_without_a_manifest_what_the_warehouse_has_cannot_be_compared(
    server: StreamServer, partner: TestPartner, run: int
) -> None:
    publish(partner, "north")
    good = partner.published("north")
    pointer = partner.pointer("north")
    assert pointer is not None
    change_pointer(partner, "north", verified_at=STALE)
    partner.world.s3.delete_object(Bucket=BUCKET, Key=manifest_key(partner.tenant("north"), pointer.sha256))
    lose(partner, 150)
    answer = server.pull(run)
    assert (answer.content, answer.headers["X-Roster-Held"]) == (good, "true")


def test_a_damaged_snapshot_under_a_hold_is_no_reason_to_ask_the_warehouse(
    server: StreamServer, partner: TestPartner, run: int
) -> None:
    publish(partner, "north")
    hold(partner)
    pointer = partner.pointer("north")
    assert pointer is not None
    partner.world.s3.delete_object(Bucket=BUCKET, Key=snapshot_key(partner.tenant("north"), pointer.sha256))
    assert server.pull(run).status_code == 500


def test_a_hold_that_cannot_be_read_holds(server: StreamServer, partner: TestPartner, run: int) -> None:
    publish(partner, "north")
    good = partner.published("north")
    partner.world.s3.put_object(Bucket=BUCKET, Key=hold_key(partner.tenant("north")), Body=b"{")
    change_pointer(partner, "north", verified_at=STALE)
    lose(partner, 5)
    answer = server.pull(run)
    assert (answer.content, answer.headers["X-Roster-Held"]) == (good, "true")


def test_a_first_roster_that_is_held_reaches_nobody(server: StreamServer, partner: TestPartner, run: int) -> None:
    partner.world.s3.put_object(Bucket=BUCKET, Key=hold_key(partner.tenant("north")), Body=b"{}")
    answer = server.pull(run)
    assert (answer.status_code, answer.json()["error"]) == (409, "roster_is_held")


@pytest.mark.parametrize("lost", [15, 150])
def test_without_a_hold_the_warehouses_roster_must_pass_the_guards_by_its_announcements(
    server: StreamServer, partner: TestPartner, run: int, lost: int
) -> None:
    publish(partner, "north")
    good = partner.published("north")
    change_pointer(partner, "north", verified_at=STALE)
    lose(partner, lost)
    answer = server.pull(run)
    if lost == 15:  # 5 %, and fewer than 20
        assert answer.headers["X-Roster-Source"] == "warehouse"
        assert answer.content == b"".join(partner.warehouse.reference("north").lines)
    else:
        assert (answer.headers["X-Roster-Source"], answer.headers["X-Roster-Held"]) == ("snapshot", "true")
        assert answer.content == good


def test_without_a_hold_a_loss_in_small_steps_is_seen_too(server: StreamServer, partner: TestPartner, run: int) -> None:
    publish(partner, "north")
    good = partner.published("north")
    change_pointer(partner, "north", verified_at=STALE, earlier=[{"until": STALE, "students": 320}])
    lose(partner, 12)
    answer = server.pull(run)
    assert (answer.content, answer.headers["X-Roster-Held"]) == (good, "true")


def test_a_secret_that_opens_another_partners_warehouse_gives_nobody_its_students(
    world: World, server: StreamServer, partner: TestPartner, run: int
) -> None:
    outcome = refresh(partner, "north")
    with services_of(partner) as services:
        record_outcomes(
            services.store, services.registry().partner(partner.partner_id), [outcome], "test", datetime.now(UTC)
        )
    good = partner.published("north")
    theirs = Warehouse()
    theirs.students("north", 300, prefix="T")
    other = world.partner(theirs, ["north"])
    partner.put_secret(other.secret_text())
    answer = server.pull(run)
    assert (answer.content, answer.headers["X-Roster-Held"]) == (good, "true")
    assert "warehouse_moved" in server.log()
    # Nor do they come as the first roster of another tenant, of which nothing is published.
    theirs.students("south", 50, prefix="U")
    other.write_tables()
    assert server.pull(add_run(world, partner, "south")).status_code == 500
