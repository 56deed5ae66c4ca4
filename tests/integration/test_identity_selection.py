"""Due libraries on real tables: each rule of the contract's section 2, and the paging."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from runway_pipelines.identity import selection as selecting
from runway_pipelines.identity.selection import Cohort, Selection, count, pages
from runway_pipelines.identity.writer import write
from runway_pipelines.local.catalogue import catalogue_rows, seed_catalogue
from runway_pipelines.systems.lml.verdicts import Library, Verdict
from tests.integration.identity_selection_world import telling
from tests.integration.identity_world import NOW, TestCatalogue, answer, compilation, unresolved

DAY = timedelta(days=1)
MOMENT = timedelta(milliseconds=1)


def selected(
    catalogue: TestCatalogue, cohort: Cohort | None = None, *, page_size: int = 2, window: int = 3, **options: Any
) -> list[int]:
    """The ids of a cohort, or of both, in the order in which they come; by id unless rechecked."""
    selection = Selection(**({"as_of": NOW, "schema": catalogue.schema} | options))
    found: dict[Cohort, list[int]] = {each: [] for each in Cohort}
    for each, page in pages(catalogue.database.connection, selection, of_size(page_size), window=window):
        assert 0 < len(page) <= page_size
        found[each] += [library.library_id for library in page]
    assert count(catalogue.database.connection, selection) == {each: len(ids) for each, ids in found.items()}
    if not selection.recheck:
        assert all(ids == sorted(set(ids)) for ids in found.values())
    return found[cohort] if cohort else sorted(found[Cohort.VA] + found[Cohort.NON_VA])


def of_size(size: int) -> dict[Cohort, int]:
    return dict.fromkeys(Cohort, size)


def reading(catalogue: TestCatalogue, size: int = 2, **options: Any) -> Iterator[list[Library]]:
    """The pages of both cohorts, from windows of as many libraries."""
    selection = Selection(**({"as_of": NOW, "schema": catalogue.schema} | options))
    found = pages(catalogue.database.connection, selection, of_size(size), window=size)
    return (page for _, page in found)


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
    "stamped, rechecked": ({"stamped": NOW - DAY}, {"recheck": True}, True),
    "stamped compilation": ({"stamped": NOW - DAY, "letters": "Z"}, {}, False),
    "stamped compilation, rechecked": ({"stamped": NOW - DAY, "letters": "Z"}, {"recheck": True}, True),
    "stamped and verified since, rechecked": (
        {"stamped": NOW - DAY, "verified": NOW - MOMENT},
        {"recheck": True},
        True,
    ),
    "stamped, not canonical, rechecked": ({"stamped": NOW - DAY, "canonical": False}, {"recheck": True}, True),
    "stamped without a name, rechecked": ({"stamped": NOW - DAY, "artist_name": None}, {"recheck": True}, False),
    "stamped by this very run, rechecked": ({"stamped": NOW}, {"recheck": True}, False),
    "stamped, and verified by this very run, rechecked": (
        {"stamped": NOW - DAY, "verified": NOW},
        {"recheck": True},
        False,
    ),
    "due without a stamp, rechecked": ({}, {"recheck": True}, False),
    "compilation without a stamp, rechecked": ({"letters": "Z"}, {"recheck": True}, False),
    "stale without a stamp, rechecked": ({"verified": NOW - 8 * DAY}, {"recheck": True}, False),
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


# A compilation's tracks: an artist's name to each, and how it was linked.
NOT_READY: dict[str, tuple[list[str | None], dict[str, Any], dict[str, Any], bool]] = {
    "no track is linked": ([None, None], {"stamped": NOW - 7 * DAY}, {}, True),
    "not yet a week ago": ([None], {"stamped": NOW - 7 * DAY + MOMENT}, {}, False),
    "a librarian has linked one": (["librarian"], {"stamped": NOW - 7 * DAY}, {}, True),
    "LML has linked one of them": ([None, "lml_backfill"], {"stamped": NOW - 7 * DAY}, {}, False),
    "LML has linked one of them, a month ago": (["lml_backfill"], {"stamped": NOW - 30 * DAY}, {}, True),
    "without tracks, on the shelf": ([], {"stamped": NOW - 7 * DAY, "letters": "Z"}, {}, True),
    "no compilation": ([], {"stamped": NOW - 7 * DAY}, {}, False),
    "another wait": ([None], {"stamped": NOW - 2 * DAY}, {"not_ready_retry_days": 2}, True),
    "no wait": ([None], {"stamped": NOW}, {"not_ready_retry_days": 0}, True),
    "a wait longer than for all others": (
        [None],
        {"stamped": NOW - 30 * DAY},
        {"not_ready_retry_days": 90},
        True,
    ),
}


@pytest.mark.parametrize("rule", NOT_READY)
def test_a_compilation_that_lml_has_not_matched_comes_back_sooner(catalogue: TestCatalogue, rule: str) -> None:
    methods, library, options, is_due = NOT_READY[rule]
    catalogue.library(1, **library)
    for track_id, method in enumerate(methods):
        catalogue.track(track_id, 1, f"Artist {track_id}", "Song", track_artist_link_method=method)
    assert selected(catalogue, **options) == ([1] if is_due else [])


def test_a_page_has_the_values_that_lml_needs(catalogue: TestCatalogue) -> None:
    catalogue.library(3, artist_name="Björn Wren", stamped=NOW - 40 * DAY)
    assert list(reading(catalogue)) == [[Library(3, 1003, "Björn Wren", "Album 3")]]
    assert list(reading(catalogue, recheck=True)) == [[Library(3, 1003, "Björn Wren", "Album 3")]]


def test_a_page_comes_as_soon_as_it_is_full_and_what_is_left_at_the_end(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 10):
        catalogue.library(library_id, letters="Z" if library_id in (1, 2, 9) else None)
    sizes = {Cohort.VA: 2, Cohort.NON_VA: 4}
    found = pages(catalogue.database.connection, Selection(NOW, schema=catalogue.schema), sizes, window=3)
    assert [(cohort, [library.library_id for library in page]) for cohort, page in found] == [
        (Cohort.VA, [1, 2]),
        (Cohort.NON_VA, [3, 4, 5, 6]),
        (Cohort.VA, [9]),
        (Cohort.NON_VA, [7, 8]),
    ]


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


def test_a_limit_is_of_each_cohort_and_ends_the_reading(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 7):
        catalogue.library(library_id, letters="Z" if library_id > 2 else None)
    assert selected(catalogue, limit=1) == [1, 3]
    statements: list[str] = []
    selection = Selection(NOW, limit=1, schema=catalogue.schema)
    told = telling(catalogue, lambda statement, *_: statements.append(statement))
    assert sum(len(page) for _, page in pages(told, selection, of_size(5), window=3)) == 2
    assert len([each for each in statements if "artist_name" in each]) == 1


def test_gaps_between_ids_cost_no_reads(catalogue: TestCatalogue) -> None:
    for library_id in (-5, 1, 900_000_000, 2_000_000_000):
        catalogue.library(library_id)
    statements: list[str] = []
    told = telling(catalogue, lambda statement, *_: statements.append(statement))
    found = pages(told, Selection(NOW, schema=catalogue.schema), of_size(9), window=2)
    assert [library.library_id for _, page in found for library in page] == [-5, 1, 900_000_000, 2_000_000_000]
    assert len([each for each in statements if "artist_name" in each]) == 3


def test_a_new_run_resumes_with_what_is_left(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 8):
        catalogue.library(library_id)
    first = next(reading(catalogue, 3))
    write_now(catalogue, [unresolved(library.library_id) for library in first], NOW + DAY)
    assert selected(catalogue) == [4, 5, 6, 7]


def test_what_is_written_between_the_pages_neither_comes_again_nor_shifts_the_rest(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 8):
        catalogue.library(library_id)
    asked: list[int] = []
    for page in reading(catalogue, stale_days=0, unresolved_retry_days=0):
        asked += [library.library_id for library in page]
        write_now(catalogue, [unresolved(library.library_id) for library in page], NOW)
    assert asked == list(range(1, 8))


def write_now(catalogue: TestCatalogue, verdicts: Sequence[Verdict], moment: datetime) -> None:
    write(
        catalogue.database.connection,
        answer(*verdicts),
        schema=catalogue.schema,
        has_artist_columns=True,
        now=moment,
    )


# a recheck


def test_a_recheck_begins_with_the_earliest_answer(catalogue: TestCatalogue) -> None:
    for library_id, days, verified in ((1, 3, None), (2, 9, None), (3, 20, 1), (4, 9, None), (5, 2, 40), (6, 8, None)):
        catalogue.library(
            library_id, stamped=NOW - days * DAY, verified=NOW - verified * DAY if verified is not None else None
        )
    order = [2, 4, 6, 1, 5, 3]
    for window in (1, 2, 10):
        assert selected(catalogue, Cohort.NON_VA, window=window, recheck=True) == order
    assert selected(catalogue, Cohort.NON_VA, recheck=True, limit=4) == order[:4]
    assert selected(catalogue, Cohort.NON_VA, recheck=True, shard=(0, 2)) == [2, 4, 6]


@pytest.mark.parametrize("pass_size", [1, 2, 100])
def test_a_recheck_ends_even_though_it_stamps_rows(
    catalogue: TestCatalogue, monkeypatch: pytest.MonkeyPatch, pass_size: int
) -> None:
    monkeypatch.setattr(selecting, "PASS", pass_size)
    for library_id in range(1, 8):
        catalogue.library(library_id, letters="Z", stamped=NOW - DAY)
    asked: list[int] = []
    for page in reading(catalogue, recheck=True):
        asked += [library.library_id for library in page]
        write_now(catalogue, [compilation(library.library_id) for library in page], NOW + MOMENT)
    assert asked == list(range(1, 8))
    assert selected(catalogue, recheck=True) == []
    assert selected(catalogue, recheck=True, as_of=NOW + DAY) == asked


def test_a_recheck_leaves_out_what_has_gone_since_its_pass(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 5):
        catalogue.library(library_id, stamped=NOW - DAY)
    rest = reading(catalogue, 1, recheck=True)
    assert next(rest)[0].library_id == 1
    catalogue.execute("delete from library where id = 2")
    catalogue.execute("update library set artist_name = null where id = 3")
    assert [library.library_id for page in rest for library in page] == [4]


# reads


def test_no_connection_is_held_and_no_transaction_is_open_between_pages(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 6):
        catalogue.library(library_id)
    rest = reading(catalogue)
    next(rest)
    states = catalogue.execute(
        "select state from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        " and query like %s",
        f"%{catalogue.schema}%",
    )
    assert {state for (state,) in states} <= {"idle"}
    assert sum(len(page) for page in rest) == 3


def test_pages_continue_after_a_lost_connection(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 6):
        catalogue.library(library_id)
    rest = reading(catalogue)
    found = [library.library_id for library in next(rest)]
    catalogue.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and application_name = 'runway_pipelines'"
    )
    found += [library.library_id for page in rest for library in page]
    assert found == [1, 2, 3, 4, 5]


def test_a_read_leaves_the_connections_settings_as_they_were(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    assert selected(catalogue) == [1]
    with catalogue.database.connection() as connection:
        settings = [
            connection.execute(f"show {name}".encode()).fetchone() for name in ("enable_seqscan", "enable_nestloop")
        ]
    assert settings == [("on",), ("on",)]


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
        due = count(catalogue.database.connection, Selection(NOW, schema="seeded"))
        assert due[Cohort.VA] > 50 and due[Cohort.NON_VA] > 1_500
    finally:
        catalogue.execute("drop schema seeded cascade")


def test_a_smaller_synthetic_catalogue_is_the_beginning_of_a_larger_one() -> None:
    smaller, larger = catalogue_rows(200), catalogue_rows(400)
    for table, rows in smaller.items():
        assert set(rows) <= set(larger[table]), table
