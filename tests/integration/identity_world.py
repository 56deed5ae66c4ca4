"""A catalogue of a test's own: a schema on the stack's Postgres, what to put into it, and what is in it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

from runway_pipelines.local.catalogue import CHANGE_FEED, create_tables
from runway_pipelines.local.postgres_server import PostgresServer
from runway_pipelines.systems.lml.verdicts import Answer, ArtistIds, Kind, Provenance, Track, Verdict
from runway_pipelines.systems.postgres.databases import CatalogueDatabase

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DATABASE = "identity"
_numbers = itertools.count()


@dataclass
class TestCatalogue:
    """One schema; ``connection`` is the test's own, in autocommit, with the schema on its search path."""

    __test__ = False

    schema: str
    database: CatalogueDatabase
    connection: psycopg.Connection[Any]

    def execute(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(query.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def library(
        self,
        library_id: int,
        *,
        artist_name: str | None = "Anybody",
        canonical: bool = True,
        letters: str | None = None,
        stamped: datetime | None = None,
        verified: datetime | None = None,
        **identity: Any,
    ) -> int:
        """A library; with ``verified`` it has an identity, which ``identity`` describes."""
        self.execute(
            "insert into library (id, artist_name, album_title, canonical_entity_id, legacy_release_id,"
            " code_volume_letters, unresolved_attempted_at) values (%s, %s, %s, %s, %s, %s, %s)",
            *(library_id, artist_name, f"Album {library_id}", f"e{library_id}" if canonical else None),
            *(1000 + library_id, letters, stamped),
        )
        if verified is not None:
            row = {"method": "exact_match", "confidence": 1.0} | identity
            row |= {"library_id": library_id, "last_verified_at": verified}
            self.insert("library_identity", row)
        return library_id

    def insert(self, table: str, row: dict[str, Any]) -> None:
        self.connection.execute(
            sql.SQL("insert into {} ({}) values ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, row)),
                sql.SQL(", ").join(map(sql.Placeholder, row)),
            ),
            row,
        )

    def track(self, track_id: int, library_id: int, artist_name: str, title: str | None, **row: Any) -> None:
        head = {"id": track_id, "library_id": library_id, "artist_name": artist_name, "track_title": title}
        self.insert("compilation_track_artist", head | row)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Every row of a table by its key, as dicts; UUIDs as text."""
        cursor = self.connection.execute(
            sql.SQL("select * from {} order by 1, 2").format(sql.Identifier(table)), binary=False
        )
        names = [column.name for column in cursor.description or ()]
        return [
            {name: value if not hasattr(value, "hex") or isinstance(value, float) else str(value)
             for name, value in zip(names, row, strict=True)}
            for row in cursor
        ]  # fmt: skip

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Everything that the pipeline may write."""
        names = (
            "library",
            "library_identity",
            "library_identity_source",
            "library_identity_history",
            "compilation_track_artist",
        )
        return {name: self.rows(name) for name in names}

    def main(self, library_id: int) -> dict[str, Any]:
        [row] = [row for row in self.rows("library_identity") if row["library_id"] == library_id]
        return row


@contextmanager
def announced(catalogue: TestCatalogue) -> Iterator[list[tuple[str, str, int]]]:
    """What the change feed is told meanwhile, as (table, operation, key); filled at the end."""
    told: list[tuple[str, str, int]] = []
    with _own_connection(catalogue) as listener:
        listener.autocommit = True
        listener.execute(f"listen {CHANGE_FEED}".encode())
        yield told
        catalogue.execute(f"notify {CHANGE_FEED}, 'the end'")
        for notice in listener.notifies():
            if notice.payload == "the end":
                break
            change = json.loads(notice.payload)
            told.append((change["table"], change["op"], change["id"]))


@contextmanager
def librarian(catalogue: TestCatalogue, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody at work on the tables, who has not committed yet."""
    with _own_connection(catalogue) as connection:
        connection.execute("select set_config('search_path', quote_ident(%s), false)", [catalogue.schema])
        connection.execute(statement.encode())
        yield connection


def _own_connection(catalogue: TestCatalogue) -> psycopg.Connection[Any]:
    info = catalogue.connection.info
    return psycopg.connect(info.dsn, password=info.password)


@contextmanager
def new_catalogue(
    server: PostgresServer, *, folding: bool = True, artist_columns: bool = True, change_feed: bool = True
) -> Iterator[TestCatalogue]:
    """A new schema in the server's database `DATABASE`, dropped at the end."""
    server.create_database(DATABASE)
    schema = f"Catalogue {next(_numbers)}" if artist_columns else f"catalogue_{next(_numbers)}"
    resource = CatalogueDatabase(
        host=server.host, port=server.port, database=DATABASE, username=server.user, password=server.password
    )
    with _connected(server, schema) as connection:
        create_tables(connection, schema, folding=folding, artist_columns=artist_columns, change_feed=change_feed)
    world = TestCatalogue(schema, resource, _connected(server, schema))
    try:
        yield world
    finally:
        resource.close()
        world.connection.close()
        with _connected(server, schema) as connection:
            connection.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))


def _connected(server: PostgresServer, schema: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(server.dsn(DATABASE), autocommit=True)
    connection.execute("select set_config('search_path', quote_ident(%s), false)", [schema])
    return connection


def single(
    library_id: int,
    *provenance: Provenance,
    method: str | None = "exact_match",
    confidence: float | None = 1.0,
    **ids: Any,
) -> Verdict:
    """A single artist's verdict; two sources unless told."""
    return Verdict(
        library_id,
        Kind.SINGLE_ARTIST,
        artist_ids=ArtistIds(**ids),
        method=method,
        confidence=confidence,
        provenance=provenance or (found("discogs", f"d{library_id}"), found("spotify", f"s{library_id}")),
    )


def found(
    source: str, external_id: str | None, method: str = "exact_match", confidence: float | None = 1.0
) -> Provenance:
    return Provenance(source, method, confidence, external_id)


def unresolved(library_id: int) -> Verdict:
    return Verdict(library_id, Kind.UNRESOLVED)


def compilation(library_id: int, *tracks: Track, attempted: bool | None = True) -> Verdict:
    return Verdict(library_id, Kind.COMPILATION, tracks_attempted=attempted, tracks=tracks)


def track(
    artist_name: str,
    title: str | None,
    resolved: str | None = None,
    confidence: float | None = 0.9,
    position: str | None = None,
) -> Track:
    return Track(position, artist_name, title, resolved, confidence)


def answer(*verdicts: Verdict, version: int | None = 1, **others: Any) -> Answer:
    return Answer(verdicts, tracks_contract_version=version, **others)
