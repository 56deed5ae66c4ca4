"""Partitions follow the registry, and a wrong read of it deletes nobody's history."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.partner_tenants.reconciliation import PartitionChanges, reconcile

# Few values, so that the two sets overlap.
keys = st.frozensets(st.integers(0, 30).map(lambda number: f"acme/{number}"), max_size=30)


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
def test_additions_go_through_whatever_becomes_of_the_removals(
    have: frozenset[str], want: frozenset[str], allow: bool
) -> None:
    changes = reconcile(have, want, allow_mass_removal=allow)
    assert changes.add == tuple(sorted(want - have))


@given(keys, keys, st.booleans())
def test_what_is_gone_is_either_removed_or_refused_with_a_reason_and_nothing_else_is(
    have: frozenset[str], want: frozenset[str], allow: bool
) -> None:
    changes = reconcile(have, want, allow_mass_removal=allow)
    assert tuple(sorted(have - want)) in (changes.remove, changes.refused)
    assert not (changes.remove and changes.refused)
    assert (changes.reason is not None) == bool(changes.refused)


@given(keys, st.booleans())
def test_an_empty_registry_removes_nothing_whoever_allows_it(have: frozenset[str], allow: bool) -> None:
    changes = reconcile(have, frozenset(), allow_mass_removal=allow)
    assert changes.is_empty
    assert changes.refused == tuple(sorted(have))


@given(keys, keys)
def test_more_than_a_quarter_and_more_than_two_is_what_needs_somebodys_word(
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
def test_the_limit_lies_at_two_keys_and_at_a_quarter(have: int, gone: int, allowed: bool) -> None:
    before, after = numbered(0, have), numbered(gone, have)
    expected = tuple(sorted(numbered(0, gone)))
    changes = reconcile(before, after)
    assert (changes.remove, changes.refused) == ((expected, ()) if allowed else ((), expected))
    assert reconcile(before, after, allow_mass_removal=True).remove == expected


def test_a_refusal_says_how_many_of_how_many() -> None:
    changes = reconcile(numbered(0, 10), numbered(5, 12))
    assert changes == PartitionChanges(
        add=("acme/010", "acme/011"),
        refused=tuple(sorted(numbered(0, 5))),
        reason="5 of 10 keys would go at once, more than a quarter: say that it is meant",
    )
    assert not changes.is_empty


def test_a_first_registry_only_adds() -> None:
    assert reconcile(frozenset(), numbered(0, 3)) == PartitionChanges(add=("acme/000", "acme/001", "acme/002"))


def test_two_empty_sides_change_nothing_and_refuse_nothing() -> None:
    assert reconcile(frozenset(), frozenset()) == PartitionChanges()
