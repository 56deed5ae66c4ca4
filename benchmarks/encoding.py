"""Sorted Arrow rows to the bytes of a roster, on one core: how fast, and in how much memory."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from benchmarks.big_tenant import big_tenant
from benchmarks.measure import (
    MEGABYTE,
    Report,
    in_own_process,
    median,
    on_one_core,
    peak_memory,
    reset_peak_memory,
    spread,
    timed,
)
from benchmarks.peers import lines_with_json, lines_with_orjson
from runway_pipelines.rosters.encoding import RosterCounts, encode_roster

GOAL_STUDENTS_A_SECOND = 600_000
STUDENTS = 200_000
SIZES = (100_000, 1_000_000, 5_000_000)
TENANT = "big"
OURS, ORJSON, JSON = "encode_roster", "orjson.dumps for each line", "json.dumps for each line"
# What a driver's chunk holds, so that students are cut in two.
_CHUNK_ROWS = 30_011


def run() -> Iterator[Report]:
    """Both tables."""
    yield _speed_report(in_own_process(speed))
    yield _memory_report()


def _speed_report(result: dict[str, Any]) -> Report:
    report = Report(
        "encoding",
        f"encoding: {STUDENTS:,} students ({result['rows']:,} rows to {result['lines']:,} lines, "
        f"{result['bytes'] / MEGABYTE:.0f} MB), one core",
        ("", "seconds", "students/s", "lines/s", "times as long as ours"),
    )
    ours = median(result["seconds"][OURS])
    for name, seconds in result["seconds"].items():
        middle = median(seconds)
        report.rows.append(
            (
                name,
                spread(seconds),
                f"{STUDENTS / middle:,.0f}",
                f"{result['lines'] / middle:,.0f}",
                f"{middle / ours:.1f}",
            )
        )
    digests = result["sha256"]
    report.wrong += [f"{name} gives other bytes than {OURS}" for name in digests if digests[name] != digests[OURS]]
    is_met = STUDENTS / ours >= GOAL_STUDENTS_A_SECOND
    report.notes.append(f"Goal: {GOAL_STUDENTS_A_SECOND:,} students/s: {'met' if is_met else 'NOT met'}.")
    if not report.wrong:
        report.notes.append(f"All three give the same bytes: sha256 {digests[OURS][:16]}...")
    report.numbers = {**result, "students": STUDENTS, "students_a_second": STUDENTS / ours, "goal_met": is_met}
    return report


def _memory_report() -> Report:
    report = Report(
        "encoding_memory",
        "encoding: growth of peak memory, fed as an iterator, output hashed and dropped",
        ("students", "feeding alone, MB", "feeding and encoding, MB", "encoding seconds*"),
        notes=["* with the feeding, which makes the rows up."],
    )
    for students in SIZES:
        floor = in_own_process(memory, students=students, encode=False)
        ours = in_own_process(memory, students=students, encode=True)
        report.rows.append(
            (
                f"{students:,}",
                f"{floor['growth'] / MEGABYTE:.0f}",
                f"{ours['growth'] / MEGABYTE:.0f}",
                f"{ours['seconds']:.1f}",
            )
        )
        report.numbers[str(students)] = {"feeding": floor, "encoding": ours}
    growths = [report.numbers[str(students)]["encoding"]["growth"] for students in SIZES]
    is_flat = max(growths) < 1.5 * min(growths)
    report.notes.append(f"Goal: flat (the most at most half more than the least): {'met' if is_flat else 'NOT met'}.")
    report.numbers["goal_met"] = is_flat
    return report


def speed() -> dict[str, Any]:
    """The contenders on the same rows, kept in memory. Runs in a process of its own."""
    on_one_core()
    batches = pa.Table.from_batches(big_tenant(STUDENTS, tenant_code=TENANT)).combine_chunks()
    chunks = batches.to_batches(max_chunksize=_CHUNK_ROWS)
    counts = RosterCounts()
    result: dict[str, Any] = {"sha256": {}, "seconds": {}}
    contenders: dict[str, tuple[Callable[[], Iterable[Any]], int]] = {
        OURS: (lambda: encode_roster(chunks, TENANT, RosterCounts()), 7),
        ORJSON: (lambda: lines_with_orjson(chunks), 3),
        JSON: (lambda: lines_with_json(chunks), 3),
    }
    result["bytes"] = sum(len(piece) for piece in encode_roster(chunks, TENANT, counts))
    for name, (lines, repeats) in contenders.items():
        digest = hashlib.sha256()
        for piece in lines():
            digest.update(piece)
        result["sha256"][name] = digest.hexdigest()
        result["seconds"][name] = timed(partial(_drained, lines), repeats)["seconds"]
    return {**result, "rows": batches.num_rows, "lines": counts.lines}


def _drained(lines: Callable[[], Iterable[Any]]) -> None:
    deque(lines(), maxlen=0)


def memory(students: int, *, encode: bool) -> dict[str, Any]:
    """How far the peak is above what was in memory before the first row. Runs in a process of its own."""
    on_one_core()
    deque(encode_roster(big_tenant(1_000, tenant_code=TENANT), TENANT, RosterCounts()), maxlen=0)
    before, started = reset_peak_memory(), time.perf_counter()
    counts, digest = RosterCounts(), hashlib.sha256()
    rows = big_tenant(students, tenant_code=TENANT)
    if encode:
        for piece in encode_roster(rows, TENANT, counts):
            digest.update(piece)
        if counts.students != students:
            raise ValueError(f"{students} students in, {counts.students} out")
    else:
        deque(rows, maxlen=0)
    return {"growth": peak_memory() - before, "seconds": time.perf_counter() - started}
