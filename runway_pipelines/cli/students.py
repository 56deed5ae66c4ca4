"""``students``: whose row is it, for files on this machine."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from runway_pipelines.cli.arguments import TenantArgument
from runway_pipelines.cli.examples import examples
from runway_pipelines.cli.files import InputFile, OutputFile, OutputFolder
from runway_pipelines.cli.results import json_option, print_result
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import console
from runway_pipelines.errors import RunwayError
from runway_pipelines.operations.wording import utc_minute
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.advice import COMMAND_LINE

if TYPE_CHECKING:
    from runway_pipelines.students.explaining import ExplainedStudent, Explanation
    from runway_pipelines.students.observables import Candidates
    from runway_pipelines.students.warehouse import TenantPersons

COLUMNS = ("first_name", "middle_name", "last_name", "birth_date", "school_id", "sex", "grade")
_STYLES = {"accept": "green", "review": "yellow", "none": "dim", "invalid": "bold red"}


def reads_candidates(command: Callable[..., Any]) -> Callable[..., Any]:
    """The file of candidates, whose tenant it is, and the columns of a CSV file."""
    named = [
        click.option(f"--{name.replace('_', '-')}", name, metavar="COLUMN", help=f"CSV: the {name.replace('_', ' ')}.")
        for name in COLUMNS
    ]
    ids = click.option("--student-id", "student_ids", metavar="COLUMN", multiple=True, help="CSV: an ID; may repeat.")
    of = click.option("--tenant", type=TenantArgument(), required=True, help="Whose students they are.")
    for option in (ids, *reversed(named), of):
        command = option(command)
    return command


class StudentCommands(click.Group):
    """Commands that end with a line for a defect too: a library's text about it may quote a student's row."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, RunwayError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - its text may quote a row, its type and place do not
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise click.ClickException(
                f"Expected no defect; got an unexpected {type(error).__name__} in {Path(frame.filename).name}, line "
                f"{frame.lineno}. To do: report it, without the file."
            ) from None


@click.group(short_help="Whose rows a file has.", cls=StudentCommands)
def students() -> None:
    """Whose row is it: a file's rows against a tenant's students."""


@students.command(
    epilog=examples(
        "runway-pipelines students resolve results.csv --tenant acme/ashford \\",
        "  --birth-date Born --to answers",
        "runway-pipelines students resolve rows.jsonl --tenant acme/ashford --json",
    )
)
@click.argument("file", type=InputFile())
@reads_candidates
@click.option("--to", "folder", type=OutputFolder(), help="Write the answers here.")
@json_option
@click.pass_obj
def resolve(
    target: Target,
    /,
    file: Path,
    tenant: PartnerTenant,
    folder: Path | None,
    is_json: bool,
    **named: Any,
) -> None:
    """Find whose row each candidate of FILE is.

    FILE has a candidate in each line, as JSON (also in .gz), or it is a CSV file: its columns are guessed by plain
    names (First Name, DOB, ...) or named by options. With --to the answers are in resolutions.jsonl, those for a person
    in review.jsonl, and the counts in report.json, readable for you alone.
    """
    from runway_pipelines.students.local_files import report, write_answers
    from runway_pipelines.students.model import shipped_model
    from runway_pipelines.students.resolution import resolve as resolve_candidates

    started = time.monotonic()
    candidates = _read(file, named, hushed=is_json)
    reading = time.monotonic() - started
    found = _persons(target, tenant, f"{len(candidates.valid):,} candidates", hushed=is_json)
    resolved = resolve_candidates(candidates, found.persons, shipped_model())
    facts = {
        "asked_at": found.asked_at.isoformat(timespec="seconds"),
        # Excludes the time to reach the warehouse, or to start the embedded one.
        "seconds": round(reading + (datetime.now(UTC) - found.asked_at).total_seconds(), 3),
    }
    if folder is not None:
        write_answers(folder, resolved, facts)
    document = report(resolved, facts)
    print_result(document, lambda: _print_report(tenant, document["summary"], folder), is_json=is_json)


@students.command(
    epilog=examples(
        "runway-pipelines students apply results.jsonl \\",
        "  --resolutions answers/resolutions.jsonl \\",
        "  --to matched.jsonl --unresolved unmatched.jsonl",
    )
)
@click.argument("file", type=InputFile())
@click.option("--resolutions", type=InputFile(), required=True, help="The resolutions.jsonl of the file's candidates.")
@click.option("--to", "resolved", type=OutputFile(), required=True, help="Where lines go whose student was found.")
@click.option("--unresolved", type=OutputFile(), required=True, help="Where the others go, unchanged.")
@json_option
def apply(file: Path, resolutions: Path, resolved: Path, unresolved: Path, is_json: bool) -> None:
    """Write the students' IDs into FILE, a bundle's output.

    Each "CANDIDATE_..." of an accepted candidate becomes the student's ID. Everything else stays byte for byte.
    """
    from runway_pipelines.students.local_files import apply_file, read_accepted

    if len({path.resolve() for path in (file, resolutions, resolved, unresolved)}) < 4:
        raise click.ClickException("Expected four different files; got one of them twice. To do: name another one.")
    accepted = read_accepted(resolutions)
    counts = apply_file(file, accepted, resolved, unresolved)

    def for_people() -> None:
        _print(f"{counts.resolved:,} lines have their students, in {resolved}.")
        _print(f"{counts.unresolved:,} lines name somebody who was not accepted, in {unresolved}.")

    print_result(counts._asdict(), for_people, is_json=is_json)


@students.command(
    short_help="Explain why a row was matched, or was not.",
    epilog=examples("runway-pipelines students explain results.csv row-17 --tenant acme/ashford"),
)
@click.argument("file", type=InputFile())
@click.argument("candidate_id")
@reads_candidates
@json_option
@click.pass_obj
def explain(
    target: Target, /, file: Path, candidate_id: str, tenant: PartnerTenant, is_json: bool, **named: Any
) -> None:
    """Say why CANDIDATE_ID of FILE is what it is: the rule, the levels and what each weighs, in bits.

    It names students by their IDs alone. The whole FILE is read, because a verdict may depend on it.
    """
    import msgspec

    from runway_pipelines.students.explaining import explain as explain_candidate
    from runway_pipelines.students.model import shipped_model

    candidates = _read(file, named, hushed=is_json)
    found = _persons(target, tenant, f"{len(candidates.valid):,} candidates", hushed=is_json)
    explanation = explain_candidate(candidates, candidate_id, found.persons, shipped_model())
    print_result(msgspec.to_builtins(explanation), lambda: _print_explanation(explanation), is_json=is_json)


def _read(file: Path, named: Mapping[str, Any], *, hushed: bool) -> Candidates:
    """The file's candidates; what its columns were taken for is printed."""
    from runway_pipelines.students.local_files import columns_of, is_csv, read_file

    chosen = {name: (value,) if isinstance(value, str) else value for name, value in named.items() if value}
    if is_csv(file, chosen):
        chosen = columns_of(file, chosen)
        taken = ", ".join(f"{name.replace('_', ' ')} = {' + '.join(columns)}" for name, columns in chosen.items())
        click.echo(f"Columns: {taken}.", err=True)
    _say(f"Reading {file.name} ...", hushed)
    candidates = read_file(file, chosen, datetime.now(UTC).date())
    if candidates.invalid and not candidates.valid:
        click.echo(
            f"No line of {file.name} is a candidate. A CSV file ends in .csv, or has its columns named.", err=True
        )
    return candidates


def _persons(target: Target, tenant: PartnerTenant, what: str, *, hushed: bool) -> TenantPersons:
    """The tenant's students; announces each step that takes time."""
    with target.students() as services:
        services.require_resolvable(tenant)
        _say(f"{what}. Asking the warehouse for the students of {tenant} ...", hushed)
        found = services.fetch_persons(tenant, run_id=COMMAND_LINE)
        _say(f"{found.persons.count:,} students. Resolving ...", hushed)
    return found


def _say(text: str, hushed: bool) -> None:
    """Print progress to stderr: a machine may read stdout."""
    if not hushed:
        click.echo(text, err=True)


def _print_report(tenant: PartnerTenant, summary: Mapping[str, Any], folder: Path | None) -> None:
    _print_summary(tenant, summary)
    if folder is not None:
        _print(f"The answers are in {folder}, readable for you alone.")


def _print_summary(tenant: PartnerTenant, summary: Mapping[str, Any]) -> None:
    table = Table(title=f"Whose rows they are: {tenant}", title_justify="left")
    for name in ("decision", "reason", "candidates", "records"):
        table.add_column(name, justify="right" if name in ("candidates", "records") else "left", overflow="fold")
    for name, counts in summary["reasons"].items():
        decision, _, reason = name.partition(":")
        style = _STYLES[decision]
        table.add_row(f"[{style}]{decision}[/]", reason, f"{counts['candidates']:,}", f"{counts['records']:,}")
    console.print(table)
    _print(
        f"{summary['candidates']:,} candidates of {summary['records']:,} records, {summary['students']:,} students "
        f"as of {utc_minute(summary['asked_at'])}, {summary['seconds']:.1f} s."
    )
    _print(by_id_alone(summary["id_alone"]))
    if summary["is_foreign"]:
        console.print("[bold red]Nearly all IDs are somebody else's here[/]: is it another district's file?")
    if summary["date_order"] == "month_first_assumed":
        _print("No birth date says whether the month or the day comes first: the month was assumed.")


def by_id_alone(counts: Mapping[str, Mapping[str, int]]) -> str:
    """One sentence on what matching by ID alone would have done."""
    matched, other, contradicted = (
        counts[name]["records"] for name in ("matched", "to_another_student", "contradicted")
    )
    return (
        f"By ID alone: {matched:,} records matched, {other:,} of them to another student than the accepted one, "
        f"and {contradicted:,} to one whom the names or the birth date contradict."
    )


def _print_explanation(explanation: Explanation) -> None:
    style = _STYLES[explanation.decision]
    _print(f"{explanation.candidate_id}: [{style}]{explanation.decision}[/], {explanation.reason}", markup=True)
    _print(f"Rule {explanation.rule}: {explanation.says}")
    if not explanation.students:
        return
    table = Table(title="In bits: 1 is twice as likely", title_justify="left")
    table.add_column("")
    for student in explanation.students:
        table.add_column(escape(student.student_unique_id), overflow="fold")
        table.add_column("", justify="right")
    for row in _rows(explanation.students):
        table.add_row(*row)
    console.print(table)
    _print(f"Students here with one of its IDs: {explanation.owners_of_ids}; with its first name: "
           f"{explanation.called_so:,}.")  # fmt: skip


def _rows(found: tuple[ExplainedStudent, ...]) -> list[list[str]]:
    rows = [["any two students", *(cell for one in found for cell in ("", f"{one.prior:+.1f}"))]]
    for levels in zip(*(one.levels for one in found), strict=True):
        cells = [cell for level in levels for cell in (level.level, "" if level.bits is None else f"{level.bits:+.1f}")]
        rows.append([levels[0].comparison.replace("_", " "), *cells])
    rows.append(["both names", *(cell for one in found for cell in ("", f"{one.names:+.1f}" if one.names else ""))])
    rows.append(["weight", *(cell for one in found for cell in ("", f"{one.weight:+.1f}"))])
    return rows


def _print(text: str, *, markup: bool = False) -> None:
    console.print(text, markup=markup, soft_wrap=True, highlight=False)
