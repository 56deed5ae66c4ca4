"""Due libraries on real tables: each rule of the contract's section 2, and the paging."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.identity.selection import Cohort, Selection, count, pages
from runway_pipelines.identity.writer import write
from runway_pipelines.local.catalogue import catalogue_rows, seed_catalogue
from runway_pipelines.systems.lml.verdicts import Library
from tests.integration.identity_world import NOW, TestCatalogue, answer, compilation, unresolved

DAY = timedelta(days=1)
MOMENT = timedelta(milliseconds=1)


def selected(catalogue: TestCatalogue, cohort: Cohort | None = None, page_size: int = 2, **options: Any) -> list[int]:
    selection = Selection(as_of=NOW, schema=catalogue.schema) if not options else Selection(
        **({"as_of": NOW, "schema": catalogue.schema} | options)
    )  # fmt: skip
    found: list[int] = []
    for each in Cohort if cohort is None else [cohort]:
        read = list(pages(catalogue.database.connection, selection, each, page_size))
        assert all(0 < len(page) <= page_size for page in read)
        ids = [library.library_id for page in read for library in page]
        assert ids == sorted(set(ids))
        assert count(catalogue.database.connection, selection, each) == len(ids)
        found += ids
    return sorted(found)


RULES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "canonical and never verified": ({}, {}, True),
    "without an artist's name": ({"artist_name": None}, {}, False),
    "with an empty artist's name": ({"artist_name": ""}, {}, True),
    "canonical and verified within seven days": ({"verified": NOW - 6 * DAY}, {}, False),
    "canonical and verified seven days ago": ({"verified": NOW - 7 * DAY}, {}, False),
    "canonical and verified longer ago": ({"verified": NOW - 7 * DAY - MOMENT}, {}, True),
    "canonical and verified later than now": ({"verified": NOW + DAY}, {}, False),
    "not canonical and never verified": ({"canonical": False}, {}, False),
    "not canonical and stale": ({"canonical": False, "verified": NOW - 8 * DAY}, {}, True),
    "not canonical and fresh": ({"canonical": False, "verified": NOW - DAY}, {}, False),
    "not canonical, brought in": ({"canonical": False}, {"include_null_canonical": True}, True),
    "not canonical, brought in, and fresh": (
        {"canonical": False, "verified": NOW - DAY},
        {"include_null_canonical": True},
        False,
    ),
    "nameless, brought in": ({"artist_name": None, "canonical": False}, {"include_null_canonical": True}, False),
    "fresh, with a shorter threshold": ({"verified": NOW - 2 * DAY}, {"stale_days": 1}, True),
    "fresh, without a threshold": ({"verified": NOW - MOMENT}, {"stale_days": 0}, True),
    "verified this moment, without a threshold": ({"verified": NOW}, {"stale_days": 0}, True),
    "not canonical and fresh, without a threshold": (
        {"canonical": False, "verified": NOW - MOMENT},
        {"stale_days": 0},
        True,
    ),
    "manual and stale": ({"verified": NOW - 8 * DAY, "method": "manual"}, {}, True),
    "stamped a month ago": ({"stamped": NOW - 30 * DAY}, {}, True),
    "stamped within the month": ({"stamped": NOW - 30 * DAY + MOMENT}, {}, False),
    "stamped and stale": ({"stamped": NOW - DAY, "verified": NOW - 8 * DAY}, {}, False),
    "stamped, with a shorter wait": ({"stamped": NOW - 2 * DAY}, {"unresolved_retry_days": 2}, True),
    "stamped, without a wait": ({"stamped": NOW}, {"unresolved_retry_days": 0}, True),
    "stamped, without a threshold": ({"stamped": NOW - DAY}, {"stale_days": 0}, False),
    "stamped, no compilation, rechecked": ({"stamped": NOW - DAY}, {"recheck": True}, False),
    "stamped compilation": ({"stamped": NOW - DAY, "letters": "Z"}, {}, False),
    "stamped compilation, rechecked": ({"stamped": NOW - DAY, "letters": "Z"}, {"recheck": True}, True),
    "stamped compilation that is fresh, rechecked": (
        {"stamped": NOW - DAY, "letters": "Z", "verified": NOW},
        {"recheck": True},
        True,
    ),
    "stamped compilation, not canonical, rechecked": (
        {"stamped": NOW - DAY, "letters": "Z", "canonical": False},
        {"recheck": True},
        True,
    ),
    "stamped compilation without a name, rechecked": (
        {"stamped": NOW - DAY, "letters": "Z", "artist_name": None},
        {"recheck": True},
        False,
    ),
    "compilation stamped by this very run, rechecked": ({"stamped": NOW, "letters": "Z"}, {"recheck": True}, False),
    "compilation without a stamp, rechecked": ({"letters": "Z"}, {"recheck": True}, True),
    "fresh compilation without a stamp, rechecked": ({"letters": "Z", "verified": NOW}, {"recheck": True}, False),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_library_is_due_by_the_rules_of_the_contract(catalogue: TestCatalogue, rule: str) -> None:
    library, options, is_due = RULES[rule]
    catalogue.library(1, **library)
    assert selected(catalogue, **options) == ([1] if is_due else [])


def test_each_library_is_in_exactly_one_cohort(catalogue: TestCatalogue) -> None:
    letters = {1: None, 2: "", 3: "A", 4: "Z", 5: "Za", 6: "zz", 7: "AZ", 8: None, 9: "Z"}
    for library_id, volume in letters.items():
        catalogue.library(library_id, letters=volume)
    for library_id in (8, 9):
        catalogue.track(library_id, library_id, "Anybody", "Song")
    assert selected(catalogue, Cohort.VA) == [4, 5, 8, 9]
    assert selected(catalogue, Cohort.NON_VA) == [1, 2, 3, 6, 7]


def test_a_page_has_the_values_that_lml_needs(catalogue: TestCatalogue) -> None:
    catalogue.library(3, artist_name="Björn Wren")
    [[library]] = pages(catalogue.database.connection, Selection(NOW, schema=catalogue.schema), Cohort.NON_VA, 500)
    assert library == Library(3, 1003, "Björn Wren", "Album 3")


def test_shards_divide_the_libraries(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 12):
        catalogue.library(library_id)
    shards = [selected(catalogue, shard=(index, 3)) for index in range(3)]
    assert shards == [[3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


@pytest.mark.parametrize(("limit", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3, 4, 5])])
def test_a_limit_ends_the_pages(catalogue: TestCatalogue, limit: int, expected: list[int]) -> None:
    for library_id in range(1, 6):
        catalogue.library(library_id)
    assert selected(catalogue, Cohort.NON_VA, limit=limit) == expected


def test_a_new_run_resumes_with_what_is_left(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 8):
        catalogue.library(library_id)
    selection = Selection(NOW, schema=catalogue.schema)
    first = next(pages(catalogue.database.connection, selection, Cohort.NON_VA, 3))
    write(
        catalogue.database.connection,
        answer(*(unresolved(library.library_id) for library in first)),
        schema=catalogue.schema,
        has_artist_columns=True,
        now=NOW + DAY,
    )
    assert selected(catalogue) == [4, 5, 6, 7]


def test_a_recheck_ends_even_though_it_stamps_rows(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 8):
        catalogue.library(library_id, letters="Z", stamped=NOW - DAY)
    selection = Selection(NOW, recheck=True, schema=catalogue.schema)
    asked: list[int] = []
    for page in pages(catalogue.database.connection, selection, Cohort.VA, 2):
        asked += [library.library_id for library in page]
        write(
            catalogue.database.connection,
            answer(*(compilation(library.library_id) for library in page)),
            schema=catalogue.schema,
            has_artist_columns=True,
            now=NOW + MOMENT,
        )
    assert asked == list(range(1, 8))
    assert selected(catalogue, recheck=True) == []
    assert selected(catalogue, recheck=True, as_of=NOW + DAY) == asked


def test_no_connection_is_held_and_no_transaction_is_open_between_pages(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 6):
        catalogue.library(library_id)
    reading = pages(catalogue.database.connection, Selection(NOW, schema=catalogue.schema), Cohort.NON_VA, 2)
    next(reading)
    states = catalogue.execute(
        "select state from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and query like %s",
        f"%{catalogue.schema}%",
    )
    assert {state for (state,) in states} <= {"idle"}
    assert sum(len(page) for page in reading) == 3


def test_pages_continue_after_a_lost_connection(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 6):
        catalogue.library(library_id)
    reading = pages(catalogue.database.connection, Selection(NOW, schema=catalogue.schema), Cohort.NON_VA, 2)
    found = [library.library_id for library in next(reading)]
    catalogue.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and application_name = 'runway_pipelines'"
    )
    found += [library.library_id for page in reading for library in page]
    assert found == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "wrong",
    [
        {"stale_days": -1},
        {"unresolved_retry_days": -1},
        {"shard": (3, 3)},
        {"shard": (-1, 3)},
        {"shard": (0, 0)},
        {"limit": 0},
        {"as_of": NOW.replace(tzinfo=None)},
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        replace(Selection(NOW), **wrong)


def test_the_synthetic_catalogue_has_every_kind_of_library(catalogue: TestCatalogue) -> None:
    with catalogue.connection.transaction():
        catalogue.execute("create schema seeded")
    try:
        assert seed_catalogue(catalogue.connection, "seeded", libraries=2_000) > 2_000
        before = [catalogue.execute(f"select * from seeded.{table} order by 1, 2") for table in catalogue_rows(0)]
        assert seed_catalogue(catalogue.connection, "seeded", libraries=2_000) == 0
        assert [
            catalogue.execute(f"select * from seeded.{table} order by 1, 2") for table in catalogue_rows(0)
        ] == before
        assert seed_catalogue(catalogue.connection, "seeded", libraries=2_100) > 100
        [(everything, *kinds)] = catalogue.execute(
            "select count(*), count(*) filter (where artist_name is null),"
            " count(*) filter (where canonical_entity_id is null),"
            " count(*) filter (where code_volume_letters like 'Z%'),"
            " count(*) filter (where unresolved_attempted_at is not null) from seeded.library"
        )
        assert everything == 2_100 and all(kind > 5 for kind in kinds)
        hidden = (
            "select count(distinct t.library_id) from seeded.compilation_track_artist t join seeded.library l"
            " on l.id = t.library_id where l.code_volume_letters is null"
        )
        twins = (
            "select count(*) from (select from seeded.artists group by seeded.fold_artist_name(artist_name)"
            " having count(*) > 1) as twins"
        )
        for query in (
            hidden,
            twins,
            "select count(*) from seeded.library_identity where method = 'manual'",
            "select count(*) from seeded.compilation_track_artist where track_artist_link_method = 'librarian'",
        ):
            assert catalogue.execute(query)[0][0] > 3, query
        [(next_id,)] = catalogue.execute(
            "insert into seeded.library (album_title, legacy_release_id) values ('x', 1) returning id"
        )
        assert next_id == 2_101
        selection = Selection(NOW, schema="seeded")
        assert count(catalogue.database.connection, selection, Cohort.VA) > 50
        assert count(catalogue.database.connection, selection, Cohort.NON_VA) > 1_500
    finally:
        catalogue.execute("drop schema seeded cascade")


def test_a_smaller_synthetic_catalogue_is_the_beginning_of_a_larger_one() -> None:
    smaller, larger = catalogue_rows(200), catalogue_rows(400)
    for table, rows in smaller.items():
        assert set(rows) <= set(larger[table]), table
