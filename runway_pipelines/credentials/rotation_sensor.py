"""The sensor that notices a rotation within a tick and requests one refresh of that partner, and of no other.

It observes and requests; `rotation.py` decides.
"""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime

import dagster as dg

from runway_pipelines.credentials.connection_asset import CAN_CONNECT, EDU_CONNECTION
from runway_pipelines.credentials.partner_secrets import MOST_LOOKS, PartnerSecrets
from runway_pipelines.credentials.rotation import (
    Decision,
    LastSeen,
    LastTry,
    Pacing,
    Requested,
    Requests,
    TryState,
    attempt_of,
    cursor_text,
    decide,
    needs_direct_look,
    parse_cursor,
    run_key,
)
from runway_pipelines.dagster_events import forget_runless_evaluation, newest_checks, with_partition_tags
from runway_pipelines.errors import Unavailable
from runway_pipelines.operations.events import OperatorEvents
from runway_pipelines.operations.outcomes import secret_gone
from runway_pipelines.operations.tags import OWNERS, PARTNER_TAG, SECRET_VERSION_TAG, linked, runbook
from runway_pipelines.operations.wording import OPERATIONS, first_few, how_many
from runway_pipelines.partner_tenants.partitions import PARTNERS_NAME
from runway_pipelines.partner_tenants.runs import NO_LARGE_RUNS, LargeRuns, partner_run
from runway_pipelines.systems.aws.secret_versions import Current, Observation, Unreadable

SENSOR_NAME = "edu_credentials_rotated_sensor"
MOST_TELLING_SECONDS = 15.0
MOST_NAMES = 20


def build_rotated_sensor(
    *,
    job_name: str,
    pacing: Pacing,
    interval_seconds: int,
    large_runs: LargeRuns = NO_LARGE_RUNS,
    also_on: Collection[dg.AssetKey] = (),
    docs_url: str | None = None,
) -> dg.SensorDefinition:
    """The sensor for a job that is partitioned by partner and tries the credentials before it refreshes anything.

    A secret that is gone shows on the connection and on the ``also_on`` assets, which are partitioned by partner.
    """

    @dg.sensor(
        name=SENSOR_NAME,
        job_name=job_name,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=list(OWNERS),
        description="Requests a refresh of a partner's rosters once for each new version of its secret, and again, at "
        "growing intervals, while its credentials fail. Reads secrets' version ids, never their values. Clearing its "
        "cursor is safe: no version is refreshed twice.",
    )
    def edu_credentials_rotated_sensor(
        context: dg.SensorEvaluationContext, secrets: PartnerSecrets, operators: OperatorEvents
    ) -> dg.SensorResult:
        cursor = parse_cursor(context.cursor)
        seen = cursor or {}
        now = datetime.now(UTC)
        partners = sorted(context.instance.get_dynamic_partitions(PARTNERS_NAME))
        listed = secrets.observe(partners)
        fail_if_all_unreadable(listed)
        requests = requests_of_changed(context.instance, seen, listed)
        observed = looked_at_directly(secrets, seen, listed, requests)
        corrected = {
            partner_id: now_seen for partner_id, now_seen in observed.items() if now_seen != listed[partner_id]
        }
        requests |= requests_of_changed(context.instance, seen, corrected)
        tries = last_tries(context.instance, CAN_CONNECT, seen.keys() & observed.keys())
        decisions = {
            partner_id: decide(
                seen.get(partner_id),
                observed[partner_id],
                last_try=tries.get(partner_id, LastTry()),
                requests=requests.get(partner_id, Requests()),
                is_first_tick=cursor is None,
                now=now,
                pacing=pacing,
            )
            for partner_id in partners
        }
        departed = told_departures(operators, context.log, decisions, now)
        run_requests = [
            with_partition_tags(context, job_name, request)
            for partner_id, made in decisions.items()
            for request in requested(partner_id, made, large_runs)
        ]
        for partner_id in departed:
            forget_runless_evaluation(context.instance, CAN_CONNECT, partner_id)
        summary = tick_summary(observed, decisions)
        context.log.info(summary)
        return dg.SensorResult(
            run_requests=run_requests,
            skip_reason=None if run_requests else summary,
            cursor=cursor_text(kept(seen, decisions, departed)),
            asset_events=[
                event
                for partner_id, reason in departed.items()
                for event in departure_events(partner_id, reason, also_on, docs_url)
            ],
        )

    return edu_credentials_rotated_sensor


def fail_if_all_unreadable(observed: Mapping[str, Observation]) -> None:
    """Fail the tick if no partner's secret could be observed."""
    reasons = [seen.reason for seen in observed.values() if isinstance(seen, Unreadable)]
    if reasons and len(reasons) == len(observed):
        raise Unavailable(
            expected=f"the current version of at least one of {len(observed)} partners' secrets",
            came=f"none; the first says: {reasons[0]}",
            remedy="fix what it names; nothing is lost, the next tick looks again",
        )


def requests_of_changed(
    instance: dg.DagsterInstance, seen: Mapping[str, LastSeen], observed: Mapping[str, Observation]
) -> dict[str, Requests]:
    """The earlier requests for versions that differ from the cursor's. The runs themselves remember them."""
    before = {partner_id: entry.secret_version for partner_id, entry in seen.items()}
    changed = {
        partner_id: now_seen.secret_version
        for partner_id, now_seen in observed.items()
        if isinstance(now_seen, Current) and now_seen.secret_version != before.get(partner_id)
    }
    of_observed = newest_requests(instance, changed)
    of_seen = newest_requests(
        instance, {partner_id: version for partner_id in of_observed if (version := before.get(partner_id))}
    )
    return {partner_id: Requests(of_observed.get(partner_id), of_seen.get(partner_id)) for partner_id in changed}


def newest_requests(instance: dg.DagsterInstance, versions: Mapping[str, str]) -> dict[str, Requested]:
    """The requests for the given version of each partner, if there were any.

    A re-execution is not a request, though it has its parent's tags. One query serves all partners: Dagster's storage
    opens two connections for each query, 9 s for 300 (docs/benchmarks/rotation.md).
    """
    if not versions:
        return {}
    newest: dict[str, Requested] = {}
    of_versions = dg.RunsFilter(tags={SECRET_VERSION_TAG: sorted(set(versions.values()))})
    for record in instance.get_run_records(of_versions):  # newest first
        tags = record.dagster_run.tags
        partner_id = tags.get(PARTNER_TAG, "")
        is_requested = record.dagster_run.parent_run_id is None
        if is_requested and versions.get(partner_id) == tags[SECRET_VERSION_TAG]:
            attempt = attempt_of(tags.get("dagster/run_key", ""))
            before = newest.get(partner_id, Requested(attempt, record.storage_id))
            newest[partner_id] = Requested(max(attempt, before.attempt), before.order)
    return newest


def looked_at_directly(
    secrets: PartnerSecrets,
    seen: Mapping[str, LastSeen],
    listed: Mapping[str, Observation],
    requests: Mapping[str, Requests],
) -> dict[str, Observation]:
    """The listed observations, each replaced by a direct look if it needs confirmation."""
    observed = dict(listed)
    looks = 0
    for partner_id, observation in listed.items():
        was_requested = requests.get(partner_id, Requests()).observed is not None
        if needs_direct_look(seen.get(partner_id), observation, was_requested=was_requested):
            looks += 1
            observed[partner_id] = (
                secrets.look(partner_id) if looks <= MOST_LOOKS else Unreadable("left for the next tick")
            )
    return observed


def last_tries(instance: dg.DagsterInstance, check: dg.AssetCheckKey, partners: Collection[str]) -> dict[str, LastTry]:
    """The state of each partner's newest connection check; a run that ended before its check counts as failed."""
    newest = newest_checks(instance, check, partners) if partners else {}
    open_runs = {state.run_id for state in newest.values() if not state.has_passed and state.run_id}
    records = instance.get_run_records(dg.RunsFilter(run_ids=sorted(open_runs))) if open_runs else []
    runs = {record.dagster_run.run_id: record for record in records}
    tries: dict[str, LastTry] = {}
    for partner_id, state in newest.items():
        run = runs.get(state.run_id or "")
        if state.has_passed:
            tries[partner_id] = LastTry(TryState.WORKED)
        elif run is not None and not is_over(run):
            tries[partner_id] = LastTry(TryState.UNDER_WAY)
        else:
            tries[partner_id] = LastTry(TryState.FAILED, ended_at(run) if run is not None else None)
    return tries


def is_over(run: dg.RunRecord) -> bool:
    """Whether a run will do nothing more, which includes one that was created but never queued (the daemon died)."""
    return run.dagster_run.is_finished or run.dagster_run.status is dg.DagsterRunStatus.NOT_STARTED


def ended_at(run: dg.RunRecord) -> datetime:
    """When a run that is over ended, or was created if it was never queued."""
    return datetime.fromtimestamp(run.end_time, UTC) if run.end_time else run.create_timestamp


def requested(partner_id: str, made: Decision, large_runs: LargeRuns = NO_LARGE_RUNS) -> Iterable[dg.RunRequest]:
    """The run that a decision asks for, if any."""
    if made.trigger is not None and made.seen is not None and made.seen.secret_version is not None:
        secret_version = made.seen.secret_version
        key = run_key(partner_id, secret_version, made.attempt)
        yield partner_run(partner_id, key, made.trigger.value, {SECRET_VERSION_TAG: secret_version}, large_runs)


def told_departures(
    operators: OperatorEvents, log: logging.Logger, decisions: Mapping[str, Decision], now: datetime
) -> dict[str, str]:
    """Notify operators of each secret that is gone; returns the reasons by partner.

    An event that is not accepted is lost with a warning, but the departure still shows on the asset. A bus that does
    not answer costs seconds an event, so after a while the rest waits for the next tick.
    """
    told: dict[str, str] = {}
    stop_at = time.monotonic() + MOST_TELLING_SECONDS
    for partner_id, made in decisions.items():
        if made.departed and time.monotonic() < stop_at:
            reason = (
                f"{made.departed}. No roster of the partner is refreshed until it has one; what was published before, "
                f"if anything, stays. Put it into Secrets Manager as {OPERATIONS} says"
            )
            operators.emit(secret_gone(partner_id, reason, now), log)
            told[partner_id] = reason
    return told


def kept(
    seen: Mapping[str, LastSeen], decisions: Mapping[str, Decision], departed: Collection[str]
) -> dict[str, LastSeen]:
    """The next cursor. A departure that was not told yet leaves its entry as it was, so the next tick notices it."""
    after = {
        partner_id: seen.get(partner_id) if made.departed and partner_id not in departed else made.seen
        for partner_id, made in decisions.items()
    }
    return {partner_id: entry for partner_id, entry in after.items() if entry is not None}


def departure_events(
    partner_id: str, reason: str, also_on: Collection[dg.AssetKey], docs_url: str | None
) -> Iterator[dg.AssetObservation | dg.AssetCheckEvaluation]:
    """The departure on the assets' pages, and as a failed check, because no run will come that could fail."""
    metadata = {"state": "no credentials", "reason": reason, **runbook("the-secret-of-a-partner")}
    for key in (EDU_CONNECTION, *also_on):
        yield dg.AssetObservation(
            key,
            partition=partner_id,
            description=reason,
            metadata=linked(metadata, docs_url),
        )
    yield dg.AssetCheckEvaluation(
        asset_key=EDU_CONNECTION,
        check_name=CAN_CONNECT.name,
        passed=False,
        severity=dg.AssetCheckSeverity.ERROR,
        blocking=True,
        description=reason,
        partition=partner_id,
    )


def tick_summary(observed: Mapping[str, Observation], decisions: Mapping[str, Decision]) -> str:
    """One line for the tick: counts, and the names of partners that may need attention."""
    requests = sum(made.trigger is not None for made in decisions.values())
    without = [partner_id for partner_id, made in decisions.items() if made.seen and made.seen.secret_version is None]
    waiting = [partner_id for partner_id, made in decisions.items() if made.seen and made.seen.next_try]
    unreadable = [partner_id for partner_id, seen in observed.items() if isinstance(seen, Unreadable)]
    parts = [f"{how_many(len(decisions), 'partner')}, {requests} to try"]
    for what, names in (
        ("without a secret", without),
        ("not known to work yet", waiting),
        ("not readable this time", unreadable),
    ):
        if names:
            parts.append(f"{len(names)} {what}: {first_few(names, MOST_NAMES)}")
    return "; ".join(parts)
