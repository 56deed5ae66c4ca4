"""When files are resolved: the job, and the sensor that sees new files of the partners who agreed to it."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import dagster as dg
import orjson

from runway_pipelines.dagster_events import with_partition_tags
from runway_pipelines.operations.tags import OWNERS, PARTNER_TAG, TRIGGER_TAG
from runway_pipelines.operations.wording import how_many
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.partitions import PARTNER_TENANTS_NAME
from runway_pipelines.partner_tenants.runs import NO_LARGE_RUNS, LargeRuns
from runway_pipelines.students.events import RESOLUTIONS
from runway_pipelines.students.files import CandidateFile, listed_files, partner_prefix
from runway_pipelines.students.services import StudentServices

JOB_NAME = "student_resolution_job"
SENSOR_NAME = "student_candidates_sensor"
MOST_REQUESTS = 50
# Dagster ends a tick after 60 s without keeping its cursor. A partner's listing takes a second for 10,000 objects.
MOST_LISTING_SECONDS = 20.0

student_resolution_job = dg.define_asset_job(
    JOB_NAME,
    selection=dg.AssetSelection.assets(RESOLUTIONS),
    description="Resolves the files of candidates that wait for a tenant, over one answer of its warehouse.",
    executor_def=dg.in_process_executor,
    owners=OWNERS,
)


@dataclass(frozen=True)
class SensorCursor:
    """The file versions that a run was requested for (`CandidateFile.identity`), by partner; and the next partner."""

    requested: Mapping[str, frozenset[str]] = field(default_factory=dict)
    next_partner: str = ""

    @classmethod
    def parse(cls, text: str | None) -> "SensorCursor":
        """Read the result of `to_json`; an empty cursor for any other text."""
        try:
            document = orjson.loads(text or "")
            requested = {str(partner): frozenset(map(str, ids)) for partner, ids in document["requested"].items()}
            return cls(requested, str(document["next"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def to_json(self) -> str:
        """As Dagster keeps it: 20 bytes for each file in the bucket."""
        requested = {partner: sorted(ids) for partner, ids in sorted(self.requested.items()) if ids}
        return orjson.dumps({"requested": requested, "next": self.next_partner}).decode()


@dataclass
class Tick:
    """What a tick saw: the files to request by tenant, and those that it cannot request."""

    requested: dict[PartnerTenant, list[CandidateFile]] = field(default_factory=dict)
    unknown: int = 0
    left: int = 0

    def look(
        self, listed: Iterable[CandidateFile], before: frozenset[str], known: frozenset[str], most: int
    ) -> frozenset[str]:
        """Take the new files of one partner; returns the versions that are requested by now."""
        seen: set[str] = set()
        for file in listed:
            tenant = file.folder.tenant
            if file.identity in before:
                seen.add(file.identity)
            elif tenant.key not in known:
                self.unknown += 1
            elif tenant in self.requested or len(self.requested) < most:
                self.requested.setdefault(tenant, []).append(file)
                seen.add(file.identity)
            else:
                self.left += 1
        return frozenset(seen)

    @property
    def summary(self) -> str:
        """One line."""
        files = sum(map(len, self.requested.values()))
        parts = [f"{how_many(files, 'new file')} of {how_many(len(self.requested), 'tenant')}"]
        if self.left:
            parts.append(f"{self.left} left for the next tick")
        if self.unknown:
            parts.append(f"{self.unknown} of tenants that are no partition (no roster, or a mistyped folder)")
        return "; ".join(parts)


def build_candidates_sensor(*, interval_seconds: int, large_runs: LargeRuns = NO_LARGE_RUNS) -> dg.SensorDefinition:
    """Requests one run for each tenant with new files, `MOST_REQUESTS` a tick."""

    @dg.sensor(
        name=SENSOR_NAME,
        job_name=JOB_NAME,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        owners=list(OWNERS),
        description="Looks for new files of candidates in the bucket, of the partners in RUNWAY_STUDENT_RESOLUTION. "
        "Requests a run for each tenant that has some. Clearing its cursor is safe: a run that finds nothing new asks "
        "no warehouse.",
    )
    def student_candidates_sensor(context: dg.SensorEvaluationContext, students: StudentServices) -> dg.SensorResult:
        cursor = SensorCursor.parse(context.cursor)
        partners = in_turn(students.policy.partners, cursor.next_partner)
        if not partners:
            return dg.SensorResult(skip_reason="RUNWAY_STUDENT_RESOLUTION names no partner", cursor=context.cursor)
        known = frozenset(context.instance.get_dynamic_partitions(PARTNER_TENANTS_NAME))
        requested = {partner: cursor.requested.get(partner, frozenset()) for partner in partners}
        tick, stop_at, next_partner = Tick(), time.monotonic() + MOST_LISTING_SECONDS, ""
        for number, partner in enumerate(partners):
            if number and time.monotonic() > stop_at:
                next_partner = partner
                break
            listed = (each.candidates for each in listed_files(students.rosters.store, partner_prefix(partner)))
            requested[partner] = tick.look(listed, requested[partner], known, MOST_REQUESTS)
        context.log.info(tick.summary)
        runs = [
            with_partition_tags(context, JOB_NAME, tenant_run(tenant, files, large_runs))
            for tenant, files in tick.requested.items()
        ]
        return dg.SensorResult(
            run_requests=runs,
            skip_reason=None if runs else tick.summary,
            cursor=SensorCursor(requested, next_partner).to_json(),
        )

    return student_candidates_sensor


def in_turn(partners: Iterable[str], first: str) -> list[str]:
    """The partners, beginning with the one at which the last tick ran out of time."""
    ordered = sorted(set(partners))
    return [*(each for each in ordered if each >= first), *(each for each in ordered if each < first)]


def tenant_run(
    tenant: PartnerTenant, files: Iterable[CandidateFile], large_runs: LargeRuns = NO_LARGE_RUNS
) -> dg.RunRequest:
    """The request for a tenant's run. Its run_key names the files' keys and versions: they are requested once."""
    return dg.RunRequest(run_key=run_key(tenant, files), partition_key=tenant.key, tags=run_tags(tenant, large_runs))


def run_key(tenant: PartnerTenant, files: Iterable[CandidateFile]) -> str:
    """A single file's own identity, or one made from those of several."""
    identities = sorted(file.identity for file in files)
    if len(identities) == 1:
        return f"{tenant}:{identities[0]}"
    return f"{tenant}:{hashlib.sha256(' '.join(identities).encode()).hexdigest()[:16]}"


def run_tags(tenant: PartnerTenant, large_runs: LargeRuns) -> dict[str, str]:
    """The queue runs one at a time for each partner, and a partner's large runs get a larger task here too."""
    return {PARTNER_TAG: tenant.partner_id, TRIGGER_TAG: "file", **large_runs.tags(tenant.partner_id)}
