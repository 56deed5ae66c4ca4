"""Rows made from verdicts: the bands, what is left out and counted, which compilations are ready."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.identity.counts import Skip
from runway_pipelines.identity.rows import (
    BANDS,
    SourceRow,
    as_real,
    batch_rows,
    is_in_band,
    is_ready,
    is_storable,
    source_rows,
    track_rows,
    unanswered,
)
from runway_pipelines.systems.lml.verdicts import Answer, ArtistIds, Kind, Provenance, Track, Verdict
from tests.reference_identity import is_in_band as reference_is_in_band


def single(**changes: Any) -> Verdict:
    said = {"kind": Kind.SINGLE_ARTIST, "artist_ids": ArtistIds(), "method": "llm", "confidence": 0.6} | changes
    return Verdict(7, **said)


@pytest.mark.parametrize(
    ("method", "inside", "outside"),
    [
        ("manual", (1.0,), (0.99, 0.0)),
        ("cross_source_agreement", (0.0, 0.5, 1.0), ()),
        ("exact_match", (1.0,), (0.99,)),
        ("name_variation", (0.90, 0.95, 0.99), (0.8999, 0.995, 1.0)),
        ("member_group", (0.80, 0.89), (0.79, 0.895, 0.90)),
        ("alias_match", (0.75, 0.84), (0.74, 0.85)),
        ("trigram", (0.70, 0.95, 1.0), (0.69,)),
        ("llm", (0.60, 0.79), (0.59, 0.80)),
        ("no such method", (), (0.0, 1.0)),
    ],
)
def test_provenance_must_lie_in_its_methods_band(
    method: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    assert all(is_in_band(method, confidence) for confidence in inside)
    assert not any(is_in_band(method, confidence) for confidence in outside)


@given(st.sampled_from(sorted(BANDS)), st.integers(0, 10_000))
def test_the_band_is_the_one_of_the_contract_for_every_confidence(method: str, steps: int) -> None:
    assert is_in_band(method, steps / 10_000) == reference_is_in_band(method, steps / 10_000)


@given(st.sampled_from(sorted(BANDS)), st.sampled_from([0, 1]))
def test_a_bound_after_float4_is_inside_the_band(method: str, end: int) -> None:
    assert is_in_band(method, float(np.float32(BANDS[method][end])))


@given(st.floats(0, 1, allow_subnormal=False))
def test_a_confidence_is_what_a_float4_column_gives_back(confidence: float) -> None:
    assert as_real(confidence) == float(np.float32(confidence))
    assert as_real(as_real(confidence)) == as_real(confidence)


def test_unwritable_provenance_is_left_out_and_counted_once() -> None:
    counted: Counter[str] = Counter()
    rows = source_rows(
        7,
        [
            Provenance("discogs", "exact_match", 1.0, "1"),
            Provenance("spotify", "exact_match", None, None),
            Provenance("spotify", "exact_match", None, "s"),
            Provenance("wikidata", "exact_match", 1.0, None),
            Provenance("bandcamp", "exact_match", 0.9, "b"),
        ],
        counted,
    )
    assert rows == [SourceRow(7, "discogs", "1", "exact_match", 1.0)]
    assert counted == {
        "source_rows_skipped_null_confidence": 2,
        "source_rows_skipped_null_external_id": 1,
        "source_rows_out_of_band": 1,
    }


def test_the_last_writable_entry_of_a_source_is_kept() -> None:
    entries = [
        Provenance("discogs", "exact_match", 1.0, "first"),
        Provenance("discogs", "exact_match", 1.0, "last"),
        Provenance("discogs", "exact_match", 0.5, "out of band"),
        Provenance("discogs", "exact_match", None, None),
    ]
    assert [row.external_id for row in source_rows(7, entries, Counter())] == ["last"]


TRACK = Track(None, "Anybody", "Song", None, None)


@pytest.mark.parametrize(
    ("version", "attempted", "tracks", "ready"),
    [
        (1, True, None, True),
        (1, True, (), True),
        (1, True, (TRACK,), True),
        (1, False, (TRACK,), True),
        (1, False, (), False),
        (1, False, None, False),
        (1, None, (TRACK,), False),
        (None, True, (TRACK,), False),
        (2, True, (TRACK,), False),
        (0, True, (TRACK,), False),
    ],
)
def test_a_compilation_is_ready_when_the_matcher_has_run(
    version: int | None, attempted: bool | None, tracks: tuple[Track, ...] | None, ready: bool
) -> None:
    verdict = Verdict(7, Kind.COMPILATION, tracks_attempted=attempted, tracks=tracks)
    assert is_ready(verdict, version) is ready
    rows = batch_rows([verdict], version)
    assert rows.stamped == [7]
    assert (rows.counts.rows_resolved_compilation, rows.counts.rows_skipped[Skip.COMPILATION]) == (ready, not ready)


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (("A1",), "A1"),
        (("A1", "A1"), "A1"),
        (("A1", None), "A1"),
        (("A1", ""), "A1"),
        (("A1", "B2"), None),
        ((None,), None),
        (("x" * 20,), "x" * 20),
        (("x" * 21,), None),
        (("A1", "x" * 21), None),
    ],
)
def test_a_position_is_used_if_exactly_one_is_offered(offered: tuple[str | None, ...], taken: str | None) -> None:
    [row] = track_rows(7, [Track(position, "Anybody", "Song", "Anybody", None) for position in offered], Counter())
    assert row.track_position == taken


def test_among_tracks_with_one_name_and_title_the_last_named_one_counts() -> None:
    said = [("First", 0.5), ("Last", 0.75), (None, 0.25)]
    rows = track_rows(7, [Track(None, "Anybody", None, name, confidence) for name, confidence in said], Counter())
    assert [(row.resolved_artist_name, row.confidence) for row in rows] == [("Last", 0.75)]
    named = [Track(None, "Anybody", title, "Other", 0.5) for title in (None, "Song")]
    assert [row.track_title for row in track_rows(7, named, Counter())] == [None, "Song"]


@pytest.mark.parametrize("nobody", [None, "", " "])
def test_a_track_for_which_lml_names_nobody_offers_nothing_and_is_counted(nobody: str | None) -> None:
    counted: Counter[str] = Counter()
    nameless = Track("A2", "Anybody", "Song", nobody, 0.9)
    [row] = track_rows(7, [Track("A1", "Anybody", "Song", "Somebody", 0.5), nameless], counted)
    assert (row.resolved_artist_name, row.track_position, row.confidence) == ("Somebody", "A1", 0.5)
    assert counted == {"compilation_track_rows_offered": 1, "compilation_track_rows_unnamed": 1}
    alone: Counter[str] = Counter()
    assert track_rows(7, [nameless, nameless], alone) == []
    assert dict(alone) == {"compilation_track_rows_unnamed": 2}


def test_a_verdicts_method_is_stored_even_if_nobody_knows_it() -> None:
    verdict = single(method="embedding", provenance=(Provenance("tidal", "embedding", 0.9, "t"),))
    rows = batch_rows([verdict], None)
    assert [row.method for row in rows.mains] == ["embedding"]
    assert rows.sources == [] and rows.counts.others == {"source_rows_out_of_band": 1}


@pytest.mark.parametrize(
    ("changes", "storable"),
    [
        ({}, True),
        ({"confidence": 0}, True),
        ({"artist_ids": None}, False),
        ({"method": None}, False),
        ({"confidence": None}, False),
        ({"confidence": 1.01}, False),
        ({"confidence": float("nan")}, False),
        ({"kind": Kind.UNRESOLVED, "confidence": None}, True),
    ],
)
def test_a_single_artist_without_its_rows_required_values_is_not_storable(
    changes: dict[str, object], storable: bool
) -> None:
    assert is_storable(single(**changes)) is storable


def test_an_unstorable_verdict_is_a_programming_error_here() -> None:
    with pytest.raises(ValueError, match="without ids"):
        batch_rows([Verdict(7, Kind.SINGLE_ARTIST)], None)


def test_libraries_without_a_verdict_are_counted_by_reason() -> None:
    counts = unanswered(Answer((), missing=(1, 2), untrusted=(3,), malformed=(4, 5, 6)))
    assert counts.scanned == counts.accounted_for == 6
    assert counts.rows_skipped == {
        Skip.CARDINALITY_MISMATCH: 2,
        Skip.UNTRUSTED_LIBRARY_ID: 1,
        Skip.LML_ERROR: 3,
    }
