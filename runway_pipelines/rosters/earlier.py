"""The sizes, in students, of the rosters that were published in the last days: pure.

The guard against lost students compares with these too, because a district that loses a little each night would pass
a comparison with the night before alone. The pointer carries the sizes forward, so that no older snapshot is read.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from runway_pipelines.rosters.freshness import ahead_of, moment_of
from runway_pipelines.rosters.manifest import Earlier, Manifest, Pointer

REMEMBERED = timedelta(days=7)


def earlier_of(pointer: Pointer | None, now: datetime) -> tuple[Earlier, ...]:
    """The rosters that the pointer remembers, without those of a fast clock: they would count until their date."""
    known = pointer.earlier if pointer else ()
    return tuple(each for each in known if ahead_of(now, moment_of(each.until)) is None)


def carried_on(
    pointer: Pointer | None, published: Manifest | None, candidate: Manifest, now: datetime
) -> tuple[Earlier, ...]:
    """The earlier rosters that the pointer keeps once ``candidate`` is published, oldest first.

    Keeps only rosters with more students than all later ones, and one a day: a larger later roster replaces a smaller
    earlier one, because a loss is greatest beside the largest. So at most eight are kept.
    """
    if pointer is None:
        return ()
    known = list(earlier_of(pointer, now))
    if published is not None and pointer.sha256 != candidate.sha256:
        known.append(Earlier(now.isoformat(timespec="seconds"), published.students))
    kept: list[Earlier] = []
    for each in known:
        if (until := moment_of(each.until)) is None or until < now - REMEMBERED or each.students <= candidate.students:
            continue
        while kept and kept[-1].students <= each.students:
            kept.pop()
        if kept and kept[-1].until[:10] == each.until[:10]:
            kept[-1] = Earlier(each.until, kept[-1].students)
        else:
            kept.append(each)
    return tuple(kept)
