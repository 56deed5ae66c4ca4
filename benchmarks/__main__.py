"""``python -m benchmarks [NAME ...] [--json FILE]``: runs the named benchmarks, or all but the slowest.

No benchmark fails for being slow. The exit code is 1 when contenders disagree about the result.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from benchmarks import (
    comparison,
    encoding,
    end_to_end,
    identity,
    partner,
    postgres_pool,
    roster_stream,
    roster_stream_load,
    rotation,
    scale,
    students,
    students_splink,
)
from benchmarks.measure import Report
from runway_pipelines.local.signals import exit_on_termination

BENCHMARKS: dict[str, Callable[[], Iterator[Report]]] = {
    "encoding": encoding.run,
    "end_to_end": end_to_end.run,
    "partner": partner.run,
    "comparison": comparison.run,
    "rotation": rotation.run,
    "roster_stream": roster_stream.run,
    "roster_stream_load": roster_stream_load.run,
    "identity": identity.run,
    "postgres_pool": postgres_pool.run,
    "scale": scale.run,
    "students": students.run,
    "students_scale": students.run_scale,
}
# These take 15 minutes or more, so they run only when named.
SLOW = {"roster_stream_load", "scale", "students_scale"}


_WIDTH = 150  # of a file or a pipe


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"one or more of {', '.join(BENCHMARKS)}; by default all except {', '.join(sorted(SLOW))}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    parser.add_argument(
        "--train",
        type=Path,
        nargs="?",
        const=students_splink.SHIPPED,
        metavar="FILE",
        help="instead, train the model of student resolution on a synthetic district, and write it there",
    )
    options = parser.parse_args()
    if options.train:
        print(students_splink.train(options.train))
        return 0
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}: choose from {', '.join(BENCHMARKS)}")
    # Loopback servers and their clients must not be sent through a proxy.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    os.environ["PYTHONWARNINGS"] = "ignore"

    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    load = os.getloadavg()[0]
    console.print(f"{machine['cores']} cores, Python {machine['python']}, load {load:.1f} at the start\n")
    document: dict[str, Any] = {"machine": {**machine, "load_before": load}, "benchmarks": {}}
    wrong: list[str] = []
    for name in options.names or sorted(BENCHMARKS.keys() - SLOW, key=list(BENCHMARKS).index):
        started = time.perf_counter()
        for report in BENCHMARKS[name]():
            report.show(console)
            wrong += report.wrong
            document["benchmarks"][report.name] = {**report.numbers, "wrong": report.wrong}
        console.print(f"[dim]{name} took {time.perf_counter() - started:.0f} s[/]\n")
    if options.json:
        options.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return 1 if wrong else 0


if __name__ == "__main__":
    with exit_on_termination():  # so that the servers end with us
        sys.exit(main())
