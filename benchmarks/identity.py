"""Library identity: a catalogue's verdicts asked for and written, beside a transaction for each library and COPY.

Every contender begins with the same catalogue and an LML that has made its answers already; what they have written is
compared row by row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from benchmarks.identity_report import (
    ASKING,
    CEILING,
    FIRST,
    JOB,
    OURS,
    PEER,
    PEER_UNCHANGED,
    UNCHANGED,
    Row,
    again_report,
    main_report,
    memory_report,
)
from benchmarks.identity_ways import asking, commits, copying, job, ours, peer
from benchmarks.identity_world import MANY, Tables, World, differences, world_with
from benchmarks.measure import Report, in_own_process

# Fewer while one works on the benchmark itself: what is reported then says little.
LIBRARIES = int(os.environ.get("IDENTITY_LIBRARIES", "65000"))
TIMES = 10  # the larger catalogue
LATENCIES = (0, 50, 300)
REPEATS = 3
SHARDS_OF_PEER = 10  # of which it does one, and is scaled
CHANGED_PERCENT = 3
COMMITS = 500
_AGAIN = {"stale_days": 0, "unresolved_retry_days": 0}
_COPIED = ("library_identity", "library_identity_source", "library_identity_history", "compilation_track_artist")


class _Bench:
    """The rows so far, and what was wrong; ``first`` is what ours left in the tables, and others must leave there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: list[Row] = []
        self.again: list[Row] = []
        self.wrong: list[str] = []
        self.seconds_of_a_commit: dict[bool, float] = {}
        self.first: Tables = {}

    def asking(self) -> None:
        """LML makes its answers, then what asking for them takes."""
        self.world.begin()
        self.rows.append(Row(ASKING, runs=[in_own_process(asking, servers=self.world.servers, repeats=2)]))

    def asked_again(self, is_on: bool) -> None:
        """The first run, one that finds nothing changed, and one that finds a little."""
        world = self.world
        world.begin()
        self.again.append(Row(FIRST, fsync=is_on, runs=[self._ours()]))
        self.first = self.first or world.tables()
        world.settle(vacuum=True)
        self.again.append(Row(UNCHANGED, fsync=is_on, runs=[self._ours(_AGAIN, days_later=1)]))
        self._compare(UNCHANGED, world.tables())
        changed = world.change(CHANGED_PERCENT)
        world.settle(vacuum=True)
        name = f"ours: {CHANGED_PERCENT}% changed"
        self.again.append(Row(name, fsync=is_on, runs=[self._ours(_AGAIN, days_later=2)]))
        tables = world.tables()
        written = len(tables["library_identity_history"]) - len(self.first["library_identity_history"])
        if written != changed:
            self.wrong.append(f"{changed} libraries were changed, and {written} rows of history written")
        self._compare(name, tables | {"library_identity_history": self.first["library_identity_history"]})

    def peer(self) -> None:
        """The peer's part of the catalogue, again without a change, and the same part by ours: equal tables."""
        world = self.world
        self._peer_row(0, is_on=False)
        tables = world.tables()
        world.settle(vacuum=True)
        share, again = self.rows[-1].share, self._peer(_AGAIN)
        self.again += [self.rows[-1], Row(PEER_UNCHANGED, share=share, runs=[again])]
        world.begin()
        self._ours({"shards": SHARDS_OF_PEER}, shards=1)
        self._compare("the peer", tables, world.tables())

    def many(self) -> Row:
        """Ours with the larger catalogue."""
        self.world.multiply(TIMES)
        self.world.begin(MANY)
        return Row(OURS, share=TIMES, runs=[self._ours()])

    def in_turn(self, is_on: bool) -> None:
        """Ours under each latency, in rounds so that what else the machine does falls on all; the ceiling; the peer."""
        world = self.world
        world.begin()
        self.seconds_of_a_commit[is_on] = in_own_process(commits, number=COMMITS)["seconds_of_a_commit"]
        rows = [Row(OURS, latency, is_on) for latency in LATENCIES]
        for number in range(REPEATS):
            for row in rows:
                world.begin()
                world.latency(row.latency)
                row.runs.append(self._ours())
                if number == 0:
                    self._compare(f"ours, LML in {row.latency} ms", world.tables())
        world.latency(0)
        self.rows += rows
        world.settle()
        self.rows.append(Row(CEILING, 0, is_on, runs=[in_own_process(copying, servers=world.servers, tables=_COPIED)]))
        for latency in LATENCIES:
            if is_on or latency:
                self._peer_row(latency, is_on)
        world.latency(0)

    def job(self) -> None:
        """All of it, as Dagster runs it."""
        self.world.begin()
        self.rows.append(Row(JOB, runs=[in_own_process(job, servers=self.world.servers)]))
        self._compare("the job", self.world.tables())

    def _peer_row(self, latency: int, is_on: bool) -> None:
        self.world.begin()
        self.world.latency(latency)
        self.rows.append(Row(PEER, latency, is_on, 1 / SHARDS_OF_PEER, [self._peer()]))

    def _ours(
        self, options: dict[str, int] | None = None, shards: int | None = None, days_later: int = 0
    ) -> dict[str, Any]:
        return in_own_process(
            ours, servers=self.world.servers, options=options or {}, shards=shards, days_later=days_later
        )

    def _peer(self, due: dict[str, int] | None = None) -> dict[str, Any]:
        return in_own_process(peer, servers=self.world.servers, shards=SHARDS_OF_PEER, due=due or {})

    def _compare(self, who: str, came: Tables, expected: Tables | None = None) -> None:
        if found := differences(expected or self.first, came):
            self.wrong.append(f"the tables that {who} leaves differ from those of ours: {found}")


def run() -> Iterator[Report]:
    """The three tables."""
    with world_with(LIBRARIES) as world:
        bench = _Bench(world)
        bench.asking()
        bench.asked_again(is_on=False)
        bench.peer()
        many = bench.many()
        bench.in_turn(is_on=False)
        bench.job()
        world.fsync(True)
        bench.asked_again(is_on=True)
        bench.in_turn(is_on=True)
    yield main_report(bench.rows, bench.seconds_of_a_commit, bench.wrong)
    yield again_report(bench.again)
    yield memory_report(LIBRARIES, next(row for row in bench.rows if row.name == OURS), many)
