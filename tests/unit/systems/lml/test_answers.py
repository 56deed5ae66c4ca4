"""Every answer is checked, and a malformed result costs only its own library."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runway_pipelines.errors import Permanent, Transient
from runway_pipelines.systems.lml.answers import AnswerUnreadable, parse_answer
from runway_pipelines.systems.lml.protocol import decoded
from runway_pipelines.systems.lml.verdicts import (
    LONGEST_TEXT,
    METHODS,
    SOURCES,
    Answer,
    ArtistIds,
    Kind,
    Library,
    Provenance,
    Track,
    Verdict,
)
from tests.properties import examples

MBID = "9f86d081-884c-4d65-9a2f-eaa0c55ad015"
ABSENT = object()
Json = dict[str, Any]


def libraries(*library_ids: int) -> list[Library]:
    return [Library(library_id, None, f"artist {library_id}", "album") for library_id in library_ids]


def changed(document: Json, changes: Json) -> Json:
    """The document with members replaced, or taken away where they are `ABSENT`."""
    return {name: value for name, value in (document | changes).items() if value is not ABSENT}


def source(name: str = "discogs", **changes: Any) -> Json:
    entry = {"source": name, "method": "name_variation", "confidence": 0.95, "external_id": f"{name}-1"}
    return changed(entry, changes)


def single_artist(library_id: int = 7, **changes: Any) -> Json:
    return changed(
        {
            "kind": "single_artist",
            "library_id": library_id,
            "main": {
                "discogs_artist_id": 4711,
                "musicbrainz_artist_id": MBID,
                "wikidata_qid": "Q42",
                "spotify_artist_id": "4Z8W4fKeB5YxbusRsdQVPb",
                "apple_music_artist_id": "657515",
                "bandcamp_id": "björk",
            },
            "method": "exact_match",
            "confidence": 0.95,
            "provenance": [source("discogs"), source("spotify", confidence=None, external_id=None)],
        },
        changes,
    )


def unresolved(library_id: int = 7, **changes: Any) -> Json:
    result = {"kind": "unresolved", "library_id": library_id, "main": None, "method": None, "confidence": None}
    return changed(result | {"provenance": []}, changes)


def track(**changes: Any) -> Json:
    return changed(
        {
            "track_position": "A1",
            "artist_name": "Nilüfer Yanya",
            "track_title": "Midnight Sun",
            "resolved_artist_name": "Nilufer Yanya",
            "confidence": 0.8,
            "method": "alias_match",
            "sources": [source()],
        },
        changes,
    )


def compilation(library_id: int = 7, **changes: Any) -> Json:
    result = {"kind": "compilation", "library_id": library_id, "provenance": []}
    return changed(result | {"tracks_attempted": True, "tracks": [track()]}, changes)


def answer(*results: Any, **envelope: Any) -> Json:
    return {"results": list(results), **envelope}


def parsed_answer(document: Json, asked: Sequence[Library]) -> Answer:
    """The answer as it comes over the wire, whose sound results take the fast way, and as plain values, whose results
    all take the tolerant one: it must be the same.
    """
    parsed = parse_answer(decoded(json.dumps(document).encode()), asked)
    assert parsed == parse_answer(document, asked)
    return parsed


def verdict_on(result: Json) -> Verdict:
    """The verdict that a result for library 7 becomes."""
    (verdict,) = parsed_answer(answer(result), libraries(7)).verdicts
    return verdict


def fates(parsed: Answer) -> dict[str, list[int]]:
    """Library ids by how they ended, without the ways in which none did."""
    ended = {
        "verdicts": [verdict.library_id for verdict in parsed.verdicts],
        "missing": list(parsed.missing),
        "untrusted": list(parsed.untrusted),
        "malformed": list(parsed.malformed),
    }
    return {name: library_ids for name, library_ids in ended.items() if library_ids}


# What a good answer becomes


def test_a_single_artist_has_its_ids_and_their_provenance() -> None:
    assert verdict_on(single_artist()) == Verdict(
        library_id=7,
        kind=Kind.SINGLE_ARTIST,
        artist_ids=ArtistIds(4711, MBID, "Q42", "4Z8W4fKeB5YxbusRsdQVPb", "657515", "björk"),
        method="exact_match",
        confidence=0.95,
        provenance=(
            Provenance("discogs", "name_variation", 0.95, "discogs-1"),
            Provenance("spotify", "name_variation", None, None),
        ),
    )


def test_a_compilation_has_its_tracks() -> None:
    assert verdict_on(compilation()) == Verdict(
        library_id=7,
        kind=Kind.COMPILATION,
        tracks_attempted=True,
        tracks=(Track("A1", "Nilüfer Yanya", "Midnight Sun", "Nilufer Yanya", 0.8, "alias_match"),),
    )


def test_only_a_single_artist_has_a_composed_verdict() -> None:
    verdict = verdict_on(compilation(method="llm", confidence=0.7, main={}))
    assert (verdict.artist_ids, verdict.method, verdict.confidence) == (None, None, None)


def test_an_unresolved_library_has_nothing() -> None:
    assert verdict_on(unresolved()) == Verdict(7, Kind.UNRESOLVED)


ACCEPTED = {
    "members that nobody knows yet": single_artist(genre="jazz", main={"tidal_id": 5, "wikidata_qid": "Q1"}),
    "a source with members that nobody knows yet": single_artist(provenance=[source(score=3)]),
    "a single artist of whom every id is null": single_artist(main=dict.fromkeys(single_artist()["main"])),
    "a single artist without any id": single_artist(main={}),
    "a single artist without provenance": single_artist(provenance=[]),
    "whole numbers as confidence": single_artist(confidence=1, provenance=[source(confidence=0)]),
    "an unresolved library with sources that found nothing": unresolved(provenance=[source(confidence=None)]),
    "an unresolved library with the least it can have": {"kind": "unresolved", "library_id": 7, "provenance": []},
    "what is unresolved with a main in which nothing is": unresolved(main={"wikidata_qid": ""}),
    "a compilation with a method of its own": compilation(method="llm", confidence=0.7, main={}),
    "an unresolved library with a method of its own": unresolved(method="llm", confidence=0),
    "a method that nobody knows yet": single_artist(method="embedding"),
    "a source without external_id": single_artist(provenance=[source(external_id=ABSENT)]),
    "a track that LML knows nothing about": compilation(
        tracks=[
            track(
                track_position=None,
                track_title=None,
                resolved_artist_name=None,
                confidence=None,
                method=None,
                sources=[],
            )
        ]
    ),
    "the longest text": single_artist(main={"bandcamp_id": "ä" * LONGEST_TEXT}),
    "the largest discogs id": single_artist(main={"discogs_artist_id": 2**31 - 1}),
}


@pytest.mark.parametrize("result", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted_is(result: Json) -> None:
    assert fates(parsed_answer(answer(result), libraries(7))) == {"verdicts": [7]}


@pytest.mark.parametrize("absent", [ABSENT, None], ids=["absent", "null"])
def test_absent_or_null_tracks_are_none(absent: object) -> None:
    verdict = verdict_on(compilation(tracks=absent, tracks_attempted=absent))
    assert (verdict.tracks, verdict.tracks_attempted) == (None, None)
    assert verdict_on(compilation(tracks=[])).tracks == ()


@pytest.mark.parametrize("blank", ["", "  ", None, ABSENT], ids=["empty", "blank", "null", "absent"])
def test_a_blank_id_is_none(blank: object) -> None:
    names = ["musicbrainz_artist_id", "wikidata_qid", "spotify_artist_id", "apple_music_artist_id", "bandcamp_id"]
    main = changed({}, dict.fromkeys(names, blank))
    verdict = verdict_on(single_artist(main=main, provenance=[source(external_id=blank)]))
    assert verdict.artist_ids == ArtistIds()
    assert verdict.provenance[0].external_id is None


def test_a_tracks_empty_texts_are_none_except_its_title() -> None:
    empty = track(track_position="", resolved_artist_name="", track_title="", artist_name=" ")
    (parsed,) = verdict_on(compilation(tracks=[empty])).tracks or ()
    assert parsed == Track(None, " ", "", None, 0.8, "alias_match")


@pytest.mark.parametrize("text", [MBID, MBID.upper(), MBID.replace("-", "")])
def test_a_uuid_has_postgres_spelling(text: str) -> None:
    artist_ids = verdict_on(single_artist(main={"musicbrainz_artist_id": text})).artist_ids
    assert artist_ids == ArtistIds(musicbrainz_artist_id=MBID)


@pytest.mark.parametrize(("confidence", "stored"), [(1e-300, 0.0), (5e-324, 0.0), (-0.0, 0.0), (1, 1.0), (0.1, 0.1)])
def test_a_confidence_fits_float4(confidence: float, stored: float) -> None:
    verdict = verdict_on(single_artist(confidence=confidence))
    assert isinstance(verdict.confidence, float)
    assert (verdict.confidence, math.copysign(1, verdict.confidence)) == (stored, 1)


def test_a_source_named_twice_keeps_both_entries() -> None:
    entries = [source(confidence=0.9), source("spotify"), source(confidence=None), source(confidence=0.9)]
    provenance = verdict_on(single_artist(provenance=entries)).provenance
    assert [(entry.source, entry.confidence) for entry in provenance] == [
        ("discogs", 0.9),
        ("spotify", 0.95),
        ("discogs", None),
        ("discogs", 0.9),
    ]


# What a malformed result costs

NO_CONFIDENCE = ["0.9", True, float("nan"), float("inf"), float("-inf"), -0.01, 1.01, 2, 10**400, [0.9], {}]
NO_TEXT = [7, 7.0, True, ["a"], {}, "a\0", "\0", "\ud800", "a\udfff", "x" * (LONGEST_TEXT + 1)]
NO_UUID = [
    *NO_TEXT,
    "Q42",
    MBID[:-1],
    MBID + "-",
    MBID + "0",
    "{" + MBID + "}",
    "urn:uuid:" + MBID,
    "1_3456781234567812345678123456ab",
    "٣" * 32,
]
NO_DISCOGS_ID = ["4711", "", 4711.0, True, 0, -1, 2**31, 10**400, float("nan"), [], {}]
NO_METHOD = ["", 1, True, ["llm"], {}, "\ud800"]
UNKNOWN = ["guess", "EXACT_MATCH", "tidal"]
NO_ARRAY = ["", "discogs", {}, 1, True]
NO_OBJECT = [[], "", "Q42", 1, True]

REFUSED: list[tuple[str, Any]] = [
    *(("kind.unknown_value", single_artist(kind=value)) for value in ("artist", "", "SINGLE_ARTIST")),
    *(("kind.not_a_text", single_artist(kind=value)) for value in (1, True, [], {})),
    ("kind.null", single_artist(kind=None)),
    ("kind.missing", single_artist(kind=ABSENT)),
    *(("main.not_an_object", single_artist(main=value)) for value in NO_OBJECT),
    ("main.null", single_artist(main=None)),
    ("main.missing", single_artist(main=ABSENT)),
    ("main.ids_of_unresolved", unresolved(main={"wikidata_qid": "Q42"})),
    ("main.ids_of_compilation", compilation(main={"discogs_artist_id": 194})),
    *(("method.", single_artist(method=value)) for value in [*NO_METHOD, "x" * (LONGEST_TEXT + 1)]),
    ("method.null", single_artist(method=None)),
    ("method.missing", single_artist(method=ABSENT)),
    *(("confidence.", single_artist(confidence=value)) for value in NO_CONFIDENCE),
    ("confidence.null", single_artist(confidence=None)),
    ("confidence.missing", single_artist(confidence=ABSENT)),
    *(("library_id.", single_artist(library_id=value)) for value in ("7", 7.0, True, None, [7], {}, ABSENT)),
    *(("result.not_an_object", value) for value in (None, [], "", 7, 7.0, True)),
]


@pytest.mark.parametrize(("rule", "result"), REFUSED, ids=[rule for rule, _ in REFUSED])
def test_a_result_that_cannot_be_believed_costs_its_library_and_says_why(rule: str, result: Any) -> None:
    parsed = parsed_answer(answer(single_artist(6), result, unresolved(8)), libraries(6, 7, 8))
    assert fates(parsed) == {"verdicts": [6, 8], "malformed": [7]}
    assert parsed.results_dropped == 0
    [(fault, number)] = parsed.refusals.items()
    assert (fault.startswith(rule), number) == (True, 1), fault


GOOD = source("spotify")
LEFT_OUT: list[tuple[str, Json]] = [
    *(("main.discogs_artist_id.", single_artist(main={"discogs_artist_id": value})) for value in NO_DISCOGS_ID),
    *(("main.musicbrainz_artist_id.", single_artist(main={"musicbrainz_artist_id": value})) for value in NO_UUID),
    ("main.musicbrainz_artist_id.not_a_uuid", single_artist(main={"musicbrainz_artist_id": "abc-def-12345"})),
    ("main.discogs_artist_id.out_of_range", single_artist(main={"discogs_artist_id": 0})),
    *(
        (f"main.{name}.", single_artist(main={name: value}))
        for name in ("wikidata_qid", "spotify_artist_id", "apple_music_artist_id", "bandcamp_id")
        for value in NO_TEXT
    ),
    *(("main.not_an_object", unresolved(main=value)) for value in NO_OBJECT),
    *(("provenance.not_an_array", single_artist(provenance=value)) for value in [*NO_ARRAY, None]),
    *(("provenance.not_an_object", single_artist(provenance=[GOOD, value])) for value in [*NO_OBJECT, None]),
    *(
        ("provenance.source.", single_artist(provenance=[GOOD, source(source=value)]))
        for value in (None, 1, ["discogs"], {}, ABSENT)
    ),
    *(
        ("provenance.method.", single_artist(provenance=[GOOD, source(method=value)]))
        for value in (1, True, ["llm"], {}, "\ud800", None, ABSENT)
    ),
    *(
        ("provenance.confidence.", single_artist(provenance=[GOOD, source(confidence=value)]))
        for value in [*NO_CONFIDENCE, ABSENT]
    ),
    *(("provenance.external_id.", single_artist(provenance=[GOOD, source(external_id=value)])) for value in NO_TEXT),
    ("provenance.external_id.too_long", single_artist(provenance=[GOOD, source(external_id="x" * 2_500)])),
    *(("tracks_attempted.", compilation(tracks_attempted=value)) for value in (0, 1, 1.0, "true", [], {})),
    *(("tracks.not_an_array", compilation(tracks=value)) for value in NO_ARRAY),
    *(("tracks.not_an_object", compilation(tracks=[track(), value])) for value in [*NO_OBJECT, None]),
    *(
        (f"tracks.{name}.missing", compilation(tracks=[track(**{name: ABSENT})]))
        for name in ("artist_name", "track_title")
    ),
    *(("tracks.track_position.", compilation(tracks=[track(track_position=value)])) for value in NO_TEXT),
    *(("tracks.artist_name.", compilation(tracks=[track(artist_name=value)])) for value in [*NO_TEXT, "", None]),
    *(("tracks.track_title.", compilation(tracks=[track(track_title=value)])) for value in NO_TEXT),
    *(("tracks.resolved_artist_name.", compilation(tracks=[track(resolved_artist_name=value)])) for value in NO_TEXT),
    *(("tracks.confidence.", compilation(tracks=[track(confidence=value)])) for value in NO_CONFIDENCE),
    *(("tracks.method.", compilation(tracks=[track(method=value)])) for value in (1, True, ["llm"], {}, "\ud800")),
]
NOT_KNOWN = [
    *(("provenance.source", single_artist(provenance=[GOOD, source(source=value)])) for value in [*UNKNOWN, ""]),
    *(("provenance.method", single_artist(provenance=[GOOD, source(method=value)])) for value in [*UNKNOWN, ""]),
    *(("tracks.method", compilation(tracks=[track(method=value)])) for value in UNKNOWN),
]


@pytest.mark.parametrize(("rule", "result"), LEFT_OUT, ids=[rule for rule, _ in LEFT_OUT])
def test_what_cannot_be_stored_is_left_out_and_counted(rule: str, result: Json) -> None:
    parsed = parsed_answer(answer(single_artist(6), result, unresolved(8)), libraries(6, 7, 8))
    assert fates(parsed) == {"verdicts": [6, 7, 8]}
    assert (parsed.refusals, parsed.left_out.unknown_values) == (Counter(), Counter())
    [(fault, number)] = parsed.left_out.unusable_members.items()
    assert (fault.startswith(rule), number) == (True, 1), fault


@pytest.mark.parametrize(("member", "result"), NOT_KNOWN, ids=[member for member, _ in NOT_KNOWN])
def test_a_value_that_nobody_knows_yet_is_left_out_and_counted(member: str, result: Json) -> None:
    parsed = parsed_answer(answer(result), libraries(7))
    assert fates(parsed) == {"verdicts": [7]}
    assert parsed.left_out.unknown_values == Counter({member: 1})
    assert parsed.left_out.unusable_members == Counter()


def test_a_bad_member_takes_nothing_else_with_it() -> None:
    verdict = verdict_on(
        single_artist(
            main={"discogs_artist_id": 0, "musicbrainz_artist_id": "abc-def-12345", "bandcamp_id": "björk"},
            provenance=[source("tidal"), source("discogs"), source("spotify", external_id="x" * 2_500)],
        )
    )
    assert verdict.artist_ids == ArtistIds(bandcamp_id="björk")
    assert verdict.provenance == (Provenance("discogs", "name_variation", 0.95, "discogs-1"),)


def test_a_track_whose_row_is_known_is_kept() -> None:
    verdict = verdict_on(compilation(tracks=[track(method="embedding", confidence="high"), track(artist_name=None)]))
    assert verdict.tracks == (Track("A1", "Nilüfer Yanya", "Midnight Sun", "Nilufer Yanya", None),)


def test_a_method_that_is_text_is_kept() -> None:
    assert verdict_on(single_artist(method="embedding")).method == "embedding"


def test_what_a_refused_result_left_out_does_not_count() -> None:
    result = single_artist(confidence=None, main={"discogs_artist_id": 0})
    parsed = parsed_answer(answer(result), libraries(7))
    assert parsed.left_out.unusable_members == Counter()
    assert parsed.refusals == Counter({"confidence.null": 1})


def test_true_is_not_library_1() -> None:
    assert fates(parsed_answer(answer(unresolved(True)), libraries(1))) == {"malformed": [1]}


# Whose result it is


FATES: dict[str, tuple[list[int], list[Any], dict[str, list[int]], int]] = {
    "in another order, by the ids": (
        [1, 2, 3],
        [unresolved(3), unresolved(1), unresolved(2)],
        {"verdicts": [1, 2, 3]},
        0,
    ),
    "none at all": ([1, 2], [], {"missing": [1, 2]}, 0),
    "the last not answered": ([1, 2], [unresolved(1)], {"verdicts": [1], "missing": [2]}, 0),
    "the first not answered": ([1, 2, 3], [unresolved(2), unresolved(3)], {"verdicts": [2, 3], "missing": [1]}, 0),
    "one that nobody asked for in another's place": (
        [1, 2],
        [unresolved(99), unresolved(2)],
        {"verdicts": [2], "untrusted": [1]},
        1,
    ),
    "one that nobody asked for, too many": ([1], [unresolved(1), unresolved(99)], {"verdicts": [1]}, 1),
    "one that nobody asked for, before the others": (
        [1, 2],
        [unresolved(99), unresolved(1), unresolved(2)],
        {"verdicts": [1, 2]},
        1,
    ),
    "a second one in another's place": ([1, 2], [unresolved(1), unresolved(1)], {"verdicts": [1], "untrusted": [2]}, 1),
    "a second one, too many": ([1], [unresolved(1), unresolved(1)], {"verdicts": [1]}, 1),
    "a malformed one out of its place": (
        [1, 2],
        [unresolved(2), {"library_id": 1}],
        {"verdicts": [2], "malformed": [1]},
        0,
    ),
    "a second one after a malformed one": (
        [1, 2],
        [{"library_id": 1}, unresolved(1)],
        {"untrusted": [2], "malformed": [1]},
        1,
    ),
    "one without an id where a library's is elsewhere": (
        [1, 2],
        ["?", unresolved(1)],
        {"verdicts": [1], "missing": [2]},
        1,
    ),
    "one without an id, too many": ([1], [unresolved(1), "?"], {"verdicts": [1]}, 1),
    "nothing asked": ([], [unresolved(1)], {}, 1),
}


@pytest.mark.parametrize(("asked", "results", "expected", "dropped"), FATES.values(), ids=FATES)
def test_results_are_matched_with_libraries_by_id_and_place(
    asked: list[int], results: list[Any], expected: dict[str, list[int]], dropped: int
) -> None:
    parsed = parsed_answer(answer(*results), libraries(*asked))
    assert fates(parsed) == expected
    assert parsed.results_dropped == dropped


def test_of_two_results_the_one_in_its_librarys_place_wins() -> None:
    mine, another = single_artist(1, confidence=0.9), single_artist(1, confidence=0.8)
    for asked, results in (([1, 2], [mine, another]), ([2, 1], [another, mine])):
        parsed = parsed_answer(answer(*results), libraries(*asked))
        assert [verdict.confidence for verdict in parsed.verdicts] == [0.9]
        assert parsed.untrusted == (2,)


def test_of_two_results_out_of_place_the_first_wins() -> None:
    results = [single_artist(1, confidence=0.9), single_artist(1, confidence=0.8)]
    parsed = parsed_answer(answer(*results), libraries(2, 3, 1))
    assert [verdict.confidence for verdict in parsed.verdicts] == [0.9]
    assert (parsed.missing, parsed.untrusted) == ((2,), (3,))


# The envelope

NO_ANSWER = {
    "nothing": ({}, "got an object with no results."),
    "an error": ({"message": "secret"}, "got an object with no results."),
    "null as results": ({"results": None}, "got an object with null as results."),
    "an object as results": ({"results": {"7": "secret"}}, "got an object with an object as results."),
    "a number as results": ({"results": 3}, "got an object with a number as results."),
}


@pytest.mark.parametrize(("document", "came"), NO_ANSWER.values(), ids=NO_ANSWER)
def test_an_unreadable_answer_is_permanent_and_not_quoted_in_the_error(document: Json, came: str) -> None:
    for each in (document, decoded(json.dumps(document).encode())):
        with pytest.raises(AnswerUnreadable) as raised:
            parse_answer(each, libraries(7))
        assert isinstance(raised.value, Permanent)
        assert (raised.value.status, isinstance(raised.value, Transient)) == (200, False)
        assert came in str(raised.value)
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize("version", [None, 0, 2, 1.0, True, "1", [1], {}, float("nan"), ABSENT])
def test_any_other_tracks_version_is_ignored(version: object) -> None:
    document = changed(answer(unresolved()), {"tracks_contract_version": version})
    parsed = parsed_answer(document, libraries(7))
    assert parsed.tracks_contract_version is None
    assert fates(parsed) == {"verdicts": [7]}


def test_the_integer_1_is_the_tracks_version() -> None:
    version = parsed_answer(answer(tracks_contract_version=1), []).tracks_contract_version
    assert (version, type(version)) == (1, int)


def test_only_numeric_cache_stats_are_kept() -> None:
    stats = {
        "hits": 3,
        "ratio": 0.75,
        "less": -1,
        "none": None,
        "is_warm": True,
        "text": "5",
        "by_source": {"discogs": 2},
        "nan": float("nan"),
        "inf": float("inf"),
        "huge": 10**400,
        "\ud800": 1,
    }
    parsed = parsed_answer(answer(unresolved(), cache_stats=stats), libraries(7))
    assert parsed.cache_stats == {"hits": 3, "ratio": 0.75, "less": -1}


@pytest.mark.parametrize("stats", [None, [], "hits", 3, True, ABSENT])
def test_odd_cache_stats_are_ignored(stats: object) -> None:
    parsed = parsed_answer(changed(answer(unresolved()), {"cache_stats": stats}), libraries(7))
    assert parsed.cache_stats == {}
    assert fates(parsed) == {"verdicts": [7]}


# For any answer


texts = st.text(max_size=4) | st.sampled_from(["\ud800", "\0", "7", "discogs", "llm"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
some_ids = st.lists(st.integers(1, 8), unique=True, max_size=6)

storable = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
names = storable.filter(lambda text: bool(text.strip()))
confidences = st.floats(0, 1, allow_subnormal=False).filter(lambda number: number == 0 or number >= 1e-37)
methods = st.sampled_from(METHODS)
provenances = st.lists(
    st.builds(Provenance, st.sampled_from(SOURCES), methods, st.none() | confidences, st.none() | names), max_size=4
).map(tuple)
tracks = st.none() | st.lists(
    st.builds(
        Track,
        st.none() | names,
        storable.filter(bool),
        st.none() | storable,
        st.none() | names,
        st.none() | confidences,
    ),
    max_size=3,
).map(tuple)
artist_ids = st.builds(
    ArtistIds,
    st.none() | st.integers(1, 2**31 - 1),
    st.none() | st.uuids().map(str),
    *[st.none() | names for _ in range(4)],
)


@st.composite
def verdicts(draw: st.DrawFn, library_id: int) -> Verdict:
    kind = draw(st.sampled_from(Kind))
    composed = (
        (draw(artist_ids), draw(methods), draw(confidences)) if kind is Kind.SINGLE_ARTIST else (None, None, None)
    )
    attempted = draw(st.none() | st.booleans())
    return Verdict(library_id, kind, *composed, draw(provenances), attempted, draw(tracks))


@st.composite
def batches(draw: st.DrawFn) -> list[Verdict]:
    return [draw(verdicts(library_id)) for library_id in draw(some_ids)]


def as_result(verdict: Verdict) -> Json:
    """The JSON of a verdict, by another way than the parser's."""
    result: Json = json.loads(json.dumps(msgspec.to_builtins(verdict)))
    for parsed in result["tracks"] or ():
        parsed |= {"sources": []}
    return result


def asked_for(batch: Sequence[Verdict]) -> list[Library]:
    return libraries(*(verdict.library_id for verdict in batch))


@given(batches(), st.data())
def test_a_valid_answer_becomes_its_verdicts_in_the_order_asked(batch: list[Verdict], data: st.DataObject) -> None:
    results = data.draw(st.permutations([as_result(verdict) for verdict in batch]))
    parsed = parsed_answer(answer(*results, tracks_contract_version=1), asked_for(batch))
    assert parsed == Answer(verdicts=tuple(batch), tracks_contract_version=1)


members = st.sampled_from(["kind", "library_id", "main", "method", "confidence", "provenance", "tracks"])
nearly_results = st.builds(
    lambda result, changes: changed(result, changes),
    st.sampled_from([single_artist, unresolved, compilation]).flatmap(lambda make: st.builds(make, st.integers(1, 10))),
    st.dictionaries(members, anything | st.just(ABSENT), max_size=1),
)
nearly_answers = st.builds(
    lambda results, envelope: answer(*results, **envelope),
    st.lists(nearly_results | anything, max_size=8),
    st.dictionaries(st.sampled_from(["cache_stats", "tracks_contract_version", "results"]), anything, max_size=2).map(
        lambda envelope: {name: value for name, value in envelope.items() if name != "results"}
    ),
)


@settings(max_examples=examples(400))
@given(nearly_answers | st.dictionaries(st.just("results"), anything), some_ids)
def test_any_answer_is_refused_or_gives_every_library_one_outcome(document: Json, asked: list[int]) -> None:
    try:
        parsed = parsed_answer(document, libraries(*asked))
    except AnswerUnreadable:
        assert not isinstance(document, dict) or not isinstance(document.get("results"), list)
        return
    ended = fates(parsed)
    assert sorted(itertools.chain(*ended.values())) == sorted(asked)
    for library_ids in ended.values():
        assert library_ids == [library_id for library_id in asked if library_id in library_ids], "in the order asked"
    answered = len(parsed.verdicts) + len(parsed.malformed)
    assert parsed.results_dropped == len(document["results"]) - answered >= len(parsed.untrusted)
    for verdict in parsed.verdicts:
        msgspec.json.encode(verdict)


@given(batches().filter(bool), anything, st.data())
def test_any_defect_in_one_result_costs_only_that_result(
    batch: list[Verdict], damage: Any, data: st.DataObject
) -> None:
    results: list[Any] = [as_result(verdict) for verdict in batch]
    place = data.draw(st.integers(0, len(batch) - 1))
    member = data.draw(st.none() | st.sampled_from(sorted(results[place])))
    results[place] = damage if member is None else results[place] | {member: damage}
    parsed = parsed_answer(answer(*results), asked_for(batch))
    damaged_id = batch[place].library_id
    others = [verdict for verdict in batch if verdict.library_id != damaged_id]
    assert [verdict for verdict in parsed.verdicts if verdict.library_id != damaged_id] == others
    assert parsed.missing == ()
