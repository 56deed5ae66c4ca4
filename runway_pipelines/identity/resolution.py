"""Asks LML about libraries and writes the verdicts, with several calls in flight.

One thread asks about a batch and writes its answer. There is a thread per call in flight, and only ``writers`` of them
write at a time, so a slow database holds back the calls instead of letting answers pile up. Memory holds the batches in
flight, however large the catalogue.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Event, Lock
from typing import Protocol

from runway_pipelines.errors import (
    ConfigurationError,
    LmlError,
    LmlInputRefused,
    LmlRefused,
    Permanent,
    RunwayError,
    Unavailable,
)
from runway_pipelines.identity.counts import Counts, Skip, disbelief, of_the_answer, skipped
from runway_pipelines.identity.rows import unanswered
from runway_pipelines.identity.transactions import is_held_up
from runway_pipelines.identity.writer import NotWritten
from runway_pipelines.systems.lml.answers import AnswerUnreadable, parse_answer
from runway_pipelines.systems.lml.client import LmlPart, LmlService
from runway_pipelines.systems.lml.verdicts import Answer, Library

# The run's log gets one line for this many libraries.
REPORT_LIBRARIES = 10_000
# When this many libraries or more all fail, the cause is not theirs.
LEAST_TELLING = 10


@dataclass
class Circuit:
    """The circuit breaker of a run, shared by its threads and shards.

    It opens for good when LML refuses our key, the catalogue cannot be written, or ``most_failed_batches`` fail in a
    row. ``opened`` ends all waits for a retry; ``is_writable`` is false once the catalogue is out of reach.
    """

    most_failed_batches: int
    failure: RunwayError | None = None
    is_writable: bool = True
    opened: Event = field(default_factory=Event, repr=False)
    _failed_in_a_row: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def is_open(self) -> bool:
        """Whether the run has stopped asking."""
        return self.opened.is_set()

    def stop(self, failure: RunwayError) -> None:
        """Open the circuit; the first failure is kept."""
        with self._lock:
            self.failure = self.failure or failure
            self.opened.set()

    def stop_writing(self, failure: RunwayError) -> None:
        """Open the circuit because the catalogue is out of reach."""
        self.is_writable = False
        self.stop(failure)

    def answered(self) -> None:
        """Record a batch whose answer was accepted."""
        with self._lock:
            self._failed_in_a_row = 0

    def failed(self, error: RunwayError) -> None:
        """Record a batch without an answer, or whose answer was not accepted."""
        with self._lock:
            self._failed_in_a_row += 1
            in_a_row = self._failed_in_a_row
        if in_a_row >= self.most_failed_batches:
            self.stop(
                Unavailable(
                    expected=error.expected,
                    came=f"{in_a_row} failed batches in a row, the last with {error.came}",
                    remedy=f"{error.remedy}; then run again: it resumes with what is left",
                    code=error.code,
                )
            )


@dataclass
class _Batch:
    """A batch's progress; ``failure`` is its latest."""

    counts: Counts = field(default_factory=Counts)
    is_answered: bool = False
    failure: RunwayError | None = None
    refused_inputs: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether LML refuses every single input."""
        return self.refused_inputs >= LEAST_TELLING and not self.is_answered


class Write(Protocol):
    """`writer.write`, bound to the catalogue."""

    def __call__(self, answer: Answer, *, stopped: Event) -> Counts: ...


@dataclass(frozen=True)
class Resolver:
    """Asks, checks and writes. ``write`` takes a checked answer and counts its libraries."""

    lml: LmlService
    write: Write
    circuit: Circuit
    log: logging.Logger
    calls_in_flight: int
    writers: int

    def resolve(self, pages: Iterator[Sequence[Library]]) -> Counts:
        """Resolve the pages of libraries, one call each, until the circuit opens; returns the counts in any case."""
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
                # Calls in flight finish; nothing more is asked.
                self.circuit.stop(_as_ours(error))
                raise
        return counts

    def _while_closed(self, pages: Iterator[Sequence[Library]]) -> Iterator[Sequence[Library]]:
        """The pages until the circuit opens; an unreadable catalogue opens it too."""
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

    def _batch(self, libraries: Sequence[Library], writing: BoundedSemaphore) -> Counts:
        if self.circuit.is_open:
            return Counts()
        batch = _Batch()
        # Tracks are asked for whatever the library seems to be: a compilation may hide among the others.
        parts = self.lml.resolve_halving(libraries, include_tracks=True, stopped=self.circuit.opened)
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
            return Counts()  # stopped before its first call
        # Libraries in parts that were not reached were in flight too.
        batch.counts.merge(skipped(len(libraries) - batch.counts.scanned, Skip.LML_ERROR))
        return batch.counts

    def _take(self, part: LmlPart, batch: _Batch, writing: BoundedSemaphore) -> None:
        """Check and write a part, or count why not."""
        batch.counts.others.update(
            lml_total_calls=part.effort.calls,
            lml_retries=part.effort.retries,
            lml_total_latency_ms=round(part.effort.latency_ms),
        )
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
        if isinstance(error, AnswerUnreadable):
            batch.counts.others["lml_not_believed"] += len(part.libraries)
        batch.refused_inputs += is_input
        if isinstance(error, LmlRefused):
            self.circuit.stop(error)
        else:
            batch.failure = error

    def _write(self, answer: Answer, libraries: int, batch: _Batch, writing: BoundedSemaphore) -> None:
        unbelieved = Counts(others=of_the_answer(answer))
        batch.counts.merge(unbelieved)
        unbelieved.merge(unanswered(answer))
        if unbelieved.scanned:
            first = min((*answer.missing, *answer.untrusted, *answer.malformed))
            self.log.warning(
                f"LML's answer is not believed for {unbelieved.scanned} of {libraries} libraries, such as {first}:"
                f" {disbelief(unbelieved)}"
            )
        try:
            with writing:
                # Otherwise each thread waiting here would wait for the lost server as long as the first did.
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
        if libraries >= LEAST_TELLING and not answer.verdicts:
            batch.failure = _nothing_believed(libraries, disbelief(unbelieved))
        elif not written.is_any_resolved and written.rows_skipped[Skip.WRITER_ERROR] >= LEAST_TELLING:
            batch.failure = _all_refused(written.rows_skipped[Skip.WRITER_ERROR])
        else:
            batch.is_answered = True


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Collects garbage less often. Answers are many young objects without cycles; looking for cycles takes a quarter of
    the CPU time (6.5 s instead of 4.8 for 65,000 libraries, with the same peak of memory).
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _nothing_believed(libraries: int, why: str) -> RunwayError:
    return Unavailable(
        expected="at least one usable verdict",
        came=f"none for {libraries} libraries ({why})",
        remedy="compare LML's answers with the library identity contract, section 1 (docs/contracts)",
    )


def _all_refused(libraries: int) -> RunwayError:
    """The table, not the libraries, is at fault; halving down to each of them is slow."""
    return Permanent(
        expected="the database to accept at least one of a batch's libraries",
        came=f"a refusal of each library, {libraries} in all",
        remedy="compare the catalogue's tables with the library identity contract, section 5 (docs/contracts)",
    )


def _as_ours(error: BaseException) -> RunwayError:
    if isinstance(error, RunwayError):
        return error
    return Unavailable(
        expected="the run to go on", came=type(error).__name__, remedy="run again: it resumes with what is left"
    )
