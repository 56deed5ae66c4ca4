"""What is on record, and which changes were begun and never completed: pure (publication guards contract, section 5).

A process that dies between an entry and its completion leaves only the entry. The change may have taken effect or not;
this module says what finishes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from runway_pipelines.operations.wording import SHA256_SHOWN
from runway_pipelines.rosters.freshness import moment_of
from runway_pipelines.rosters.manifest import Signature

DONE = "-done"
WERE_PUBLISHED = "were_published"  # a pruning's detail: kept snapshots of which only a deleted manifest told that
_BY_A_RUN = frozenset({"hold", "release", "expected"})
_OF_A_CANDIDATE = frozenset({"approve", "reject"})
_ABOUT_PUBLICATION = _BY_A_RUN | _OF_A_CANDIDATE | {"rollback", "unpin", "purge"}


@dataclass(frozen=True)
class Entry:
    """One change: ``what`` is a word of the contract, with `DONE` at its end where it has taken effect.

    ``tenant_code`` is None for a change to the whole partner, ``signature`` for one that no person decided.
    """

    what: str
    partner_id: str
    tenant_code: str | None
    run_id: str | None = None
    from_sha256: str | None = None
    to_sha256: str | None = None
    signature: Signature | None = None
    details: Mapping[str, str | int | float | None] = field(default_factory=dict)
    at: str = ""
    id: str = ""
    program_version: str = ""

    @property
    def is_done(self) -> bool:
        """Whether it says that the change has taken effect."""
        return self.what.endswith(DONE)

    @property
    def of(self) -> str:
        """The tenant, or the partner."""
        return self.partner_id if self.tenant_code is None else f"{self.partner_id}/{self.tenant_code}"

    @property
    def why(self) -> str:
        """For a person's decision, who and why; for what a run did, the guards or the numbers."""
        if self.signature is not None:
            return f"{self.signature.decided_by}: {self.signature.reason}"
        if self.what.startswith("prune"):
            return f"{self.details.get('snapshots')} snapshots, {self.details.get('bytes')} bytes"
        return str(self.details.get("guards", ""))


class State(StrEnum):
    """How far a change got. An overtaken one was never completed, but nothing of it is left to finish."""

    COMPLETED = "completed"
    OVERTAKEN = "overtaken"
    UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Change:
    """A change as it was begun, and how far it got."""

    begun: Entry
    state: State


@dataclass(frozen=True)
class Present:
    """A tenant as it is now; ``refreshed_at`` is of the last run, other than the entry's, that published or held."""

    published_sha256: str | None = None
    held_sha256: str | None = None
    refreshed_at: datetime | None = None
    kept: frozenset[str] = frozenset()


def changes_of(entries: Sequence[Entry], present: Callable[[Entry], Present], now: datetime) -> list[Change]:
    """Every change on record, in order. ``present`` is called only for an entry that no other completes."""
    completed = {entry.id for entry in entries if entry.is_done}
    begun = [entry for entry in entries if not entry.is_done]
    changes = []
    for number, entry in enumerate(begun):
        later = (each for each in begun[number + 1 :] if each.id in completed)
        if entry.id in completed:
            state = State.COMPLETED
        elif any(_overtakes(each, entry) for each in later) or _is_moot(entry, present, now):
            state = State.OVERTAKEN
        else:
            state = State.UNFINISHED
        changes.append(Change(entry, state))
    return changes


def _overtakes(later: Entry, entry: Entry) -> bool:
    """Whether a later change that was completed leaves nothing of an earlier one to finish."""
    if later.tenant_code not in (None, entry.tenant_code):
        return False
    if entry.what in _ABOUT_PUBLICATION:
        return later.what in _ABOUT_PUBLICATION
    if entry.what == "expect" and later.what == "expect":
        return _expected(later.details) == _expected(entry.details)
    if entry.what in ("expect", "expect-end"):
        return later.what == "expect-end" and later.details.get("expectation") == entry.details.get("expectation")
    return later.what == entry.what


def _is_moot(entry: Entry, present: Callable[[Entry], Present], now: datetime) -> bool:
    """Whether nothing is left to finish, as things are now."""
    if entry.what == "expect":
        until = moment_of(str(entry.details.get("until")))
        return until is None or until <= now
    if entry.what in _OF_A_CANDIDATE:
        is_held = present(entry).held_sha256 == entry.to_sha256
        return not is_held and (entry.what == "reject" or present(entry).published_sha256 != entry.to_sha256)
    if entry.what in _BY_A_RUN:
        refreshed_at, begun_at = present(entry).refreshed_at, moment_of(entry.at)
        return refreshed_at is not None and begun_at is not None and refreshed_at > begun_at
    if entry.what == "prune":
        return present(entry).kept.isdisjoint(str(entry.details.get("sha256", "")).split())
    return False


def what_finishes(entry: Entry) -> str:
    """What to do about a change that is unfinished."""
    if entry.what in _BY_A_RUN:
        return f"the next refresh of {entry.of} finishes it"
    if entry.what == "prune":
        return "the next run_retention_job finishes it"
    reason = shlex.quote(entry.signature.reason) if entry.signature else "'...'"
    command = entry.what.removesuffix("-end")
    return f"runway-pipelines rosters {command} {shlex.quote(entry.of)}{_arguments(entry)} --reason {reason}"


def _arguments(entry: Entry) -> str:
    digits, details = (entry.to_sha256 or "")[:SHA256_SHOWN], entry.details
    match entry.what:
        case "approve" | "reject":
            return f" {digits}"
        case "rollback":
            return f" --to {digits}"
        case "expect":
            return _expected(details)
        case "expect-end":
            return f" --end {details.get('expectation')}"
        case "purge" if details.get("with_snapshots"):
            return " --with-snapshots"
    return ""


def _expected(details: Mapping[str, str | int | float | None]) -> str:
    guards = "".join(f" --guard {guard}" for guard in str(details.get("guards")).split(", "))
    return f"{guards} --until {last_day(str(details.get('until')))}"


def last_day(until: str) -> str:
    """The last day before ``until``, as the command line names it: an end at midnight means the day before."""
    moment = moment_of(until)
    return until if moment is None else f"{moment - timedelta(seconds=1):%Y-%m-%d}"
