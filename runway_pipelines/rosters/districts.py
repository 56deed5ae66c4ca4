"""A district as people see it: how its roster is, why, since when, and the next step. Pure.

It is made of the tenant's entry in its partner's index, and never of the tenant's own objects. What the entry does not
say is None here, and "unknown" for people.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from runway_pipelines.operations.run_report import hours
from runway_pipelines.operations.wording import utc_minute
from runway_pipelines.rosters.advice import Advice
from runway_pipelines.rosters.freshness import is_recent

if TYPE_CHECKING:
    from runway_pipelines.rosters.index import IndexEntry

# A reason ends with what to do about it: our errors' remedy, a hold's commands, how to end a pin.
_WHAT_TO_DO = re.compile(
    r"\s*(?:To do: (?P<remedy>.+)|(?P<steps>(?:If it is another partner's warehouse|If the load went wrong"
    r"|To see what would change"
    r"|To publish it all the same|To release it|To publish again): .+))\Z",
    re.DOTALL,
)
_SINCE = re.compile(r"\Aheld since [0-9: -]+ UTC: ")  # the board says it beside the state
_NUMBERS = re.compile(r"([0-9]+)")


class DistrictState(StrEnum):
    """How a district's roster is, the worst first.

    ``held`` was refused by a check, or waits for a person; ``failed`` could not be read from the warehouse. ``stale``
    and ``fresh`` rosters differ by when the warehouse last confirmed them, whatever was tried since. ``never`` has no
    roster yet. ``left`` is no longer in the registry but still has one; it is not counted.
    """

    HELD = "held"
    FAILED = "failed"
    STALE = "stale"
    NEVER = "never"
    LEFT = "left"
    FRESH = "fresh"


_WORST_FIRST = {state: rank for rank, state in enumerate(DistrictState)}
COUNTED = (
    DistrictState.FRESH,
    DistrictState.STALE,
    DistrictState.HELD,
    DistrictState.FAILED,
    DistrictState.NEVER,
)


@dataclass(frozen=True)
class LastChange:
    """How a district's newest roster differs from the one before it, in students. ``at`` is ISO 8601.

    ``before`` is the size of the one before, None for a first roster. ``added``, ``removed`` and ``changed`` are None
    where the two were not compared, because an older roster came back.
    """

    at: str
    students: int
    before: int | None
    added: int | None
    removed: int | None
    changed: int | None

    @property
    def is_first(self) -> bool:
        """Whether there was no roster before."""
        return self.before is None

    @property
    def came(self) -> int:
        """How many students came, at least."""
        return max(self.students - (self.before or 0), 0) if self.added is None else self.added

    @property
    def went(self) -> int:
        """How many students went, at least."""
        return max((self.before or 0) - self.students, 0) if self.removed is None else self.removed

    @property
    def size(self) -> int:
        """How many students it concerns."""
        return self.came + self.went + (self.changed or 0)

    @property
    def in_words(self) -> str:
        """The counts for a person."""
        if self.before is None:
            return "the first roster"
        if self.added is None or self.removed is None or self.changed is None:
            return f"an older roster came back: {self.before:,} before, {self.students:,} now"
        return f"{self.added:,} came, {self.removed:,} went, {self.changed:,} changed"


@dataclass(frozen=True)
class District:
    """One district. Moments are ISO 8601 in UTC.

    ``confirmed_at`` is when the warehouse last confirmed the roster that is there, and ``since`` when its state began,
    where that is known. An index that an earlier version wrote does not say when a failure began. ``decided_at`` is
    when a person last decided about it on the command line.
    """

    tenant_code: str
    state: DistrictState
    status: str
    reason: str
    next_step: str
    since: str | None
    confirmed_at: str | None
    age_hours: float | None
    students: int
    lines: int
    is_pinned: bool = False
    change: LastChange | None = None
    decided_at: str | None = None

    @property
    def last_change(self) -> str:
        """When its roster changed last, and how, for a person."""
        return "unknown" if self.change is None else f"{utc_minute(self.change.at)}: {self.change.in_words}"

    @property
    def needs_a_look(self) -> bool:
        """Whether the board lists it."""
        return self.state is not DistrictState.FRESH or self.is_pinned

    @property
    def since_in_words(self) -> str:
        """Since when it has been in this state, for a person; empty if nobody recorded that."""
        if self.since is not None:
            return f"since {utc_minute(self.since)}" + (", never had a roster" if self.confirmed_at is None else "")
        is_ahead = self.age_hours is not None and self.age_hours < 0
        if is_ahead or self.state is DistrictState.LEFT:
            return ""
        if self.confirmed_at is None:
            return "never had a roster"
        return f"after its last good refresh, {utc_minute(self.confirmed_at)}"


@dataclass(frozen=True)
class DistrictGroup:
    """Districts with the same state, reason and next step: refused credentials fail all of a partner's."""

    districts: tuple[District, ...]

    @property
    def first(self) -> District:
        """The one that speaks for all."""
        return self.districts[0]

    @property
    def since_in_words(self) -> str:
        """Since when. If the districts differ: the first one's words, "and later"."""
        words = list(dict.fromkeys(district.since_in_words for district in self.districts))
        return words[0] if len(words) == 1 or not words[0] else f"{words[0]}, and later"


def grouped(districts: Iterable[District]) -> list[DistrictGroup]:
    """Group the districts with the same state, reason and next step, in the order of each group's first."""
    same: dict[tuple[object, ...], list[District]] = {}
    for each in districts:
        same.setdefault((each.state, each.is_pinned, each.reason, each.next_step), []).append(each)
    return [DistrictGroup(tuple(group)) for group in same.values()]


def districts_of(
    entries: Iterable[IndexEntry], partner_id: str, now: datetime, most_age: timedelta, advice: Advice | None = None
) -> tuple[District, ...]:
    """The tenants of a partner's index as districts, the worst first."""
    districts = (district_of(entry, partner_id, now, most_age, advice) for entry in entries)
    return tuple(sorted(districts, key=_worst_first))


def district_of(
    entry: IndexEntry, partner_id: str, now: datetime, most_age: timedelta, advice: Advice | None = None
) -> District:
    """A tenant's entry in the index as a district of the board."""
    advice = advice or Advice()
    confirmed = None if entry.refreshed_at is None else datetime.fromisoformat(entry.refreshed_at)
    age = None if confirmed is None else now - confirmed
    state = _state(entry, age, most_age)
    reason, to_do = _split(advice.adapted(entry.reason))
    return District(
        tenant_code=entry.name,
        state=state,
        status=entry.status,
        reason=_reason(entry, state, age, most_age, reason),
        next_step=_step(entry, state, partner_id, age, to_do, advice),
        since=_since(entry, state, confirmed, age, most_age),
        confirmed_at=entry.refreshed_at,
        age_hours=None if age is None else hours(age),
        students=entry.students,
        lines=entry.lines,
        is_pinned=entry.status == "pinned",
        change=None if entry.changed_at is None else _change(entry, entry.changed_at),
        decided_at=entry.decided_at,
    )


def _change(entry: IndexEntry, at: str) -> LastChange:
    added, removed, changed = entry.students_added, entry.students_removed, entry.students_changed
    before = entry.students_before
    if before is None and added is not None and removed is not None:  # as an index of 0.1.0 has it
        before = entry.students - added + removed
    return LastChange(at, entry.students, before, added, removed, changed)


def _state(entry: IndexEntry, age: timedelta | None, most_age: timedelta) -> DistrictState:
    if entry.has_departed:
        return DistrictState.LEFT
    if entry.status in (DistrictState.HELD, DistrictState.FAILED):
        return DistrictState(entry.status)
    if age is None:
        return DistrictState.NEVER
    return DistrictState.FRESH if is_recent(age, most_age) else DistrictState.STALE


def _reason(entry: IndexEntry, state: DistrictState, age: timedelta | None, most_age: timedelta, said: str) -> str:
    if state is DistrictState.NEVER and not said:
        return "no run has reached it yet"
    if state is not DistrictState.STALE or age is None:
        # A failure after a hold or a pin ends neither.
        said = _SINCE.sub("", said) if entry.since is not None else said
        still = f"; the hold or pin since {utc_minute(entry.since)} stands" if _is_interrupted(entry, state) else ""
        return said + still
    if age < timedelta():
        return f"dated {-hours(age):.1f} hours in the future: the clock of its run was fast, or this one is slow"
    tried = said or ("the last refresh went well, and none ran since" if entry.status in _WENT_WELL else entry.status)
    return f"not confirmed for more than {hours(most_age):g} hours: {tried}"


_WENT_WELL = ("new", "unchanged", "superseded")


def _is_interrupted(entry: IndexEntry, state: DistrictState) -> bool:
    return state is DistrictState.FAILED and entry.since is not None


def _since(
    entry: IndexEntry, state: DistrictState, confirmed: datetime | None, age: timedelta | None, most_age: timedelta
) -> str | None:
    if state is DistrictState.HELD or entry.status == "pinned":
        return entry.since or entry.failing_since
    if state is DistrictState.FAILED:
        return entry.failing_since
    if state is DistrictState.STALE and confirmed is not None and age is not None and age > timedelta():
        return (confirmed + most_age).astimezone(UTC).isoformat(timespec="seconds")
    return None


def _step(
    entry: IndexEntry, state: DistrictState, partner_id: str, age: timedelta | None, to_do: str, advice: Advice
) -> str:
    """The command or the page that ends the problem; ``to_do`` is the remedy that the reason itself names."""
    tenant = shlex.quote(f"{partner_id}/{entry.tenant_code}")
    if entry.is_unusable:
        return "have the tenant's code changed in the application"
    if entry.status == "pinned":
        return f"{advice.command} rosters unpin {tenant} --reason '...', then refresh it"
    match state:
        case DistrictState.HELD if to_do:
            return to_do
        case DistrictState.HELD if entry.since is not None:
            return f"{advice.command} rosters show {tenant}"
        case DistrictState.HELD:
            return f"correct the data in the warehouse, then {_refresh(partner_id, advice)}"
        case DistrictState.FAILED if to_do:
            return f"{to_do}; then {_refresh(partner_id, advice)}"
        case DistrictState.FAILED:
            return (
                f"{advice.command} doctor --partner {partner_id}, mend the cause, then {_refresh(partner_id, advice)}"
            )
        case DistrictState.STALE if age is not None and age < timedelta():
            return f"{advice.command} doctor says whose clock is wrong; the next refresh replaces it"
        case DistrictState.STALE | DistrictState.NEVER:
            return _refresh(partner_id, advice)
        case DistrictState.LEFT:
            return f"{advice.command} rosters purge {tenant} --reason '...' deletes what is still published"
        case _:
            return ""


def _refresh(partner_id: str, advice: Advice) -> str:
    return f"materialize {advice.page('rosters/partner_roster_index', partner_id)}"


def _worst_first(district: District) -> tuple[object, ...]:
    """By state, then those without a roster, then the oldest."""
    age = district.age_hours
    return (_WORST_FIRST[district.state], age is not None, -(age or 0.0), in_order(district.tenant_code))


def in_order(code: str) -> list[str | int]:
    """A sort key by which district-2 comes before district-10."""
    return [int(part) if place % 2 else part for place, part in enumerate(_NUMBERS.split(code))]


def _split(reason: str) -> tuple[str, str]:
    """A reason, and what it says to do about it."""
    found = _WHAT_TO_DO.search(reason)
    if found is None:
        return reason, ""
    to_do = (found["remedy"] or found["steps"]).strip().rstrip(".")
    # One step a line, so that a reader copies one command.
    return reason[: found.start()].rstrip("."), re.sub(r"\. (?=If the load |To (?:see|publish) )", "\n", to_do)


def on_one_line(next_step: str) -> str:
    """A next step for Dagster, which shows no line breaks."""
    return next_step.replace("\n", ". ")


def cause_and_remedy(reason: str) -> tuple[str, str]:
    """Split one of our reasons into its cause, without "held since", and its remedy, which may be empty."""
    cause, remedy = _split(reason)
    return _SINCE.sub("", cause), remedy
