"""Killed before any change that it makes, a decision or a refresh leaves one whole snapshot; said again, it is done.

The bucket is in memory (`tests/memory_store.py`); test_roster_guards.py kills a process over the real one.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from threading import Barrier, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runway_pipelines.errors import DecisionRefused
from runway_pipelines.rosters.audit import entries
from runway_pipelines.rosters.decisions import What
from runway_pipelines.rosters.guards import GUARD_NAMES, WAREHOUSE_MOVED
from runway_pipelines.rosters.holds import write_hold
from runway_pipelines.rosters.manifest import manifest_key, pointer_key, snapshot_key, stable_key
from runway_pipelines.rosters.outcome import TenantStatus
from runway_pipelines.rosters.publication import read_manifest
from runway_pipelines.rosters.quality import STUDENTS_LOST
from tests.factories import TENANT
from tests.memory_store import Killed
from tests.properties import examples
from tests.unit.rosters.publication_world import (
    BY_SHA256,
    PLACES,
    ROSTERS,
    YEARS,
    PublicationWorld,
    Step,
    whole_copies,
    world_after,
)
from tests.waiting import join

WHOLE, HALF, MORE = (Step("refresh", name) for name in ("whole", "half", "one more"))
MOVED = Step("refresh", "whole", place=1)
APPROVE, REJECT = Step("approve", named="held"), Step("reject", named="held")
ROLLBACK, UNPIN, PRUNE = Step("rollback"), Step("unpin"), Step("prune")
TO_WHOLE = Step("rollback", named=ROSTERS["whole"].sha256)

CASES = {
    "first roster": ([], WHOLE),
    "another roster": ([WHOLE], MORE),
    "hold": ([WHOLE], HALF),
    "another hold": ([WHOLE, HALF], Step("refresh", "doubled")),
    "hold of the same bytes elsewhere": ([WHOLE], MOVED),
    "release": ([WHOLE, HALF], MORE),
    "approve": ([WHOLE, HALF], APPROVE),
    "approve another place": ([WHOLE, MOVED], APPROVE),
    "reject": ([WHOLE, HALF], REJECT),
    "roll back": ([WHOLE, MORE], ROLLBACK),
    "roll back beside a hold": ([WHOLE, MORE, HALF], ROLLBACK),
    "roll back further": ([WHOLE, MORE, Step("expect"), Step("refresh", "recoded"), ROLLBACK], TO_WHOLE),
    "refresh while pinned": ([WHOLE, MORE, ROLLBACK], Step("refresh", "two gone")),
    "unpin": ([WHOLE, MORE, ROLLBACK], UNPIN),
    "refresh after unpin": ([WHOLE, MORE, ROLLBACK, UNPIN], MORE),
    "expected": ([WHOLE, Step("expect")], HALF),
    "expected beside a hold": ([WHOLE, HALF, Step("expect")], HALF),
    "expect": ([WHOLE], Step("expect")),
    "end what is expected": ([WHOLE, Step("expect")], Step("end")),
    "loss in small steps": ([WHOLE, Step("refresh", "two gone")], Step("refresh", "four gone")),
    "prune": ([WHOLE, MORE, Step("refresh", "two gone"), HALF, Step("refresh", "others")], PRUNE),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_before_any_change_a_step_leaves_one_whole_snapshot_and_again_it_is_done(name: str) -> None:
    before, step = CASES[name]
    untouched = world_after(*before)
    old = untouched.pointer
    done = untouched.forked()
    done.take(step)
    new = done.pointer
    assert new is not None
    assert done.state() != untouched.state()
    change = 0
    while True:
        change += 1
        world = untouched.forked()
        if not world.killed_at(step, change):
            break
        now = world.pointer
        assert (now and now.sha256) in {old and old.sha256, new.sha256}, change
        assert set(world.copies.values()) <= {BY_SHA256[p.sha256].body for p in (old, new) if p}, change
        assert_whole(world)
        # A step that names what is held names nothing any more where the hold is gone already.
        again = replace(step, named=done_name(step, untouched))
        world.take(again)
        assert world.state() == done.state(), change
        if step.what == "refresh":
            world.take(step)  # what a run left open on record, the next one closes
        assert world.unfinished() == [], change
    assert change == made_by(untouched, step) + 1


def made_by(world: PublicationWorld, step: Step) -> int:
    """How many changes of the bucket a step makes when nothing kills it; two of them are the record's."""
    world = world.forked()
    world.take(step)
    return world.s3.changes


def done_name(step: Step, untouched: PublicationWorld) -> str | None:
    """What a person says again: the digits, or the expectation, that were said before."""
    if step.what == "end":
        return untouched.expected[0] if untouched.expected else None
    return untouched.hold.sha256 if step.named == "held" and untouched.hold else step.named


def assert_whole(world: PublicationWorld) -> None:
    """The pointer names a snapshot that is what its name says, with its manifest."""
    pointer = world.pointer
    if pointer is not None:
        body, _ = world.s3.objects[snapshot_key(TENANT, pointer.sha256)]
        assert body == BY_SHA256[pointer.sha256].body
        assert read_manifest(world.store, TENANT, pointer.sha256) is not None


def assert_settled(world: PublicationWorld) -> None:
    """Every year has what the pointer names; what is held is kept."""
    assert_whole(world)
    pointer, hold = world.pointer, world.hold
    if pointer is not None:
        assert list(world.copies.values()) == whole_copies(pointer.sha256)
    if hold is not None:
        assert snapshot_key(TENANT, hold.sha256) in world.s3.objects
        assert manifest_key(TENANT, hold.sha256) in world.s3.objects


# what a decision must not do


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


# any sequence


STEPS = [
    *[Step("refresh", name, place) for name in ROSTERS for place in (0, 0, 0, 1)],
    *[APPROVE, ROLLBACK] * 6,
    *[REJECT, UNPIN] * 3,
    *[Step(what, named=sha256) for what in ("approve", "reject", "rollback") for sha256 in BY_SHA256],
    *[Step("expect", guards=(guard,)) for guard in GUARD_NAMES],
    *[Step("expect"), Step("end"), PRUNE] * 2,
]
kills = st.one_of(st.none(), st.none(), st.integers(1, 12))


@pytest.mark.slow
@settings(max_examples=examples(600))
@given(st.lists(st.tuples(st.sampled_from(STEPS), kills), min_size=3, max_size=10))
def test_what_is_published_passed_its_guards_or_a_recorded_decision_chose_it(
    sequence: list[tuple[Step, int | None]],
) -> None:
    world, largest = world_after(WHOLE), 0
    for step, kill in sequence:
        before = world.forked()
        was_killed = kill is not None and world.killed_at(step, kill)
        if kill is None:
            world.take(step)
        assert_whole(world)
        assert_reason_to_publish(step, before, world, largest)
        largest = largest_since_looked_at(largest, step, before, world)
        if not was_killed and step.what not in ("expect", "end", "prune"):
            assert_settled_if_anything_was_done(step, before, world)
    # Whatever was left half done, the next refresh ends it.
    world.take(WHOLE)
    assert_settled(world)


def assert_settled_if_anything_was_done(step: Step, before: PublicationWorld, world: PublicationWorld) -> None:
    """A decision that was refused changes nothing; everything else leaves all years alike."""
    if step.what == "refresh" or len(world.audited()) > len(before.audited()):
        assert_settled(world)


def largest_since_looked_at(largest: int, step: Step, before: PublicationWorld, world: PublicationWorld) -> int:
    """How many students the largest roster had that was published and replaced since a person chose one."""
    old, new = before.pointer, world.pointer
    if old is None or new == old or step.what == "unpin":
        return largest
    news = entries(world.store, TENANT)[len(entries(before.store, TENANT)) :]
    if step.what != "refresh" or any(each.details.get("guard") == STUDENTS_LOST for each in news):
        return 0
    return max(largest, len(BY_SHA256[old.sha256].students)) if new and new.sha256 != old.sha256 else largest


def assert_reason_to_publish(step: Step, before: PublicationWorld, world: PublicationWorld, largest: int) -> None:
    """Where another snapshot is published than before the step, it is one that the step may publish."""
    old, new = before.pointer, world.pointer
    assert new is not None or old is None
    if new is None or (old is not None and new.sha256 == old.sha256):
        return
    recorded = [(each.what, each.to_sha256) for each in entries(world.store, TENANT)]
    if step.what == "refresh":
        roster, place = ROSTERS[step.roster], PLACES[step.place]
        assert new.sha256 == roster.sha256
        assert old is None or old.pinned is None
        published = BY_SHA256[old.sha256] if old else None
        if roster.is_held_beside(published, old.place if old else None, place, largest):
            assert ("expected", roster.sha256) in recorded
    else:
        assert (step.what, new.sha256) in recorded
        assert done_name(step, before) in (None, new.sha256)
        assert (new.pinned is not None) is (step.what == "rollback")
        if step.what == "approve":
            assert before.hold is not None
            assert before.hold.sha256 == new.sha256
    assert set(world.copies.values()) <= {BY_SHA256[new.sha256].body}


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
        assert outcome.status is TenantStatus.SUPERSEDED
        assert "held the roster of a later query" in outcome.reason
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


def test_a_purge_that_was_killed_is_unfinished_on_record_until_it_is_said_again() -> None:
    untouched = world_after(WHOLE, MORE, HALF)
    change = 0
    while True:
        change += 1
        world = untouched.forked()
        world.s3.dies_before = change
        try:
            world.purge()
        except Killed:
            world.s3.dies_before = None
        else:
            break
        assert world.unfinished() == (["purge"] if change > 1 else []), change
        world.purge()
        assert [key for key in world.s3.objects if not key.startswith("__roster_audit/")] == []
        assert world.unfinished() == []
    assert change > 10
    (entry, _) = entries(world.store, TENANT)[-2:]
    assert entry.signature is not None
    assert (entry.signature.decided_by, entry.signature.reason) == ("Ann", "left")
    assert entry.from_sha256 == ROSTERS["one more"].sha256
