"""Libraries in, verdicts written: several calls in flight while earlier answers are being written.

A batch is asked and written by one thread. As many threads as calls may be in flight do so, and only ``writers`` of
them write at a time, so a database that is slower than LML holds the calls back instead of letting answers pile up:
memory is that of the batches in flight, however large the catalogue.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Event, Lock
from typing import NamedTuple, Protocol

from runway_pipelines.errors import (
    ConfigurationError,
    LmlError,
    LmlInputRefused,
    LmlRefused,
    Permanent,
    RunwayError,
    Unavailable,
)
from runway_pipelines.identity.counts import Counts, Skip, skipped
from runway_pipelines.identity.transactions import is_held_up
from runway_pipelines.identity.writer import NotWritten
from runway_pipelines.operations.events import Log
from runway_pipelines.systems.lml.answers import parse_answer
from runway_pipelines.systems.lml.client import LmlPart, LmlService
from runway_pipelines.systems.lml.verdicts import Answer, Library

# A line in the run's log for every so many libraries.
REPORT_LIBRARIES = 10_000
# From so many libraries on, trouble with every one of them is not about them.
TELLING = 10


@dataclass
class Circuit:
    """Whether it makes sense to go on asking; shared by all threads and shards of a run.

    It opens for good when LML refuses us, the catalogue cannot be written, or ``most_failed_batches`` failed in a row.
    ``opened`` ends whoever waits for another attempt; ``is_writable`` is false once the catalogue is out of reach.
    """

    most_failed_batches: int
    failure: RunwayError | None = None
    is_writable: bool = True
    opened: Event = field(default_factory=Event, repr=False)
    _failed_in_a_row: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def is_open(self) -> bool:
        """Whether nothing is asked any more."""
        return self.opened.is_set()

    def stop(self, failure: RunwayError) -> None:
        """Open it; the first reason stays."""
        with self._lock:
            self._open(failure)

    def stop_writing(self, failure: RunwayError) -> None:
        """Open it because the catalogue cannot be written: nobody need try again."""
        with self._lock:
            self.is_writable = False
            self._open(failure)

    def answered(self) -> None:
        """A batch was answered, and its answer taken."""
        with self._lock:
            self._failed_in_a_row = 0

    def failed(self, error: RunwayError) -> None:
        """A batch was not answered, or its answer not taken."""
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self.most_failed_batches:
                self._open(
                    Unavailable(
                        expected=error.expected,
                        came=f"{self._failed_in_a_row} failed batches in a row, the last with {error.came}",
                        remedy=f"{error.remedy}; then run again: what was written stays, what is left is taken up",
                        code=error.code,
                    )
                )

    def _open(self, failure: RunwayError) -> None:
        self.failure = self.failure or failure
        self.opened.set()


class Page(NamedTuple):
    """Libraries that are asked about in one call, with or without their tracks."""

    libraries: Sequence[Library]
    include_tracks: bool


@dataclass
class _Batch:
    """What became of a batch so far; ``failure`` is its newest trouble."""

    counts: Counts = field(default_factory=Counts)
    is_answered: bool = False
    failure: RunwayError | None = None
    refused_inputs: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether LML refuses whatever it is asked, one by one."""
        return self.refused_inputs >= TELLING and not self.is_answered


class Write(Protocol):
    """`writer.write` or `writer.plan`, bound to the catalogue."""

    def __call__(self, answer: Answer, *, stopped: Event) -> Counts: ...


@dataclass(frozen=True)
class Resolver:
    """Asks, checks and writes. ``write`` (in a dry run: plans) takes a checked answer and counts what became of it."""

    lml: LmlService
    write: Write
    circuit: Circuit
    log: Log
    calls_in_flight: int
    writers: int

    def resolve(self, pages: Iterator[Page]) -> Counts:
        """All pages, a call each; returns the counts, also when the circuit opened (`Circuit.failure` says why)."""
        counts = Counts()
        writing = BoundedSemaphore(self.writers)
        under_way: set[Future[Counts]] = set()
        with _fewer_collections(), ThreadPoolExecutor(self.calls_in_flight, "identity") as threads:
            try:
                for page in self._while_closed(pages):
                    under_way.add(threads.submit(self._batch, page, writing))
                    if len(under_way) >= self.calls_in_flight:
                        under_way = self._collect(under_way, counts)
                while under_way:
                    under_way = self._collect(under_way, counts)
            except BaseException as error:
                # What is in flight ends with its own call and that call's retries; nothing more is asked.
                self.circuit.stop(_as_ours(error))
                raise
        return counts

    def _while_closed(self, pages: Iterator[Page]) -> Iterator[Page]:
        """The pages until the circuit opens, for which a catalogue that cannot be read is a reason like any other."""
        try:
            while not self.circuit.is_open and (page := next(pages, None)) is not None:
                yield page
        except RunwayError as error:
            self.circuit.stop(error)

    def _collect(self, under_way: set[Future[Counts]], counts: Counts) -> set[Future[Counts]]:
        done, left = wait(under_way, return_when=FIRST_COMPLETED)
        for future in done:
            before = counts.scanned // REPORT_LIBRARIES
            counts.merge(future.result())
            if counts.scanned // REPORT_LIBRARIES > before:
                self.log.info(f"{counts.scanned} libraries so far, {counts.rows_resolved} resolved")
        return left

    def _batch(self, page: Page, writing: BoundedSemaphore) -> Counts:
        if self.circuit.is_open:
            return Counts()  # never asked
        batch, libraries = _Batch(), page.libraries
        parts = self.lml.resolve_halving(libraries, include_tracks=page.include_tracks, stopped=self.circuit.opened)
        try:
            for part in parts:
                self._take(part, batch, writing)
                if self.circuit.is_open or batch.is_hopeless:
                    break
        except ConfigurationError as error:
            self.circuit.stop(error)
        if batch.is_answered:
            self.circuit.answered()
        elif batch.failure is not None:
            self.circuit.failed(batch.failure)
        if not batch.counts.others["lml_total_calls"]:
            return Counts()  # stopped before the first call
        # Libraries whose part was never reached were in flight all the same.
        batch.counts.merge(skipped(len(libraries) - batch.counts.scanned, Skip.LML_ERROR))
        return batch.counts

    def _take(self, part: LmlPart, batch: _Batch, writing: BoundedSemaphore) -> None:
        """Believe and write a part, or count why not."""
        batch.counts.others.update(_effort(part))
        try:
            if isinstance(part.outcome, LmlError):
                raise part.outcome
            answer = parse_answer(part.outcome, part.libraries)
        except LmlError as error:
            self._refuse(part, error, batch)
        else:
            self._write(answer, len(part.libraries), batch, writing)

    def _refuse(self, part: LmlPart, error: LmlError, batch: _Batch) -> None:
        self.log.warning(f"library {part.libraries[0].library_id} and {len(part.libraries) - 1} more: {error}")
        is_input = isinstance(error, LmlInputRefused)
        batch.counts.merge(skipped(len(part.libraries), Skip.INVALID_INPUT if is_input else Skip.LML_ERROR))
        batch.refused_inputs += is_input
        if isinstance(error, LmlRefused):
            self.circuit.stop(error)
        else:
            batch.failure = error

    def _write(self, answer: Answer, libraries: int, batch: _Batch, writing: BoundedSemaphore) -> None:
        self._tell_troubles(answer)
        batch.counts.others.update(_of_the_answer(answer))
        try:
            with writing:
                # Each of the threads that wait here would wait for a server that is gone as long as the first did.
                if not self.circuit.is_writable:
                    batch.counts.merge(skipped(libraries, Skip.WRITER_ERROR))
                    return
                written = self.write(answer, stopped=self.circuit.opened)
        except NotWritten as error:
            batch.counts.merge(error.counts)
            if is_held_up(error.reason):
                batch.failure = error.reason
                self.log.warning(f"{libraries} libraries are not written: {error.reason}")
            else:
                self.circuit.stop_writing(error.reason)
            return
        batch.counts.merge(written)
        if libraries >= TELLING and not answer.verdicts:
            batch.failure = _nothing_believed(libraries)
        elif not written.is_any_resolved and written.rows_skipped[Skip.WRITER_ERROR] >= TELLING:
            batch.failure = _all_refused(written.rows_skipped[Skip.WRITER_ERROR])
        else:
            batch.is_answered = True

    def _tell_troubles(self, answer: Answer) -> None:
        troubles = (("no", answer.missing), ("another's", answer.untrusted), ("a malformed", answer.malformed))
        for what, ids in troubles:
            if ids:
                self.log.warning(f"LML gave {what} result for {len(ids)} libraries, such as {ids[0]}: not believed")


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Answers are many young objects without cycles, and looking for cycles among them takes a quarter of the CPU time
    (4.8 s instead of 6.5 for 65,000 libraries, with the same peak of memory).
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _of_the_answer(answer: Answer) -> Counter[str]:
    """What is counted of an answer in units of its own; counters of LML's cache may be fractions."""
    counted: Counter[str] = Counter(
        lml_results_malformed=len(answer.malformed), lml_results_dropped=answer.results_dropped
    )
    counted.update({f"lml_cache.{name}": number for name, number in answer.cache_stats.items()})  # type: ignore[misc]
    return counted


def _effort(part: LmlPart) -> Counter[str]:
    return Counter(
        lml_total_calls=part.effort.calls,
        lml_retries=part.effort.retries,
        lml_total_latency_ms=round(part.effort.latency_ms),
    )


def _nothing_believed(libraries: int) -> RunwayError:
    return Unavailable(
        expected="at least one verdict that can be believed",
        came=f"none for {libraries} libraries",
        remedy="see what LML answers: the counts of the run say what was wrong with its results",
    )


def _all_refused(libraries: int) -> RunwayError:
    """What refuses every library is about the table and not about a library; finding that out is slow."""
    return Permanent(
        expected="the database to take at least one of a batch's libraries",
        came=f"a refusal of each of {libraries} that have a verdict to write",
        remedy="compare the catalogue's tables with the library identity contract, section 5 (docs/contracts)",
    )


def _as_ours(error: BaseException) -> RunwayError:
    if isinstance(error, RunwayError):
        return error
    return Unavailable(
        expected="the run to go on", came=type(error).__name__, remedy="run again: what is left is taken up"
    )
