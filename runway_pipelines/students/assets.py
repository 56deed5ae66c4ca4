"""The asset of student resolution: a tenant's waiting files, resolved in one run over one answer of the warehouse.

What resolves (duckdb) is imported within the run: the code server loads this module, and resolves nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg
from psycopg import Connection
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from runway_pipelines.dagster_events import keep_storage_connections, target_of_newest
from runway_pipelines.errors import RunwayError, Transient
from runway_pipelines.neighbours import CANDIDATES, EDU_SECRET, PERSONS, REGISTRY
from runway_pipelines.operations.defects import logged_defect
from runway_pipelines.operations.tags import OWNERS, domain, runbook
from runway_pipelines.operations.wording import first_few
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.partitions import PARTNER_TENANTS
from runway_pipelines.rosters.assets import require_partitions
from runway_pipelines.students.events import (
    CHECK_SPECS,
    ID_MATCHES_HOLD,
    NO_FOREIGN_FILE,
    RESOLUTION_COLUMNS,
    RESOLUTIONS,
    foreign_observation,
    foreign_reason,
    id_matches_result,
    report_metadata,
    run_metadata,
)
from runway_pipelines.students.files import CandidateFile, lock_name, waiting_files
from runway_pipelines.students.lines import FileTooLarge
from runway_pipelines.students.observables import TooManyCandidates
from runway_pipelines.students.services import StudentServices
from runway_pipelines.systems.aws.object_store import VersionGone

if TYPE_CHECKING:
    from runway_pipelines.students.file_resolution import ResolvedFile
    from runway_pipelines.students.warehouse import TenantPersons

GROUP = "students"
MOST_PROBLEMS = 5  # in a failure's text
ATTEMPTS = 3  # to get the warehouse's answer


@dataclass
class Work:
    """What a run has done so far. Of a file whose answers are written, only numbers are kept."""

    done: list["ResolvedFile"] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dg.multi_asset(
    name="student_resolutions",
    specs=[
        dg.AssetSpec(
            RESOLUTIONS,
            deps=[CANDIDATES, *PERSONS, REGISTRY, EDU_SECRET],
            description="Whose row is it: the files of candidates that wait in the tenant's folder of the bucket, each "
            "answered beside it (resolutions.jsonl, review.jsonl, report.json). Materialize it to resolve what waits; "
            "student_candidates_sensor does so for every new file. A run without a waiting file asks no warehouse.",
            group_name=GROUP,
            owners=OWNERS,
            tags=domain(GROUP),
            kinds={"snowflake", "duckdb", "s3"},
            metadata={**RESOLUTION_COLUMNS, **runbook("files-of-candidates")},
            skippable=True,
        )
    ],
    check_specs=CHECK_SPECS,
    partitions_def=PARTNER_TENANTS,
    can_subset=True,
)
def student_resolutions(context: dg.AssetExecutionContext, students: StudentServices) -> Iterator[object]:
    """Resolve every waiting file of the run's tenant, and report each."""
    require_partitions(context)
    keep_storage_connections(context.instance)
    tenant, work = PartnerTenant.parse(context.partition_key), Work()
    rosters = students.rosters
    try:
        students.require_resolvable(tenant)
        # A second run waits for the lock, and then finds no waiting file.
        with rosters.database.advisory_lock(lock_name(tenant), rosters.policy.lock_wait_seconds) as lock:
            yield from _resolve_waiting(context, students, tenant, lock, work)
    except RunwayError as error:
        work.problems.append(str(error))
    except Exception as error:  # noqa: BLE001 - Dagster would keep its text, which may quote a student
        work.problems.append(logged_defect(context.log, str(tenant), error))
    if work.done or not work.problems:
        yield from _events(context.instance, tenant, work)
    if work.problems:
        raise dg.Failure(
            f"{tenant}: {first_few(work.problems, MOST_PROBLEMS, ' ')}",
            metadata=report_metadata(tenant, len(work.done), work.problems),
            allow_retries=False,
        )


def _resolve_waiting(
    context: dg.AssetExecutionContext,
    students: StudentServices,
    tenant: PartnerTenant,
    lock: Connection[object],
    work: Work,
) -> Iterator[object]:
    waiting = waiting_files(students.rosters.store, tenant)
    if not waiting:
        context.log.info(f"{tenant}: no file waits", extra={"tenant": str(tenant)})
        return
    persons = _asked(students, tenant, context.run.run_id)
    for file in waiting:
        # The lock ends with its connection. If that broke, another run may be at work by now.
        lock.execute("select 1")
        try:
            yield from _resolve(context, students, file, persons, work)
        except VersionGone:
            context.log.info(f"{file.folder} was replaced meanwhile: the next run resolves what is there now")
        except RunwayError as error:
            work.problems.append(f"{file.folder.name}: {error}")
        except Exception as error:  # noqa: BLE001 - the other files go on; the run fails, naming this one
            work.problems.append(f"{file.folder.name}: {logged_defect(context.log, str(file.folder), error)}")


def _asked(students: StudentServices, tenant: PartnerTenant, run_id: str) -> "TenantPersons":
    """The tenant's students. A transient failure is tried again: nobody requests another run for these files."""
    again: Callable[..., TenantPersons] = retry(
        retry=retry_if_exception_type(Transient),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        reraise=True,
    )(students.fetch_persons)
    return again(tenant, run_id=run_id)


def _resolve(
    context: dg.AssetExecutionContext,
    students: StudentServices,
    file: CandidateFile,
    persons: "TenantPersons",
    work: Work,
) -> Iterator[object]:
    """Resolve one file and write its answers. One that breaks a limit is reported as refused, and waits no longer."""
    from runway_pipelines.students.file_resolution import resolve_file, write, write_refusal

    store, run_id = students.rosters.store, context.run.run_id
    try:
        done = resolve_file(store, file, persons)
    except (TooManyCandidates, FileTooLarge) as error:
        write_refusal(store, file, error, run_id)
        raise
    if done.summary.is_foreign:
        yield foreign_observation(file, foreign_reason(done.summary))
    write(store, done, run_id)
    work.done.append(done.without_answers())
    context.log.info(
        f"{file.folder}: {done.summary.candidates:,} candidates in {done.seconds:.1f} s, "
        f"{_counted(done)}; students as of {persons.asked_at:%Y-%m-%d %H:%M} UTC",
        extra={"tenant": str(file.folder.tenant)},
    )


def _counted(done: "ResolvedFile") -> str:
    return ", ".join(f"{counts.candidates:,} {decision}" for decision, counts in done.summary.decisions.items())


def _events(instance: dg.DagsterInstance, tenant: PartnerTenant, work: Work) -> Iterator[object]:
    """The run's materialization, if it resolved a file; then its checks, which are about the run's files."""
    if work.done:
        yield dg.AssetMaterialization(
            RESOLUTIONS,
            partition=tenant.key,
            metadata=run_metadata(work.done) | report_metadata(tenant, len(work.done), work.problems),
        )
    holds, said, numbers = id_matches_result(work.done)
    foreign = [each.file.folder.name for each in work.done if each.summary.is_foreign]
    target = target_of_newest(instance, RESOLUTIONS, tenant.key)
    yield dg.AssetCheckEvaluation(
        asset_key=RESOLUTIONS,
        check_name=ID_MATCHES_HOLD.name,
        passed=holds,
        severity=dg.AssetCheckSeverity.WARN,
        description=said,
        metadata=dict(numbers),
        partition=tenant.key,
        target_materialization_data=target,
    )
    yield dg.AssetCheckEvaluation(
        asset_key=RESOLUTIONS,
        check_name=NO_FOREIGN_FILE.name,
        passed=not foreign,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"another district's, it seems: {first_few(foreign, MOST_PROBLEMS)}" if foreign else "none",
        partition=tenant.key,
        target_materialization_data=target,
    )
