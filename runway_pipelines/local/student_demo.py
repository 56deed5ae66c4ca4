"""The demo's scene of student resolution: a small file, beside what matching by ID alone would have done with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from runway_pipelines.local.candidates import CandidateFile, candidate_file
from runway_pipelines.local.partners import RESOLVED_PARTNER, synthetic_partners
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.settings import load_settings
from runway_pipelines.students.local_files import read_file, write_answers
from runway_pipelines.students.model import shipped_model
from runway_pipelines.students.resolution import resolve
from runway_pipelines.students.services import StudentServices
from runway_pipelines.systems.disk import private_file
from runway_pipelines.wiring import build_student_services

RESOLVED_TENANT = PartnerTenant(RESOLVED_PARTNER, "harmony")
ROWS = 100


@dataclass(frozen=True)
class ResolutionResult:
    """The file's outcome: candidates by decision, and how many each way of matching gave to the wrong child."""

    tenant: str
    candidates: int
    decisions: dict[str, int]
    wrong: int
    id_alone_matched: int
    id_alone_wrong: int
    file: str
    seconds: float

    @property
    def is_expected(self) -> bool:
        """Whether most rows were accepted, and none for the wrong child."""
        return self.wrong == 0 < self.id_alone_wrong and self.decisions.get("accept", 0) > self.candidates / 2


def run_resolution(state_dir: Path, console: Console) -> ResolutionResult:
    """Write a file of candidates whose truth is known, resolve it, and leave both in the state folder."""
    started = time.monotonic()
    tenant = RESOLVED_TENANT
    partner = next(one for one in synthetic_partners() if one.partner_id == tenant.partner_id)
    district = next(one for one in partner.tenants if one.code == tenant.tenant_code)
    made = candidate_file(partner, district, ROWS)
    folder = state_dir / "resolutions"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / "candidates.jsonl"
    with private_file(file) as lines:
        lines.writelines(made.lines)
    console.print(f"Resolving a file of {len(made.lines)} rows of [bold]{tenant}[/] ...")
    with build_student_services(load_settings()).process_config_and_initialize_cm() as services:
        return _resolved(services, file, made, started)


def _resolved(services: StudentServices, file: Path, made: CandidateFile, started: float) -> ResolutionResult:
    candidates = read_file(file, {}, datetime.now(UTC).date())
    found = services.fetch_persons(RESOLVED_TENANT, run_id="demo")
    resolved = resolve(candidates, found.persons, shipped_model())
    seconds = round(time.monotonic() - started, 2)
    write_answers(file.parent, resolved, {"asked_at": found.asked_at.isoformat(timespec="seconds"), "seconds": seconds})
    answered = {str(each.candidate_id): each.student_unique_id for each in resolved.resolutions}
    return ResolutionResult(
        RESOLVED_TENANT.key,
        resolved.summary.candidates,
        {name: counts.candidates for name, counts in resolved.summary.decisions.items()},
        _wrong(answered, made.truth),
        sum(student is not None for student in made.by_id_alone.values()),
        _wrong(made.by_id_alone, made.truth),
        str(file),
        seconds,
    )


def _wrong(given: Mapping[str, str | None], truth: Mapping[str, str | None]) -> int:
    """How many rows are given to a child that is not theirs."""
    return sum(student is not None and student != truth[candidate] for candidate, student in given.items())


def print_resolution(result: ResolutionResult, console: Console) -> None:
    """Two lines: what was decided, and what matching by ID alone would have done."""
    if not result.is_expected:
        console.print(f"[red]Not expected[/]: {result.wrong} rows went to the wrong child, {result.decisions} decided.")
        return
    counts = result.decisions
    console.print(
        f"[bold]Student resolution[/]: {counts.get('accept', 0)} rows accepted, none for the wrong child; "
        f"{counts.get('review', 0)} for a person to look at, {counts.get('none', 0)} of no student here "
        f"({result.seconds} s).",
        soft_wrap=True,
    )
    console.print(
        f"By ID alone {result.id_alone_matched} rows would have been matched, {result.id_alone_wrong} of them to the "
        f"wrong child. File and answers: {Path(result.file).parent}",
        soft_wrap=True,
        highlight=False,
    )
