"""The board: every partner at one moment, the worst first, and what to do about each. Pure.

It is made of the registry and of the partners' indexes, one document for each partner, and never of a tenant's own
objects. What these do not say is None here, and "unknown" for people. How it looks is in `board_page` and `cli/board`.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from runway_pipelines.credentials.key_hygiene import NO_KEY_FACTS, KeyFacts
from runway_pipelines.operations.run_report import hours
from runway_pipelines.operations.wording import hosted, minute, runbook_path
from runway_pipelines.rosters.freshness import is_recent

if TYPE_CHECKING:
    from runway_pipelines.rosters.index import IndexEntry

COMMAND = "runway-pipelines"
# A reason ends with what to do about it: our errors' remedy, a hold's commands, the end of a pin.
_WHAT_TO_DO = re.compile(
    r"\s*(?:To do: (?P<remedy>.+)|(?P<commands>(?:To see what would change|To publish it all the same|To publish again)"
    r": .+))\Z",
    re.DOTALL,
)
_SINCE = re.compile(r"\Aheld since [0-9: -]+ UTC: ")  # the board says it beside the state
_NUMBERS = re.compile(r"([0-9]+)")


class DistrictState(StrEnum):
    """How a district's roster is, the worst first.

    ``held`` was refused by a check, or waits for a person; ``failed`` could not be read from the warehouse. ``stale``
    and ``fresh`` rosters differ by when the warehouse last confirmed them, whatever was tried since. ``never`` has no
    roster yet. ``left`` is no longer in the registry, and still has one; it counts as no district.
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
class Advice:
    """How the reader does what a next step says: what the command is called, where Dagster and the pages are."""

    command: str = COMMAND
    dagster_url: str | None = None
    docs_url: str | None = None
    ui: str = "the Dagster UI"

    def page(self, asset: str, partition: str) -> str:
        """Where an asset's partition is: an address, or words where nobody said where Dagster is."""
        if self.dagster_url is None:
            return f"{asset}, partition {partition}, in {self.ui}"
        return f"{self.dagster_url.rstrip('/')}/assets/{asset}?view=partitions&partition={quote(partition, safe='')}"

    def runbook(self, section: str) -> str:
        """A section of the operations page."""
        path = runbook_path(section)
        return path if self.docs_url is None else hosted(path, self.docs_url)

    def adapted(self, text: str) -> str:
        """A text of ours with its commands called as the reader calls them, once however often it is adapted."""
        more = self.command.removeprefix(COMMAND)
        return re.sub(rf"\b{COMMAND}(?= )(?!{re.escape(more)} )", lambda _: self.command, text) if more else text


@dataclass(frozen=True)
class PartnerState:
    """What is known of a partner; ``trouble`` says why its index could not be read."""

    partner_id: str
    name: str
    entries: Sequence[IndexEntry]
    keys: KeyFacts = NO_KEY_FACTS
    school_years: Sequence[int] = ()
    trouble: str = ""


@dataclass(frozen=True)
class District:
    """One district. Moments are ISO 8601 in UTC.

    ``confirmed_at`` is when the warehouse last confirmed the roster that is there, and ``since`` when its state began,
    where that is known. An index that an earlier version wrote does not say when a failure began.
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

    @property
    def needs_a_look(self) -> bool:
        """Whether the board lists it."""
        return self.state is not DistrictState.FRESH or self.is_pinned

    @property
    def since_in_words(self) -> str:
        """Since when it is so, for a person; empty where nobody recorded it."""
        if self.since is not None:
            return f"since {_minute(self.since)}"
        is_ahead = self.age_hours is not None and self.age_hours < 0
        if is_ahead or self.state in (DistrictState.NEVER, DistrictState.LEFT):
            return ""
        if self.confirmed_at is None:
            return "never had a roster"
        return f"after its last good refresh, {_minute(self.confirmed_at)}"


@dataclass(frozen=True)
class PartnerRow:
    """One partner: how many districts are in which state, and its districts, the worst first."""

    partner_id: str
    name: str
    fresh: int
    stale: int
    held: int
    failed: int
    never: int
    oldest_at: str | None
    oldest_hours: float | None
    keys: KeyFacts
    is_key_old: bool
    school_years: Sequence[int]
    trouble: str
    next_step: str
    page: str
    districts: tuple[District, ...]

    @property
    def total(self) -> int:
        """How many districts it has."""
        return self.fresh + self.stale + self.held + self.failed + self.never

    @property
    def not_fresh(self) -> int:
        """How many of them are not fresh."""
        return self.total - self.fresh

    @property
    def is_fine(self) -> bool:
        """Whether every roster is fresh, and was readable."""
        return not self.trouble and not self.not_fresh

    @property
    def to_look_at(self) -> tuple[District, ...]:
        """The districts that are not fresh, or are pinned."""
        return tuple(district for district in self.districts if district.needs_a_look)

    @property
    def rank(self) -> tuple[object, ...]:
        """Its place among the partners: unreadable, then by what waits for a person, then by what is old."""
        return (
            not self.trouble,
            -(self.held + self.failed),
            -(self.stale + self.never),
            not self.keys.trouble,
            -(self.oldest_hours or 0.0),
            self.partner_id,
        )


@dataclass(frozen=True)
class Board:
    """All partners at one moment, the worst first."""

    made_at: datetime
    most_age: timedelta
    partners: tuple[PartnerRow, ...]

    @property
    def totals(self) -> dict[str, int]:
        """How many districts are in which state, by the state's name."""
        return {state.value: sum(getattr(row, state.value) for row in self.partners) for state in COUNTED}

    @property
    def oldest_hours(self) -> float | None:
        """The age of the oldest roster."""
        return max((row.oldest_hours for row in self.partners if row.oldest_hours is not None), default=None)

    @property
    def is_fine(self) -> bool:
        """Whether every roster of every partner is fresh."""
        return all(row.is_fine for row in self.partners)

    @property
    def summary(self) -> str:
        """One sentence for a person."""
        total = sum(self.totals.values())
        of = f"of {total:,} districts of {len(self.partners)} partners"
        worse = [f"{count:,} {name}" for name, count in self.totals.items() if count and name != DistrictState.FRESH]
        unread = [row.partner_id for row in self.partners if row.trouble]
        text = f"{self.totals['fresh']:,} {of} are fresh" + (f", {', '.join(worse)}" if worse else "")
        return text + (f"; the indexes of {', '.join(unread)} cannot be read" if unread else "")

    def document(self) -> dict[str, Any]:
        """The board as JSON values. Of a partner it has the districts that are to be looked at."""
        return {
            "made_at": self.made_at.astimezone(UTC).isoformat(timespec="seconds"),
            "fresh_within_hours": hours(self.most_age),
            "is_fine": self.is_fine,
            "districts": sum(self.totals.values()),
            **self.totals,
            "oldest_hours": self.oldest_hours,
            "partners": [_partner_document(row) for row in self.partners],
        }


def make_board(
    partners: Iterable[PartnerState],
    now: datetime,
    most_age: timedelta,
    *,
    key_warning_days: int = 90,
    advice: Advice | None = None,
) -> Board:
    """The board at ``now`` (aware); a roster is fresh while it was confirmed within ``most_age``."""
    advice = advice or Advice()
    rows = [_row(partner, now, most_age, key_warning_days, advice) for partner in partners]
    return Board(now, most_age, tuple(sorted(rows, key=lambda row: row.rank)))


@dataclass(frozen=True)
class DistrictGroup:
    """Districts of which the same is to be said: refused credentials fail all of a partner's."""

    districts: tuple[District, ...]

    @property
    def first(self) -> District:
        """The one that speaks for all."""
        return self.districts[0]

    @property
    def since_in_words(self) -> str:
        """Since when, the earliest first, where they differ."""
        words = list(dict.fromkeys(district.since_in_words for district in self.districts))
        return words[0] if len(words) == 1 or not words[0] else f"{words[0]}, and later"


def grouped(districts: Iterable[District]) -> list[DistrictGroup]:
    """Those with the same state, reason and next step as one, in the order of the first of each."""
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
    )


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
        still = f"; a hold or a pin of {_minute(entry.since)} stands" if _is_interrupted(entry, state) else ""
        return said + still
    if age < timedelta():
        return f"dated {-hours(age):.1f} hours in the future: the clock of its run was fast, or this one is slow"
    tried = said or ("the last refresh went well, and none came since" if entry.status in _WENT_WELL else entry.status)
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
    """The command, or the page, with which a person ends it; ``to_do`` is what the reason itself says."""
    tenant = shlex.quote(f"{partner_id}/{entry.tenant_code}")
    if entry.is_unusable:
        return "have the tenant's code changed in the application"
    if entry.status == "pinned":
        return f"{advice.command} rosters unpin {tenant} --reason '...', then refresh it"
    match state:
        case DistrictState.HELD if to_do:
            return to_do
        case DistrictState.HELD if entry.since is not None:
            return f"{advice.command} rosters show {tenant} says what may be decided"
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
            return f"{advice.command} rosters purge {tenant} deletes what is still published"
        case _:
            return ""


def _refresh(partner_id: str, advice: Advice) -> str:
    return f"materialize {advice.page('rosters/partner_roster_index', partner_id)}"


def _row(
    partner: PartnerState, now: datetime, most_age: timedelta, key_warning_days: int, advice: Advice
) -> PartnerRow:
    districts = districts_of(partner.entries, partner.partner_id, now, most_age, advice)
    counts = Counter(district.state for district in districts)
    # A roster that is dated in the future is no old one.
    aged = [d for d in districts if d.state is not DistrictState.LEFT and d.age_hours is not None and d.age_hours >= 0]
    oldest = max(aged, key=lambda district: district.age_hours or 0.0, default=None)
    row = PartnerRow(
        partner_id=partner.partner_id,
        name=partner.name,
        fresh=counts[DistrictState.FRESH],
        stale=counts[DistrictState.STALE],
        held=counts[DistrictState.HELD],
        failed=counts[DistrictState.FAILED],
        never=counts[DistrictState.NEVER],
        oldest_at=oldest.confirmed_at if oldest else None,
        oldest_hours=oldest.age_hours if oldest else None,
        keys=partner.keys,
        is_key_old=partner.keys.age_days is not None and partner.keys.age_days > key_warning_days,
        school_years=partner.school_years,
        trouble=partner.trouble,
        next_step="",
        page=advice.page("rosters/partner_roster_index", partner.partner_id),
        districts=districts,
    )
    return replace(row, next_step=_step_of_partner(row, advice))


def _worst_first(district: District) -> tuple[object, ...]:
    """By state, then those without a roster, then the oldest."""
    age = district.age_hours
    return (_WORST_FIRST[district.state], age is not None, -(age or 0.0), in_order(district.tenant_code))


def in_order(code: str) -> list[str | int]:
    """A sort key by which district-2 comes before district-10."""
    return [int(part) if place % 2 else part for place, part in enumerate(_NUMBERS.split(code))]


def _step_of_partner(row: PartnerRow, advice: Advice) -> str:
    """What to do first."""
    partner = shlex.quote(row.partner_id)
    if row.trouble:
        return f"{advice.command} doctor --partner {partner}"
    if row.keys.trouble:
        return f"put its secret into Secrets Manager as {advice.runbook('the-secret-of-a-partner')} says"
    listed = row.to_look_at
    if not listed:
        if row.is_key_old:
            return f"rotate the key as {advice.runbook('rotate-a-key-with-no-outage')} says"
        return ""
    worst = [district for district in listed if district.state is listed[0].state]
    if len({district.next_step for district in worst}) == 1:
        return worst[0].next_step
    if worst[0].state is DistrictState.HELD:
        return f"{advice.command} rosters holds {partner}"
    return f"{advice.command} rosters status {partner}"


def _split(reason: str) -> tuple[str, str]:
    """A reason, and what it says to do about it."""
    found = _WHAT_TO_DO.search(reason)
    if found is None:
        return reason, ""
    to_do = (found["remedy"] or found["commands"]).strip().rstrip(".")
    # Two commands are two lines: one copies one of them.
    return reason[: found.start()].rstrip("."), to_do.replace(". To publish it all", "\nTo publish it all")


def what_to_do(reason: str) -> str:
    """What a reason of ours says to do about it; empty if it says nothing."""
    return _split(reason)[1]


def _partner_document(row: PartnerRow) -> dict[str, Any]:
    return {
        "partner_id": row.partner_id,
        "name": row.name,
        "is_fine": row.is_fine,
        "districts": row.total,
        **{state.value: getattr(row, state.value) for state in COUNTED},
        "oldest_at": row.oldest_at,
        "oldest_hours": row.oldest_hours,
        "school_years": list(row.school_years),
        "key": {**asdict(row.keys), "is_old": row.is_key_old},
        "trouble": row.trouble,
        "next_step": row.next_step,
        "page": row.page,
        "to_look_at": [district_document(district) for district in row.to_look_at],
    }


def district_document(district: District) -> Mapping[str, Any]:
    """A district as JSON values."""
    return asdict(district)


def _minute(moment: str | None) -> str:
    """An ISO 8601 moment as ``2026-11-21 19:24 UTC``; any other text as it is."""
    shown = minute(moment or "unknown")
    return shown if shown in (moment, "unknown") else f"{shown} UTC"
