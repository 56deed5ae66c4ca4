"""Killed before any change that it makes, a decision or a refresh leaves one whole snapshot; said again, it is done.

The bucket is in memory (`tests/memory_store.py`); test_decision_kills.py kills a process over the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runway_pipelines.errors import Permanent
from runway_pipelines.rosters.audit import entries
from runway_pipelines.rosters.guards import GUARD_NAMES
from runway_pipelines.rosters.quality import STUDENTS_LOST
from runway_pipelines.systems.postgres.databases import ApplicationDatabase
from tests.factories import TENANT
from tests.memory_store import Killed
from tests.properties import examples
from tests.unit.rosters.publication_world import (
    APPROVE,
    BY_SHA256,
    HALF,
    MORE,
    MOVED,
    PLACES,
    PRUNE,
    REJECT,
    ROLLBACK,
    ROSTERS,
    TO_WHOLE,
    UNPIN,
    WHOLE,
    OneLock,
    PublicationWorld,
    Step,
    assert_settled,
    assert_whole,
    done_name,
    kind_of,
    world_after,
)

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
    assert change == len(done.s3.changed) + 1


RECORDED = {
    "approve": "record, copy, copy, pointer, hold, record",
    "approve another place": "record, pointer, hold, record",
    "reject": "record, hold, record",
    "roll back": "record, copy, copy, pointer, hold, record",
    "unpin": "record, pointer, record",
    "expect": "record, expectations, record",
    "end what is expected": "record, expectations, record",
    "hold": "snapshot, manifest, record, hold, record",
    "release": "snapshot, manifest, record, copy, copy, pointer, hold, record",
    "expected beside a hold": "record, record, copy, copy, pointer, hold, record, record",
    "prune": "record, manifest, snapshot, manifest, snapshot, record",
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_steps_of_what_is_recorded_begin_and_end_with_the_record(name: str) -> None:
    """Before each of these steps the test above kills it; a refresh keeps its snapshot first."""
    before, step = CASES[name]
    world = world_after(*before).forked()
    world.take(step)
    assert ", ".join(map(kind_of, world.s3.changed)) == RECORDED[name]


@pytest.mark.parametrize("ending", [REJECT, WHOLE], ids=["rejected", "replaced by data that are back"])
def test_a_rollback_publishes_no_candidate_that_never_was(ending: Step) -> None:
    world = world_after(WHOLE, MORE, HALF, ending)
    published = world.pointer
    assert world.take(Step("rollback", named=ROSTERS["half"].sha256)) is None
    assert world.pointer == published


def test_a_rollback_leads_back_to_what_was_rolled_back_from() -> None:
    world = world_after(WHOLE, MORE, ROLLBACK)
    assert world.take(Step("rollback", named=ROSTERS["one more"].sha256)) is not None
    assert world.pointer is not None and world.pointer.sha256 == ROSTERS["one more"].sha256


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


# purged


@pytest.mark.parametrize("back_with", [HALF, Step("refresh", "nobody"), MOVED])
@pytest.mark.parametrize("last", [MORE, HALF, ROLLBACK])
def test_what_was_purged_is_not_published_again_when_the_tenant_is_back(last: Step, back_with: Step) -> None:
    world = world_after(WHOLE, MORE, last)
    world.purge(with_snapshots=False)
    assert (world.copies, world.pointer, world.hold) == ({}, None, None)
    kept = {key for key in world.s3.objects if kind_of(key) == "snapshot"}
    assert kept
    world.take(back_with)
    assert set(world.copies.values()) <= {ROSTERS[back_with.roster].body}
    assert kept <= world.s3.objects.keys()


def test_a_purge_deletes_under_the_tenants_lock() -> None:
    """A run that began before the tenant left may be publishing it."""
    world = world_after(WHOLE)
    deleted: list[tuple[int, int]] = []

    class Watched(OneLock):
        @contextmanager
        def advisory_lock(self, name: str, wait_seconds: int) -> Iterator[OneLock]:
            with super().advisory_lock(name, wait_seconds) as lock:
                before = len(world.s3.changed)
                yield lock
                deleted.append((before, len(world.s3.changed)))

    world.database = cast("ApplicationDatabase", Watched())
    world.purge()
    ((before, after),) = deleted
    outside = [*world.s3.changed[:before][-1:], *world.s3.changed[after:]]
    assert {kind_of(key) for key in world.s3.changed[before:after]} >= {"copy", "pointer", "snapshot", "manifest"}
    assert {kind_of(key) for key in outside} <= {"record"}


def test_a_run_that_waited_for_the_purge_publishes_nothing() -> None:
    world = world_after(WHOLE)
    world.purge()
    world.has_left = True
    with pytest.raises(Permanent, match="which left while its roster was read"):
        world.refresh(ROSTERS["whole"])
    assert (world.copies, world.pointer) == ({}, None)


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
