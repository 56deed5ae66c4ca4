"""Which partition keys to add and remove, and when to refuse: pure.

A wrong read of the registry must not delete history. Within a rolling day, removing more than two keys that are more
than a quarter of all needs approval, and an empty registry removes nothing. A wrong read must not stop a partner's
schedule either: while one definition's removals are refused, the other's wait.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Self

LARGEST_REMOVAL_SHARE = 0.25
ALWAYS_REMOVABLE = 2
REMEMBERED = timedelta(days=1)


@dataclass(frozen=True)
class PartitionChanges:
    """Keys, sorted, to add to and remove from the ``had`` keys of a definition.

    ``refused`` are the removals that were not allowed, ``reason`` why; with ``is_final`` no approval allows them.
    ``waiting`` are those that a queued or running run still needs; they go once it has ended.
    """

    had: int = 0
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    reason: str | None = None
    is_final: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do, now or later, and nothing was refused."""
        return not (self.add or self.remove or self.refused or self.waiting)

    @property
    def summary(self) -> str:
        """The numbers of keys, without a full stop."""
        done = f"{len(self.add)} added, {len(self.remove)} removed"
        if self.waiting:
            done += f", {len(self.waiting)} kept for runs that still need them"
        if not self.refused:
            return done
        return f"{done}, refused to remove {len(self.refused)} of {self.had} keys: {self.reason}"


def reconcile(
    have: Set[str],
    want: Set[str],
    *,
    allow_mass_removal: bool = False,
    in_use: Set[str] = frozenset(),
    recent: Set[str] = frozenset(),
) -> PartitionChanges:
    """Bring one definition's keys ``have`` in line with ``want``; those ``in_use`` are removed later.

    ``recent`` are the keys that were removed within the last day, which count as if they went now.

    ``allow_mass_removal`` lifts the limit on removals, but an empty ``want`` never removes anything.
    """
    gone = tuple(sorted(have - want))
    changes = PartitionChanges(had=len(have), add=tuple(sorted(want - have)))
    if gone and not want:
        return replace(changes, refused=gone, reason="the registry came back empty", is_final=True)
    before = recent - want - have
    lost = len(gone) + len(before)
    too_many = lost > ALWAYS_REMOVABLE and lost > LARGEST_REMOVAL_SHARE * (len(have) + len(before))
    if gone and too_many and not allow_mass_removal:
        within = f"within a day ({len(before)} were removed before)" if before else "at once"
        return replace(changes, refused=gone, reason=f"more than a quarter {within}")
    waiting = tuple(key for key in gone if key in in_use)
    return replace(changes, remove=tuple(key for key in gone if key not in in_use), waiting=waiting)


def reconcile_all(
    have: Mapping[str, Set[str]],
    want: Mapping[str, Set[str]],
    *,
    allow_mass_removal: bool = False,
    approval: str | None = None,
    in_use: Mapping[str, Set[str]] = MappingProxyType({}),
    recent: Mapping[str, Set[str]] = MappingProxyType({}),
) -> dict[str, PartitionChanges]:
    """Bring all definitions in line, by name. While one's removals are refused, none removes anything.

    ``allow_mass_removal`` lifts the limit for any keys, ``approval`` only for those it was made from (`approval_of`).
    """
    plan = _all_or_nothing(
        {
            name: reconcile(
                have[name],
                want[name],
                allow_mass_removal=allow_mass_removal,
                in_use=in_use.get(name, frozenset()),
                recent=recent.get(name, frozenset()),
            )
            for name in want
        }
    )
    if approval is not None and approval.strip() == approval_of(plan):
        return reconcile_all(have, want, allow_mass_removal=True, in_use=in_use, recent=recent)
    return plan


def approval_of(plan: Mapping[str, PartitionChanges]) -> str | None:
    """The text that approves exactly the plan's refused removals; None if there are none, or no approval helps."""
    refused = [(name, key) for name, changes in sorted(plan.items()) for key in changes.refused]
    if not refused or any(changes.is_final for changes in plan.values()):
        return None
    return f"remove-{sha256(json.dumps(refused).encode()).hexdigest()[:8]}"


def _all_or_nothing(plan: dict[str, PartitionChanges]) -> dict[str, PartitionChanges]:
    refusing = " and ".join(name for name, changes in plan.items() if changes.refused)
    if not refusing:
        return plan
    return {
        name: replace(
            changes,
            remove=(),
            waiting=(),
            refused=tuple(sorted(changes.remove + changes.waiting)),
            reason=f"these wait for those of {refusing}",
        )
        if changes.remove or changes.waiting
        else changes
        for name, changes in plan.items()
    }


@dataclass(frozen=True)
class Removals:
    """The removals of the last day: when each key of a definition went, as ISO 8601 in UTC."""

    moments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Read what `to_json` wrote; anything else counts as no removals."""
        try:
            document = json.loads(text or "{}")
            moments = {name: {key: str(moment) for key, moment in keys.items()} for name, keys in document.items()}
            for keys in moments.values():
                for moment in keys.values():
                    datetime.fromisoformat(moment)
        except (AttributeError, TypeError, ValueError):
            return cls()
        return cls(moments)

    def to_json(self) -> str:
        """For `parse`."""
        return json.dumps({name: dict(keys) for name, keys in self.moments.items()})

    def recent(self, now: datetime) -> dict[str, frozenset[str]]:
        """The keys that were removed within the last day, by the definition's name."""
        return {
            name: frozenset(key for key, moment in keys.items() if now - datetime.fromisoformat(moment) < REMEMBERED)
            for name, keys in self.moments.items()
        }

    def after(self, plan: Mapping[str, PartitionChanges], now: datetime, *, is_approved: bool) -> Removals:
        """The removals, with the plan's. After an approval, neither what it approved nor anything earlier counts."""
        if is_approved:
            return Removals()
        recent = self.recent(now)
        return Removals(
            {
                # A removal from the future, by a clock that was fast, counts for a day from now.
                name: {key: min(self.moments[name][key], now.isoformat()) for key in recent.get(name, ())}
                | dict.fromkeys(changes.remove, now.isoformat())
                for name, changes in plan.items()
            }
        )
