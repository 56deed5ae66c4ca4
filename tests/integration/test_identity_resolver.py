"""Asking and writing concurrently: what is in flight, what a stop leaves undone, what one result costs."""

from __future__ import annotations

import gc
import re
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, Event, Lock
from typing import Any

import pytest

from runway_pipelines.errors import ConfigurationError, LmlRefused, Unavailable
from runway_pipelines.identity import resolution
from runway_pipelines.identity.counts import Counts, Skip
from runway_pipelines.identity.resolution import Circuit, Resolver, Write
from runway_pipelines.identity.writer import write
from runway_pipelines.local.lml_verdicts import resolved
from runway_pipelines.systems.lml.client import LmlService
from runway_pipelines.systems.lml.verdicts import Answer, Library
from tests.integration.identity_job_world import assert_written, ended, fill, foreseen, verdict
from tests.integration.identity_world import NOW, TestCatalogue
from tests.integration.lml_control import LmlControl
from tests.servers.lml_faults import COSTLY, MALFORMED, UNSTORABLE, Rule, edited
from tests.waiting import PATIENCE_SECONDS, wait_until

BATCH = 16
LIBRARIES = 4 * BATCH
# One that LML takes for a single artist.
SINGLE = 2
FAULTS = MALFORMED | UNSTORABLE
ENDLESS_SECONDS = 3600  # longer than a test may take


@pytest.fixture
def tables(tables: TestCatalogue) -> TestCatalogue:
    fill(tables, LIBRARIES, compilations=0)
    return tables


@dataclass
class Said:
    """A run's log."""

    lines: list[str] = field(default_factory=list)

    def info(self, message: str) -> None:
        self.lines.append(message)

    warning = info


@dataclass
class Rig:
    """A resolver on the real LML and the real tables, of which a test may replace the writing."""

    tables: TestCatalogue
    service: LmlService
    said: Said = field(default_factory=Said)

    def resolver(
        self, write: Write | None = None, *, calls: int = 3, writers: int = 1, most_failed: int = 5
    ) -> Resolver:
        return Resolver(self.service, write or self.write, Circuit(most_failed), self.said, calls, writers)

    def write(self, answer: Answer, *, stopped: Event) -> Counts:
        return write(
            self.tables.database.connection,
            answer,
            schema=self.tables.schema,
            has_artist_columns=False,
            now=NOW,
            stopped=stopped,
        )


@pytest.fixture
def rig(tables: TestCatalogue, lml: LmlControl) -> Iterator[Rig]:
    service = LmlService(
        base_url=lml.url,
        attempts=2,
        first_wait_seconds=0.01,
        longest_retry_after_seconds=ENDLESS_SECONDS,
        timeout_seconds=PATIENCE_SECONDS,
    )
    yield Rig(tables, service)
    service.close()


def page(number: int) -> list[Library]:
    """The batch of this number, from 1."""
    ids = range((number - 1) * BATCH + 1, number * BATCH + 1)
    return [Library(each, 1000 + each, f"Artist {each}", f"Album {each}") for each in ids]


def pages(count: int = 4) -> Iterator[Sequence[Library]]:
    return (page(number) for number in range(1, count + 1))


def ids(*numbers: int) -> set[int]:
    return {library.library_id for number in numbers for library in page(number)}


def resolve(resolver: Resolver, from_pages: Iterator[Sequence[Library]] | None = None) -> Counts:
    counts = resolver.resolve(from_pages or pages())
    assert counts.scanned == counts.accounted_for
    return counts


def nothing(answer: Answer, *, stopped: Event) -> Counts:
    """Takes an answer, and writes nothing."""
    return Counts(scanned=len(answer.verdicts), rows_unresolved=len(answer.verdicts))


# what one result costs


@pytest.mark.parametrize("wrong", COSTLY)
def test_an_unusable_result_costs_its_library_alone_and_says_why(
    wrong: str, tables: TestCatalogue, lml: LmlControl, rig: Rig
) -> None:
    path, value = FAULTS[wrong]
    lml.script(Rule(fault="replace", library_ids=(SINGLE,), path=path, value=value))
    reference, counted = foreseen(tables, but=[SINGLE])
    counts = resolve(rig.resolver())
    assert ended(counts.document()) == counted + Counter(scanned=1, lml_error=1)
    assert (counts.others["lml_results_malformed"], counts.others["lml_results_dropped"]) == (1, 0)
    [line] = rig.said.lines
    assert re.fullmatch(
        rf"LML's answer is not believed for 1 of {BATCH} libraries, such as {SINGLE}: {path[0]}\.[a-z_]+ 1", line
    )
    assert_written(tables, reference)


@pytest.mark.parametrize("wrong", [name for name in FAULTS if name not in COSTLY and "out of band" not in name])
def test_what_cannot_be_stored_costs_its_member_alone(
    wrong: str, tables: TestCatalogue, lml: LmlControl, rig: Rig
) -> None:
    path, value = FAULTS[wrong]
    lml.script(Rule(fault="replace", library_ids=(SINGLE,), path=path, value=value))
    reference, counted = foreseen(tables, but=[SINGLE])
    said = resolved(SINGLE, f"Artist {SINGLE}", f"Album {SINGLE}", include_tracks=True)
    if path == ("method",):
        said["method"] = value  # any text is a method
    elif path[0] == "main":
        said["main"].pop(path[1], None)
    else:
        said["provenance"] = said["provenance"][1:] if path[1:] else []
    counted += reference.apply(Answer((verdict(said),)), NOW)
    counts = resolve(rig.resolver())
    assert ended(counts.document()) == counted
    left_out = counts.others["lml_unknown_values"] + counts.others["lml_unusable_members"]
    assert (left_out, counts.others["lml_not_believed"]) == (path != ("method",), 0)
    assert rig.said.lines == []
    assert_written(tables, reference)


def test_provenance_out_of_band_costs_its_row_alone(tables: TestCatalogue, lml: LmlControl, rig: Rig) -> None:
    path, value = FAULTS["source's confidence out of band"]
    rule = Rule(fault="replace", library_ids=(SINGLE,), path=path, value=value)
    lml.script(rule)
    reference, counted = foreseen(tables, but=[SINGLE])
    [said] = edited([resolved(SINGLE, f"Artist {SINGLE}", f"Album {SINGLE}", include_tracks=True)], rule)
    counted += reference.apply(Answer((verdict(said),)), NOW)
    assert counted["source_rows_out_of_band"] > 0
    counts = resolve(rig.resolver())
    assert ended(counts.document()) == counted
    assert SINGLE in {row["library_id"] for row in tables.rows("library_identity")}
    assert_written(tables, reference)


# how much is in flight


def test_a_stalled_database_holds_the_calls_back(lml: LmlControl, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """So memory is that of the batches in flight: neither pages nor answers pile up, however many there are."""
    going_on, drawn, alive, answers = Event(), [], [], []

    def noted(*arguments: Any) -> Answer:
        answer = parse_answer(*arguments)
        answers.append(weakref.ref(answer))
        alive.append(sum(reference() is not None for reference in answers))
        return answer

    def from_pages() -> Iterator[Sequence[Library]]:
        for number in range(1, 31):
            drawn.append(number)
            yield page(1 + number % 4)

    def held(answer: Answer, *, stopped: Event) -> Counts:
        going_on.wait(PATIENCE_SECONDS)
        return nothing(answer, stopped=stopped)

    parse_answer = resolution.parse_answer
    monkeypatch.setattr(resolution, "parse_answer", noted)
    gc.collect()
    with ThreadPoolExecutor(1) as thread:
        counts = thread.submit(resolve, rig.resolver(held, calls=4, writers=1), from_pages())
        try:
            wait_until(lambda: len(answers) == 4)
            time.sleep(0.3)  # whoever could go on would
            assert (len(lml.calls), len(drawn), len(answers)) == (4, 4, 4)
        finally:
            going_on.set()
        assert counts.result(PATIENCE_SECONDS).scanned == 30 * BATCH
    assert (len(lml.calls), len(drawn), len(answers)) == (30, 30, 30)
    assert max(alive) <= 4


def test_the_next_call_is_in_flight_while_an_answer_is_written(lml: LmlControl, rig: Rig) -> None:
    writing, asked = Event(), []

    def from_pages() -> Iterator[Sequence[Library]]:
        yield page(1)
        assert writing.wait(PATIENCE_SECONDS)
        yield page(2)

    def write_first(answer: Answer, *, stopped: Event) -> Counts:
        writing.set()
        wait_until(lambda: len(lml.calls) == 2)  # this one ends only after the next call has come
        asked.append([verdict.library_id for verdict in answer.verdicts])
        return nothing(answer, stopped=stopped)

    assert resolve(rig.resolver(write_first, calls=2), from_pages()).scanned == 2 * BATCH
    assert set(asked[0]) == ids(1)


@pytest.mark.parametrize("writers", [1, 2])
def test_at_most_the_given_number_of_batches_are_written_at_a_time(writers: int, rig: Rig) -> None:
    together, lock, at_once, most = Barrier(writers), Lock(), 0, 0

    def counted(answer: Answer, *, stopped: Event) -> Counts:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        together.wait(PATIENCE_SECONDS)  # broken, and an error, if not so many come
        time.sleep(0.05)
        with lock:
            at_once -= 1
        return nothing(answer, stopped=stopped)

    resolve(rig.resolver(counted, calls=4, writers=writers))
    assert most == writers


# when it stops


def test_a_success_in_between_resets_the_failures(lml: LmlControl, rig: Rig) -> None:
    order = [1, 2, 3, 1, 2, 4, 1, 2]
    lml.script(Rule(fault="status", status=409, library_ids=tuple(ids(1, 2))))
    resolver = rig.resolver(nothing, calls=1, most_failed=3)
    counts = resolve(resolver, (page(number) for number in order))
    assert not resolver.circuit.is_open
    assert (counts.rows_skipped[Skip.LML_ERROR], counts.rows_unresolved) == (6 * BATCH, 2 * BATCH)
    lml.script(Rule(fault="status", status=409))
    counts = resolve(resolver, (page(1) for _ in range(10)))
    # Two had failed before, in a row: one more is the third.
    assert resolver.circuit.is_open and len(lml.calls) == 1
    assert counts.rows_skipped[Skip.LML_ERROR] == counts.scanned == BATCH


def test_answers_from_before_the_stop_are_written_and_nothing_more_is_asked(
    tables: TestCatalogue, lml: LmlControl, rig: Rig
) -> None:
    """Of two answers one is being written and one waits for that when the third call is refused."""
    lml.script(Rule(fault="status", status=401, library_ids=tuple(ids(3))))
    drawn = []

    def from_pages() -> Iterator[Sequence[Library]]:
        for number in (1, 2, 3, 4):
            if number == 3:
                wait_until(lambda: [call["status"] for call in lml.calls] == [200, 200])
                time.sleep(0.1)  # and both answers are read
            drawn.append(number)
            yield page(number)

    def after_the_stop(answer: Answer, *, stopped: Event) -> Counts:
        assert stopped.wait(PATIENCE_SECONDS)
        return rig.write(answer, stopped=stopped)

    reference, counted = foreseen(tables, but=ids(3, 4))
    resolver = rig.resolver(after_the_stop, calls=3, writers=1)
    counts = resolve(resolver, from_pages())
    assert isinstance(resolver.circuit.failure, LmlRefused)
    assert drawn == [1, 2, 3] and len(lml.calls) == 3
    assert ended(counts.document()) == counted + Counter(scanned=BATCH, lml_error=BATCH)
    assert_written(tables, reference)


def test_an_open_circuit_asks_nothing_and_scans_nothing(lml: LmlControl, rig: Rig) -> None:
    resolver = rig.resolver()
    resolver.circuit.stop(Unavailable(expected="a", came="b", remedy="c"))
    assert resolve(resolver).document() == Counts().document()
    assert lml.calls == []


def test_unreached_parts_of_a_halved_batch_count_as_in_flight(lml: LmlControl, rig: Rig) -> None:
    lml.script(Rule(fault="status", status=413, more_than=8), Rule(fault="status", status=401, library_ids=(1,)))
    resolver = rig.resolver(calls=1)
    counts = resolve(resolver)
    assert [len(call["library_ids"]) for call in lml.calls] == [16, 8]
    assert counts.scanned == counts.rows_skipped[Skip.LML_ERROR] == BATCH
    assert counts.others["lml_total_calls"] == 2


def test_a_stop_ends_the_wait_for_a_retry(lml: LmlControl, rig: Rig) -> None:
    lml.script(
        Rule(fault="status", status=503, retry_after=str(ENDLESS_SECONDS), library_ids=tuple(ids(1))),
        Rule(fault="status", status=403, library_ids=tuple(ids(2))),
    )

    def from_pages() -> Iterator[Sequence[Library]]:
        yield page(1)
        wait_until(lambda: [call["status"] for call in lml.calls] == [503])
        yield page(2)

    counts = resolve(rig.resolver(calls=2), from_pages())
    assert counts.rows_skipped[Skip.LML_ERROR] == counts.scanned == 2 * BATCH
    assert counts.others["lml_total_calls"] == len(lml.calls) == 2


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interruption_ends_the_wait_for_a_retry_and_is_raised(
    interruption: type[BaseException], lml: LmlControl, rig: Rig
) -> None:
    lml.script(Rule(fault="status", status=503, retry_after=str(ENDLESS_SECONDS)))

    def from_pages() -> Iterator[Sequence[Library]]:
        yield page(1)
        wait_until(lambda: [call["status"] for call in lml.calls] == [503])
        raise interruption

    resolver = rig.resolver()
    with pytest.raises(interruption):
        resolve(resolver, from_pages())
    assert len(lml.calls) == 1
    assert resolver.circuit.failure is not None and interruption.__name__ in str(resolver.circuit.failure)


def test_a_defect_in_the_writer_ends_the_run_loudly(lml: LmlControl, rig: Rig) -> None:
    def defective(answer: Answer, *, stopped: Event) -> Counts:
        raise ZeroDivisionError

    resolver = rig.resolver(defective, calls=1)
    with pytest.raises(ZeroDivisionError):
        resolve(resolver)
    assert resolver.circuit.is_open and len(lml.calls) == 1


def test_a_catalogue_that_becomes_unreadable_keeps_the_counts(lml: LmlControl, rig: Rig) -> None:
    away = Unavailable(expected="the database", came="no connection", remedy="see whether it is up")

    def from_pages() -> Iterator[Sequence[Library]]:
        yield page(1)
        raise away

    resolver = rig.resolver()
    counts = resolve(resolver, from_pages())
    assert resolver.circuit.failure is away
    assert counts.scanned == BATCH and counts.rows_resolved > 0


def test_an_unusable_setting_stops_the_run_before_anything_is_scanned(tables: TestCatalogue, lml: LmlControl) -> None:
    unusable = LmlService(base_url=lml.url, api_key="two words")
    resolver = Rig(tables, unusable).resolver()
    assert resolve(resolver).document() == Counts().document()
    assert isinstance(resolver.circuit.failure, ConfigurationError)
    unusable.close()


def test_a_table_that_refuses_every_library_stops_the_run_even_if_stamps_are_accepted(
    tables: TestCatalogue, lml: LmlControl, rig: Rig
) -> None:
    """A new column without a default refuses every main row, and not what is written of the unresolved."""
    tables.execute("alter table library_identity add column theirs text not null")
    try:
        resolver = rig.resolver(calls=1, most_failed=2)
        counts = resolve(resolver)
        assert tables.rows("library_identity") == []
        assert any(row["unresolved_attempted_at"] for row in tables.rows("library"))
        assert resolver.circuit.is_open and "a refusal of each library" in str(resolver.circuit.failure)
        assert counts.scanned == 2 * BATCH
    finally:
        tables.execute("alter table library_identity drop column theirs")
