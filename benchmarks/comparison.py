"""What changed between two snapshots: `compare_rosters` beside two dicts of parsed lines."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from benchmarks.big_tenant import big_tenant
from benchmarks.measure import MEGABYTE, Report, in_own_process, median, peak_memory, reset_peak_memory, spread, timed
from runway_pipelines.rosters.comparison import compare_rosters
from runway_pipelines.rosters.encoding import RosterCounts, encode_roster

STUDENTS = 200_000
REPEATS = 5
REPEATS_OF_PEER = 2  # 8 s each
TENANT = "big"
# Of each 500 students one is gone, one is new and three have changed: 1 % in all.
_EACH = 500
_ADDED, _REMOVED, _CHANGED = {0}, {1}, {2, 3, 4}

Changes = tuple[int, int, int]


def run() -> Iterator[Report]:
    """The table."""
    expected = tuple(STUDENTS // _EACH * len(kind) for kind in (_ADDED, _REMOVED, _CHANGED))
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        previous, current = Path(folder) / "previous.jsonl", Path(folder) / "current.jsonl"
        _write_snapshots(previous, current)
        megabytes = (previous.stat().st_size + current.stat().st_size) / MEGABYTE
        report = Report(
            "comparison",
            f"comparison: two snapshots of {STUDENTS:,} students, {megabytes:.0f} MB, 1% of the students differ",
            ("", "seconds", "growth of peak memory, MB", "times as long as the floor", "times as long as ours"),
        )
        results = {
            name: in_own_process(contender, previous=str(previous), current=str(current))
            for name, contender in {
                "floor: reading the lines": floor,
                "compare_rosters": ours,
                "two dicts of parsed lines": dicts,
            }.items()
        }
    floor_seconds, our_seconds, _ = (median(result["seconds"]) for result in results.values())
    for name, result in results.items():
        middle = median(result["seconds"])
        report.rows.append(
            (
                name,
                spread(result["seconds"]),
                f"{result['growth'] / MEGABYTE:.0f}",
                f"{middle / floor_seconds:.1f}",
                f"{middle / our_seconds:.1f}",
            )
        )
        if "changes" in result and tuple(result["changes"]) != expected:
            report.wrong.append(f"{name} finds {result['changes']} added, removed and changed, not {expected}")
    added, removed, changed = expected
    report.notes.append(f"{added} students added, {removed} removed, {changed} changed: both must find just that.")
    report.numbers = {"students": STUDENTS, "expected": expected, "contenders": results}
    yield report


def floor(previous: str, current: str) -> dict[str, Any]:
    """Read both files, line by line. Runs in a process of its own, as the two below."""

    def read() -> None:
        for path in (previous, current):
            with Path(path).open("rb") as lines:
                deque(lines, maxlen=0)

    return _measured(read, REPEATS)


def ours(previous: str, current: str) -> dict[str, Any]:
    """`compare_rosters` over both files' lines."""

    def compare() -> Changes:
        with Path(previous).open("rb") as olds, Path(current).open("rb") as news:
            changes = compare_rosters(olds, news)
        return changes.added, changes.removed, changes.changed

    return _measured(compare, REPEATS)


def dicts(previous: str, current: str) -> dict[str, Any]:
    """Both files parsed into a dict by student, and the dicts compared."""

    def compare() -> Changes:
        old, new = _by_student(previous), _by_student(current)
        changed = sum(1 for student in old.keys() & new.keys() if old[student] != new[student])
        return len(new.keys() - old.keys()), len(old.keys() - new.keys()), changed

    return _measured(compare, REPEATS_OF_PEER)


def _measured(work: Callable[[], Changes | None], repeats: int) -> dict[str, Any]:
    before, changes = reset_peak_memory(), work()  # the warm-up
    growth = peak_memory() - before
    result: dict[str, Any] = {**timed(work, repeats, warm_up=False), "growth": growth}
    return result if changes is None else {**result, "changes": changes}


def _by_student(path: str) -> dict[str, list[Any]]:
    students: dict[str, list[Any]] = {}
    with Path(path).open("rb") as lines:
        for line in lines:
            record = orjson.loads(line)
            students.setdefault(record["studentReference"]["studentUniqueId"], []).append(record)
    return students


def _write_snapshots(previous: Path, current: Path) -> None:
    number, last = -1, b""
    with previous.open("wb") as olds, current.open("wb") as news:
        for piece in encode_roster(big_tenant(STUDENTS, tenant_code=TENANT), TENANT, RosterCounts()):
            for line in bytes(piece).splitlines(keepends=True):
                student = line.split(b'"studentUniqueId":"', 1)[1].split(b'"', 1)[0]
                number, last = number + (student != last), student
                if number % _EACH not in _ADDED:
                    olds.write(line)
                if number % _EACH not in _REMOVED:
                    is_changed = number % _EACH in _CHANGED
                    news.write(line.replace(b'"rel":"', b'"rel":"Former', 1) if is_changed else line)
