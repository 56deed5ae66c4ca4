"""Whatever LML answers and wherever a run ends, all libraries are counted and reruns end in the same tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from threading import Lock
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runway_pipelines.identity import transactions
from runway_pipelines.identity.counts import Counts
from runway_pipelines.identity.options import IdentityOptions
from runway_pipelines.identity.services import IdentityServices
from runway_pipelines.local.lml_verdicts import resolved
from runway_pipelines.systems.lml.client import LmlService
from tests.integration.identity_job_world import (
    WITHOUT_SOURCES,
    as_reference,
    assert_written,
    before_statements,
    fill,
    foreseen,
    verified_long_ago,
)
from tests.integration.identity_world import TestCatalogue
from tests.integration.lml_control import LmlControl
from tests.servers.lml_faults import COSTLY, MALFORMED, UNSTORABLE, Rule
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

LIBRARIES, COMPILATIONS = 12, 4
ALL = range(1, LIBRARIES + COMPILATIONS + 1)
SINGLES = [
    number
    for number in range(1, LIBRARIES + 1)
    if resolved(number, f"Artist {number}", f"Album {number}", include_tracks=False)["kind"] == "single_artist"
]
OUT_OF_BAND = "source's confidence out of band"
TIMEOUT_SECONDS = 2.0
bounded = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Killed(BaseException):
    """The process is gone."""


class Silent:
    """A run's log that nobody reads."""

    def info(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...


@dataclass(frozen=True)
class Round:
    """One run, what LML does meanwhile, and before which of its statements on the catalogue it meets its trouble."""

    rules: tuple[Rule, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    killed_at: int | None = None
    lost_at: int | None = None


# what LML does


some = st.lists(st.sampled_from(ALL), min_size=1, max_size=2).map(tuple)
single = st.sampled_from(SINGLES).map(lambda number: (number,))
times = st.none() | st.integers(1, 3)
refusals = st.builds(
    Rule,
    fault=st.just("status"),
    status=st.sampled_from([401, 409, 413, 422, 422, 429, 500, 503, 503]),
    retry_after=st.just("0"),
    library_ids=some,
    times=times,
)
too_large = st.builds(
    Rule, fault=st.just("status"), status=st.just(413), more_than=st.integers(1, 6), library_ids=st.none() | some
)
broken = st.builds(
    Rule, fault=st.sampled_from(["cut", "cut", "body"]), value=st.just("<html>"), library_ids=some, times=times
)
late = st.builds(
    Rule,
    fault=st.just("slow"),
    seconds=st.sampled_from([0.01, 0.02, 0.05, TIMEOUT_SECONDS + 0.2]),
    library_ids=some,
    times=st.just(1),
)
mixed_up = st.builds(
    Rule,
    fault=st.sampled_from(["short", "long", "duplicate", "foreign", "swapped"]),
    library_ids=some,
    times=times,
)
repeated = st.builds(Rule, fault=st.just("repeated_source"), library_ids=single, times=times)
unbelievable = st.sampled_from([(MALFORMED | UNSTORABLE)[name] for name in COSTLY]).flatmap(
    lambda wrong: st.builds(
        Rule, fault=st.just("replace"), path=st.just(wrong[0]), value=st.just(wrong[1]), library_ids=single, times=times
    )
)
# Another verdict, as good as the first. What cannot be stored costs its member or its entry, which is not a library's
# only source. An unknown method is stored as a verdict's.
OTHER_MINDS: list[tuple[tuple[str | int, ...], Any]] = [
    (("confidence",), 0.61),
    (("confidence",), 0.62),
    (("method",), "embedding"),
    (("method",), "manual"),
    (("provenance", 1, "source"), "tidal"),
    (("provenance", 1, "method"), "embedding"),
    *(
        (("provenance", 1, *path[2:]) if path[0] == "provenance" else path, value)
        for name, (path, value) in (MALFORMED | UNSTORABLE).items()
        if name not in (*COSTLY, OUT_OF_BAND) and len(path) > 1
    ),
]
of_two_minds = st.sampled_from(OTHER_MINDS).flatmap(
    lambda other: st.builds(
        Rule, fault=st.just("replace"), path=st.just(other[0]), value=st.just(other[1]), library_ids=single, times=times
    )
)
out_of_band = st.builds(
    Rule,
    fault=st.just("replace"),
    path=st.just(UNSTORABLE[OUT_OF_BAND][0]),
    value=st.just(UNSTORABLE[OUT_OF_BAND][1]),
    library_ids=single,
)
troubles = st.one_of(refusals, refusals, too_large, broken, late, mixed_up, mixed_up, unbelievable, repeated)
run_options = st.fixed_dictionaries(
    {
        "batch_size": st.sampled_from([1, 3, 5, 12]),
        "compilation_batch_size": st.sampled_from([1, 2, 4]),
        "calls_in_flight": st.integers(1, 4),
        "writers": st.integers(1, 2),
        "most_failed_batches": st.integers(1, 4),
        "stale_days": st.sampled_from([7, 7, 0]),
    }
)
moments = st.none() | st.integers(1, 60)
rounds = st.builds(
    Round,
    rules=st.lists(troubles | of_two_minds, max_size=4).map(tuple),
    options=run_options,
    killed_at=moments,
    lost_at=moments,
)


# what runs


@pytest.fixture
def client(lml: LmlControl) -> Iterator[LmlService]:
    with new_client(lml, TIMEOUT_SECONDS) as one:
        yield one


@pytest.fixture
def patient(lml: LmlControl) -> Iterator[LmlService]:
    """The client of runs without trouble."""
    with new_client(lml, PATIENCE_SECONDS) as one:
        yield one


@contextmanager
def new_client(lml: LmlControl, seconds: float) -> Iterator[LmlService]:
    one = LmlService(
        base_url=lml.url, attempts=2, first_wait_seconds=0, longest_wait_seconds=0, timeout_seconds=seconds
    )
    yield one
    one.close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "_LONGEST_WAIT_SECONDS", 0.01)


def prepare(tables: TestCatalogue) -> None:
    """A small catalogue with something of everybody's in it."""
    fill(tables, LIBRARIES, COMPILATIONS)
    first, second, third, fourth, fifth = SINGLES[:5]
    verified_long_ago(tables, first, method="manual", confidence=1.0, spotify_id="by hand", notes="by hand")
    verified_long_ago(tables, second, wikidata_qid="before", discogs_release_id=7)
    verified_long_ago(tables, third, spotify_id="before", apple_music_id="before")
    verified_long_ago(tables, fifth, method="manual", confidence=1.0, spotify_id="before", notes="consumer:lml-bulk")
    for library_id in (third, fifth):
        tables.insert(
            "library_identity_source",
            {"library_id": library_id, "source": "spotify", "external_id": "before", "method": "llm",
             "confidence": 0.6, "last_verified_at": datetime(2026, 1, 1, tzinfo=UTC), "boost_sources": "before"},
        )  # fmt: skip
    tables.execute("update library set canonical_entity_id = null where id = %s", fourth)
    verified_long_ago(tables, fourth)
    tables.execute(
        "update compilation_track_artist set track_artist_link_method = 'librarian', track_artist_id = 7"
        " where id % 4 = 0"
    )


def run(tables: TestCatalogue, client: LmlService, one: Round) -> Counts | None:
    """What a run counted; None where it was killed."""
    number, lock = 0, Lock()

    def before(statement: str, connection: psycopg.Connection[Any]) -> None:
        nonlocal number
        with lock:
            number += 1
            now = number
        if now == one.killed_at:
            raise Killed
        if now == one.lost_at:
            connection.execute("select pg_terminate_backend(pg_backend_pid())")

    identity = IdentityServices(lml=client, catalogue=tables.database, catalogue_schema=tables.schema)
    with pytest.MonkeyPatch.context() as patch:
        before_statements(patch, before)
        try:
            options = IdentityOptions(**({"shards": 1} | one.options))
            circuit = identity.run_circuit(options)
            return identity.resolve_shard(
                options, datetime.now(UTC), 0, circuit, Silent(), has_artist_columns=identity.has_artist_columns()
            )
        except Killed:
            return None


def due(tables: TestCatalogue, client: LmlService) -> int:
    identity = IdentityServices(lml=client, catalogue=tables.database, catalogue_schema=tables.schema)
    return sum(identity.due(IdentityOptions(), datetime.now(UTC)).values())


def assert_counted(counts: Counts, lml: LmlControl) -> None:
    """Nothing is lost, and scanned are the libraries whose batch was asked about: its first call names all of it."""
    asked = {library_id for call in lml.calls for library_id in call["library_ids"]}
    assert counts.scanned == counts.accounted_for == len(asked)
    assert counts.others["lml_total_calls"] == len(lml.calls)


@settings(bounded, max_examples=25)
@example(  # shut out in the middle of a batch's halves
    rules=[
        Rule(fault="status", status=413, more_than=2),
        Rule(fault="status", status=401, library_ids=(5,)),
    ],
    options={"batch_size": 12, "calls_in_flight": 2},
    lost_at=None,
)
@given(rules=st.lists(troubles | of_two_minds | out_of_band, max_size=5), options=run_options, lost_at=moments)
def test_every_library_whose_batch_was_asked_about_is_counted_once(
    tables: TestCatalogue,
    lml: LmlControl,
    client: LmlService,
    rules: list[Rule],
    options: dict[str, Any],
    lost_at: int | None,
) -> None:
    prepare(tables)
    lml.script(*rules)
    counts = run(tables, client, Round(tuple(rules), options, lost_at=lost_at))
    assert counts is not None
    assert_counted(counts, lml)
    stamped = sum(row["unresolved_attempted_at"] is not None for row in tables.rows("library"))
    assert counts.rows_unresolved + counts.rows_resolved_compilation + counts.rows_skipped["compilation"] == stamped


@settings(bounded, max_examples=25)
@given(sequence=st.lists(rounds, min_size=1, max_size=3))
def test_any_sequence_of_answers_faults_and_reruns_ends_in_the_same_tables(
    tables: TestCatalogue, lml: LmlControl, client: LmlService, patient: LmlService, sequence: list[Round]
) -> None:
    prepare(tables)
    reference, _ = foreseen(tables)
    for one in sequence:
        lml.script(*one.rules)
        counts = run(tables, client, one)
        if counts is not None:
            assert_counted(counts, lml)
        assert_each_main_row_has_sources(tables)
    lml.script()
    reruns = 0
    while due(tables, client):
        assert run(tables, patient, Round()) is not None
        reruns += 1
        assert reruns == 1, "a run without trouble leaves nothing"
    other_minds = {(path, repr(value)) for path, value in OTHER_MINDS}
    is_of_two_minds = any((rule.path, repr(rule.value)) in other_minds for one in sequence for rule in one.rules)
    if is_of_two_minds:
        # What it said in between may be what is there, until it is asked again.
        assert run(tables, patient, Round(options={"stale_days": 0})) is not None
        reference.history = as_reference(tables).history
    assert_written(tables, reference)
    assert_history_is_of_changes(tables)


def assert_each_main_row_has_sources(tables: TestCatalogue) -> None:
    ours = {row["library_id"] for row in tables.rows("library_identity") if row["notes"] == "consumer:lml-bulk"}
    assert ours.isdisjoint(library_id for (library_id,) in tables.execute(WITHOUT_SOURCES))


def assert_history_is_of_changes(tables: TestCatalogue) -> None:
    """Each row that was kept differs from the one that took its place."""
    moving = {"last_verified_at", "superseded_at", "notes"}
    reference = as_reference(tables)
    for library_id, main in reference.identity.items():
        chain = [row for row in reference.history if row["library_id"] == library_id]
        contents = [{k: v for k, v in row.items() if k not in moving} for row in [*chain, main]]
        assert all(old != new for old, new in pairwise(contents))
