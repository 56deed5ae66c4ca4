"""A tenant's outcome as Dagster events: materializations with metadata for people, and check evaluations."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import dagster as dg

from runway_pipelines.credentials.connection_asset import SECRET_VERSION_LABEL
from runway_pipelines.dagster_events import target_of_newest
from runway_pipelines.operations.tags import linked, runbook
from runway_pipelines.operations.wording import how_many, minute, utc_minute
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.partitions import PARTNER_TENANTS
from runway_pipelines.rosters.advice import Advice
from runway_pipelines.rosters.districts import District, cause_and_remedy, districts_of, on_one_line
from runway_pipelines.rosters.guards import ALL_RULES, GUARD_NAMES
from runway_pipelines.rosters.index import PartnerIndex
from runway_pipelines.rosters.manifest import Manifest, index_key, manifest_key, snapshot_key, stable_key
from runway_pipelines.rosters.outcome import TenantOutcome, TenantStatus
from runway_pipelines.rosters.plots import bar_chart, horizontal_bar_chart, inline_image, line_chart
from runway_pipelines.rosters.quality import QualityRule
from runway_pipelines.systems.aws.object_store import ObjectStore

CROSS_YEAR_ROSTER = dg.AssetKey(["rosters", "cross_year_roster"])
PARTNER_ROSTER_INDEX = dg.AssetKey(["rosters", "partner_roster_index"])
PUBLISHED_ROSTER = dg.AssetKey(["rosters", "published_roster"])

MOST_YEARS = 12  # bars of a plot
MOST_DISTRICTS = 40
PLAIN = Advice()
NOTHING_SAID: Mapping[str, str] = MappingProxyType({})


def _consequence(rule: QualityRule) -> str:
    if rule.blocking:
        return " If it fails, the roster is not published."
    return " A guard: an error holds the roster until a person decides." if rule.name in GUARD_NAMES else ""


# Dagster's own "blocking" gates the steps of a run, but a partner's tenants are not steps. On every route, our code
# leaves the stable keys untouched when a blocking rule fails (gate.publish_extract).
CHECK_SPECS = [
    dg.AssetCheckSpec(
        rule.name,
        asset=CROSS_YEAR_ROSTER,
        description=rule.description + _consequence(rule),
        blocking=rule.blocking or rule.name in GUARD_NAMES,
        partitions_def=PARTNER_TENANTS,
    )
    for rule in ALL_RULES
]


def events_of(
    instance: dg.DagsterInstance,
    outcome: TenantOutcome,
    store: ObjectStore,
    *,
    planned_checks: Collection[str] = (),
    failing_since: str | None = None,
    advice: Advice = PLAIN,
) -> Iterator[object]:
    """The events of one tenant, in order: roster, its checks, publication.

    A superseded tenant adds nothing to what the later query's run recorded. A held or failed one gets its checks and an
    observation that says why; its planned materializations show as failed. ``planned_checks`` are those that Dagster
    expects of this run: if one were not judged, Dagster would show it as failed.
    """
    partition = outcome.tenant.key
    if outcome.status.is_published and outcome.manifest is not None:
        yield _roster_event(outcome, outcome.manifest, store)
    judged = {result.rule.name for result in outcome.check_results}
    not_judged = [] if outcome.status.is_success else sorted(set(planned_checks) - judged)
    target = target_of_newest(instance, CROSS_YEAR_ROSTER, partition) if judged or not_judged else None
    for result in outcome.check_results:
        yield dg.AssetCheckEvaluation(
            asset_key=CROSS_YEAR_ROSTER,
            check_name=result.rule.name,
            passed=result.passed,
            severity=dg.AssetCheckSeverity.ERROR if result.is_error else dg.AssetCheckSeverity.WARN,
            blocking=result.is_error,
            description=result.reason,
            metadata=dict(result.numbers),
            partition=partition,
            target_materialization_data=target,
        )
    for name in not_judged:
        yield dg.AssetCheckEvaluation(
            asset_key=CROSS_YEAR_ROSTER,
            check_name=name,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"not judged: there was no roster to judge ({outcome.said})",
            partition=partition,
            target_materialization_data=target,
        )
    if not outcome.status.is_success or outcome.candidate is not None:
        yield _problem_event(CROSS_YEAR_ROSTER, outcome, store, advice, failing_since=failing_since)
    if outcome.status.is_published:
        yield _publication_event(outcome, store)


def decision_events(
    outcome: TenantOutcome, store: ObjectStore, said: Mapping[str, str], advice: Advice = PLAIN
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
    """The events of a decision, so that the tenant's pages show its result; ``said`` names who decided and why."""
    if outcome.status.is_published and outcome.manifest is not None:
        yield _roster_event(outcome, outcome.manifest, store, said)
        yield _publication_event(outcome, store, said)
        return
    for key in (CROSS_YEAR_ROSTER, PUBLISHED_ROSTER):
        yield _problem_event(key, outcome, store, advice, said)


def _roster_event(
    outcome: TenantOutcome, manifest: Manifest, store: ObjectStore, said: Mapping[str, str] = NOTHING_SAID
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        CROSS_YEAR_ROSTER,
        partition=outcome.tenant.key,
        metadata={**roster_metadata(outcome, manifest, store), **said},
        tags={"dagster/data_version": manifest.sha256},
    )


def _publication_event(
    outcome: TenantOutcome, store: ObjectStore, said: Mapping[str, str] = NOTHING_SAID
) -> dg.AssetMaterialization | dg.AssetObservation:
    """An observation where the partner has no school year: nothing was published."""
    published = dg.AssetMaterialization if outcome.school_years else dg.AssetObservation
    metadata = {**publication_metadata(outcome, store), **said}
    return published(PUBLISHED_ROSTER, partition=outcome.tenant.key, metadata=metadata)


def _problem_event(
    key: dg.AssetKey,
    outcome: TenantOutcome,
    store: ObjectStore,
    advice: Advice,
    said: Mapping[str, str] = NOTHING_SAID,
    *,
    failing_since: str | None = None,
) -> dg.AssetObservation:
    metadata = linked({**problem_metadata(outcome, store, failing_since, advice), **said}, advice.docs_url)
    return dg.AssetObservation(key, partition=outcome.tenant.key, description=outcome.said, metadata=metadata)


def roster_metadata(
    outcome: TenantOutcome, manifest: Manifest, store: ObjectStore
) -> Mapping[str, dg.MetadataValue | int | float | str]:
    """What people want to know about a roster, without anybody's identifier."""
    tenant = outcome.tenant
    return {
        "dagster/row_count": manifest.lines,
        "dagster/uri": store.uri(snapshot_key(tenant, manifest.sha256)),
        "students": manifest.students,
        "records": manifest.records,
        "bytes": manifest.bytes,
        "sha256": manifest.sha256,
        "changed": outcome.status is TenantStatus.NEW,
        "since previous snapshot": changes_table(manifest),
        **_trend_plot(manifest),
        "students by school year": counts_table("school_year", manifest.students_by_school_year, manifest.students),
        "id type coverage": counts_table("id_system", manifest.students_by_id_system, manifest.students),
        "colliding codes": manifest.colliding_codes,
        "placeholder codes": manifest.placeholder_codes,
        "manifest": dg.MetadataValue.url(store.uri(manifest_key(tenant, manifest.sha256))),
        "snowflake query id": manifest.query_id,
        "query seconds": manifest.query_seconds,
        "refresh seconds": round(outcome.seconds, 3),
        SECRET_VERSION_LABEL: manifest.secret_version_id,
    }


def _trend_plot(manifest: Manifest) -> Mapping[str, dg.MetadataValue]:
    """The tenant's students over its snapshots: Dagster plots a number over partitions, and not over time."""
    if not manifest.trend:
        return {}
    title = "students over its snapshots"
    return {title: dg.MetadataValue.md(inline_image(line_chart(title, [*manifest.trend, manifest.point]), title))}


def problem_metadata(
    outcome: TenantOutcome, store: ObjectStore, failing_since: str | None = None, advice: Advice = PLAIN
) -> Mapping[str, dg.MetadataValue | int | float | str]:
    """What a person must know of a tenant that this run did not publish, and of the candidate if one was kept.

    ``failing_since`` is when the current series of failures began, None if this failure is the first.
    """
    is_held = outcome.hold is not None
    cause, remedy = cause_and_remedy(advice.adapted(outcome.reason))
    metadata: dict[str, dg.MetadataValue | int | float | str] = {"state": outcome.state, "reason": cause}
    if outcome.hold is not None:
        metadata["held since"] = utc_minute(outcome.hold.since)
    elif not outcome.status.is_success:
        first = f"{utc_minute(datetime.now(UTC).isoformat())}, this run is the first that failed"
        metadata["failing since"] = first if failing_since is None else utc_minute(failing_since)
    if outcome.pinned_at is not None:
        metadata["pinned since"] = utc_minute(outcome.pinned_at)
    metadata |= {
        **_commands(remedy or _what_is_left(outcome)),
        **({"or decide in Dagster": _how_to_decide(outcome.tenant)} if is_held else {}),
        **runbook("a-roster-is-held" if is_held else "a-run-failed-what-now"),
    }
    if (candidate := outcome.candidate) is not None:
        # Dagster's page shows these beside the metadata of the last publication, which has the plain names.
        metadata |= {
            "candidate's students": candidate.students,
            "candidate beside what is published": changes_table(candidate),
            "candidate's sha256": candidate.sha256,
            "candidate's snapshot": store.uri(snapshot_key(outcome.tenant, candidate.sha256)),
        }
    return metadata


def _commands(next_step: str) -> dict[str, str]:
    """A next step as metadata. Dagster shows no line breaks, so the lines after the first have their own entry."""
    first, _, later = next_step.partition("\n")
    return {"next step": first, "then": on_one_line(later)} if later else {"next step": first}


def _how_to_decide(tenant: PartnerTenant) -> str:
    return (
        f"Jobs, roster_decision_job, Launchpad: choose partition {tenant}, "
        "then APPROVE or REJECT with the candidate's digits"
    )


def _what_is_left(outcome: TenantOutcome) -> str:
    """The next step for a reason that names none."""
    if outcome.status is TenantStatus.HELD:
        return "correct the data in the warehouse; the next refresh publishes it"
    return "mend what the reason says, then materialize this partition, or wait for the next night"


def publication_metadata(
    outcome: TenantOutcome, store: ObjectStore
) -> Mapping[str, dg.MetadataValue | int | float | str]:
    """Where the roster can be read, and which keys this run wrote."""
    tenant = outcome.tenant
    keys = [stable_key(tenant, year) for year in outcome.school_years]
    rows = [
        dg.TableRecord(
            {
                "school_year": year,
                "uri": store.uri(key),
                "was": "new" if key in outcome.keys_written else "there already",
            }
        )
        for year, key in zip(outcome.school_years, keys, strict=True)
    ]
    metadata: dict[str, dg.MetadataValue | int | float | str] = {
        "keys": len(keys),
        "keys written": len(outcome.keys_written),
        "reason": outcome.reason,
        "sha256": outcome.manifest.sha256 if outcome.manifest else "",
    }
    if rows:
        metadata["dagster/uri"] = store.uri(keys[-1])
        metadata["published to"] = dg.MetadataValue.table(rows)
    return metadata


def index_metadata(
    index: PartnerIndex, store: ObjectStore, most_age: timedelta, advice: Advice = PLAIN
) -> Mapping[str, dg.MetadataValue | int | float | str]:
    """The partner's totals, then the districts that a person must look at, the worst first, then the others."""
    districts = districts_of(index.tenants, index.partner_id, datetime.now(UTC), most_age, advice)
    problems = [district for district in districts if district.needs_a_look]
    metadata: dict[str, dg.MetadataValue | int | float | str] = {
        "dagster/row_count": sum(entry.lines for entry in index.tenants),
        "dagster/uri": store.uri(index_key(index.partner_id)),
        "students": sum(entry.students for entry in index.tenants),
        "tenants": len(index.tenants),
        "tenants with a snapshot": sum(1 for entry in index.tenants if entry.has_snapshot),
        "tenants that need a look": len(problems),
        **_districts_plot(index),
    }
    if problems:
        metadata["problems"] = dg.MetadataValue.table(list(map(_problem_row, problems)))
    if others := [district for district in districts if not district.needs_a_look]:
        metadata["rosters"] = dg.MetadataValue.table(list(map(_roster_row, others)))
    return metadata


def _problem_row(district: District) -> dg.TableRecord:
    facts: dict[str, str | int] = {
        "tenant": district.tenant_code,
        "status": district.status,
        "since": district.since_in_words.removeprefix("since "),
        "students": district.students,
        "reason": district.reason,
    }
    return dg.TableRecord({**facts, "next step": "", "then": "", **_commands(district.next_step)})


def _roster_row(district: District) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "tenant": district.tenant_code,
            "status": district.status,
            "lines": district.lines,
            "students": district.students,
            "refreshed_at": minute(district.confirmed_at) if district.confirmed_at else None,
            "last change": district.last_change,
        }
    )


def _districts_plot(index: PartnerIndex) -> Mapping[str, dg.MetadataValue]:
    """Students by district, the largest first: Dagster's own plots join districts by a line."""
    students = {entry.name: entry.students for entry in index.tenants if entry.has_snapshot}
    if not students:
        return {}
    largest = sorted(students.items(), key=lambda each: (-each[1], each[0]))[:MOST_DISTRICTS]
    title = "students by district" if len(students) <= MOST_DISTRICTS else f"the {MOST_DISTRICTS} largest districts"
    svg = horizontal_bar_chart(title, dict(largest))
    return {"students by district": dg.MetadataValue.md(inline_image(svg, title))}


def warehouse_seconds(outcomes: Iterable[TenantOutcome]) -> Mapping[str, float]:
    """The time in which at least one tenant's statement ran or sent its rows: what the warehouse is billed for.

    Only refreshed tenants count: the others have no manifest, or another run's.
    """
    spans = sorted(
        (datetime.fromisoformat(each.manifest.query_started_at).timestamp(), each.manifest.query_seconds)
        for each in outcomes
        if each.manifest is not None and each.status.is_published
    )
    seconds = busy_until = 0.0
    for start, length in spans:
        seconds += max(0.0, start + length - max(start, busy_until))
        busy_until = max(busy_until, start + length)
    return {"warehouse seconds": round(seconds, 1)} if spans else {}


def students_plot(outcomes: Iterable[TenantOutcome]) -> Mapping[str, dg.MetadataValue]:
    """Students of all refreshed tenants by the school year they were last seen in."""
    manifests = [outcome.manifest for outcome in outcomes if outcome.manifest is not None]
    by_year: Counter[str] = Counter()
    for manifest in manifests:
        by_year.update(manifest.students_by_school_year)
    if not by_year:
        return {}
    title = f"students by school year, {how_many(len(manifests), 'tenant')}"
    svg = bar_chart(title, dict(sorted(by_year.items())[-MOST_YEARS:]))
    return {"students by school year": dg.MetadataValue.md(inline_image(svg, title))}


def counts_table(name: str, counts: Mapping[str, int], students: int) -> dg.MetadataValue:
    """Numbers of students by ``name``, with their share."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({name: key, "students": n, "share": f"{n / students:.1%}" if students else ""})
            for key, n in counts.items()
        ],
        schema=dg.TableSchema([dg.TableColumn(name), dg.TableColumn("students", "int"), dg.TableColumn("share")]),
    )


def changes_table(manifest: Manifest) -> dg.MetadataValue:
    """What changed against the previous snapshot, in students."""
    if manifest.previous_sha256 is None:
        return dg.MetadataValue.text("the first snapshot: there is nothing to compare it with")
    if manifest.students_added is None:
        return dg.MetadataValue.text("not compared: the previous snapshot could not be read; the run's log says why")
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "students_added": manifest.students_added,
                    "students_removed": manifest.students_removed,
                    "students_changed": manifest.students_changed,
                }
            )
        ]
    )


ROSTER_COLUMNS = dg.TableSchema(
    [
        dg.TableColumn(
            "educationOrganizationReference.educationOrganizationId",
            "integer",
            "the education organization that the student belongs to in the latest school year",
        ),
        dg.TableColumn("educationOrganizationReference.link.rel", "string", "its kind: LocalEducationAgency or School"),
        dg.TableColumn("studentReference.studentUniqueId", "string", "the ID that a matched row gets"),
        dg.TableColumn(
            "studentIdentificationCodes",
            "array<object>",
            "every ID of the student by its kind; an empty one for each kind of the tenant that the student lacks",
        ),
    ]
)
