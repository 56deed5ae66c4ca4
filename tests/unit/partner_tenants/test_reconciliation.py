"""Partitions follow the registry, and a wrong read of it deletes nobody's history."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.partner_tenants.reconciliation import (
    PartitionChanges,
    Removals,
    approval_of,
    reconcile,
    reconcile_all,
)

# Few values, so that the two sets overlap.
keys = st.frozensets(st.integers(0, 30).map(lambda number: f"acme/{number}"), max_size=30)
registries = st.fixed_dictionaries({"partners": keys, "partner_tenants": keys})
Keys = dict[str, frozenset[str]]


def numbered(start: int, stop: int) -> frozenset[str]:
    return frozenset(f"acme/{number:03}" for number in range(start, stop))


@given(keys, keys)
def test_applying_allowed_changes_gives_what_the_registry_wants(have: frozenset[str], want: frozenset[str]) -> None:
    changes = reconcile(have, want, allow_mass_removal=True)
    if want:
        assert (have | set(changes.add)) - set(changes.remove) == want
        assert changes.refused == ()
        assert changes.reason is None
        assert reconcile(want, want).is_empty


@given(keys, keys, st.booleans())
def test_additions_go_through_even_if_removals_are_refused(
    have: frozenset[str], want: frozenset[str], allow: bool
) -> None:
    changes = reconcile(have, want, allow_mass_removal=allow)
    assert changes.add == tuple(sorted(want - have))


@given(keys, keys, st.booleans())
def test_missing_keys_and_no_others_are_removed_or_refused_with_a_reason(
    have: frozenset[str], want: frozenset[str], allow: bool
) -> None:
    changes = reconcile(have, want, allow_mass_removal=allow)
    assert tuple(sorted(have - want)) in (changes.remove, changes.refused)
    assert not (changes.remove and changes.refused)
    assert (changes.reason is not None) == bool(changes.refused)


@given(keys, st.booleans())
def test_an_empty_registry_removes_nothing_even_with_permission(have: frozenset[str], allow: bool) -> None:
    changes = reconcile(have, frozenset(), allow_mass_removal=allow)
    assert (changes.add, changes.remove) == ((), ())
    assert changes.is_final == bool(have)
    assert changes.refused == tuple(sorted(have))


@given(keys, keys)
def test_removing_more_than_a_quarter_and_more_than_two_keys_needs_approval(
    have: frozenset[str], want: frozenset[str]
) -> None:
    gone = len(have - want)
    changes = reconcile(have, want)
    assert bool(changes.refused) == (gone > 0 and (not want or (gone > 2 and gone * 4 > len(have))))


@pytest.mark.parametrize(
    ("have", "gone", "allowed"),
    [
        (3, 2, True),  # two always may go
        (4, 3, False),
        (11, 3, False),
        (12, 3, True),  # a quarter is not more than a quarter
        (100, 25, True),
        (100, 26, False),
        (103, 26, False),
        (104, 26, True),
    ],
)
def test_the_limit_is_two_keys_or_a_quarter(have: int, gone: int, allowed: bool) -> None:
    before, after = numbered(0, have), numbered(gone, have)
    expected = tuple(sorted(numbered(0, gone)))
    changes = reconcile(before, after)
    assert (changes.remove, changes.refused) == ((expected, ()) if allowed else ((), expected))
    assert reconcile(before, after, allow_mass_removal=True).remove == expected


def test_a_refusal_counts_the_keys_it_concerns_and_all_keys() -> None:
    changes = reconcile(numbered(0, 10), numbered(5, 12))
    assert changes == PartitionChanges(
        had=10,
        add=("acme/010", "acme/011"),
        refused=tuple(sorted(numbered(0, 5))),
        reason="more than a quarter at once",
    )
    assert changes.summary == "2 added, 0 removed, refused to remove 5 of 10 keys: more than a quarter at once"
    assert not changes.is_empty


def test_a_first_registry_only_adds() -> None:
    assert reconcile(frozenset(), numbered(0, 3)) == PartitionChanges(add=("acme/000", "acme/001", "acme/002"))


def test_two_empty_sides_change_nothing_and_refuse_nothing() -> None:
    changes = reconcile(frozenset(), frozenset())
    assert changes == PartitionChanges()
    assert changes.is_empty


@given(registries, registries)
def test_keys_are_removed_from_every_definition_or_from_none_and_always_added(have: Keys, want: Keys) -> None:
    plan = reconcile_all(have, want)
    alone = {name: reconcile(have[name], want[name]) for name in want}
    if any(changes.refused for changes in alone.values()):
        assert all(changes.remove == () for changes in plan.values())
        assert {name: set(changes.refused) for name, changes in plan.items()} == {n: have[n] - want[n] for n in want}
        assert all(bool(changes.reason) == bool(changes.refused) for changes in plan.values())
    else:
        assert plan == alone
    assert {name: changes.add for name, changes in plan.items()} == {n: tuple(sorted(want[n] - have[n])) for n in want}


@given(registries, registries)
def test_the_requested_text_approves_the_refused_keys_and_exists_unless_a_side_is_empty(have: Keys, want: Keys) -> None:
    plan = reconcile_all(have, want)
    approval = approval_of(plan)
    refused = {name: changes.refused for name, changes in plan.items()}
    is_final = any(have[name] and not want[name] for name in want)
    assert (approval is not None) == (any(refused.values()) and not is_final)
    if approval is not None:
        approved = reconcile_all(have, want, approval=f" {approval}\n")
        assert {name: changes.remove for name, changes in approved.items()} == refused
        assert approved == reconcile_all(have, want, allow_mass_removal=True)
        assert approval_of(approved) is None


@given(registries, registries, registries, registries)
def test_an_approval_of_other_keys_approves_nothing(have: Keys, want: Keys, had: Keys, wanted: Keys) -> None:
    before, now = reconcile_all(had, wanted), reconcile_all(have, want)
    is_same = {n: c.refused for n, c in before.items()} == {n: c.refused for n, c in now.items()}
    if not is_same:
        assert reconcile_all(have, want, approval=approval_of(before)) == now


HAVE = {"partners": frozenset({"acme", "borealis", "cascade"}), "partner_tenants": numbered(0, 10)}
ONE_LESS = {"partners": frozenset({"acme", "borealis"}), "partner_tenants": numbered(5, 10)}


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({"partner_tenants": numbered(4, 10)}, id="one key less"),
        pytest.param({"partner_tenants": numbered(6, 10)}, id="one key more"),
        pytest.param({"partner_tenants": numbered(0, 5)}, id="as many other keys"),
        pytest.param({"partners": frozenset({"acme", "cascade"})}, id="another key of the other definition"),
        pytest.param({"partners": HAVE["partners"]}, id="none of the other definition"),
        pytest.param({"partner_tenants": frozenset()}, id="an empty registry"),
    ],
)
def test_one_different_key_needs_a_different_text(others: Keys) -> None:
    approval = approval_of(reconcile_all(HAVE, ONE_LESS))
    now = reconcile_all(HAVE, ONE_LESS | others, approval=approval)
    assert all(changes.remove == () for changes in now.values())
    assert approval_of(now) != approval


@pytest.mark.parametrize("approval", ["", "remove-", "remove-00000000", "None", "yes"])
def test_any_other_text_approves_nothing(approval: str) -> None:
    assert reconcile_all(HAVE, ONE_LESS, approval=approval) == reconcile_all(HAVE, ONE_LESS)


def test_additions_do_not_change_the_text() -> None:
    more = {name: want | {"new"} for name, want in ONE_LESS.items()}
    assert approval_of(reconcile_all(HAVE, more)) == approval_of(reconcile_all(HAVE, ONE_LESS)) is not None


def test_moving_a_key_between_definitions_needs_a_different_text() -> None:
    refused = PartitionChanges(had=3, refused=("acme",), reason="more than a quarter at once")
    assert approval_of({"a": refused, "b": PartitionChanges()}) != approval_of({"a": PartitionChanges(), "b": refused})


def test_a_partner_waits_for_its_tenants_and_the_text_looks_as_documented() -> None:
    plan = reconcile_all(HAVE, ONE_LESS)
    assert plan["partners"] == PartitionChanges(
        had=3, refused=("cascade",), reason="these wait for those of partner_tenants"
    )
    assert re.fullmatch(r"remove-[0-9a-f]{8}", approval_of(plan) or "")


def test_an_empty_registry_removes_nothing_with_any_approval_and_requests_none() -> None:
    empty: Keys = {"partners": frozenset(), "partner_tenants": frozenset()}
    plan = reconcile_all(HAVE, empty)
    assert approval_of(plan) is None
    for text in ("", "None", "remove-00000000"):
        assert reconcile_all(HAVE, empty, approval=text) == plan
    assert all(c.remove == () and c.is_final for c in reconcile_all(HAVE, empty, allow_mass_removal=True).values())


def test_a_registry_that_shrinks_a_little_at_each_tick_is_stopped_within_a_day() -> None:
    have, recent = set(numbered(0, 100)), set[str]()
    while True:
        want = have - set(sorted(have)[: len(have) // 5])
        changes = reconcile(have, want, recent=recent)
        if changes.refused:
            break
        have -= set(changes.remove)
        recent |= set(changes.remove)
    assert len(have) == 80
    assert changes.reason == "more than a quarter within a day (20 were removed before)"
    # A day later they do not count any more; an approval lifts the limit at any time.
    assert reconcile(have, want).remove == changes.refused
    assert reconcile(have, want, allow_mass_removal=True, recent=recent).remove == changes.refused


def test_a_key_that_came_back_does_not_count_as_lost() -> None:
    have = set(numbered(0, 20))
    gone = set(numbered(0, 4))
    assert reconcile(have, have - gone, recent=set(numbered(4, 9))).remove == tuple(sorted(gone))


def test_two_a_tick_are_not_two_for_ever() -> None:
    assert reconcile({"a", "b", "c"}, {"c"}, recent={"d"}).refused == ("a", "b")


def test_a_removal_that_a_fast_clock_dated_counts_for_a_day_and_no_longer() -> None:
    now = datetime(2026, 11, 22, 2, tzinfo=UTC)
    ahead = Removals({"tenants": {"a": (now + timedelta(days=365)).isoformat()}})
    after = ahead.after({"tenants": PartitionChanges(had=1)}, now, is_approved=False)
    assert after.recent(now)["tenants"] == {"a"}
    assert after.recent(now + timedelta(days=2))["tenants"] == frozenset()
