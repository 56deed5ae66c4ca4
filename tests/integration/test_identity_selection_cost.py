"""What the selection's reads cost: the buffers of each, whatever the size of the table and its statistics."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from runway_pipelines.identity.selection import PASS, WINDOW, Cohort, Selection, count, pages
from tests.integration.identity_selection_world import telling
from tests.integration.identity_world import NOW, TestCatalogue

SIZES = {Cohort.NON_VA: 500, Cohort.VA: 100}
# A window's libraries, with their identities and tracks: 110 at 6,500 libraries, 120 at 650,000, where an index is a
# level deeper. The statement before this one read 419,000.
MOST_BUFFERS = 130
SHARDS = 4
TABLES = ("library", "library_identity", "compilation_track_artist")


def fill(catalogue: TestCatalogue, libraries: int) -> None:
    """Six in ten libraries have an old identity, the others a stamp, one in 25 five tracks; statistics stay."""
    catalogue.execute(
        "insert into library (id, artist_name, album_title, canonical_entity_id, legacy_release_id,"
        " unresolved_attempted_at) select n, 'Artist ' || n, 'Album ' || n, 'e' || n, n,"
        " case when n %% 10 >= 6 then %s end from generate_series(1, %s) as n",
        *(NOW - timedelta(days=1), libraries),
    )
    catalogue.execute(
        "insert into library_identity (library_id, last_verified_at, method, confidence)"
        " select n, %s - interval '90 days', 'llm', 0.6 from generate_series(1, %s) as n where n %% 10 < 6",
        *(NOW, libraries),
    )
    catalogue.execute(
        "insert into compilation_track_artist (library_id, artist_name, track_title)"
        " select n, 'Artist ' || t, 'Song ' || t"
        " from generate_series(1, %s, 25) as n, generate_series(1, 5) as t order by 1, 2",
        libraries,
    )


def keep_statistics_of_empty_tables(catalogue: TestCatalogue) -> None:
    for table in TABLES:
        catalogue.execute(f"alter table {table} set (autovacuum_enabled = false)")
        catalogue.execute(f"analyze {table}")


class Reads:
    """The buffers of each read, hits and misses."""

    def __init__(self) -> None:
        self.buffers: list[int] = []

    def __call__(self, statement: str, parameters: Any, connection: psycopg.Connection[Any]) -> None:
        explained = f"explain (analyze, buffers, timing off, format json) {statement}".encode()
        [([explanation],)] = connection.execute(explained, parameters).fetchall()
        plan = explanation["Plan"]
        self.buffers.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def read(catalogue: TestCatalogue, **options: Any) -> tuple[int, list[int]]:
    """How many libraries were selected, and the buffers of each read."""
    told, selection = Reads(), Selection(NOW, schema=catalogue.schema, **options)
    found = sum(len(page) for _, page in pages(telling(catalogue, told), selection, SIZES))
    return found, told.buffers


def counted(catalogue: TestCatalogue, **options: Any) -> tuple[int, list[int]]:
    told, selection = Reads(), Selection(NOW, schema=catalogue.schema, **options)
    return sum(count(telling(catalogue, told), selection).values()), told.buffers


def table_pages(catalogue: TestCatalogue) -> int:
    [(pages_of_all,)] = catalogue.execute(
        "select sum(pg_relation_size(name::regclass)) / current_setting('block_size')::int"
        " from unnest(%s::text[]) as name",
        list(TABLES),
    )
    return int(pages_of_all)


@pytest.mark.parametrize("libraries", [6_500, pytest.param(650_000, marks=pytest.mark.slow)])
def test_a_read_costs_its_window_whatever_the_tables_size_and_statistics(
    catalogue: TestCatalogue, libraries: int
) -> None:
    keep_statistics_of_empty_tables(catalogue)
    fill(catalogue, libraries)
    due, stamped, whole = libraries * 6 // 10, libraries * 4 // 10, table_pages(catalogue)
    windows = -(-libraries // WINDOW)
    for is_analyzed in (False, True):
        if is_analyzed:
            catalogue.execute("analyze")

        for stale_days, expected in ((7, due), (365, 0)):  # as many reads, and as large, when none is due
            found, buffers = read(catalogue, stale_days=stale_days)
            assert found == expected
            assert len(buffers) == windows + 1
            assert max(buffers) <= MOST_BUFFERS

        found, buffers = read(catalogue, shard=(1, SHARDS))
        assert found == due // SHARDS
        assert len(buffers) == -(-libraries // SHARDS // WINDOW) + 1
        assert max(buffers) <= SHARDS * MOST_BUFFERS

        for options, expected in (({}, due), ({"recheck": True}, stamped)):
            found, buffers = counted(catalogue, **options)
            assert found == expected
            assert len(buffers) == 1
            assert buffers[0] <= whole * 1.05 + 10

        found, buffers = read(catalogue, recheck=True)
        assert found == stamped
        passes = -(-stamped // PASS)
        assert len(buffers) == passes + -(-stamped // WINDOW)
        # A window's ids are not next to each other here: of these libraries, four in ten are stamped.
        assert sum(buffers) <= passes * (whole * 1.05 + 10) + (len(buffers) - passes) * 2.5 * MOST_BUFFERS
