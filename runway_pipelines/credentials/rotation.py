"""What a tick does about partners' credentials: pure (credentials contract, section 2).

Holds the cursor and the decision for one partner. The sensor (`rotation_sensor.py`) observes Secrets Manager, earlier
runs and the last try, passes them in, and requests the runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from runway_pipelines.systems.aws.secret_versions import Current, Gone, Observation, Unreadable


class TryState(StrEnum):
    """The state of the partner's newest connection check."""

    WORKED = "worked"
    FAILED = "failed"
    UNDER_WAY = "under way"
    NONE = "none"


@dataclass(frozen=True)
class LastTry:
    """The partner's newest connection check. ``at`` is when the failed run ended."""

    state: TryState = TryState.NONE
    at: datetime | None = None


@dataclass(frozen=True)
class Requested:
    """The requests for one version: the largest n, and the newest run's place in the order of all runs."""

    attempt: int
    order: int


@dataclass(frozen=True)
class Requests:
    """The requests for the observed version, and for the one in the cursor."""

    observed: Requested | None = None
    seen: Requested | None = None

    @property
    def are_newer_for_observed(self) -> bool:
        """Whether the observed version was requested after the one in the cursor.

        Then no version came back: an earlier tick requested it and died before its cursor was stored.
        """
        return self.observed is not None and (self.seen is None or self.observed.order > self.seen.order)


class Trigger(StrEnum):
    """Why a run was requested: the value of its tag ``runway/trigger``.

    A first sight is of a new partner, or of a secret where there was none. Nothing rotated.
    """

    FIRST_SIGHT = "credential_first_sight"
    ROTATION = "credential_rotation"
    HEALING = "credential_healing"


@dataclass(frozen=True)
class LastSeen:
    """What the cursor holds of a partner.

    ``secret_version`` is None while the partner has no secret. ``attempt`` is the n of the newest run_key that has one;
    it only grows, so no key is used twice. ``next_try`` is None once the credentials worked.
    """

    secret_version: str | None
    attempt: int = 0
    next_try: datetime | None = None


@dataclass(frozen=True)
class Pacing:
    """The wait before a healing attempt: ``first``, then twice the time since the last failure, up to ``longest``."""

    first: timedelta
    longest: timedelta

    def after(self, failed_at: datetime | None, now: datetime) -> timedelta:
        """How long to wait after an attempt that is made now."""
        since = now - failed_at if failed_at else self.first
        return max(self.first, min(self.longest, 2 * since))


@dataclass(frozen=True)
class Decision:
    """What to remember about one partner, and whether to request a run that tries its credentials.

    ``attempt`` is the n of the requested run's key (0: the plain key of a change). ``departed`` is the reason why the
    secret is gone, set only in the tick that notices it.
    """

    seen: LastSeen | None
    trigger: Trigger | None = None
    attempt: int = 0
    departed: str | None = None


def needs_direct_look(seen: LastSeen | None, observed: Observation, *, was_requested: bool) -> bool:
    """Whether the listing, which is eventually consistent, needs confirmation.

    A version without requests is a change, and its run_key keeps it from being acted on twice. A version that comes
    back or a secret that vanishes may come from an outdated page of the listing.
    """
    match observed:
        case Current(secret_version):
            return seen is not None and secret_version != seen.secret_version and was_requested
        case Gone():
            return seen is not None and seen.secret_version is not None
        case Unreadable():
            return False


def is_due(seen: LastSeen, last_try: LastTry, now: datetime, pacing: Pacing) -> bool:
    """Whether to try failing credentials again now.

    After a run that was queued for long and has just failed, the next one still waits. A moment further ahead than any
    wait came from a fast clock, and is ignored.
    """
    if last_try.state in (TryState.WORKED, TryState.UNDER_WAY) or seen.next_try is None:
        return False
    earliest = [seen.next_try] if last_try.at is None else [seen.next_try, last_try.at + pacing.first]
    return not any(now < moment <= now + pacing.longest for moment in earliest)


def decide(
    seen: LastSeen | None,
    observed: Observation,
    *,
    last_try: LastTry,
    requests: Requests,
    is_first_tick: bool,
    now: datetime,
    pacing: Pacing,
) -> Decision:
    """What to do about one partner. ``is_first_tick``: there is no cursor, or it was cleared."""
    match observed:
        case Unreadable():
            return Decision(seen)
        case Gone(reason):
            is_news = seen is None or seen.secret_version is not None
            return Decision(LastSeen(None, seen.attempt if seen else 0), departed=reason if is_news else None)
        case Current(secret_version):
            if seen is None:
                return _first_sight(secret_version, requests.observed, is_first_tick, now + pacing.first)
            if seen.secret_version == secret_version:
                return _same_version(seen, last_try, now, pacing)
            return _changed(seen, secret_version, requests, now + pacing.first)


def _first_sight(secret_version: str, requested: Requested | None, is_first_tick: bool, next_try: datetime) -> Decision:
    """New credentials, a partner that is back, or a cleared cursor, which changes nothing."""
    if requested is None:
        return Decision(LastSeen(secret_version, 0, next_try), Trigger.FIRST_SIGHT)
    if is_first_tick:
        return Decision(LastSeen(secret_version, requested.attempt))
    attempt = requested.attempt + 1
    return Decision(LastSeen(secret_version, attempt, next_try), Trigger.FIRST_SIGHT, attempt)


def _changed(seen: LastSeen, secret_version: str, requests: Requests, next_try: datetime) -> Decision:
    """A version other than the cursor's: a new one, one that came back, or a restored secret."""
    trigger = Trigger.FIRST_SIGHT if seen.secret_version is None else Trigger.ROTATION
    if requests.observed is None:
        return Decision(LastSeen(secret_version, seen.attempt, next_try), trigger)
    if seen.secret_version is not None and requests.are_newer_for_observed:
        return Decision(LastSeen(secret_version, max(seen.attempt, requests.observed.attempt), next_try))
    # After a cleared cursor, `seen.attempt` is too low.
    attempt = max(seen.attempt, requests.observed.attempt) + 1
    return Decision(LastSeen(secret_version, attempt, next_try), trigger, attempt)


def _same_version(seen: LastSeen, last_try: LastTry, now: datetime, pacing: Pacing) -> Decision:
    """A version seen before: it works, is being tried, or is tried again when due.

    A run that died before trying counts as failed: its run_key is used up, and nothing else would try again.
    """
    if last_try.state is TryState.WORKED:
        return Decision(replace(seen, next_try=None))
    if last_try.state is not TryState.UNDER_WAY and seen.next_try is None:
        return Decision(replace(seen, next_try=now + pacing.first))
    if not is_due(seen, last_try, now, pacing):
        return Decision(seen)
    attempt = seen.attempt + 1
    return Decision(
        LastSeen(seen.secret_version, attempt, now + pacing.after(last_try.at, now)), Trigger.HEALING, attempt
    )


def run_key(partner_id: str, secret_version: str, attempt: int) -> str:
    """``partner:version`` for a change, ``partner:version:n`` for every further run of a version."""
    return f"{partner_id}:{secret_version}" + (f":{attempt}" if attempt else "")


def attempt_of(key: str) -> int:
    """The n of a run_key (0 where it has none)."""
    number = key.split(":")[2:]
    return int(number[0]) if number and number[0].isdigit() else 0


def cursor_text(seen: Mapping[str, LastSeen]) -> str:
    """The cursor: ``{partner: {version, attempt, next_try}}``, one line."""
    return json.dumps(
        {
            partner_id: {
                "version": entry.secret_version,
                "attempt": entry.attempt,
                "next_try": entry.next_try and entry.next_try.isoformat(timespec="seconds"),
            }
            for partner_id, entry in sorted(seen.items())
        },
        separators=(",", ":"),
    )


def parse_cursor(text: str | None) -> dict[str, LastSeen] | None:
    """Read the result of `cursor_text`; None for no cursor or an unreadable one.

    Losing the cursor is harmless: runs that were requested before are not requested again.
    """
    try:
        return {
            partner_id: LastSeen(
                secret_version=entry["version"],
                attempt=int(entry["attempt"]),
                next_try=entry["next_try"] and datetime.fromisoformat(entry["next_try"]),
            )
            for partner_id, entry in json.loads(text or "null").items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
