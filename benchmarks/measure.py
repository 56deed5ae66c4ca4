"""What the benchmarks share: repeats, memory and CPU, a process for each contender, and how a result is shown.

A contender runs in a process of its own, so that its peak memory is its own and no cache of another one helps it.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

MEGABYTE = 1_000_000
_STATUS = Path("/proc/self/status")
_RESULT = "RESULT "

Runs = dict[str, list[float]]  # "seconds" and "cpu_seconds" (this process's) of each run


@dataclass
class Report:
    """One table: texts for a person in ``rows``, ``numbers`` for machines, and in ``wrong`` what must not be."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """Print the table with its notes."""
        table = Table(title=self.title, title_justify="left")
        for position, name in enumerate(self.columns):
            table.add_column(name, justify="left" if position == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(f"  {note}", highlight=False)
        for wrong in self.wrong:
            console.print(f"  [red]WRONG:[/] {wrong}", highlight=False)
        console.print()


class ContenderFailed(RuntimeError):
    """A contender's process ended otherwise than it should; the message holds the end of what it wrote."""


def timed(work: Callable[[], Any], repeats: int, *, warm_up: bool = True) -> Runs:
    """Each run after a warm-up."""
    return timed_in_turn({"": work}, repeats, warm_up=warm_up)[""]


def timed_in_turn(works: Mapping[str, Callable[[], Any]], repeats: int, *, warm_up: bool = True) -> dict[str, Runs]:
    """Each round runs all of them, so that what else the machine does falls on all; the first round is no result."""
    runs: dict[str, Runs] = {name: {"seconds": [], "cpu_seconds": []} for name in works}
    for number in range(repeats + warm_up):
        for name, work in works.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            work()
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
            if number >= warm_up:
                runs[name]["seconds"].append(seconds)
                runs[name]["cpu_seconds"].append(cpu_seconds)
    return runs


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: list[float]) -> str:
    """The median, and the least and the greatest beside it."""
    between = f" ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else ""
    return f"{median(values):.2f}{between}"


def on_one_core() -> None:
    """Keep this process and arrow's pool on one CPU, where the system can."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def peak_memory() -> int:
    """The most bytes that this process has had in memory since `reset_peak_memory`, or since its start.

    Of /proc where there is one: ``ru_maxrss`` would be the parent's, when that was larger before exec.
    """
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024


def reset_peak_memory() -> int:
    """Begin to look for the peak anew, where the system can; returns what is in memory now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return int(psutil.Process().memory_info().rss)


def cpu_seconds_of(process: psutil.Process) -> float:
    """CPU seconds of a process and all it started: of each that lives its own, and those of its children that ended."""
    total = _cpu_seconds(process)
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += _cpu_seconds(child)
    return total


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    ended = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return float(times.user + times.system + ended)


def server_processes(state_dir: Path) -> dict[str, psutil.Process]:
    """The embedded stack's servers, by a short name."""
    pid_files = {"snowflake": state_dir / "snowflake_server.pid", "aws": state_dir / "aws_server.pid"}
    found = {name: psutil.Process(int(path.read_text())) for name, path in pid_files.items()}
    postmaster = state_dir / "postgres" / "postmaster.pid"
    if not postmaster.exists():
        postmaster = next(state_dir.rglob("postmaster.pid"))
    return {**found, "postgres": psutil.Process(int(postmaster.read_text().split()[0]))}


@contextmanager
def server_cpu(servers: dict[str, psutil.Process]) -> Iterator[dict[str, float]]:
    """What each server spends meanwhile, in CPU seconds; filled at the end."""
    before = {name: cpu_seconds_of(process) for name, process in servers.items()}
    spent: dict[str, float] = {}
    yield spent
    spent.update({name: round(cpu_seconds_of(process) - before[name], 3) for name, process in servers.items()})


def in_own_process(work: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """Call a module-level function in a fresh interpreter; returns its result and what the process has cost.

    Adds ``process_seconds``, ``process_cpu_seconds`` and ``peak_memory``. Raises `ContenderFailed`.
    """
    command = [sys.executable, "-m", "benchmarks.measure", work.__module__, work.__name__, json.dumps(arguments)]
    started = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    results = [line for line in process.stdout.splitlines() if line.startswith(_RESULT)]
    if process.returncode or not results:
        ending = "\n".join((process.stdout + process.stderr).splitlines()[-15:])
        raise ContenderFailed(f"{work.__module__}.{work.__name__} ended with {process.returncode}:\n{ending}")
    result: dict[str, Any] = json.loads(results[-1].removeprefix(_RESULT))
    return result | {"process_seconds": time.perf_counter() - started}


def _main(module: str, function: str, arguments: str) -> None:
    import importlib

    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    costs = {"process_cpu_seconds": time.process_time(), "peak_memory": peak_memory()}
    print(_RESULT + json.dumps(result | {key: value for key, value in costs.items() if key not in result}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
