"""The identity job for tests: a catalogue for it, a run of it, what the run said, and what it should have written.

What should be there is told by the naive reference, of what the local LML answers without faults.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg
import pytest

from runway_pipelines import wiring
from runway_pipelines.local.lml_verdicts import TRACKS_CONTRACT_VERSION, compilation_tracks, resolved, track_artists
from runway_pipelines.systems.lml.client import LmlService
from runway_pipelines.systems.lml.verdicts import Answer, ArtistIds, Kind, Provenance, Track, Verdict
from runway_pipelines.systems.postgres.databases import CatalogueDatabase
from tests.integration.identity_world import DATABASE, NOW, TestCatalogue
from tests.integration.world import definitions
from tests.reference_identity import ARTIST_IDS, ReferenceCatalogue, float4

LIBRARIES = 60
COMPILATIONS = 10
ALL = LIBRARIES + COMPILATIONS
LONG_AGO = NOW - timedelta(days=300)
# Small batches: several of them even in a catalogue of a test's size.
OPTIONS = {"batch_size": 10, "compilation_batch_size": 5, "shards": 2, "calls_in_flight": 3}
VARIOUS = "Various Artists"
# Main rows of which not one source is there.
WITHOUT_SOURCES = (
    "select m.library_id from library_identity m"
    " where not exists (select from library_identity_source s where s.library_id = m.library_id)"
)
_TABLES = (
    "library, artists, library_identity, library_identity_source, library_identity_history, compilation_track_artist"
)
_MOMENTS = {"last_verified_at", "superseded_at"}
_OF_THE_DATABASE = {"distinct_unresolved_sources", "history_id", "reason_category", "archived_at", "superseded_reason"}

# the catalogue


def fill(tables: TestCatalogue, libraries: int = LIBRARIES, compilations: int = COMPILATIONS) -> None:
    """Artists, then compilations whose tracks are known, that nobody has verified; in place of whatever was there."""
    tables.execute(f"truncate {_TABLES} restart identity")
    tables.execute(
        "insert into library"
        " (id, artist_name, album_title, canonical_entity_id, legacy_release_id, code_volume_letters)"
        " select n, case when n <= %s then 'Artist ' || n else %s end, 'Album ' || n, 'e' || n, 1000 + n,"
        " case when n > %s then 'Za' end from generate_series(1, %s) as n",
        *(libraries, VARIOUS, libraries, libraries + compilations),
    )
    tables.execute(
        "insert into artists (id, artist_name) select n, name from unnest(%s::text[]) with ordinality as u(name, n)",
        # Who is in it twice is nobody's link.
        [*track_artists(), track_artists()[0].upper()],
    )
    known = [
        (library_id * 100 + place, library_id, track["artist_name"], track["track_title"])
        for library_id in range(libraries + 1, libraries + compilations + 1)
        for place, track in enumerate(compilation_tracks(library_id, VARIOUS, f"Album {library_id}"))
    ]
    columns = [list(column) for column in zip(*known, strict=True)] if known else [[], [], [], []]
    tables.execute(
        "insert into compilation_track_artist (id, library_id, artist_name, track_title)"
        " select * from unnest(%s::int[], %s::int[], %s::text[], %s::text[])",
        *columns,
    )


def point_at(tables: TestCatalogue, monkeypatch: pytest.MonkeyPatch) -> TestCatalogue:
    """Runs from now on work in these tables."""
    monkeypatch.setenv("RUNWAY_CATALOGUE_DB_NAME", DATABASE)
    monkeypatch.setenv("RUNWAY_CATALOGUE_SCHEMA", tables.schema)
    return tables


def verified_long_ago(tables: TestCatalogue, library_id: int, **identity: Any) -> None:
    """A library of the catalogue has an identity that is due again."""
    row = {"library_id": library_id, "method": "llm", "confidence": 0.6, "last_verified_at": LONG_AGO} | identity
    tables.insert("library_identity", row)


# what should be in it


def foreseen(tables: TestCatalogue, but: Iterable[int] = ()) -> tuple[ReferenceCatalogue, Counter[str]]:
    """The tables as they are now, after LML has answered about every library of theirs that has an artist's name
    (``but`` these); and the counts of that.
    """
    reference = as_reference(tables)
    counted: Counter[str] = Counter()
    left_out = set(but)
    for row in tables.rows("library"):
        if row["artist_name"] is None or row["id"] in left_out:
            continue
        result = resolved(row["id"], row["artist_name"], row["album_title"], include_tracks=True)
        counted += reference.apply(Answer((verdict(result),), tracks_contract_version=TRACKS_CONTRACT_VERSION), NOW)
    return reference, counted


def verdict(result: dict[str, Any]) -> Verdict:
    """A valid result, taken word for word."""
    main = result.get("main")
    tracks = result.get("tracks")
    return Verdict(
        result["library_id"],
        Kind(result["kind"]),
        artist_ids=None if main is None else ArtistIds(**main),
        method=result["method"],
        confidence=result["confidence"],
        provenance=tuple(
            Provenance(each["source"], each["method"], each["confidence"], each["external_id"])
            for each in result["provenance"]
        ),
        tracks_attempted=result.get("tracks_attempted"),
        tracks=None if tracks is None else tuple(
            Track(*(each[name] for name in (
                "track_position", "artist_name", "track_title", "resolved_artist_name", "confidence",
            )))
            for each in tracks
        ),
    )  # fmt: skip


def assert_written(tables: TestCatalogue, reference: ReferenceCatalogue) -> None:
    """All tables hold what the reference holds, moments apart."""
    for name, ours, expected in zip(_NAMES, _content(as_reference(tables)), _content(reference), strict=True):
        assert ours == expected, name


_NAMES = ("stamps", "library_identity", "library_identity_source", "library_identity_history", "tracks")


def _content(reference: ReferenceCatalogue) -> tuple[Any, ...]:
    def timeless(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name not in _MOMENTS}

    return (
        {library_id: stamp is not None for library_id, stamp in reference.stamps.items()},
        {key: timeless(row) for key, row in reference.identity.items()},
        {key: timeless(row) for key, row in reference.sources.items()},
        sorted((timeless(row) for row in reference.history), key=repr),
        reference.tracks,
    )


def content_by_library(reference: ReferenceCatalogue) -> dict[int, tuple[Any, ...]]:
    """What all tables hold of each library, moments apart."""
    stamps, mains, sources, history, tracks = _content(reference)
    return {
        library_id: (
            is_stamped,
            mains.get(library_id),
            {key: row for key, row in sources.items() if key[0] == library_id},
            [row for row in history if row["library_id"] == library_id],
            {key: row for key, row in tracks.items() if row["library_id"] == library_id},
        )
        for library_id, is_stamped in stamps.items()
    }


def as_reference(tables: TestCatalogue) -> ReferenceCatalogue:
    """The tables' rows as the reference has them."""

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        return {
            name: float4(value) if isinstance(value, float) else value
            for name, value in row.items()
            if name not in _OF_THE_DATABASE
        }

    rows = {name: [plain(row) for row in table] for name, table in tables.tables().items()}
    columns = {name for (name,) in tables.execute(
        "select column_name from information_schema.columns where table_schema = %s", tables.schema
    )}  # fmt: skip
    return ReferenceCatalogue(
        has_artist_columns=columns.issuperset(ARTIST_IDS),
        artists={row["id"]: row["artist_name"] for row in tables.rows("artists")},
        stamps={row["id"]: row["unresolved_attempted_at"] for row in rows["library"]},
        identity={row["library_id"]: row for row in rows["library_identity"]},
        sources={(row["library_id"], row["source"]): row for row in rows["library_identity_source"]},
        history=rows["library_identity_history"],
        tracks={row["id"]: row for row in rows["compilation_track_artist"]},
    )


# a run, and what it said


def run(instance: dg.DagsterInstance, job_name: str = "library_identity_job", **options: Any) -> Any:
    """The job in this process; small batches unless told."""
    job = definitions().resolve_job_def(job_name)
    return job.execute_in_process(
        instance=instance,
        run_config={"ops": {"library_identity_graph": {"config": OPTIONS | options}}},
        raise_on_error=False,
    )


def counts(result: Any) -> dict[str, Any]:
    """The counts for machines of a run, wherever it said them."""
    for event in result.all_events:
        if event.is_step_materialization and event.asset_key.path[-1] == "library_identity":
            return dict(event.step_materialization_data.materialization.metadata["counts for machines"].value)
        if event.event_type_value == "ASSET_OBSERVATION":
            observed = event.event_specific_data.asset_observation
            if observed.description == "nothing was due":
                return dict(observed.metadata["counts for machines"].value)
        if event.is_step_failure and event.step_failure_data.user_failure_data:
            return dict(event.step_failure_data.user_failure_data.metadata["counts for machines"].value)
    raise AssertionError("the run says no counts")


def ended(document: dict[str, Any]) -> Counter[str]:
    """Of a run's counts those that the reference knows, without the zeros."""
    flat = Counter(document["rows_skipped"])
    known = ("scanned", "rows_resolved", "rows_resolved_compilation", "rows_unresolved", "rows_unchanged")
    flat.update({name: document[name] for name in document if name in known or name.startswith("source_rows_")})
    return +flat


def checks(result: Any) -> dict[str, bool]:
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}


def materialized(result: Any) -> set[str]:
    return {e.asset_key.path[-1] for e in result.all_events if e.is_step_materialization}


def failure(result: Any) -> str:
    """What the run's failed step says."""
    (event,) = (event for event in result.all_events if event.is_step_failure)
    return str(event.step_failure_data.user_failure_data.description)


def logged(instance: dg.DagsterInstance, result: Any) -> str:
    """Every word that a run left in Dagster's storage."""
    entries = [dg.serialize_value(entry) for entry in instance.all_logs(result.run_id)]
    return "\n".join([*entries, dg.serialize_value(instance.get_run_by_id(result.run_id))])


def without_times(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The tables but for when a main row was last verified, and when a library was stamped."""
    moving = {"last_verified_at", "unresolved_attempted_at"}
    return {
        name: [{k: v for k, v in row.items() if k not in moving or name == "library_identity_source"} for row in table]
        for name, table in rows.items()
    }


# less patience than in production


def impatient_lml(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Runs from now on have a client of LML that waits next to nothing between attempts, and ``changes``."""
    settings = {"first_wait_seconds": 0.01, "longest_wait_seconds": 0.02} | changes
    monkeypatch.setattr(wiring, "LmlService", functools.partial(LmlService, **settings))


def impatient_catalogue(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Runs from now on have a pool of the catalogue's connections with ``changes``."""
    monkeypatch.setattr(wiring, "CatalogueDatabase", functools.partial(CatalogueDatabase, **changes))


def before_statements(monkeypatch: pytest.MonkeyPatch, tell: Callable[[str, psycopg.Connection[Any]], None]) -> None:
    """Each statement of the pipeline's on the catalogue is told, with its connection, right before it is sent."""
    usual = CatalogueDatabase.connection

    @contextmanager
    def telling(database: CatalogueDatabase) -> Iterator[psycopg.Connection[Any]]:
        with usual(database) as connection:
            execute, factory = connection.execute, connection.cursor_factory

            def told(statement: Any, *arguments: Any, **options: Any) -> Any:
                if not isinstance(statement, str):  # ours are bytes or composed
                    text = statement.decode() if isinstance(statement, bytes) else statement.as_string()
                    tell(text, connection)
                return execute(statement, *arguments, **options)

            class Telling(psycopg.Cursor[Any]):
                def copy(self, statement: Any, *arguments: Any, **options: Any) -> Any:
                    tell(statement.decode(), connection)
                    return super().copy(statement, *arguments, **options)

            connection.execute = told  # type: ignore[method-assign]
            connection.cursor_factory = Telling
            try:
                yield connection
            finally:
                del connection.execute  # type: ignore[method-assign]
                connection.cursor_factory = factory

    monkeypatch.setattr(CatalogueDatabase, "connection", telling)
