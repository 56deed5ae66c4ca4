"""What a tick does about partners' credentials: pure (credentials contract, section 2).

Belongs here: the cursor, and the decision for one partner. What is seen of Secrets Manager, of earlier runs and of the
last try is given; the sensor (`rotation_sensor.py`) looks, asks and requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from runway_pipelines.systems.aws.secret_versions import Current, Gone, Observation, Unreadable


class TryState(StrEnum):
    """How the partner's newest connection check stands."""

    WORKED = "worked"
    FAILED = "failed"
    UNDER_WAY = "under way"
    NONE = "none"


@dataclass(frozen=True)
class LastTry:
    """The partner's newest connection check. ``at`` is when the run that failed ended."""

    state: TryState = TryState.NONE
    at: datetime | None = None


@dataclass(frozen=True)
class Requested:
    """What was ever requested for a version: the largest n, and the newest run's place in the order of all runs."""

    attempt: int
    order: int


@dataclass(frozen=True)
class Requests:
    """Which runs were requested for the version that is observed, and for the one in the cursor."""

    observed: Requested | None = None
    seen: Requested | None = None

    @property
    def are_newer_for_observed(self) -> bool:
        """Whether the observed version was acted on after the one in the cursor: a tick that died before its cursor
        was kept did it, and nothing came back.
        """
        return self.observed is not None and (self.seen is None or self.observed.order > self.seen.order)


class Trigger(StrEnum):
    """Why a run was requested: the value of its tag ``runway/trigger``.

    A first sight is that of a partner, or of a secret where there was none: nothing rotated.
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
    """The wait before an attempt to heal: ``first``, then twice the time since the last failure, up to ``longest``."""

    first: timedelta
    longest: timedelta

    def after(self, failed_at: datetime | None, now: datetime) -> timedelta:
        """How long to wait after an attempt that is made now."""
        since = now - failed_at if failed_at else self.first
        return max(self.first, min(self.longest, 2 * since))


@dataclass(frozen=True)
class Decision:
    """What becomes of one partner: what to remember of it, and whether to try its credentials and refresh its rosters.

    ``attempt`` is the n of the requested run's key (0: the plain key of a change). ``departed`` is set in the one tick
    that notices that the secret is gone, with the reason.
    """

    seen: LastSeen | None
    trigger: Trigger | None = None
    attempt: int = 0
    departed: str | None = None


def needs_direct_look(seen: LastSeen | None, observed: Observation, *, was_requested: bool) -> bool:
    """Whether a listing must not be believed by itself: listing is eventually consistent.

    A version that nothing was requested for is a change, and acting on it twice is impossible (its run_key). A version
    that comes back, and a secret that vanishes, may be an old page of the listing.
    """
    match observed:
        case Current(secret_version):
            return seen is not None and secret_version != seen.secret_version and was_requested
        case Gone():
            return seen is not None and seen.secret_version is not None
        case Unreadable():
            return False


def is_due(seen: LastSeen, last_try: LastTry, now: datetime, pacing: Pacing) -> bool:
    """Whether failing credentials are to be tried again now.

    A run that waited in the queue for long and has just failed is not followed by the next at once.
    """
    if last_try.state in (TryState.WORKED, TryState.UNDER_WAY) or seen.next_try is None or now < seen.next_try:
        return False
    return last_try.at is None or now >= last_try.at + pacing.first


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
    """What to do about one partner. ``is_first_tick``: there is no cursor, or somebody cleared it."""
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
    """New credentials; or a partner that was away and is back; or a cursor that was cleared, which changes nothing."""
    if requested is None:
        return Decision(LastSeen(secret_version, 0, next_try), Trigger.FIRST_SIGHT)
    if is_first_tick:
        return Decision(LastSeen(secret_version, requested.attempt))
    attempt = requested.attempt + 1
    return Decision(LastSeen(secret_version, attempt, next_try), Trigger.FIRST_SIGHT, attempt)


def _changed(seen: LastSeen, secret_version: str, requests: Requests, next_try: datetime) -> Decision:
    """Another version than the one in the cursor: a new one, one that came back, or a restored secret."""
    trigger = Trigger.FIRST_SIGHT if seen.secret_version is None else Trigger.ROTATION
    if requests.observed is None:
        return Decision(LastSeen(secret_version, seen.attempt, next_try), trigger)
    if seen.secret_version is not None and requests.are_newer_for_observed:
        return Decision(LastSeen(secret_version, max(seen.attempt, requests.observed.attempt), next_try))
    # Of a cursor that was cleared in between the number is too small.
    attempt = max(seen.attempt, requests.observed.attempt) + 1
    return Decision(LastSeen(secret_version, attempt, next_try), trigger, attempt)


def _same_version(seen: LastSeen, last_try: LastTry, now: datetime, pacing: Pacing) -> Decision:
    """A version that was seen before: it works, is being tried, or is tried again when its time has come.

    A run that died before it tried counts as failed: its run_key is used up, and nobody else would try again.
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
    """What `cursor_text` wrote; None where there is no cursor, or one that cannot be read.

    A cursor that somebody spoiled is as good as none: runs that were requested before are not requested again.
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
