"""Writing LML's answers on real tables: every protection of the contract's section 3, and the counts of section 4."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from psycopg.sql import Identifier

from runway_pipelines.errors import Permanent
from runway_pipelines.identity.counts import Counts, Skip, skipped
from runway_pipelines.identity.statements import artists_named
from runway_pipelines.identity.writer import NotWritten, write
from runway_pipelines.local.stack import EmbeddedStack
from runway_pipelines.systems.lml.verdicts import Answer, Verdict
from tests.integration.identity_world import (
    NOW,
    TestCatalogue,
    announced,
    answer,
    compilation,
    found,
    librarian,
    new_catalogue,
    single,
    track,
    unresolved,
)

LATER = NOW + timedelta(days=8)
OLD = NOW - timedelta(days=30)
UUID = "0f3e8d9c-1111-4222-8333-944445555666"


def written(
    catalogue: TestCatalogue,
    *verdicts: Verdict,
    now: Any = NOW,
    has_artist_columns: bool = True,
    moves_moments: bool = False,
    **others: Any,
) -> Counts:
    """What `write` counts; before it, `plan` must foresee it and leave everything as it is."""
    one = answer(*verdicts, **others)
    options: dict[str, Any] = {"schema": catalogue.schema, "has_artist_columns": has_artist_columns}
    options |= {"moves_moments": moves_moments}
    before = catalogue.tables()
    planned = write(catalogue.database.connection, one, now=now, is_dry_run=True, **options)
    assert catalogue.tables() == before
    counts = write(catalogue.database.connection, one, now=now, **options)
    assert counts.scanned == counts.accounted_for
    assert counts.document() == planned.document()
    return counts


def track_counts(counts: Counts) -> dict[str, int]:
    """The counts of tracks, by the ends of their names."""
    prefix = "compilation_track_rows_"
    return {name.removeprefix(prefix): n for name, n in counts.others.items() if name.startswith(prefix)}


def without_moments(tables: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The tables without the only value that an unchanged library changes."""
    mains = [row | {"last_verified_at": None} for row in tables["library_identity"]]
    return tables | {"library_identity": mains}


def test_a_new_library_gets_its_sources_and_its_main_row(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    verdict = single(
        1,
        found("discogs", "12"),
        found("spotify", "abc", "name_variation", 0.95),
        confidence=0.95,
        method="name_variation",
        discogs_artist_id=12,
        musicbrainz_artist_id=UUID,
        wikidata_qid="Q1",
        spotify_artist_id="abc",
        apple_music_artist_id="am",
        bandcamp_id="bc",
    )
    counts = written(catalogue, verdict)
    assert (counts.rows_resolved, counts.others["source_rows_written"], counts.others["rows_unchanged"]) == (1, 2, 0)
    main = catalogue.main(1)
    assert {name: value for name, value in main.items() if value is not None} == {
        "library_id": 1,
        "discogs_artist_id": 12,
        "musicbrainz_artist_id": UUID,
        "wikidata_qid": "Q1",
        "spotify_id": "abc",
        "apple_music_id": "am",
        "bandcamp_id": "bc",
        "method": "name_variation",
        "confidence": 0.95,
        "last_verified_at": NOW,
        "notes": "consumer:lml-bulk",
        "distinct_unresolved_sources": 5,
    }
    assert [(row["source"], row["external_id"], row["notes"]) for row in catalogue.rows("library_identity_source")] == [
        ("discogs", "12", "consumer:lml-bulk"),
        ("spotify", "abc", "consumer:lml-bulk"),
    ]
    assert catalogue.rows("library_identity_history") == []


def test_without_the_optional_columns_the_artist_level_ids_stay_in_the_sources(stack: EmbeddedStack) -> None:
    with new_catalogue(stack.postgres, artist_columns=False) as catalogue:
        catalogue.library(1)
        verdict = single(1, found("discogs", "12"), discogs_artist_id=12, bandcamp_id="b", wikidata_qid="Q1")
        written(catalogue, verdict, has_artist_columns=False)
        assert catalogue.main(1)["wikidata_qid"] == "Q1"
        counts = written(catalogue, single(1, discogs_artist_id=13, wikidata_qid="Q1"), has_artist_columns=False)
        assert counts.rows_resolved == 1
        assert catalogue.rows("library_identity_history") == []


def test_a_library_without_writable_provenance_still_gets_its_main_row(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    counts = written(catalogue, single(1, found("discogs", None, confidence=None), wikidata_qid="Q1"))
    assert counts.rows_resolved == 1 and counts.others["source_rows_skipped_null_confidence"] == 1
    assert catalogue.main(1)["wikidata_qid"] == "Q1" and catalogue.rows("library_identity_source") == []


def test_sources_that_are_there_before_their_main_row_are_compared_like_any_other(catalogue: TestCatalogue) -> None:
    for library_id in (1, 2):
        catalogue.library(library_id)
    for source, external_id in (("discogs", "d1"), ("spotify", "earlier")):
        row = {"library_id": 1, "source": source, "external_id": external_id, "method": "exact_match"}
        row |= {"confidence": 1.0, "last_verified_at": OLD, "boost_sources": "x"}
        catalogue.insert("library_identity_source", row)
    counts = written(catalogue, single(1), single(2))
    assert (counts.rows_resolved, counts.others["source_rows_written"]) == (2, 3)
    assert [(row["external_id"], row["boost_sources"]) for row in catalogue.rows("library_identity_source")] == [
        ("d1", "x"),
        ("s1", None),
        ("d2", None),
        ("s2", None),
    ]


def test_an_unresolved_library_gets_nothing_but_the_stamp(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    catalogue.library(2, verified=OLD)
    catalogue.library(3)
    before = catalogue.tables()
    counts = written(catalogue, unresolved(1), unresolved(2))
    assert counts.rows_unresolved == 2
    after = catalogue.tables()
    assert [row.pop("unresolved_attempted_at") for row in after["library"]] == [NOW, NOW, None]
    for row in before["library"]:
        del row["unresolved_attempted_at"]
    assert after == before


def test_an_unchanged_library_changes_only_its_main_rows_time(catalogue: TestCatalogue) -> None:
    verdicts = [single(catalogue.library(n), confidence=0.1 * n, wikidata_qid=f"Q{n}") for n in range(1, 8)]
    written(catalogue, *verdicts)
    before = catalogue.tables()
    versions = catalogue.execute("select library_id, source, ctid::text, xmin::text from library_identity_source")
    counts = written(catalogue, *verdicts, now=LATER)
    assert (counts.rows_resolved, counts.others["rows_unchanged"], counts.others["source_rows_written"]) == (7, 7, 0)
    after = catalogue.tables()
    assert without_moments(after) == without_moments(before)
    assert {row["last_verified_at"] for row in after["library_identity"]} == {LATER}
    assert (
        catalogue.execute("select library_id, source, ctid::text, xmin::text from library_identity_source") == versions
    )


def test_the_same_batch_again_changes_only_times(catalogue: TestCatalogue) -> None:
    catalogue.insert("artists", {"id": 1, "artist_name": "Björn Wren"})
    catalogue.library(3, letters="Z")
    catalogue.track(1, 3, "Bjorn Wren", "Song")
    batch = [
        single(catalogue.library(1), wikidata_qid="Q1"),
        unresolved(catalogue.library(2)),
        compilation(3, track("Bjorn Wren", "Song", "BJORN WREN", 0.9, "A1")),
        single(catalogue.library(4, verified=OLD, method="manual")),
    ]
    written(catalogue, *batch)
    before = without_moments(catalogue.tables())
    written(catalogue, *batch, now=LATER)
    after = without_moments(catalogue.tables())
    stamps = [row.pop("unresolved_attempted_at") for row in after["library"]]
    assert stamps == [None, LATER, LATER, None]
    for row in before["library"]:
        del row["unresolved_attempted_at"]
    assert after == before


def test_numeric_noise_is_not_a_change(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    written(catalogue, single(1, found("discogs", "1", "trigram", 0.8), confidence=0.8))
    counts = written(
        catalogue, single(1, found("discogs", "1", "trigram", 0.80000001), confidence=0.8 + 1e-9), now=LATER
    )
    assert counts.others["rows_unchanged"] == 1 and catalogue.rows("library_identity_history") == []


def test_another_spelling_of_an_id_is_not_a_change(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    written(catalogue, single(1, musicbrainz_artist_id=UUID))
    assert written(catalogue, single(1, musicbrainz_artist_id=UUID.upper())).others["rows_unchanged"] == 1


def test_only_the_sources_that_differ_are_written(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    written(catalogue, single(1, found("discogs", "1"), found("spotify", "s"), found("wikidata", "Q1")))
    changed = single(1, found("discogs", "1"), found("spotify", "other"))
    counts = written(catalogue, changed, now=LATER)
    assert (counts.others["source_rows_written"], counts.others["rows_unchanged"]) == (1, 0)
    rows = {row["source"]: row for row in catalogue.rows("library_identity_source")}
    assert {source: row["last_verified_at"] for source, row in rows.items()} == {
        "discogs": NOW,
        "spotify": LATER,
        "wikidata": NOW,
    }
    assert catalogue.rows("library_identity_history") == []


@pytest.mark.parametrize(
    ("change", "columns"),
    [
        ({"wikidata_qid": "Q2"}, "wikidata_qid"),
        ({"spotify_artist_id": "t"}, "spotify_id"),
        ({"confidence": 0.5}, "confidence"),
        ({"method": "llm"}, "method"),
        ({"bandcamp_id": "b"}, "bandcamp_id"),
        ({"discogs_artist_id": 2, "musicbrainz_artist_id": UUID}, "discogs_artist_id, musicbrainz_artist_id"),
    ],
)
def test_a_change_copies_the_old_row_into_the_history_with_a_reason(
    catalogue: TestCatalogue, change: dict[str, Any], columns: str
) -> None:
    catalogue.library(1, verified=OLD, notes="somebody", agreement_sources="a,b", wikidata_qid="Q1", spotify_id="s")
    old = catalogue.main(1)
    said = {"wikidata_qid": "Q1", "spotify_artist_id": "s"} | change
    written(catalogue, single(1, **said))
    [kept] = catalogue.rows("library_identity_history")
    del old["distinct_unresolved_sources"]
    assert {name: kept[name] for name in old} == old
    assert (kept["superseded_at"], kept["superseded_reason"]) == (NOW, f"LML changed {columns}")
    new = catalogue.main(1)
    assert (new["notes"], new["agreement_sources"], new["last_verified_at"]) == ("consumer:lml-bulk", None, NOW)


def test_what_described_the_old_content_goes_with_it_and_stays_where_nothing_changed(catalogue: TestCatalogue) -> None:
    catalogue.library(1, verified=OLD, agreement_sources="a,b", wikidata_qid="Q1")
    for source in ("discogs", "spotify"):
        row = {"library_id": 1, "source": source, "external_id": "x", "method": "exact_match", "confidence": 1.0}
        catalogue.insert("library_identity_source", row | {"last_verified_at": OLD, "boost_sources": "c"})
    written(catalogue, single(1, found("discogs", "x"), found("spotify", "y"), wikidata_qid="Q1"))
    assert catalogue.main(1)["agreement_sources"] == "a,b"
    boosts = {row["source"]: row["boost_sources"] for row in catalogue.rows("library_identity_source")}
    assert boosts == {"discogs": "c", "spotify": None}
    written(catalogue, single(1, found("discogs", "x"), found("spotify", "y"), wikidata_qid="Q2"))
    assert catalogue.main(1)["agreement_sources"] is None
    assert [row["agreement_sources"] for row in catalogue.rows("library_identity_history")] == ["a,b"]
    assert {row["source"]: row["boost_sources"] for row in catalogue.rows("library_identity_source")} == boosts


def test_an_id_that_lml_does_not_mention_is_never_nulled(catalogue: TestCatalogue) -> None:
    neighbours = {
        "discogs_master_id": 1,
        "discogs_release_id": 2,
        "musicbrainz_release_group_mbid": UUID,
        "musicbrainz_release_mbid": UUID,
        "musicbrainz_recording_mbid": UUID,
        "wikidata_qid": "Q1",
        "spotify_id": "s",
        "apple_music_id": "am",
        "discogs_artist_id": 3,
        "musicbrainz_artist_id": UUID,
        "bandcamp_id": "b",
    }
    catalogue.library(1, verified=OLD, **neighbours)
    catalogue.library(2, verified=OLD, **neighbours)
    written(catalogue, single(1), single(2, confidence=0.5, wikidata_qid="Q9"))
    assert {name: catalogue.main(1)[name] for name in neighbours} == neighbours
    assert {name: catalogue.main(2)[name] for name in neighbours} == neighbours | {"wikidata_qid": "Q9"}
    assert [row["library_id"] for row in catalogue.rows("library_identity_history")] == [2]


def test_a_manual_verdict_keeps_its_content_while_its_sources_are_written(catalogue: TestCatalogue) -> None:
    catalogue.library(1, verified=OLD, method="manual", confidence=1.0, wikidata_qid="Q1", notes="by hand")
    old = catalogue.main(1)
    counts = written(catalogue, single(1, wikidata_qid="Q2", spotify_artist_id="s", confidence=0.5, method="llm"))
    assert +counts.rows_skipped == {Skip.MANUAL_PROTECTED: 1} and counts.rows_resolved == 0
    assert counts.others["source_rows_written"] == 2
    assert catalogue.main(1) == old | {"last_verified_at": NOW}
    assert len(catalogue.rows("library_identity_source")) == 2
    assert catalogue.rows("library_identity_history") == []
    assert written(catalogue, single(1, wikidata_qid="Q3"), now=LATER).rows_skipped[Skip.MANUAL_PROTECTED] == 1


@pytest.mark.parametrize("notes", [None, "by hand", "consumer:another"])
def test_a_manual_row_is_protected_whoever_else_wrote_it(catalogue: TestCatalogue, notes: str | None) -> None:
    catalogue.library(1, verified=OLD, method="manual", wikidata_qid="Q1", notes=notes)
    assert written(catalogue, single(1, wikidata_qid="Q2")).rows_skipped[Skip.MANUAL_PROTECTED] == 1
    assert catalogue.main(1)["wikidata_qid"] == "Q1"


def test_lml_corrects_its_own_manual_verdict(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    for now, qid in ((NOW, "Q1"), (LATER, "Q2")):
        said = single(1, found("wikidata", qid, "manual"), method="manual", wikidata_qid=qid)
        counts = written(catalogue, said, now=now)
        assert (counts.rows_resolved, counts.rows_skipped[Skip.MANUAL_PROTECTED]) == (1, 0)
    assert catalogue.main(1)["wikidata_qid"] == "Q2"
    assert [row["external_id"] for row in catalogue.rows("library_identity_source")] == ["Q2"]
    assert [row["superseded_reason"] for row in catalogue.rows("library_identity_history")] == [
        "LML changed wikidata_qid"
    ]


def test_a_method_that_nobody_knows_is_stored(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    counts = written(catalogue, single(1, found("discogs", "1"), method="embedding", confidence=0.42))
    assert counts.rows_resolved == 1
    assert (catalogue.main(1)["method"], catalogue.main(1)["confidence"]) == ("embedding", 0.42)


class TestChangeFeed:
    """Every row that is written is announced, so nothing is written for a stamp that says the same day."""

    @staticmethod
    def batch(catalogue: TestCatalogue) -> list[Verdict]:
        catalogue.insert("artists", {"id": 1, "artist_name": "Wren"})
        for library_id in (2, 3):
            catalogue.library(library_id, letters="Z")
        catalogue.track(1, 3, "A", "Song")
        by_hand = catalogue.library(5, verified=OLD, method="manual", notes="by hand")
        return [
            single(catalogue.library(1), wikidata_qid="Q1"),
            compilation(2),
            compilation(3, track("A", "Song", "Wren", 0.9, "A1")),
            unresolved(catalogue.library(4)),
            single(by_hand, wikidata_qid="Q2"),
        ]

    def test_each_written_row_is_announced_once_and_a_rerun_on_the_same_day_announces_nothing(
        self, catalogue: TestCatalogue
    ) -> None:
        batch = self.batch(catalogue)
        stamps = [("library", "UPDATE", library_id) for library_id in (2, 3, 4)]
        with announced(catalogue) as first:
            written(catalogue, *batch)
        assert sorted(first) == [
            ("compilation_track_artist", "UPDATE", 1),
            *stamps,
            ("library_identity", "INSERT", 1),
            ("library_identity", "UPDATE", 5),
        ]
        before = catalogue.tables()
        with announced(catalogue) as again:
            counts = written(catalogue, *batch, now=NOW.replace(hour=23, minute=59))
        assert again == [] and catalogue.tables() == before
        assert counts.rows_resolved + counts.rows_unresolved + counts.rows_resolved_compilation == 4

    @pytest.mark.parametrize(
        ("now", "moves_moments"),
        [
            ((NOW + timedelta(days=1)).replace(hour=0), False),
            (NOW - timedelta(days=1), False),  # the last run's clock was fast
            (NOW, True),
            (NOW + timedelta(hours=1), True),
        ],
        ids=["the next day", "the day before", "a recheck at once", "a recheck"],
    )
    def test_moments_move_on_another_day_and_in_a_recheck(
        self, catalogue: TestCatalogue, now: datetime, moves_moments: bool
    ) -> None:
        batch = self.batch(catalogue)
        written(catalogue, *batch)
        with announced(catalogue) as told:
            written(catalogue, *batch, now=now, moves_moments=moves_moments)
        assert sorted(told) == [
            *(("library", "UPDATE", library_id) for library_id in (2, 3, 4)),
            *(("library_identity", "UPDATE", library_id) for library_id in (1, 5)),
        ]
        assert {row["last_verified_at"] for row in catalogue.rows("library_identity")} == {now}
        stamps = [row["unresolved_attempted_at"] for row in catalogue.rows("library")]
        assert stamps == [None, now, now, now, None]

    def test_the_day_is_utcs(self, catalogue: TestCatalogue) -> None:
        """Both moments are on 20 November there."""
        catalogue.library(1)
        new_york = timezone(timedelta(hours=-5))
        written(catalogue, single(1), now=datetime(2026, 11, 20, 1, tzinfo=UTC))
        written(catalogue, single(1), now=datetime(2026, 11, 20, 18, 59, tzinfo=new_york))
        assert catalogue.main(1)["last_verified_at"].hour == 1
        written(catalogue, single(1), now=datetime(2026, 11, 20, 19, tzinfo=new_york))
        assert catalogue.main(1)["last_verified_at"] == datetime(2026, 11, 21, tzinfo=UTC)

    def test_a_changed_row_moves_with_its_moment_on_the_same_day(self, catalogue: TestCatalogue) -> None:
        catalogue.library(1)
        written(catalogue, single(1, wikidata_qid="Q1"))
        written(catalogue, single(1, wikidata_qid="Q2"), now=NOW + timedelta(hours=1))
        assert catalogue.main(1)["last_verified_at"] == NOW + timedelta(hours=1)

    def test_a_stamp_of_today_is_not_waited_for(self, catalogue: TestCatalogue) -> None:
        catalogue.library(1, stamped=NOW)
        with librarian(catalogue, "update library set album_title = 'x' where id = 1"):
            assert written(catalogue, unresolved(1), now=NOW + timedelta(hours=1)).rows_unresolved == 1


def test_unwritable_provenance_is_left_out_and_counted(catalogue: TestCatalogue) -> None:
    catalogue.library(1)
    counts = written(
        catalogue,
        single(
            1,
            found("discogs", "1"),
            found("spotify", None, confidence=None),
            found("wikidata", None),
            found("bandcamp", "b", "exact_match", 0.5),
            confidence=0.5,
        ),
    )
    assert [row["source"] for row in catalogue.rows("library_identity_source")] == ["discogs"]
    assert counts.others == {
        "source_rows_written": 1,
        "source_rows_skipped_null_confidence": 1,
        "source_rows_skipped_null_external_id": 1,
        "source_rows_out_of_band": 1,
    }


def test_every_library_of_an_answer_is_counted_once(catalogue: TestCatalogue) -> None:
    for library_id in range(1, 5):
        catalogue.library(library_id)
    counts = written(
        catalogue,
        single(1),
        unresolved(2),
        compilation(3, attempted=None),
        compilation(4),
        missing=(5, 6),
        untrusted=(7,),
        malformed=(8,),
    )
    assert counts.scanned == 8
    assert counts.document()["rows_skipped"] == {
        "compilation": 1,
        "lml_error": 1,
        "writer_error": 0,
        "lml_cardinality_mismatch": 2,
        "lml_untrusted_library_id": 1,
        "invalid_input": 0,
        "manual_protected": 0,
    }
    assert (counts.rows_resolved, counts.rows_resolved_compilation, counts.rows_unresolved) == (1, 1, 1)


def test_an_answer_without_verdicts_needs_no_database() -> None:
    def unreachable() -> Any:
        raise AssertionError("The database was asked.")

    counts = write(unreachable, Answer((), missing=(1,)), schema="none", has_artist_columns=False, now=NOW)
    assert counts.scanned == counts.accounted_for == 1


class TestCompilations:
    @pytest.fixture
    def catalogue(self, stack: EmbeddedStack, request: pytest.FixtureRequest) -> Iterator[TestCatalogue]:
        """Artists, of whom two fold to the same, and a compilation; with and without the SQL function."""
        with new_catalogue(stack.postgres, folding=getattr(request, "param", True)) as one:
            names = {1: "Björn Wren", 2: "Zoë Quartz", 3: "ZOE QUARTZ", 4: "Łucja Umbra", 5: "ΣΟΦΟΣ"}
            for artist_id, artist_name in names.items():
                one.insert("artists", {"id": artist_id, "artist_name": artist_name})
            one.library(1, letters="Z")
            yield one

    @staticmethod
    def link(catalogue: TestCatalogue, track_id: int) -> tuple[Any, ...]:
        [row] = [row for row in catalogue.rows("compilation_track_artist") if row["id"] == track_id]
        return (
            row["track_artist_id"],
            row["track_artist_link_confidence"],
            row["track_artist_link_method"],
            row["track_position"],
        )

    @pytest.mark.parametrize("catalogue", [True, False], indirect=True, ids=["SQL function", "Python"])
    @pytest.mark.parametrize(
        ("resolved", "artist_id"),
        [
            ("Björn Wren", 1),
            ("Bjo\u0308rn Wren", 1),
            ("bjorn wren", 1),
            ("BJORN WREN", 1),
            ("Björn  Wren", None),
            ("Nobody", None),
            ("Zoé Quartz", None),
            ("ŁUCJA UMBRA", 4),
            ("lucja umbra", None),
            ("σοφος", 5),
        ],
    )
    def test_a_track_is_linked_to_the_one_artist_of_the_folded_name(
        self, catalogue: TestCatalogue, resolved: str | None, artist_id: int | None
    ) -> None:
        catalogue.track(1, 1, "As printed", "Song")
        counts = written(catalogue, compilation(1, track("As printed", "Song", resolved, 0.75)))
        assert self.link(catalogue, 1) == (artist_id, 0.75, "lml_backfill", None)
        name = "linked" if artist_id else "without_artist"
        assert track_counts(counts) == {"offered": 1, name: 1}
        assert counts.rows_resolved_compilation == 1

    @pytest.mark.parametrize("method", [None, "lml_backfill", "librarian"])
    def test_a_track_for_which_lml_names_nobody_writes_nothing(
        self, catalogue: TestCatalogue, method: str | None
    ) -> None:
        catalogue.track(1, 1, "A", "Song", track_artist_id=2 if method else None, track_artist_link_method=method)
        before = catalogue.rows("compilation_track_artist")
        counts = written(catalogue, compilation(1, track("A", "Song", None, 0.9, "A1")))
        assert catalogue.rows("compilation_track_artist") == before
        assert track_counts(counts) == {"unnamed": 1}
        assert (counts.rows_resolved_compilation, catalogue.rows("library")[0]["unresolved_attempted_at"]) == (1, NOW)

    def test_a_named_track_offers_its_position_beside_a_nameless_one(self, catalogue: TestCatalogue) -> None:
        catalogue.track(1, 1, "A", "Song")
        offered = [track("A", "Song", "Björn Wren", 0.9, "A1"), track("A", "Song", None, None, "A2")]
        counts = written(catalogue, compilation(1, *offered))
        assert self.link(catalogue, 1) == (1, 0.9, "lml_backfill", "A1")
        assert track_counts(counts) == {"offered": 1, "unnamed": 1, "linked": 1, "position_filled": 1}

    def test_only_the_rows_of_this_library_artist_and_title_are_linked(self, catalogue: TestCatalogue) -> None:
        catalogue.library(2, letters="Z")
        for track_id, (library_id, artist_name, title) in enumerate(
            [(1, "A", "Song"), (1, "A", "Other"), (1, "B", "Song"), (2, "A", "Song"), (1, "A", None), (2, "A", None)]
        ):
            catalogue.track(track_id, library_id, artist_name, title)
        counts = written(
            catalogue,
            compilation(1, track("A", "Song", "Björn Wren"), track("A", None, "ΣΟΦΟΣ"), track("C", "Song", "ΣΟΦΟΣ")),
        )
        linked = [row["track_artist_id"] for row in catalogue.rows("compilation_track_artist")]
        assert linked == [1, None, None, None, 5, None]
        assert track_counts(counts) == {"offered": 3, "linked": 2, "unmatched": 1}

    def test_a_title_longer_than_the_column_matches_no_row(self, catalogue: TestCatalogue) -> None:
        catalogue.track(1, 1, "A", "x" * 255)
        counts = written(catalogue, compilation(1, track("A", "x" * 256, "ΣΟΦΟΣ"), track("A", "x" * 255, "ΣΟΦΟΣ")))
        assert track_counts(counts) == {"offered": 2, "unmatched": 1, "linked": 1}

    def test_a_librarians_row_is_never_touched(self, catalogue: TestCatalogue) -> None:
        by_hand = {"track_artist_link_method": "librarian", "track_artist_link_confidence": 0.5}
        catalogue.track(1, 1, "A", "Song", track_artist_id=2, **by_hand)
        catalogue.track(2, 1, "B", "Song", **by_hand)
        offered = [track(name, "Song", "Björn Wren", 0.9, "A1") for name in "AB"]
        counts = written(catalogue, compilation(1, *offered))
        assert self.link(catalogue, 1) == (2, 0.5, "librarian", None)
        assert self.link(catalogue, 2) == (None, 0.5, "librarian", None)
        assert track_counts(counts) == {"offered": 2, "librarian": 2}

    def test_a_link_follows_lml_and_stays_if_it_names_nobody(self, catalogue: TestCatalogue) -> None:
        for track_id in (1, 2, 3):
            catalogue.track(
                track_id, 1, "A", f"Song {track_id}", track_artist_id=2, track_artist_link_method="lml_backfill"
            )
        written(
            catalogue,
            compilation(
                1,
                track("A", "Song 1", "Björn Wren", 0.9),
                track("A", "Song 2", "Zoe Quartz", 0.9),
                track("A", "Song 3", None, None),
            ),
        )
        assert self.link(catalogue, 1) == (1, 0.9, "lml_backfill", None)
        assert self.link(catalogue, 2) == (None, 0.9, "lml_backfill", None)
        assert self.link(catalogue, 3) == (2, None, "lml_backfill", None)

    @pytest.mark.parametrize(
        ("there", "offered", "then"),
        [
            (None, "A1", "A1"),
            ("", "A1", "A1"),
            ("B2", "A1", "B2"),
            (None, None, None),
            (None, "x" * 20, "x" * 20),
            (None, "x" * 21, None),
        ],
    )
    def test_an_empty_position_is_filled(
        self, catalogue: TestCatalogue, there: str | None, offered: str | None, then: str | None
    ) -> None:
        catalogue.track(1, 1, "A", "Song", track_position=there)
        written(catalogue, compilation(1, track("A", "Song", "Nobody we know", None, offered)))
        assert self.link(catalogue, 1) == (None, None, "lml_backfill", then)

    def test_an_ambiguous_position_is_not_filled(self, catalogue: TestCatalogue) -> None:
        catalogue.track(1, 1, "A", "Song")
        written(catalogue, compilation(1, *(track("A", "Song", "ΣΟΦΟΣ", 0.9, place) for place in ("A1", "B1"))))
        assert self.link(catalogue, 1)[3] is None

    def test_an_unchanged_track_is_not_rewritten(self, catalogue: TestCatalogue) -> None:
        catalogue.track(1, 1, "A", "Song")
        verdict = compilation(1, track("A", "Song", "Björn Wren", 0.8, "A1"))
        written(catalogue, verdict)
        version = catalogue.execute("select ctid::text, xmin::text from compilation_track_artist")
        counts = written(catalogue, verdict, now=LATER)
        assert track_counts(counts) == {"offered": 1, "unchanged": 1}
        assert catalogue.execute("select ctid::text, xmin::text from compilation_track_artist") == version

    @pytest.mark.parametrize(
        ("version", "attempted", "tracks", "ready"),
        [
            (1, True, (track("A", "Song", "Björn Wren"),), True),
            (1, True, (), True),
            (1, False, (track("A", "Song", "Björn Wren"),), True),
            (1, False, (), False),
            (1, None, (track("A", "Song", "Björn Wren"),), False),
            (None, True, (track("A", "Song", "Björn Wren"),), False),
        ],
    )
    def test_every_answered_compilation_is_stamped_whether_ready_or_not(
        self, catalogue: TestCatalogue, version: int | None, attempted: bool | None, tracks: Any, ready: bool
    ) -> None:
        catalogue.track(1, 1, "A", "Song")
        counts = written(catalogue, compilation(1, *tracks, attempted=attempted), version=version)
        assert (counts.rows_resolved_compilation, counts.rows_skipped[Skip.COMPILATION]) == (ready, not ready)
        assert catalogue.rows("library")[0]["unresolved_attempted_at"] == NOW
        assert self.link(catalogue, 1)[0] == (1 if ready and tracks else None)
        assert catalogue.rows("library_identity") == []

    def test_the_function_on_the_search_path_serves_when_the_schema_has_none(self, stack: EmbeddedStack) -> None:
        with new_catalogue(stack.postgres, folding=False) as catalogue:
            catalogue.execute(
                "create function public.fold_artist_name(name text) returns text language sql immutable"
                " as $$ select 'all the same' $$"
            )
            try:
                catalogue.insert("artists", {"id": 9, "artist_name": "Björn Wren"})
                catalogue.library(1)
                catalogue.track(1, 1, "A", "Song")
                written(catalogue, compilation(1, track("A", "Song", "Nobody")))
                assert self.link(catalogue, 1)[0] == 9
            finally:
                catalogue.execute("drop function public.fold_artist_name(text)")

    @pytest.mark.parametrize("is_analyzed", [True, False])
    def test_artists_are_found_by_the_index_however_many_names_are_asked_for(
        self, catalogue: TestCatalogue, is_analyzed: bool
    ) -> None:
        catalogue.execute("analyze artists")
        catalogue.execute(
            "insert into artists (id, artist_name) select n, 'Artist ' || n from generate_series(10, 9000) n"
        )
        if is_analyzed:
            catalogue.execute("analyze artists")
        statement = artists_named(catalogue.schema, Identifier(catalogue.schema, "fold_artist_name"))
        names = [f"ARTIST {n}" for n in range(10, 810)]
        found = catalogue.connection.execute(statement, {"names": names}).fetchall()
        assert sorted(found) == sorted((name, n) for n, name in enumerate(names, start=10))
        plan = [line for (line,) in catalogue.connection.execute(b"explain " + statement, {"names": names})]
        assert any("Index Scan using artists_folded_name" in line for line in plan), plan
        assert not any("Seq Scan" in line for line in plan), plan


class TestQuarantine:
    """Exactly what the database refuses is left out."""

    @staticmethod
    def refused(catalogue: TestCatalogue, batch: Answer, is_dry_run: bool = False) -> tuple[Counts, dict]:
        reasons: dict[int, str] = {}
        counts = write(
            catalogue.database.connection,
            batch,
            schema=catalogue.schema,
            has_artist_columns=True,
            now=NOW,
            is_dry_run=is_dry_run,
            on_refusal=reasons.__setitem__,
        )
        assert counts.scanned == counts.accounted_for == len(batch.verdicts)
        assert counts.rows_skipped[Skip.WRITER_ERROR] == len(reasons)
        return counts, reasons

    def test_a_constraint_that_refuses_one_library_of_500_costs_that_one(self, catalogue: TestCatalogue) -> None:
        catalogue.execute("insert into library select n, 'x', 'y', 'e', n from generate_series(1, 500) n")
        catalogue.execute("alter table library_identity_source add constraint no_337 check (external_id <> 's337')")
        counts, reasons = self.refused(catalogue, answer(*(single(n, wikidata_qid=f"Q{n}") for n in range(1, 501))))
        assert reasons == {337: "CheckViolation (23514) by no_337"}
        assert counts.rows_resolved == 499 and counts.others["source_rows_written"] == 998
        assert {row["library_id"] for row in catalogue.rows("library_identity")} == set(range(1, 501)) - {337}
        assert all(row["library_id"] != 337 for row in catalogue.rows("library_identity_source"))

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (single(2, found("discogs", "\0")), "CharacterNotInRepertoire (22021)"),
            (single(2, found("discogs", "\ud800")), "a text that UTF-8 cannot encode"),
            (single(2, musicbrainz_artist_id="no uuid"), "InvalidTextRepresentation (22P02)"),
            (single(2, discogs_artist_id=2**40), "NumericValueOutOfRange (22003)"),
            (single(2, confidence=1.5), "a single artist without"),
            (single(2, method=None), "a single artist without"),
            (single(999), "ForeignKeyViolation (23503)"),
            (compilation(2, track("A", "Song", "\0")), "a value that the driver cannot send"),
        ],
    )
    def test_a_verdict_that_cannot_be_stored_costs_its_library_alone(
        self, catalogue: TestCatalogue, bad: Verdict, reason: str
    ) -> None:
        for library_id in (1, 2, 3, 4):
            catalogue.library(library_id)
        counts, reasons = self.refused(catalogue, answer(single(1), bad, unresolved(3), single(4)))
        assert list(reasons) == [bad.library_id] and reasons[bad.library_id].startswith(reason)
        assert (counts.rows_resolved, counts.rows_unresolved) == (2, 1)
        if bad.library_id == 2:
            batch = answer(single(1), bad, unresolved(3), single(4))
            planned, foreseen = self.refused(catalogue, batch, is_dry_run=True)
            assert foreseen == reasons and planned.rows_skipped == counts.rows_skipped

    def test_a_trigger_that_raises_is_a_refusal(self, catalogue: TestCatalogue) -> None:
        catalogue.execute(
            "create function refuse() returns trigger language plpgsql as $$ begin"
            " if new.id = 2 then raise exception 'not this one'; end if; return new; end $$"
        )
        catalogue.execute("create trigger refuse before update on library for each row execute function refuse()")
        counts, reasons = self.refused(catalogue, answer(*(unresolved(catalogue.library(n)) for n in (1, 2, 3))))
        assert reasons == {2: "RaiseException (P0001)"} and counts.rows_unresolved == 2

    def test_a_constraint_that_is_checked_at_commit_is_a_refusal(self, catalogue: TestCatalogue) -> None:
        catalogue.execute("alter table library_identity add unique (wikidata_qid) deferrable initially deferred")
        batch = answer(*(single(catalogue.library(n), wikidata_qid=f"Q{min(n, 3)}") for n in (1, 2, 3, 4)))
        counts, reasons = self.refused(catalogue, batch)
        assert reasons == {4: "UniqueViolation (23505) by library_identity_wikidata_qid_key"}
        assert counts.rows_resolved == 3

    def test_a_missing_right_or_table_stops_everything(self, catalogue: TestCatalogue) -> None:
        catalogue.library(1)
        catalogue.execute("alter table library_identity_source rename to elsewhere")
        with pytest.raises(NotWritten, match="library identity contract") as ended:
            self.refused(catalogue, answer(single(1), single(2)))
        assert isinstance(ended.value.reason, Permanent)
        assert ended.value.counts.document() == skipped(2, Skip.WRITER_ERROR).document()
        assert catalogue.rows("library_identity") == []
