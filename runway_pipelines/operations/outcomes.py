"""Which event operators get for a run that ended, if any: pure. Decided from its outcome and the one before it.

An event holds names, codes, counts and our own reasons, never the text of an exception: a library's may quote a row.
A canceled run is no outcome: somebody chose to end it, and it says nothing about the rosters.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from runway_pipelines.operations.run_report import CredentialsFailure

CREDENTIALS_FAILING = "credentials_failing"
ROSTER_REFRESH_FAILED = "roster_refresh_failed"
ROSTER_REFRESH_RECOVERED = "roster_refresh_recovered"
ROSTER_HELD = "roster_held"
ROSTER_RELEASED = "roster_released"
IDENTITY_RUN_FAILED = "identity_run_failed"
IDENTITY_RUN_RECOVERED = "identity_run_recovered"
ROSTERS_STALE = "rosters_stale"
ROSTERS_FRESH_AGAIN = "rosters_fresh_again"
TENANT_CODE_UNUSABLE = "tenant_code_unusable"
STUDENT_FILE_FOREIGN = "student_file_foreign"
STUDENT_RESOLUTION_FAILED = "student_resolution_failed"

# EventBridge refuses an entry above 256 KB. JSON needs at most six bytes a character: 150 KB for these reasons.
MOST_REASONS = 50
MOST_CHARACTERS = 500
# Counts, moments and the ids of queries.
_NUMBER = re.compile(r"[0-9a-f]*[0-9][0-9a-f.,:-]*")


@dataclass(frozen=True)
class OperatorEvent:
    """News for operators; ``detail`` is ready for JSON and holds nothing secret or personal."""

    detail_type: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    ``reasons`` maps each tenant that is not published to ``status: reason``. If the run has no partner, it maps the
    asset to the reason; if Dagster dropped the run before it began, ``run`` to Dagster's message. For each of those
    tenants whose roster a guard holds, ``holds`` has the candidate and its guards. Run, job and trigger are None for
    news that no run brought.
    """

    run_id: str | None
    job_name: str | None
    partner_id: str | None
    is_success: bool
    trigger: str | None
    ended_at: datetime
    counts: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    credentials_failure: CredentialsFailure | None = None
    holds: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_judged(self) -> bool:
        """Whether it says how rosters are; a run that was refused as a whole, or that Dagster dropped, does not."""
        return self.credentials_failure is None and (bool(self.counts) or not self.has_failed)

    @property
    def has_failed(self) -> bool:
        """Whether it failed for more than rosters that wait for a person."""
        return not self.is_success and not (self.reasons and self.reasons.keys() <= self.holds.keys())


def events_of(
    outcome: RunOutcome,
    previous: RunOutcome | None,
    dagster_url: str | None,
    *,
    identity_jobs: frozenset[str],
    known: Mapping[str, str],
) -> list[OperatorEvent]:
    """The events for an outcome; ``previous`` is the one before it of the same job and partner, if any.

    Operators hear of a held roster once for each candidate and its guards, and once when the hold has ended. News is
    what differs from ``known``, the holds that they know of (`known_holds`).
    """
    new = {tenant for tenant, hold in outcome.holds.items() if known.get(tenant) != hold}
    gone = known.keys() - outcome.reasons.keys() if outcome.has_judged else set()
    told = {
        ROSTER_HELD: replace(outcome, reasons={tenant: outcome.reasons[tenant] for tenant in sorted(new)}),
        ROSTER_RELEASED: replace(outcome, reasons=dict.fromkeys(sorted(gone), "no longer held")),
    }
    events = [OperatorEvent(name, _detail(each, dagster_url)) for name, each in told.items() if each.reasons]
    if (detail_type := _detail_type(outcome, previous, identity_jobs)) is not None:
        rest = {tenant: why for tenant, why in outcome.reasons.items() if tenant not in outcome.holds}
        events.append(OperatorEvent(detail_type, _detail(replace(outcome, reasons=rest), dagster_url)))
    return events


def known_holds(earlier: Iterable[RunOutcome]) -> dict[str, str]:
    """The holds that operators know of, from the outcomes before, the newest first.

    A tenant that failed in one is neither held nor released by it, and the outcome before that one counts.
    """
    known: dict[str, str] = {}
    failed: Set[str] | None = None  # in every outcome so far
    for outcome in earlier:
        if not outcome.has_judged:
            continue
        known |= {tenant: hold for tenant, hold in outcome.holds.items() if failed is None or tenant in failed}
        failed_now = outcome.reasons.keys() - outcome.holds.keys()
        failed = failed_now if failed is None else failed_now & failed
        if not failed:
            break
    return known


def freshness_event(
    judgement: RunOutcome, stale: Mapping[str, str], was_stale: Collection[str], dagster_url: str | None
) -> OperatorEvent | None:
    """The event for a partner whose freshness was judged; ``was_stale`` are the tenants that were stale before.

    A stale tenant is reported once, however long it stays stale; recovery is reported once none is.
    """
    if not stale.keys() <= set(was_stale):
        detail_type = ROSTERS_STALE
    elif was_stale and not stale:
        detail_type = ROSTERS_FRESH_AGAIN
    else:
        return None
    outcome = replace(judgement, counts={"stale": len(stale)}, reasons=stale)
    return OperatorEvent(detail_type, _detail(outcome, dagster_url))


def unusable_code_event(
    judgement: RunOutcome, unusable: Mapping[str, str], was_unusable: Collection[str], dagster_url: str | None
) -> OperatorEvent | None:
    """The event for a partner with unusable tenant codes: once, and again when another code becomes unusable."""
    if unusable.keys() <= set(was_unusable):
        return None
    outcome = replace(judgement, counts={"unusable": len(unusable)}, reasons=unusable)
    return OperatorEvent(TENANT_CODE_UNUSABLE, _detail(outcome, dagster_url))


def resolution_events(
    outcome: RunOutcome, foreign: Mapping[str, str], told: Collection[str], dagster_url: str | None
) -> list[OperatorEvent]:
    """The events of a run that resolved a tenant's files: one for each file of another district, one if it failed.

    ``foreign`` maps a file's version to the reason, ``told`` are the versions that earlier runs reported. A failed run
    was requested for a file that is new, so each failure is told.
    """
    key = outcome.partner_id or ""  # its partition is a tenant
    run = replace(outcome, partner_id=key.partition("/")[0])
    events = [
        OperatorEvent(STUDENT_FILE_FOREIGN, _detail(replace(run, reasons={key: reason}), dagster_url))
        for version, reason in foreign.items()
        if version not in told
    ]
    if not outcome.is_success:
        events.append(OperatorEvent(STUDENT_RESOLUTION_FAILED, _detail(run, dagster_url)))
    return events


def secret_gone(partner_id: str, reason: str, now: datetime) -> OperatorEvent:
    """The event for a partner without a secret: no run fails because of it, since none is requested."""
    failure = CredentialsFailure("SecretGone", None, reason)
    outcome = RunOutcome(None, None, partner_id, False, None, now, credentials_failure=failure)
    return OperatorEvent(CREDENTIALS_FAILING, _detail(outcome, None))


def _detail_type(outcome: RunOutcome, previous: RunOutcome | None, identity_jobs: frozenset[str]) -> str | None:
    is_identity = outcome.job_name in identity_jobs
    if not outcome.has_failed:
        recovered = IDENTITY_RUN_RECOVERED if is_identity else ROSTER_REFRESH_RECOVERED
        return recovered if previous is not None and previous.has_failed else None
    if previous is not None and _is_same_failure(outcome, previous) and _is_same_day(outcome, previous):
        return None
    if is_identity:
        return IDENTITY_RUN_FAILED
    return ROSTER_REFRESH_FAILED if outcome.credentials_failure is None else CREDENTIALS_FAILING


def _is_same_failure(outcome: RunOutcome, previous: RunOutcome) -> bool:
    """Whether a failure was told before. Numbers in the reasons do not count: counts and the ids of queries change."""
    if not previous.has_failed:
        return False
    if outcome.credentials_failure is not None:
        return outcome.credentials_failure.is_same(previous.credentials_failure)
    return previous.credentials_failure is None and _told_reasons(outcome) == _told_reasons(previous)


def _told_reasons(outcome: RunOutcome) -> dict[str, str]:
    return {
        tenant: _NUMBER.sub("#", reason) for tenant, reason in outcome.reasons.items() if tenant not in outcome.holds
    }


def _is_same_day(outcome: RunOutcome, previous: RunOutcome) -> bool:
    """Whether both ended on one day in UTC: the first of a day with the same failure is the day's reminder."""
    return outcome.ended_at.astimezone(UTC).date() == previous.ended_at.astimezone(UTC).date()


def _detail(outcome: RunOutcome, dagster_url: str | None) -> dict[str, Any]:
    """Every event has the same members, null where they do not apply, so that a rule can rely on them."""
    failure = outcome.credentials_failure
    # When credentials fail, every tenant has the same reason.
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
