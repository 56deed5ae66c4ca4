"""What operators are told of a run that ended: pure. A run's outcome and the one before it in, an event or none out.

An event holds names, codes, counts and our own reasons. The text of an exception never gets in: a library's may quote
a row. A canceled run is no outcome: somebody decided so, and nothing is known of the rosters.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

CREDENTIALS_FAILING = "credentials_failing"
ROSTER_REFRESH_FAILED = "roster_refresh_failed"
ROSTER_REFRESH_RECOVERED = "roster_refresh_recovered"
IDENTITY_RUN_FAILED = "identity_run_failed"
ROSTERS_STALE = "rosters_stale"
ROSTERS_FRESH_AGAIN = "rosters_fresh_again"

# Labels in the metadata of a run's failure and its checks, by which `run_log.py` finds again what operators are told.
OUTCOMES = "outcomes"
CODE = "code"
SECRET_VERSION_ID = "secret version id"  # noqa: S105 (a label)
STRAGGLERS = "stragglers"
NEVER_REFRESHED = "never"  # in place of a straggler's hours

# EventBridge refuses an entry of more than 256 KB. JSON makes at most six bytes of a character: 150 KB of reasons.
MOST_REASONS = 50
MOST_CHARACTERS = 500


@dataclass(frozen=True)
class OperatorEvent:
    """News for operators; ``detail`` is ready for JSON and holds nothing secret or personal."""

    detail_type: str
    detail: Mapping[str, Any]


class CredentialsFailure(NamedTuple):
    """Why a partner's credentials do not work; the id of a secret's version is not secret. ``code`` is the server's."""

    code: str | None
    secret_version: str | None
    reason: str

    def is_same(self, other: "CredentialsFailure | None") -> bool:
        """Whether both are of one secret version and one code; the words may differ."""
        return other is not None and (self.code, self.secret_version) == (other.code, other.secret_version)


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. ``reasons`` maps the key of each tenant that is not published to ``status: reason``; of a run
    without a partner, the asset to the reason.
    """

    run_id: str
    job_name: str
    partner_id: str | None
    is_success: bool
    trigger: str
    ended_at: datetime
    counts: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    credentials_failure: CredentialsFailure | None = None


def event_of(
    outcome: RunOutcome, previous: RunOutcome | None, dagster_url: str | None, *, identity_jobs: frozenset[str]
) -> OperatorEvent | None:
    """What to tell; ``previous`` is the outcome before it of the same job and partner, None when there is none."""
    detail_type = _detail_type(outcome, previous, identity_jobs)
    return None if detail_type is None else OperatorEvent(detail_type, _detail(outcome, dagster_url))


def freshness_event(
    judgement: RunOutcome, stale: Mapping[str, str], was_stale: Collection[str], dagster_url: str | None
) -> OperatorEvent | None:
    """What to tell of a partner whose rosters were judged, ``was_stale`` being the tenants of the judgement before.

    A tenant is told once, when it is stale, however long it stays so; and that all are fresh again, when none is.
    """
    if not stale.keys() <= set(was_stale):
        detail_type = ROSTERS_STALE
    elif was_stale and not stale:
        detail_type = ROSTERS_FRESH_AGAIN
    else:
        return None
    return OperatorEvent(
        detail_type, _detail(replace(judgement, counts={"stale": len(stale)}, reasons=stale), dagster_url)
    )


def secret_gone(partner_id: str, reason: str, now: datetime) -> OperatorEvent:
    """A partner whose secret is not there any more, or never was: no run fails for it, since none is asked for."""
    return OperatorEvent(
        CREDENTIALS_FAILING,
        {
            "partner": partner_id,
            "run_id": None,
            "run_url": None,
            "job": None,
            "trigger": None,
            "occurred_at": now.astimezone(UTC).isoformat(),
            "counts": {},
            "reasons": {},
            "reasons_left_out": 0,
            "credentials": {"code": "SecretGone", "secret_version": None, "reason": reason},
        },
    )


def counts_of(reasons: Mapping[str, str]) -> dict[str, int]:
    """How many tenants ended with each status, by the reasons' beginnings."""
    return dict(sorted(Counter(reason.partition(":")[0] for reason in reasons.values()).items()))


def _detail_type(outcome: RunOutcome, previous: RunOutcome | None, identity_jobs: frozenset[str]) -> str | None:
    if outcome.job_name in identity_jobs:
        return None if outcome.is_success else IDENTITY_RUN_FAILED
    if outcome.is_success:
        return ROSTER_REFRESH_RECOVERED if previous is not None and not previous.is_success else None
    if outcome.credentials_failure is None:
        return ROSTER_REFRESH_FAILED
    # Credentials are tried again every few minutes: who has been told of this version and code need not hear it again.
    is_known = previous is not None and outcome.credentials_failure.is_same(previous.credentials_failure)
    return None if is_known else CREDENTIALS_FAILING


def _detail(outcome: RunOutcome, dagster_url: str | None) -> dict[str, Any]:
    """The same members in every event, null where they do not apply: whoever writes a rule can rely on them."""
    failure = outcome.credentials_failure
    # With credentials that fail, each tenant has the same reason.
    reasons = [] if failure else sorted(outcome.reasons.items())
    return {
        "partner": outcome.partner_id,
        "run_id": outcome.run_id,
        "run_url": f"{dagster_url.rstrip('/')}/runs/{outcome.run_id}" if dagster_url else None,
        "job": outcome.job_name,
        "trigger": outcome.trigger,
        "occurred_at": outcome.ended_at.astimezone(UTC).isoformat(),
        "counts": dict(outcome.counts),
        "reasons": {tenant: _cut(reason) for tenant, reason in reasons[:MOST_REASONS]},
        "reasons_left_out": max(0, len(reasons) - MOST_REASONS),
        "credentials": {
            "code": failure.code,
            "secret_version": failure.secret_version,
            "reason": _cut(failure.reason),
        }
        if failure
        else None,
    }


def _cut(text: str) -> str:
    left_out = len(text) - MOST_CHARACTERS
    return text if left_out <= 0 else f"{text[:MOST_CHARACTERS]}... ({left_out} characters left out)"
