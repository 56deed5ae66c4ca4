"""The board: every partner at one moment, the worst first, and what to do about each. Pure.

It is made of the registry and of the partners' indexes, one document for each partner. How it looks is in `board_page`
and `cli/board`.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from runway_pipelines.credentials.key_hygiene import NO_KEY_FACTS, KeyFacts
from runway_pipelines.operations.run_report import hours
from runway_pipelines.operations.wording import how_many
from runway_pipelines.rosters.advice import Advice
from runway_pipelines.rosters.districts import (
    COUNTED,
    District,
    DistrictState,
    LastChange,
    districts_of,
    in_order,
)

if TYPE_CHECKING:
    from runway_pipelines.rosters.index import IndexEntry

RECENT = timedelta(days=1)  # what changed last night


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
class PartnerRow:
    """One partner: the number of districts in each state, and its districts, the worst first."""

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
        """Whether its index was readable, and every roster is fresh."""
        return not self.trouble and not self.not_fresh

    @property
    def to_look_at(self) -> tuple[District, ...]:
        """The districts that are not fresh, or are pinned."""
        return tuple(district for district in self.districts if district.needs_a_look)

    @property
    def rank(self) -> tuple[object, ...]:
        """Its place: unreadable partners first, then most held or failed, then most stale or never refreshed."""
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
        """The number of districts in each state, by the state's name."""
        return {state.value: sum(getattr(row, state.value) for row in self.partners) for state in COUNTED}

    @property
    def oldest_hours(self) -> float | None:
        """The age of the oldest roster."""
        return max((row.oldest_hours for row in self.partners if row.oldest_hours is not None), default=None)

    @property
    def first_rosters(self) -> int:
        """How many districts got their first roster within `RECENT`."""
        return sum(1 for _, _, change in self._recent if change.is_first)

    @property
    def changed(self) -> list[tuple[str, District, LastChange]]:
        """The districts whose roster changed within `RECENT`, with their partners, the greatest change first."""
        found = [each for each in self._recent if not each[2].is_first]
        return sorted(found, key=lambda each: (-each[2].size, each[0], in_order(each[1].tenant_code)))

    @property
    def _recent(self) -> list[tuple[str, District, LastChange]]:
        since = self.made_at - RECENT
        return [
            (row.partner_id, district, district.change)
            for row in self.partners
            for district in row.districts
            if district.change is not None and datetime.fromisoformat(district.change.at) > since
        ]

    @property
    def changes(self) -> str:
        """What changed, in one sentence for a person."""
        within = f"within the last {hours(RECENT):g} hours"
        first = f", and {how_many(self.first_rosters, 'district')} got a first one" if self.first_rosters else ""
        changed = [change for _, _, change in self.changed]
        if not changed:
            return f"No roster changed {within}{first}"
        came = sum(each.came for each in changed)
        went = sum(each.went for each in changed)
        other = sum(each.changed or 0 for each in changed)
        said = f"{how_many(len(changed), 'roster')} changed {within}"
        return f"{said}: {how_many(came, 'student')} came, {went:,} went, {other:,} changed{first}"

    @property
    def is_fine(self) -> bool:
        """Whether every roster of every partner is fresh."""
        return all(row.is_fine for row in self.partners)

    @property
    def summary(self) -> str:
        """One sentence for a person."""
        total = sum(self.totals.values())
        of = f"of {how_many(total, 'district')} of {how_many(len(self.partners), 'partner')}"
        worse = [f"{count:,} {name}" for name, count in self.totals.items() if count and name != DistrictState.FRESH]
        unread = [row.partner_id for row in self.partners if row.trouble]
        text = f"{self.totals['fresh']:,} {of} are fresh" + (f", {', '.join(worse)}" if worse else "")
        return text + (f"; the indexes of {', '.join(unread)} cannot be read" if unread else "")

    def document(self) -> dict[str, Any]:
        """The board as JSON values. A partner lists only the districts that need a look."""
        return {
            "made_at": self.made_at.astimezone(UTC).isoformat(timespec="seconds"),
            "fresh_within_hours": hours(self.most_age),
            "is_fine": self.is_fine,
            "districts": sum(self.totals.values()),
            **self.totals,
            "oldest_hours": self.oldest_hours,
            "rosters_changed": len(self.changed),
            "first_rosters": self.first_rosters,
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


def _row(
    partner: PartnerState, now: datetime, most_age: timedelta, key_warning_days: int, advice: Advice
) -> PartnerRow:
    districts = districts_of(partner.entries, partner.partner_id, now, most_age, advice)
    counts = Counter(district.state for district in districts)
    # A roster that is dated in the future is not old.
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
    row = replace(row, next_step=_step_of_partner(row, advice))
    return _without_credentials(row) if partner.keys.trouble else row


def _without_credentials(row: PartnerRow) -> PartnerRow:
    """No step on a district helps until its partner has credentials."""
    why = f"its partner has no usable credentials: {row.keys.trouble}"

    def waiting(district: District) -> District:
        if not district.needs_a_look:
            return district
        reason = why if district.state is DistrictState.NEVER else district.reason
        return replace(district, next_step=row.next_step, reason=reason)

    return replace(row, districts=tuple(map(waiting, row.districts)))


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
        return "" if row.school_years else "enable a school year in the application: none of its rosters is published"
    worst = [district for district in listed if district.state is listed[0].state]
    if len({district.next_step for district in worst}) == 1:
        return worst[0].next_step.partition("\n")[0]  # its first line; the districts below show all of it
    if worst[0].state is DistrictState.HELD:
        return f"{advice.command} rosters holds {partner}"
    return f"{advice.command} rosters status {partner}"


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
        "to_look_at": [asdict(district) for district in row.to_look_at],
    }
