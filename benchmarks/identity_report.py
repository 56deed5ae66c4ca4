"""The tables of library identity, and whether its goals are met."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.measure import MEGABYTE, Report, median, spread
from runway_pipelines.identity.options import IdentityOptions

OURS, PEER, CEILING, ASKING, JOB = (
    "ours",
    "peer: a transaction each*",
    "ceiling: COPY**",
    "asking alone***",
    "the job, with Dagster",
)
FIRST, UNCHANGED, PEER_UNCHANGED = "ours: first run", "ours: no change", "peer: no change*"
TIMES_PEER = 20
LEAST_OF_CEILING = 0.5
# Of what the calls' latency allows, or of the seconds with an LML that answers at once.
MOST_OF_WAITING = 1.2
MOST_WAL_AGAIN = 1 / 3
# Ten times the libraries: of the rate, and megabytes more at the peak.
LEAST_RATE = 0.9
MOST_MORE_MB = 40


@dataclass
class Row:
    """A contender under one latency of LML and one ``fsync``; ``share`` of the catalogue is what a run of it did."""

    name: str
    latency: int = 0
    fsync: bool = False
    share: float = 1.0
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def all_seconds(self) -> list[float]:
        """For the whole catalogue."""
        return [run["seconds"] / self.share for run in self.runs]

    @property
    def seconds(self) -> float:
        return median(self.all_seconds)

    @property
    def wal(self) -> float:
        """For the whole catalogue."""
        return median([run["wal"] for run in self.runs]) / self.share

    @property
    def cpu_seconds(self) -> dict[str, float]:
        """Of the contender and of the servers, for the whole catalogue."""
        return {
            "the process": median([run["cpu_seconds"] for run in self.runs]) / self.share,
            "Postgres": median([run["servers"]["postgres"] for run in self.runs]) / self.share,
            "LML": median([run["servers"]["lml"] for run in self.runs]) / self.share,
        }

    @property
    def cells(self) -> tuple[str, str, str]:
        """CPU seconds, WAL and peak memory."""
        peak = max(run["peak_memory"] for run in self.runs)
        cpu = ", ".join(f"{seconds:.1f}" for seconds in self.cpu_seconds.values())
        return cpu, f"{self.wal / MEGABYTE:.0f}", f"{peak / MEGABYTE:.0f}"

    @property
    def growth(self) -> int:
        """Of memory, at most, in the run itself."""
        return max(int(run["peak_memory"]) - int(run["memory_before"]) for run in self.runs)


def main_report(rows: Sequence[Row], disk: Mapping[bool, float], wrong: list[str]) -> Report:
    """Every contender, under each latency and fsync."""
    by_case = {(row.name, row.latency, row.fsync): row for row in rows}
    counts = by_case[OURS, 0, False].runs[0]["counts"]
    scanned = counts["scanned"]
    report = Report(
        "identity",
        f"identity: {scanned:,} libraries are due, {counts['rows_resolved']:,} of them resolved with"
        f" {counts['source_rows_written']:,} sources, {counts['rows_resolved_compilation']:,} compilations",
        ("", "LML ms", "fsync", "seconds", "libraries/s", "times peer", "CPU s****", "WAL MB", "peak MB"),
        wrong=wrong,
        numbers={
            "rows": [vars(row) for row in rows],
            "seconds_of_a_commit": {_on(is_on): seconds for is_on, seconds in disk.items()},
        },
    )
    for row in rows:
        report.rows.append(
            (
                row.name,
                str(row.latency),
                _on(row.fsync),
                spread(row.all_seconds),
                f"{scanned / row.seconds:,.0f}",
                f"{by_case[PEER, row.latency, row.fsync].seconds / row.seconds:.1f}",
                *row.cells,
            )
        )
    peer = by_case[PEER, 0, False]
    times = round(1 / peer.share)
    report.notes += [
        f"* One library in {times} of the same catalogue ({peer.runs[0]['libraries']:,}), times {times}.",
        "** Of what ours left in the tables, in one transaction into empty ones with the same indexes and constraints.",
        "*** As many calls in flight as ours has; the answers are decoded and thrown away.",
        f"**** Of the process, of Postgres, of LML; of {os.cpu_count()} cores together.",
        "fsync: Postgres waits for the disk, and has full_page_writes. One row committed by itself takes "
        + ", ".join(f"{seconds * 1000:.2f} ms with fsync {_on(is_on)}" for is_on, seconds in disk.items())
        + ".",
        *_goals(by_case),
    ]
    return report


def again_report(rows: Sequence[Row]) -> Report:
    """What asking again costs, beside the first run of who asks."""
    report = Report(
        "identity_again",
        "identity, asked again: LML in 0 ms",
        ("", "fsync", "seconds", "CPU s", "WAL MB", "peak MB", "WAL of the first", "sources written", "unchanged"),
        numbers={"rows": [vars(row) for row in rows]},
        notes=["After a vacuum and a checkpoint; with fsync on, WAL holds all of each page that is changed after it."],
    )
    firsts = {(row.share, row.fsync): row.wal for row in rows if row.name in (FIRST, PEER)}
    for row in rows:
        counts = row.runs[0].get("counts", {})
        share = row.wal / firsts[row.share, row.fsync]
        report.rows.append(
            (
                row.name,
                _on(row.fsync),
                f"{row.seconds:.2f}",
                *row.cells,
                f"{share:.2f}",
                *(f"{counts[each]:,}" if counts else "-" for each in ("source_rows_written", "rows_unchanged")),
            )
        )
        if row.name == UNCHANGED:
            what = f"without a change less than a third of the WAL, fsync {_on(row.fsync)}"
            report.notes.append(_goal(what, share < MOST_WAL_AGAIN, f"{share:.2f}"))
    return report


def memory_report(libraries: int, small: Row, large: Row) -> Report:
    """Whether memory grows with the catalogue."""
    report = Report(
        "identity_memory",
        "identity, memory: LML in 0 ms, fsync off",
        ("libraries", "seconds", "libraries/s", "CPU s", "WAL MB", "peak MB", "growth MB"),
        numbers={"small": vars(small), "large": vars(large)},
    )
    for row in (small, large):
        seconds = row.seconds * row.share
        report.rows.append(
            (
                f"{libraries * row.share:,.0f}",
                f"{seconds:.1f}",
                f"{row.runs[0]['counts']['scanned'] / seconds:,.0f}",
                *replace(row, share=1).cells,
                f"{row.growth / MEGABYTE:.0f}",
            )
        )
    rate = small.seconds / large.seconds  # each for as many libraries
    report.notes.append(_goal(f"at least {LEAST_RATE} of the rate", rate >= LEAST_RATE, f"{rate:.2f}"))
    more = (large.growth - small.growth) / MEGABYTE
    report.notes.append(_goal(f"at most {MOST_MORE_MB} MB more", more <= MOST_MORE_MB, f"{more:.0f} MB"))
    return report


def _goals(rows: Mapping[tuple[str, int, bool], Row]) -> Iterator[str]:
    for is_on in (False, True):
        times = rows[PEER, 0, is_on].seconds / rows[OURS, 0, is_on].seconds
        yield _goal(f"{TIMES_PEER} times the peer at 0 ms, fsync {_on(is_on)}", times >= TIMES_PEER, f"{times:.1f}")
    of_ceiling = rows[CEILING, 0, False].seconds / rows[OURS, 0, False].seconds
    what = f"{LEAST_OF_CEILING} of COPY's rate at 0 ms, fsync off"
    yield _goal(what, of_ceiling >= LEAST_OF_CEILING, f"{of_ceiling:.2f}")
    yield _bottleneck(rows[OURS, 0, False])
    in_flight = IdentityOptions().calls_in_flight
    for (name, latency, is_on), row in rows.items():
        if name == OURS and latency:
            calls = row.runs[0]["counts"]["lml_total_calls"]
            waiting, writing = calls * latency / 1000 / in_flight, rows[OURS, 0, is_on].seconds
            allowed = max(waiting, writing)
            yield _goal(
                f"LML in {latency} ms, fsync {_on(is_on)}: {row.seconds:.1f} s within {MOST_OF_WAITING} times of what"
                f" {calls} calls / {in_flight} allow ({waiting:.1f} s) or of 0 ms ({writing:.1f} s)",
                row.seconds <= MOST_OF_WAITING * allowed,
                f"{row.seconds / allowed:.2f}",
            )


def _bottleneck(row: Row) -> str:
    """Who used most of a core, when LML answers at once."""
    cores = {who: seconds / row.seconds for who, seconds in row.cpu_seconds.items()}
    used = ", ".join(f"{who} {share:.2f}" for who, share in cores.items())
    return (
        f"Bottleneck at 0 ms, fsync off: {max(cores, key=cores.__getitem__)}. Of {os.cpu_count()} cores: {used};"
        f" together {sum(cores.values()):.2f}."
    )


def _goal(what: str, is_met: bool, came: str) -> str:
    return f"Goal: {what}: {'met' if is_met else 'NOT met'} ({came})"


def _on(fsync: bool) -> str:
    return "on" if fsync else "off"
