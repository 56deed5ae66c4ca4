"""The guards: rules that hold a well-formed roster that looks wrong beside what is published. Pure.

One function a guard, one result each (publication guards contract, section 2). For some guards, `quality` has a rule of
the same name that warns at a lower threshold; a guard that fails replaces that warning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from runway_pipelines.rosters.encoding import RosterCounts
from runway_pipelines.rosters.manifest import Earlier, Manifest
from runway_pipelines.rosters.quality import (
    COLLIDING_CODES,
    RULES,
    STUDENTS_LOST,
    CheckResult,
    QualityRule,
    share_of,
    students_by_type,
)
from runway_pipelines.systems.snowflake.connection import Place, is_elsewhere, known_as

STUDENTS_ADDED = "students_added"
STUDENTS_CHANGED = "students_changed"
ID_TYPE_LOST = "id_type_lost"
WAREHOUSE_MOVED = "warehouse_moved"

_OWN_RULES = (
    QualityRule(
        STUDENTS_ADDED,
        False,
        "No more new students than a district gains. Many mean a doubled load, or two districts under one code.",
    ),
    QualityRule(STUDENTS_CHANGED, False, "Most students have the codes and schools that they had."),
    QualityRule(ID_TYPE_LOST, False, "No ID type lost many of the published students."),
    QualityRule(WAREHOUSE_MOVED, False, "Account, database and schema are those that the published roster came from."),
)
_RULES = {rule.name: rule for rule in (*RULES, *_OWN_RULES)}
GUARD_NAMES = (STUDENTS_LOST, STUDENTS_ADDED, STUDENTS_CHANGED, ID_TYPE_LOST, COLLIDING_CODES, WAREHOUSE_MOVED)
ALL_RULES = tuple(_RULES.values())


@dataclass(frozen=True)
class Guards:
    """The limits beyond which guards hold: shares from 0 to 1, some with a number of students; 0 turns a guard off."""

    students_lost: float
    students_lost_least: int
    students_added: float
    students_added_least: int
    students_changed: float
    id_type_lost: float
    colliding_codes: float
    warehouse_moved: bool


@dataclass(frozen=True)
class Announced:
    """A candidate of which only the announcements are known."""

    students: int
    students_added: int | None
    students_removed: int | None
    students_changed: int | None
    colliding_codes: int
    students_by_id_system: Mapping[str, int]
    place: Place | None


Candidate = Manifest | Announced


@dataclass(frozen=True)
class Comparison:
    """What a candidate is compared with.

    ``published`` is the manifest of what is published; None if nothing is (``is_first``), or if it cannot be read.
    ``place`` is the warehouse that it last came from; None means the manifest's. A tenant's first roster is
    compared with the ``places`` that the partner's other rosters come from. ``earlier`` rosters are those of the last
    days that had more students.
    """

    published: Manifest | None
    is_first: bool
    places: Collection[Place] = ()
    place: Place | None = None
    earlier: Sequence[Earlier] = ()


def judge_guards(candidate: Candidate, comparison: Comparison, guards: Guards) -> tuple[CheckResult, ...]:
    """Every guard's result, in the order of `GUARD_NAMES`; one that is turned off passes."""
    return tuple(judge(candidate, comparison, guards) for judge in _JUDGES)


def judge_announced_guards(
    counts: RosterCounts, place: Place, comparison: Comparison, guards: Guards
) -> tuple[CheckResult, ...]:
    """The guards' results for what the warehouse announces before the first row: the least that must have changed.

    For a reader who cannot wait for the whole roster. It sees neither students swapped one for one nor changed ones.
    """
    before = comparison.published.students if comparison.published else 0
    least = Announced(
        counts.students,
        max(0, counts.students - before),
        max(0, before - counts.students),
        None,
        counts.colliding_codes,
        counts.students_by_id_system,
        place,
    )
    return judge_guards(least, comparison, guards)


def combine(results: tuple[CheckResult, ...], guarded: tuple[CheckResult, ...]) -> tuple[CheckResult, ...]:
    """One result for each of `ALL_RULES`: a guard that fails replaces the warning of the same name."""
    by_name = {result.rule.name: result for result in results}
    for result in guarded:
        if not result.passed or result.rule.name not in by_name:
            by_name[result.rule.name] = result
    return tuple(by_name[rule.name] for rule in ALL_RULES)


def holding(results: tuple[CheckResult, ...]) -> tuple[CheckResult, ...]:
    """The guards that hold the roster."""
    return tuple(result for result in results if result.holds and not result.passed and not result.only_warns)


def as_warnings(results: tuple[CheckResult, ...], names: Collection[str], why: str) -> tuple[CheckResult, ...]:
    """The results, with the failures of these guards made warnings, because somebody decided so."""
    return tuple(
        replace(result, only_warns=True, reason=f"{result.reason}; {why}")
        if result in holding(results) and result.rule.name in names
        else result
        for result in results
    )


def _students_lost(candidate: Candidate, comparison: Comparison, guards: Guards) -> CheckResult:
    if not guards.students_lost or comparison.is_first:
        return _passed(STUDENTS_LOST, "nothing to compare with" if comparison.is_first else "turned off")
    published, removed = comparison.published, candidate.students_removed
    if removed == candidate.students_added == candidate.students_changed == 0:
        return _passed(STUDENTS_LOST, "nothing has changed")  # also known if the manifest cannot be read
    if published is None or removed is None:
        return _failed(
            STUDENTS_LOST,
            "what is published cannot be read, so that nobody knows what this roster would change",
            {"students": candidate.students},
        )
    lost = share_of(removed, published.students)
    numbers = {"students_removed": removed, "students_removed_share": round(lost, 4)}
    said = f"{removed:,} of {published.students:,} published students ({lost:.1%}) are no longer in the warehouse"
    if lost > guards.students_lost and removed > guards.students_lost_least:
        return _failed(STUDENTS_LOST, f"{said}, more than {guards.students_lost:.1%}", numbers)
    if (slowly := _lost_slowly(candidate, published, comparison.earlier, guards)) is not None:
        since, more = slowly
        return _failed(STUDENTS_LOST, f"{said}; {since}", numbers | more)
    return _passed(STUDENTS_LOST, said, numbers)


def _lost_slowly(
    candidate: Candidate, published: Manifest, earlier: Sequence[Earlier], guards: Guards
) -> tuple[str, dict[str, int | float]] | None:
    """What to say if each step was small but the last days' loss together is not; else None.

    Counted by the rosters' sizes, so students who came meanwhile offset some who went.
    """
    largest = max(earlier, key=lambda each: each.students, default=None)
    if largest is None or candidate.students >= published.students:
        return None
    lost = largest.students - candidate.students
    share = share_of(lost, largest.students)
    if share <= guards.students_lost or lost <= guards.students_lost_least:
        return None
    said = (
        f"in small steps it lost {share:.1%} since {largest.until[:10]}, {largest.students:,} -> "
        f"{candidate.students:,} students, more than {guards.students_lost:.1%}"
    )
    return said, {"students_lost_in_steps": lost, "students_lost_in_steps_share": round(share, 4)}


def _students_added(candidate: Candidate, comparison: Comparison, guards: Guards) -> CheckResult:
    published, added = comparison.published, candidate.students_added
    if not guards.students_added or published is None or added is None:
        return _not_compared(STUDENTS_ADDED, guards.students_added)
    new = share_of(added, published.students)
    numbers = {"students_added": added, "students_added_share": round(new, 4)}
    said = f"{added:,} students are new, beside {published.students:,} published ones ({new:.1%})"
    if new > guards.students_added and added > guards.students_added_least:
        return _failed(STUDENTS_ADDED, f"{said}, more than {guards.students_added:.1%}", numbers)
    return _passed(STUDENTS_ADDED, said, numbers)


def _students_changed(candidate: Candidate, comparison: Comparison, guards: Guards) -> CheckResult:
    published, changed, removed = comparison.published, candidate.students_changed, candidate.students_removed
    if not guards.students_changed or published is None or changed is None or removed is None:
        return _not_compared(STUDENTS_CHANGED, guards.students_changed)
    in_both = published.students - removed
    other = share_of(changed, in_both)
    numbers = {"students_changed": changed, "students_changed_share": round(other, 4)}
    said = f"{changed:,} of {in_both:,} students in both ({other:.1%}) have other codes or another school"
    if other > guards.students_changed:
        return _failed(STUDENTS_CHANGED, f"{said}, more than {guards.students_changed:.1%}", numbers)
    return _passed(STUDENTS_CHANGED, said, numbers)


def _id_type_lost(candidate: Candidate, comparison: Comparison, guards: Guards) -> CheckResult:
    published = comparison.published
    if not guards.id_type_lost or published is None:
        return _not_compared(ID_TYPE_LOST, guards.id_type_lost)
    now, before = students_by_type(candidate.students_by_id_system), students_by_type(published.students_by_id_system)
    falls = {
        id_type: share_of(students, published.students) - share_of(now.get(id_type, 0), candidate.students)
        for id_type, students in before.items()
    }
    # Rounded, because 0.9 - 0.65 is above 0.25 by the last bit.
    fallen = {id_type: fall for id_type, fall in sorted(falls.items()) if round(fall, 9) > guards.id_type_lost}
    numbers = {"id_types_lost": len(fallen), "largest_fall": round(max(falls.values(), default=0.0), 4)}
    if fallen:
        named = ", ".join(f"{id_type} fell by {fall * 100:.0f} points" for id_type, fall in fallen.items())
        return _failed(ID_TYPE_LOST, f"{named} of all students, more than {guards.id_type_lost * 100:g}", numbers)
    return _passed(ID_TYPE_LOST, "no ID type lost many students", numbers)


def _colliding_codes(candidate: Candidate, comparison: Comparison, guards: Guards) -> CheckResult:
    published = comparison.published
    if not guards.colliding_codes or published is None:
        return _not_compared(COLLIDING_CODES, guards.colliding_codes)
    now = share_of(candidate.colliding_codes, candidate.students)
    before = share_of(published.colliding_codes, published.students)
    numbers = {"colliding_codes": candidate.colliding_codes, "colliding_codes_share": round(now, 4)}
    said = (
        f"{candidate.colliding_codes:,} codes are shared by several students and left out for all of them: {now:.1%} "
        f"of {candidate.students:,} students, where it was {before:.1%}"
    )
    if now > guards.colliding_codes and now > 2 * before:
        return _failed(
            COLLIDING_CODES, f"{said}; more than {guards.colliding_codes:.1%}, and more than twice as many", numbers
        )
    return _passed(COLLIDING_CODES, said, numbers)


def _warehouse_moved(candidate: Candidate, comparison: Comparison, guards: Guards) -> CheckResult:
    """A manifest without a place (of 0.1.0) passes: the next one has a place."""
    if not guards.warehouse_moved:
        return _passed(WAREHOUSE_MOVED, "turned off")
    published = comparison.published
    own = comparison.place or (published.place if published else None)
    if own is not None:
        return moved(candidate.place, [own])
    return moved(candidate.place, comparison.places if published is None else ())


def moved(place: Place | None, known: Collection[Place]) -> CheckResult:
    """Fails if the place is none of the known ones; passes if none are known."""
    if not is_elsewhere(place, known):
        return _passed(WAREHOUSE_MOVED, "the warehouse is the same" if known else "nothing to compare with")
    return _failed(
        WAREHOUSE_MOVED,
        f"the roster comes from {place}; what is published came from {known_as(known)}",
        {"places": 1},
    )


def _not_compared(name: str, threshold: float) -> CheckResult:
    return _passed(name, "nothing to compare with" if threshold else "turned off")


def _passed(name: str, reason: str, numbers: dict[str, int | float] | None = None) -> CheckResult:
    return CheckResult(_RULES[name], True, reason, numbers or {}, holds=True)


def _failed(name: str, reason: str, numbers: dict[str, int | float]) -> CheckResult:
    return CheckResult(_RULES[name], False, reason, numbers, holds=True)


_Judge = Callable[[Candidate, Comparison, Guards], CheckResult]
_JUDGES: tuple[_Judge, ...] = (
    _students_lost,
    _students_added,
    _students_changed,
    _id_type_lost,
    _colliding_codes,
    _warehouse_moved,
)
