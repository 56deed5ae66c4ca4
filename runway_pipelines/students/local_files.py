"""Reads files of candidates from this machine's disk and writes answers there, for their owner alone.

Belongs here: what the command line and the demo do with files. `files` has the bucket's, with the same names.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import partial
from io import TextIOWrapper
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson

from runway_pipelines.errors import Permanent
from runway_pipelines.students.applying import apply_resolutions
from runway_pipelines.students.csv_files import Columns, candidate_lines, choose_columns
from runway_pipelines.students.deciding import Decision
from runway_pipelines.students.files import REPORT, RESOLUTIONS, REVIEW
from runway_pipelines.students.lines import inflated, lines_of
from runway_pipelines.students.observables import Candidates, read_candidates
from runway_pipelines.students.resolution import Resolved, encode_answer
from runway_pipelines.systems.disk import private_file

_CHUNK = 64 * 1024


class CsvUnreadable(Permanent):
    """A CSV file is not UTF-8, or has quotes or bytes that no CSV file has."""


class ResolutionsUnreadable(Permanent):
    """A file is no file of resolutions, or ends before its summary."""


class Applied(NamedTuple):
    """How many lines of a bundle's output have their students' ids, and how many have not."""

    resolved: int
    unresolved: int


def is_csv(file: Path, named: Columns) -> bool:
    """Whether a file is a CSV file: by its suffix, or because somebody named its columns."""
    return bool(named) or file.suffix.lower() == ".csv"


def columns_of(file: Path, named: Columns) -> dict[str, tuple[str, ...]]:
    """What `read_file` takes each column of a CSV file for. Raises `ColumnsUnclear` and `CsvUnreadable`."""
    with _text(file) as text:
        header = next(csv.reader(text, strict=True), [])
    return choose_columns(header, named)


def read_file(file: Path, named: Columns, today: date) -> Candidates:
    """The candidates of a file: JSON lines, in gzip where it ends in ``.gz``, or CSV.

    Raises `ColumnsUnclear`, `CsvUnreadable`, `GzipBroken`, `FileTooLarge` and `TooManyCandidates`.
    """
    if is_csv(file, named):
        with _text(file) as text:
            return read_candidates(candidate_lines(text, named), today)
    with file.open("rb") as content:
        chunks: Iterable[bytes] = iter(partial(content.read, _CHUNK), b"")
        return read_candidates(lines_of(inflated(chunks) if file.suffix == ".gz" else chunks), today)


def write_answers(folder: Path, resolved: Resolved, facts: Mapping[str, Any]) -> None:
    """Write the answers, those for a person, and the report, which comes last; what was there is replaced.

    The folder is made where there is none. Its files are readable for their owner alone.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / REPORT).unlink(missing_ok=True)
    with private_file(folder / RESOLUTIONS) as all_of_them, private_file(folder / REVIEW) as review:
        for resolution, line in zip_longest(resolved.resolutions, encode_answer(resolved, facts)):
            all_of_them.write(line)
            if resolution is not None and resolution.decision is Decision.REVIEW:  # None: the summary's line
                review.write(line)
    with private_file(folder / REPORT) as file:
        file.write(orjson.dumps(report(resolved, facts), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def report(resolved: Resolved, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with the shell's facts, under the same key as in the bucket's reports; it has no identifier."""
    return {"summary": msgspec.to_builtins(resolved.summary) | dict(facts)}


def read_accepted(file: Path) -> dict[str, str]:
    """The student's ID of each accepted candidate; the answer must be whole. Raises `ResolutionsUnreadable`."""
    accepted: dict[str, str] = {}
    is_whole = False
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            answer = _answer(line, f"{file}, line {number}")
            is_whole = answer.summary is not None
            if answer.decision == Decision.ACCEPT and answer.candidate_id and answer.student_unique_id:
                accepted[answer.candidate_id] = answer.student_unique_id
    if not is_whole:
        raise ResolutionsUnreadable(
            expected=f"{file} to end with a summary",
            came="a file without one: it is not the whole answer",
            remedy="resolve the file again",
        )
    return accepted


def apply_file(file: Path, accepted: Mapping[str, str], resolved: Path, unresolved: Path) -> Applied:
    """Write the students' ids into a bundle's output; lines that name somebody else go to ``unresolved``."""
    counts = {True: 0, False: 0}
    with file.open("rb") as lines, private_file(resolved) as here, private_file(unresolved) as there:
        for line, is_resolved in apply_resolutions(lines, accepted):
            (here if is_resolved else there).write(line)
            counts[is_resolved] += 1
    return Applied(counts[True], counts[False])


class _Answer(msgspec.Struct):
    candidate_id: str | None = None
    decision: str | None = None
    student_unique_id: str | None = None
    summary: dict[str, Any] | None = None


def _answer(line: bytes, place: str) -> _Answer:
    try:
        answer = msgspec.json.decode(line, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        answer = _Answer()
    if answer.decision is None and answer.summary is None:
        raise ResolutionsUnreadable(
            expected="a resolution, or the summary, in each line",
            came=f"something else ({place})",
            remedy=f"give the file {RESOLUTIONS} that students resolve --to wrote",
        )
    return answer


@contextmanager
def _text(file: Path) -> Iterator[Iterable[str]]:
    """A CSV file's text. Python's error for a wrong byte quotes the bytes around it, so its text never gets out."""
    with file.open("rb") as content, TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
        try:
            yield text
        except UnicodeDecodeError:
            raise CsvUnreadable(
                expected=f"{file} in UTF-8", came="other bytes", remedy="save it as CSV UTF-8 in the spreadsheet"
            ) from None
        except csv.Error:
            raise CsvUnreadable(
                expected=f"{file} to be a CSV file with commas",
                came="an unclosed quote, or bytes that are not text",
                remedy="save it again from the spreadsheet",
            ) from None
