"""A run's answers as Dagster events: numbers and names of files, and nobody's ID, name or birth date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from runway_pipelines.neighbours import columns
from runway_pipelines.operations.run_report import RUN_REPORT, Problem, RunReport
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.partitions import PARTNER_TENANTS

if TYPE_CHECKING:
    from runway_pipelines.students.file_resolution import ResolvedFile
    from runway_pipelines.students.files import CandidateFile
    from runway_pipelines.students.resolution import Counts, Summary

RESOLUTIONS = dg.AssetKey(["students", "resolutions"])
RESOLUTION_COLUMNS = columns(
    candidate_id="text: the line's own key in the file",
    decision="text: accept, review, none or invalid",
    reason="text: the rule that decided",
    student_unique_id="text: whose row it is, of an accepted one alone",
    weight="number: the evidence for the best student, in bits",
    ids_agree="boolean: whether an ID of the line is that student's",
    candidates="list: of a review, the two best students with what agrees; no name and no birth date",
)
FOREIGN_FILE = "foreign_file"
MOST_ROWS = 200  # of a table: what a page can show

ID_MATCHES_HOLD = dg.AssetCheckSpec(
    "id_matches_hold",
    asset=RESOLUTIONS,
    description="No record would go to another student if it were matched by ID alone. Says how many would: to another "
    "student than the accepted one, or to one whom name and birth date contradict.",
    partitions_def=PARTNER_TENANTS,
)
NO_FOREIGN_FILE = dg.AssetCheckSpec(
    "no_foreign_file",
    asset=RESOLUTIONS,
    description="No file is another district's: nearly all IDs that are known here belong to somebody else. Nothing of "
    "such a file is accepted, and operators are told once.",
    partitions_def=PARTNER_TENANTS,
)
CHECK_SPECS = [ID_MATCHES_HOLD, NO_FOREIGN_FILE]

Metadata = dict[str, dg.MetadataValue]


def foreign_observation(file: CandidateFile, reason: str) -> dg.AssetObservation:
    """What operators are told about a file, recorded before its report: a run killed in between tells them again."""
    tenant = file.folder.tenant.key
    problem = Problem(f"{file.folder.name}: {reason}", FOREIGN_FILE, file.identity)
    return dg.AssetObservation(
        RESOLUTIONS,
        partition=tenant,
        description=f"{FOREIGN_FILE}: {file.folder}: {reason}",
        metadata={RUN_REPORT: dg.MetadataValue.json(RunReport(problems={tenant: problem}).document())},
    )


def foreign_reason(summary: Summary) -> str:
    """Why a file is taken for another district's, in numbers."""
    hits, contradicted = summary.id_alone.matched, summary.id_alone.contradicted
    return (
        f"of {hits.candidates:,} candidates whose ID is known here, {contradicted.candidates:,} are somebody else by "
        "name and birth date; nothing was accepted"
    )


def run_metadata(done: Sequence[ResolvedFile]) -> Metadata:
    """All files of a run: single numbers, which Dagster plots over the tenant's runs, and two tables."""
    summaries = [each.summary for each in done]
    decisions = _candidates_by(summaries, lambda summary: summary.decisions)
    candidates = sum(summary.candidates for summary in summaries)
    numbers = {
        "files": len(done),
        "candidates": candidates,
        "records": sum(summary.records for summary in summaries),
        **{f"candidates: {decision}": decisions[decision] for decision in ("accept", "review", "none", "invalid")},
        **{f"records by ID alone: {name}": count for name, count in _id_alone(summaries).items()},
        "students": max((summary.students for summary in summaries), default=0),
    }
    shares = {
        f"share: {decision}": decisions[decision] / candidates
        for decision in ("accept", "review", "none", "invalid")
        if candidates
    }
    metadata: Metadata = {name: dg.MetadataValue.int(number) for name, number in numbers.items()}
    metadata |= {name: dg.MetadataValue.float(round(share, 4)) for name, share in shares.items()}
    metadata["seconds"] = dg.MetadataValue.float(round(sum(each.seconds for each in done), 3))
    metadata["reasons"] = _reasons_table(summaries)
    metadata["resolved files"] = _files_table(done)
    if done:
        metadata["model version"] = dg.MetadataValue.text(done[0].summary.model_version)
        metadata["students as of"] = dg.MetadataValue.text(done[0].asked_at.isoformat(timespec="seconds"))
    return metadata


def report_metadata(tenant: PartnerTenant, done: int, problems: Sequence[str]) -> Metadata:
    """The run's report for machines: how many files ended in which way, and what is wrong."""
    found = {tenant.key: Problem("; ".join(problems), "failed")} if problems else {}
    report = RunReport({"resolved": done, "failed": len(problems)}, found)
    return {RUN_REPORT: dg.MetadataValue.json(report.document())}


def id_matches_result(done: Iterable[ResolvedFile]) -> tuple[bool, str, Mapping[str, int]]:
    """Whether ID matching alone would do no harm, in words and in numbers of records."""
    numbers = _id_alone([each.summary for each in done])
    wrong = numbers["to another student"] + numbers["contradicted"]
    said = (
        f"matching by ID alone would give {wrong:,} of {numbers['matched']:,} matched records to somebody else: "
        f"{numbers['to another student']:,} to another student than the accepted one, {numbers['contradicted']:,} to "
        "one whom name and birth date contradict"
    )
    return wrong == 0, said, numbers


def _id_alone(summaries: Iterable[Summary]) -> dict[str, int]:
    found = {"matched": 0, "to another student": 0, "contradicted": 0}
    for summary in summaries:
        found["matched"] += summary.id_alone.matched.records
        found["to another student"] += summary.id_alone.to_another_student.records
        found["contradicted"] += summary.id_alone.contradicted.records
    return found


def _candidates_by(summaries: Iterable[Summary], of: Callable[[Summary], Mapping[str, Counts]]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for summary in summaries:
        counted.update({name: counts.candidates for name, counts in of(summary).items()})
    return counted


def _reasons_table(summaries: Sequence[Summary]) -> dg.MetadataValue:
    candidates = _candidates_by(summaries, lambda summary: summary.reasons)
    records: Counter[str] = Counter()
    for summary in summaries:
        records.update({name: counts.records for name, counts in summary.reasons.items()})
    return dg.MetadataValue.table(
        [
            dg.TableRecord({"reason": name, "candidates": count, "records": records[name]})
            for name, count in sorted(candidates.items())
        ],
        schema=_columns("reason", "candidates", "records"),
    )


def _files_table(done: Sequence[ResolvedFile]) -> dg.MetadataValue:
    rows = [
        dg.TableRecord(
            {
                "file": each.file.folder.name,
                "candidates": each.summary.candidates,
                "accept": _of(each.summary, "accept"),
                "review": _of(each.summary, "review"),
                "foreign": str(each.summary.is_foreign).lower(),
            }
        )
        for each in done[:MOST_ROWS]
    ]
    return dg.MetadataValue.table(rows, schema=_columns("file", "candidates", "accept", "review", "foreign"))


def _of(summary: Summary, decision: str) -> int:
    counts = summary.decisions.get(decision)
    return counts.candidates if counts else 0


def _columns(first: str, *others: str) -> dg.TableSchema:
    numbers = [dg.TableColumn(name, "string" if name == "foreign" else "int") for name in others]
    return dg.TableSchema([dg.TableColumn(first), *numbers])
