"""What to add to and remove from a partitions definition, and when to refuse: pure.

A wrong read of the registry must not delete anybody's history: removing more than a quarter and more than two keys at
once needs somebody's word, and an empty registry removes nothing at all.
"""

from collections.abc import Set
from dataclasses import dataclass

LARGEST_REMOVAL_SHARE = 0.25
ALWAYS_REMOVABLE = 2


@dataclass(frozen=True)
class PartitionChanges:
    """Keys to add and remove, sorted; ``refused`` are the removals that were not allowed, with the ``reason``."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def is_empty(self) -> bool:
        """Nothing to do."""
        return not (self.add or self.remove)


def reconcile(have: Set[str], want: Set[str], *, allow_mass_removal: bool = False) -> PartitionChanges:
    """Bring ``have`` in line with ``want``.

    ``allow_mass_removal`` lifts the limit on removals; it never makes an empty ``want`` remove anything.
    """
    add = tuple(sorted(want - have))
    gone = tuple(sorted(have - want))
    if gone and not want:
        return PartitionChanges(refused=gone, reason="the registry came back empty: nothing is removed")
    too_many = len(gone) > ALWAYS_REMOVABLE and len(gone) > LARGEST_REMOVAL_SHARE * len(have)
    if too_many and not allow_mass_removal:
        return PartitionChanges(
            add=add,
            refused=gone,
            reason=f"{len(gone)} of {len(have)} keys would go at once, more than a quarter: say that it is meant",
        )
    return PartitionChanges(add=add, remove=gone)
