"""What a decision may do and must not, beside refreshes, other decisions, and what a killed one left.

The bucket is in memory (`tests/memory_store.py`).
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

import pytest

from runway_pipelines.errors import DecisionRefused
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.audit import entries
from runway_pipelines.rosters.decisions import What
from runway_pipelines.rosters.guards import WAREHOUSE_MOVED
from runway_pipelines.rosters.holds import write_hold
from runway_pipelines.rosters.manifest import pointer_key, snapshot_key, stable_key
from runway_pipelines.rosters.outcome import TenantStatus
from runway_pipelines.rosters.pruning import prune_tenant
from runway_pipelines.rosters.quality import STUDENTS_LOST
from runway_pipelines.rosters.retention import Retention, StoredSnapshot
from tests.factories import TENANT
from tests.unit.rosters.publication_world import (
    APPROVE,
    HALF,
    MORE,
    MOVED,
    PLACES,
    REJECT,
    ROLLBACK,
    ROSTERS,
    UNPIN,
    WHOLE,
    YEARS,
    PublicationWorld,
    Step,
    assert_settled,
    done_name,
    whole_copies,
    world_after,
)
from tests.waiting import join

# what a decision must not do


def test_a_months_first_can_be_rolled_back_to_when_its_successors_were_pruned() -> None:
    """That it was published is known from the manifest of the next roster, which is the first to be pruned."""
    later = [Step("refresh", name) for name in ("recoded", "others")]
    world = world_after(WHOLE, MORE, Step("expect"), *later, Step("end"), HALF, REJECT)
    first, second, held, *others = (ROSTERS[name].sha256 for name in ("whole", "one more", "half", "recoded", "others"))
    days = {first: 1, second: 2, held: 3, others[0]: 40, others[1]: 41}
    began = datetime(2026, 1, 1, tzinfo=UTC)
    stored = [StoredSnapshot(began + timedelta(days=day), sha256, 1) for sha256, day in days.items()]
    gone = prune_tenant(
        world.store, world.database, TENANT, stored, Retention(1, 400), began + timedelta(days=60), "retention"
    )
    assert [each.sha256 for each in gone] == [second]
    assert world.decide(What.ROLLBACK, first).status is TenantStatus.PINNED
    world.take(UNPIN)
    with pytest.raises(DecisionRefused, match="a candidate that was never published"):
        world.decide(What.ROLLBACK, held)


def test_rejected_bytes_stay_unpublished_when_a_guard_lets_them_pass_by_now() -> None:
    world = world_after(WHOLE, HALF, REJECT)
    rejected = world.hold
    assert rejected is not None
    world.take(Step("expect", guards=(STUDENTS_LOST,)))
    outcome = world.refresh(ROSTERS["half"])
    assert (outcome.status, world.hold and world.hold.rejected) == (TenantStatus.HELD, rejected.rejected)
    assert world.hold is not None
    assert (world.hold.guards, world.hold.since) == (rejected.guards, rejected.since)
    assert list(world.copies.values()) == whole_copies(ROSTERS["whole"].sha256)
    assert world.refresh(ROSTERS["four gone"]).status is TenantStatus.NEW, "other bytes are judged anew"
    assert world.hold is None


def test_a_rejected_first_roster_stays_unpublished_when_another_tenant_came_from_its_warehouse() -> None:
    world = PublicationWorld(places=PLACES[:1])
    assert world.refresh(ROSTERS["whole"], PLACES[1]).status is TenantStatus.HELD
    world.take(REJECT)
    world.places = PLACES
    assert world.refresh(ROSTERS["whole"], PLACES[1]).status is TenantStatus.HELD
    assert world.copies == {}
    assert world.refresh(ROSTERS["one more"], PLACES[1]).status is TenantStatus.NEW


def test_a_first_roster_that_was_half_approved_and_then_rejected_is_withdrawn() -> None:
    held = PublicationWorld(places=PLACES[:1])
    held.refresh(ROSTERS["whole"], PLACES[1])
    for change in (2, 3, 4):
        world = held.forked()
        assert world.killed_at(APPROVE, change)
        for killed in (1, 2, 3, 4):
            other = world.forked()
            if other.killed_at(REJECT, killed):
                assert other.take(REJECT) is not None
            assert other.copies == {}, (change, killed)
            assert other.refresh(ROSTERS["whole"], PLACES[1]).status is TenantStatus.HELD
            assert (other.copies, other.pointer) == ({}, None)


def test_a_reject_that_was_killed_before_it_withdrew_a_copy_publishes_nothing() -> None:
    world = PublicationWorld(places=PLACES[:1])
    world.refresh(ROSTERS["whole"], PLACES[1])
    assert world.killed_at(APPROVE, 3)
    assert world.killed_at(REJECT, 3)
    assert len(world.copies) == 1
    assert world.refresh(ROSTERS["whole"], PLACES[1]).status is TenantStatus.HELD
    assert (len(world.copies), world.pointer) == (1, None)
    world.take(REJECT)
    assert world.copies == {}


@pytest.mark.parametrize("code", ["Ashford & Elm", "O'Brien", "St. Mary (K-8)"])
def test_the_command_that_approves_can_be_typed_for_every_code(code: str) -> None:
    tenant = PartnerTenant("acme", code)
    hold = world_after(WHOLE, HALF).hold
    assert hold is not None
    command = hold.what_to_do(tenant).rpartition("all the same: ")[2]
    assert shlex.split(command) == [
        "runway-pipelines", "rosters", "approve", tenant.key, hold.digits, "--reason", "...",
    ]  # fmt: skip


def test_another_warehouse_with_the_same_bytes_is_held_until_it_is_approved_and_then_it_is_the_one() -> None:
    world = world_after(WHOLE, MOVED)
    assert world.hold is not None
    assert world.hold.guards == (WAREHOUSE_MOVED,)
    world.take(APPROVE)
    assert world.refresh(ROSTERS["whole"], PLACES[1]).status is TenantStatus.UNCHANGED
    assert world.hold is None
    assert world.refresh(ROSTERS["whole"], PLACES[0]).status is TenantStatus.HELD


def test_bytes_that_another_warehouse_gave_first_are_no_move() -> None:
    world = world_after(WHOLE, Step("refresh", "one more", place=1))
    assert world.refresh(ROSTERS["one more"]).status is TenantStatus.NEW
    assert world.refresh(ROSTERS["one more"]).status is TenantStatus.UNCHANGED


def test_a_rejected_candidate_that_was_half_published_is_taken_back() -> None:
    for change in (2, 3, 4):
        world = world_after(WHOLE, HALF)
        assert world.killed_at(APPROVE, change)
        assert world.decide(What.REJECT, ROSTERS["half"].sha256).status is TenantStatus.HELD
        assert_settled(world)
        assert list(world.copies.values()) == whole_copies(ROSTERS["whole"].sha256)


def test_a_candidate_whose_approval_died_after_it_was_published_cannot_be_rejected() -> None:
    world = world_after(WHOLE, HALF)
    assert world.killed_at(APPROVE, 5)
    assert world.pointer is not None
    assert world.pointer.sha256 == ROSTERS["half"].sha256
    with pytest.raises(DecisionRefused, match="approved meanwhile"):
        world.decide(What.REJECT, ROSTERS["half"].sha256)


def test_what_is_expected_goes_on_record_where_it_lets_a_roster_pass_and_nowhere_else() -> None:
    world = world_after(WHOLE, Step("expect", guards=(STUDENTS_LOST,)))
    elsewhere = Step("refresh", "half", place=1)
    for _ in range(2):
        world.take(elsewhere)
        assert [each for each in world.audited() if each.startswith("expected")] == []
    assert world.hold is not None
    assert world.hold.guards == (WAREHOUSE_MOVED,)
    world.take(HALF)
    assert [each for each in world.audited() if each.startswith("expected")] == ["expected", "expected-done"]
    (entry,) = (each for each in entries(world.store, TENANT) if each.what == "expected")
    assert entry.details["guard"] == STUDENTS_LOST
    assert entry.details["students_removed"] == 10
    assert (entry.from_sha256, entry.to_sha256) == (ROSTERS["whole"].sha256, ROSTERS["half"].sha256)


def test_a_damaged_snapshot_is_not_published_by_a_decision() -> None:
    world = world_after(WHOLE, HALF)
    world.s3.objects[snapshot_key(TENANT, ROSTERS["half"].sha256)] = (b"something else", {})
    before = world.state()
    with pytest.raises(Exception, match="bytes of sha256"):
        world.decide(What.APPROVE, ROSTERS["half"].sha256)
    assert world.state() == before


# two at once


@pytest.mark.parametrize(
    "both",
    [(APPROVE, ROLLBACK), (APPROVE, REJECT), (APPROVE, APPROVE), (APPROVE, MORE), (ROLLBACK, HALF), (REJECT, MORE)],
    ids=lambda both: " and ".join(step.what for step in both),
)
def test_of_two_at_once_one_comes_first_and_the_other_finds_what_it_left(both: tuple[Step, Step]) -> None:
    start = world_after(WHOLE, MORE, HALF)
    said = [Step(each.what, each.roster, each.place, done_name(each, start)) for each in both]
    ends = []
    for order in (said, said[::-1]):
        world = start.forked()
        for step in order:
            world.take(step)
        ends.append(world.state())
    for _ in range(20):
        world, barrier = start.forked(), Barrier(2)

        def take(step: Step, world: PublicationWorld = world, barrier: Barrier = barrier) -> None:
            barrier.wait()
            world.take(step)

        threads = [Thread(target=take, args=(step,)) for step in said]
        for thread in threads:
            thread.start()
        join(*threads)
        assert_settled(world)
        assert world.state() in ends


def test_a_rollback_never_leads_to_what_was_rolled_back_from() -> None:
    world = world_after(WHOLE, Step("expect"), HALF, Step("end"), ROLLBACK, UNPIN, WHOLE)
    world.take(ROLLBACK)
    assert world.pointer is not None
    assert world.pointer.sha256 == ROSTERS["whole"].sha256


@pytest.mark.parametrize("before", [[WHOLE, HALF], [WHOLE]], ids=["held", "not held"])
def test_a_pointer_that_somebody_deleted_lets_nothing_pass_the_guards(before: list[Step]) -> None:
    world = world_after(*before)
    del world.s3.objects[pointer_key(TENANT)]
    world.take(HALF)
    assert list(world.copies.values()) == whole_copies(ROSTERS["whole"].sha256)
    assert world.hold is not None
    assert world.hold.guards == (STUDENTS_LOST,)
    world.take(WHOLE)
    assert world.pointer is not None
    assert world.hold is None


def test_a_candidate_that_was_held_beside_another_roster_is_not_approved() -> None:
    world = world_after(WHOLE, HALF)
    hold = world.hold
    world.take(MORE)
    assert hold is not None
    write_hold(world.store, TENANT, hold)  # as if the run had been killed before it ended the hold
    with pytest.raises(DecisionRefused, match="refresh"):
        world.decide(What.APPROVE, hold.sha256)
    assert list(world.copies.values()) == whole_copies(ROSTERS["one more"].sha256)


def test_an_older_query_neither_releases_nor_replaces_what_a_later_one_held() -> None:
    world = world_after(WHOLE)
    began = world.clock
    world.take(HALF)
    held, content = world.hold, world.state()
    assert held is not None
    for roster in ("one more", "whole", "others"):
        outcome = world.refresh(ROSTERS[roster], query_started_at=began)
        # It is discarded, and the tenant still waits: nobody must read that it was released.
        assert (outcome.status, outcome.hold) == (TenantStatus.HELD, held)
        assert (world.hold, world.state()) == (held, content)
    assert world.refresh(ROSTERS["one more"]).status is TenantStatus.NEW, "the same moment's query is no older one"


def test_a_hold_of_a_fast_clock_supersedes_nothing() -> None:
    world = world_after(WHOLE)
    world.refresh(ROSTERS["half"], query_started_at=world.clock + timedelta(days=2))
    assert world.hold is not None
    assert world.take(MORE).status is TenantStatus.NEW  # type: ignore[union-attr]
    assert world.hold is None


def test_bytes_that_were_rejected_stay_so_whichever_guard_holds_them() -> None:
    world = world_after(WHOLE, HALF, REJECT, Step("refresh", "half", place=1))
    assert world.hold is not None
    assert world.hold.rejected is not None
    assert set(world.hold.guards) == {STUDENTS_LOST, WAREHOUSE_MOVED}


def test_a_refused_roster_heals_what_a_killed_decision_left_between() -> None:
    world = world_after(WHOLE, MORE)
    world.s3.objects[stable_key(TENANT, YEARS[0])] = world.s3.objects[snapshot_key(TENANT, ROSTERS["whole"].sha256)]
    world.take(Step("refresh", "nobody"))
    assert list(world.copies.values()) == whole_copies(ROSTERS["one more"].sha256)
