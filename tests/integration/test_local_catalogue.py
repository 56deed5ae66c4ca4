"""The embedded catalogue refuses and announces what the real one does, and its content keeps to that."""

from collections import Counter

import psycopg
import pytest

from runway_pipelines.local.catalogue import catalogue_rows, create_tables
from runway_pipelines.local.stack import EmbeddedStack
from tests.integration.identity_world import NOW, TestCatalogue, announced, new_catalogue


def test_a_second_track_of_an_artist_without_a_title_is_refused(catalogue: TestCatalogue) -> None:
    for library_id in (1, 2):
        catalogue.library(library_id)
        catalogue.track(library_id, library_id, "A", None)
    catalogue.track(3, 1, "B", None)
    with pytest.raises(psycopg.errors.UniqueViolation):
        catalogue.track(4, 1, "A", None)


def test_a_title_is_at_most_255_characters_long(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    catalogue.track(1, 1, "A", "x" * 255)
    with pytest.raises(psycopg.errors.StringDataRightTruncation):
        catalogue.track(2, 1, "A", "x" * 256)


def test_each_row_that_is_written_is_announced(catalogue: TestCatalogue) -> None:
    with announced(catalogue) as told:
        catalogue.library(7, verified=NOW)
        catalogue.track(9, 7, "A", None)
        catalogue.execute("update library set album_title = album_title")
        catalogue.execute("delete from library_identity")
        catalogue.insert("artists", {"id": 1, "artist_name": "Wren"})
    assert told == [
        ("library", "INSERT", 7),
        ("library_identity", "INSERT", 7),
        ("compilation_track_artist", "INSERT", 9),
        ("library", "UPDATE", 7),
        ("library_identity", "DELETE", 7),
    ]


def test_the_change_feed_can_be_left_out(stack: EmbeddedStack) -> None:
    with new_catalogue(stack.postgres, change_feed=False) as catalogue, announced(catalogue) as told:
        catalogue.library(1, verified=NOW)
    assert told == []


def test_a_stack_of_an_earlier_version_is_brought_up_to_date(catalogue: TestCatalogue) -> None:
    catalogue.execute("drop index compilation_track_artist_untitled")
    catalogue.execute("alter table compilation_track_artist alter column track_title type text")
    catalogue.library(1)
    for track_id, title in enumerate([None, None, "Song", "Other"]):
        catalogue.track(track_id, 1, "A", title)
    for _ in range(2):
        create_tables(catalogue.connection, catalogue.schema)
        assert [row["id"] for row in catalogue.rows("compilation_track_artist")] == [0, 2, 3]
    with pytest.raises(psycopg.errors.UniqueViolation):
        catalogue.track(5, 1, "A", None)


def test_the_synthetic_tracks_are_distinct_and_fit_their_columns() -> None:
    """All of them are there, because none is refused; the first twins would be among the first 20,000 libraries."""
    tracks = catalogue_rows(20_000)["compilation_track_artist"]
    keys = Counter((library_id, artist_name, title) for _, library_id, artist_name, title, *_ in tracks)
    assert set(keys.values()) == {1}
    assert any(title is None for _, _, title in keys)
    assert all(len(artist_name) <= 255 and len(title or "") <= 255 for _, artist_name, title in keys)
