"""Resolves one file of the bucket, from its lines to its answers. Names stay in this process's memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from runway_pipelines.errors import RunwayError
from runway_pipelines.students.deciding import Decision
from runway_pipelines.students.files import (
    CandidateFile,
    Report,
    candidate_lines,
    delete_answers,
    write_answer,
    write_report,
)
from runway_pipelines.students.model import shipped_model
from runway_pipelines.students.observables import read_candidates
from runway_pipelines.students.resolution import Resolved, Summary, encode_answer, resolve
from runway_pipelines.students.warehouse import TenantPersons
from runway_pipelines.systems.aws.object_store import ObjectStore


@dataclass(frozen=True, repr=False)
class ResolvedFile:
    """A file's answers, not written yet."""

    file: CandidateFile
    resolved: Resolved
    asked_at: datetime
    seconds: float

    @property
    def summary(self) -> Summary:
        """The whole file in numbers."""
        return self.resolved.summary

    def without_answers(self) -> ResolvedFile:
        """What a run keeps of the file once its answers are written."""
        return replace(self, resolved=Resolved((), self.summary))


def resolve_file(store: ObjectStore, file: CandidateFile, persons: TenantPersons) -> ResolvedFile:
    """Read and resolve the file.

    Raises `TooManyCandidates`, `FileTooLarge`, `TooLargeToResolve`, and `VersionGone` if it was replaced meanwhile.
    """
    started = time.monotonic()
    candidates = read_candidates(candidate_lines(store, file), datetime.now(UTC).date())
    resolved = resolve(candidates, persons.persons, shipped_model())
    return ResolvedFile(file, resolved, persons.asked_at, round(time.monotonic() - started, 3))


def write(store: ObjectStore, done: ResolvedFile, run_id: str) -> None:
    """Write the answers, and the report last."""
    facts = {"asked_at": done.asked_at.isoformat(timespec="seconds"), "seconds": done.seconds}
    resolutions, review = write_answer(
        store, done.file.folder, encode_answer(done.resolved, facts), _review_lines(done.resolved)
    )
    report = Report(
        candidates_etag=done.file.etag,
        candidates_bytes=done.file.size,
        run_id=run_id,
        resolved_at=_now(),
        resolutions=resolutions,
        review=review,
        summary=msgspec.to_builtins(done.summary) | facts,
    )
    write_report(store, done.file.folder, report)


def write_refusal(store: ObjectStore, file: CandidateFile, error: RunwayError, run_id: str) -> None:
    """Report that the whole file cannot be resolved. It no longer waits, until it is replaced."""
    delete_answers(store, file.folder)
    report = Report(file.etag, file.size, run_id, _now(), refusal=str(error))
    write_report(store, file.folder, report)


def _review_lines(resolved: Resolved) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder()
    for resolution in resolved.resolutions:
        if resolution.decision is Decision.REVIEW:
            yield encoder.encode(resolution) + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
