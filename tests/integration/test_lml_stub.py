"""The local LML follows the contract, repeats its answers, and has the scripted faults."""

import json
import math
from collections import Counter
from typing import Any

import httpx
import pytest

from runway_pipelines.local.lml_contract import first_error, validator
from runway_pipelines.local.lml_verdicts import BANDS, compilation_tracks, is_various, resolved
from tests.integration.lml_control import LmlControl, asked_for
from tests.servers.lml_faults import FOREIGN_OFFSET, MALFORMED, UNSTORABLE, Rule, edited

IDS = list(range(1, 6))


def results(lml: LmlControl, artist_name: str = "Can", **members: Any) -> list[Any]:
    answer = lml.ask(asked_for(IDS, artist_name) | members)
    assert answer.status_code == 200
    return list(json.loads(answer.content)["results"])


def faulty(lml: LmlControl, **rule: Any) -> tuple[list[Any], list[Any]]:
    """Results without a fault and with it."""
    good = results(lml)
    lml.script(Rule(**rule))
    return good, results(lml)


# what it answers


@pytest.mark.parametrize("include_tracks", [False, True])
def test_thousands_of_answers_are_valid_and_of_every_kind(include_tracks: bool) -> None:
    artists = ["Can", "Björk", "", "Various Artists - Rock", "\x00", "V/A"]
    made = [
        resolved(number, artists[number % 7 % 6], f"Album {number}", include_tracks=include_tracks)
        for number in range(3000)
    ]
    assert first_error("Response", {"results": made}) is None
    kinds = Counter(result["kind"] for result in made)
    assert set(kinds) == {"single_artist", "compilation", "unresolved"}
    singles = [result for result in made if result["kind"] == "single_artist"]
    assert {len(result["provenance"]) for result in singles} == {2, 3, 4, 5}
    rows = [row for result in singles for row in result["provenance"]]
    confident = [row for row in rows if row["confidence"] is not None]
    in_band = [row for row in confident if BANDS[row["method"]][0] <= row["confidence"] <= BANDS[row["method"]][1]]
    assert 0.95 < len(in_band) / len(confident) < 1
    assert 0.9 < len(confident) / len(rows) < 1
    assert all((row["external_id"] is None) is (row["confidence"] is None) for row in rows), "null together"
    for result in singles:
        assert result["confidence"] == min(
            row["confidence"] for row in result["provenance"] if row["confidence"] is not None
        )
    assert all(("tracks" in result) <= include_tracks or result["tracks"] is None for result in made)


def test_four_fifths_of_a_catalogue_with_a_tenth_of_compilations_are_single_artists() -> None:
    made = Counter(
        resolved(number, "V/A" if number % 10 == 0 else f"Artist {number}", "T", include_tracks=False)["kind"]
        for number in range(5000)
    )
    assert 0.75 < made["single_artist"] / 5000 < 0.85


def test_compilations_have_every_state_of_matching() -> None:
    made = [resolved(number, "Various Artists", "T", include_tracks=True) for number in range(500)]
    states = {(result["tracks_attempted"], bool(result["tracks"])) for result in made}
    assert states == {(True, True), (False, True), (False, False)}
    ready = next(result for result in made if result["tracks"])
    assert ready["tracks"] == compilation_tracks(ready["library_id"], "Various Artists", "T")
    assert is_various(" VARIOUS artists - Jazz")
    assert not is_various("Can")


def provenance(source: str, confidence: float, external_id: str) -> dict[str, Any]:
    return {"source": source, "method": "name_variation", "confidence": confidence, "external_id": external_id}


def test_an_answer_is_a_function_of_id_artist_and_title() -> None:
    # written down once: every machine and version must give the same
    made = resolved(7, "Björk", "Debut", include_tracks=False)
    assert made == {
        "kind": "single_artist",
        "library_id": 7,
        "main": {
            "discogs_artist_id": None,
            "musicbrainz_artist_id": None,
            "wikidata_qid": None,
            "spotify_artist_id": "vosCeQRJedhGI12v2SNxjY",
            "apple_music_artist_id": "985519380",
            "bandcamp_id": "artist-506036",
        },
        "method": "name_variation",
        "confidence": 0.9,
        "provenance": [
            provenance("spotify", 0.92, "vosCeQRJedhGI12v2SNxjY"),
            provenance("apple_music", 0.9, "985519380"),
            provenance("bandcamp", 0.9, "artist-506036"),
        ],
    }
    for other in ((8, "Björk", "Debut"), (7, "Bjork", "Debut"), (7, "Björk", "Debut ")):
        assert resolved(*other, include_tracks=False) != made | {"library_id": other[0]}


def test_the_server_answers_as_the_function_does_whatever_came_before(lml: LmlControl) -> None:
    expected = [resolved(each, "Can", f"Album {each}", include_tracks=False) for each in IDS]
    assert results(lml) == results(lml) == expected
    backwards = lml.ask(asked_for(IDS[::-1])).json()
    assert backwards["results"] == expected[::-1]
    assert backwards["cache_stats"] == {
        "memory_hits": 5,
        "pg_hits": 0,
        "pg_misses": 0,
        "api_calls": 0,
        "pg_time_ms": 0,
        "api_time_ms": 0,
    }
    assert first_error("Response", backwards) is None


def test_tracks_come_only_on_request(lml: LmlControl) -> None:
    with_tracks = lml.ask(asked_for(IDS, "Various Artists") | {"include_tracks": True}).json()
    assert with_tracks["tracks_contract_version"] == 1
    assert any(result["tracks"] for result in with_tracks["results"])
    without = lml.ask(asked_for(IDS, "Various Artists")).json()
    assert without["tracks_contract_version"] is None
    assert not any(result.get("tracks") for result in without["results"])


# what it refuses


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        ({}, 400),
        ({"inputs": []}, 400),
        ({"inputs": "x"}, 400),
        (asked_for([1]) | {"include_tracks": "yes"}, 400),
        (asked_for(range(1001)), 413),
        ({"inputs": [{"library_id": 1, "artist_name": "Can"}]}, 422),
        (asked_for([1, "2"]), 422),  # type: ignore[list-item]
        (asked_for([1, True]), 422),
        (asked_for([1], artist_name=None), 422),  # type: ignore[arg-type]
    ],
)
def test_a_request_that_breaks_the_contract_is_refused_with_its_status(
    document: Any, status: int, lml: LmlControl
) -> None:
    assert lml.ask(document).status_code == status
    assert [call["status"] for call in lml.calls] == [status]


def test_another_content_type_is_refused(lml: LmlControl) -> None:
    assert lml.ask(asked_for([1]), **{"Content-Type": "text/plain"}).status_code == 400
    assert lml.ask(asked_for(range(1000)), **{"Content-Type": "application/json; charset=utf-8"}).status_code == 200


def test_nullable_means_nullable_everywhere_and_only_there() -> None:
    empty = {"kind": "unresolved", "library_id": 1, "main": None, "method": None, "confidence": None, "provenance": []}
    assert validator("Result").is_valid(empty)
    for required in ("kind", "library_id", "provenance"):
        assert not validator("Result").is_valid(empty | {required: None})


# faults


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_value_arrives_and_the_schema_refuses_it(name: str, lml: LmlControl) -> None:
    path, value = MALFORMED[name]
    good, bad = faulty(lml, fault="replace", library_ids=(3,), path=path, value=value)
    assert len(bad) == 5
    assert bad[:2] + bad[3:] == good[:2] + good[3:]
    came: Any = bad[2]
    for step in path:
        came = came[step]
    assert came == value or (isinstance(value, float) and math.isnan(value) and math.isnan(came))
    if not (isinstance(value, float) and not math.isfinite(value)):  # JSON Schema does not know these
        assert not validator("Result").is_valid(bad[2])


@pytest.mark.parametrize("name", UNSTORABLE)
def test_an_unstorable_value_arrives(name: str, lml: LmlControl) -> None:
    path, value = UNSTORABLE[name]
    _, bad = faulty(lml, fault="replace", library_ids=(3,), path=path, value=value)
    came: Any = bad[2]
    for step in path:
        came = came[step]
    assert came == value


def test_results_can_be_short_long_duplicate_foreign_or_swapped(lml: LmlControl) -> None:
    good, short = faulty(lml, fault="short", library_ids=(2, 4))
    assert short == [good[0], good[2], good[4]]
    lml.script()
    good, long = faulty(lml, fault="long", library_ids=(2,))
    assert long == [*good, good[1]]
    lml.script()
    good, duplicate = faulty(lml, fault="duplicate", library_ids=(5,))
    assert duplicate == [*good[:4], good[0]]
    lml.script()
    good, foreign = faulty(lml, fault="foreign")
    assert foreign == [good[0] | {"library_id": 1 + FOREIGN_OFFSET}, *good[1:]]
    lml.script()
    good, swapped = faulty(lml, fault="swapped", library_ids=(2,))
    assert swapped == [good[0], good[2], good[1], *good[3:]]
    lml.script()
    good, repeated = faulty(lml, fault="repeated_source", library_ids=(3,))
    assert repeated[2]["provenance"] == [*good[2]["provenance"], *good[2]["provenance"][:1]]


def test_an_edit_leaves_its_input_unchanged_and_other_faults_edit_nothing() -> None:
    given = [resolved(1, "Can", "T", include_tracks=False)]
    assert edited(given, Rule(fault="foreign"))[0]["library_id"] == 1 + FOREIGN_OFFSET
    assert edited(given, Rule(fault="slow")) == given == [resolved(1, "Can", "T", include_tracks=False)]
    assert edited([], Rule(fault="swapped")) == []


def test_a_status_comes_with_its_retry_after_and_as_often_as_asked(lml: LmlControl) -> None:
    lml.script(Rule(fault="status", status=429, retry_after="7", times=2))
    answers = [lml.ask(asked_for(IDS)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert [call["faults"] for call in lml.calls] == [["status"], ["status"], []]


def test_a_fault_selects_calls_by_number_library_and_size(lml: LmlControl) -> None:
    lml.script(
        Rule(fault="status", status=500, calls=(2,)),
        Rule(fault="status", status=422, library_ids=(9,)),
        Rule(fault="status", status=413, more_than=5),
    )
    asked = [[1], [1], [8, 9], range(1, 6), range(1, 7)]
    assert [lml.ask(asked_for(list(each))).status_code for each in asked] == [200, 500, 422, 200, 413]


def test_an_answer_can_be_slow_cut_trickled_or_replaced(lml: LmlControl) -> None:
    good = results(lml)
    lml.script(
        Rule(fault="slow", calls=(1,), seconds=0.3),
        Rule(fault="cut", calls=(2,)),
        Rule(fault="trickle", calls=(3,), seconds=0.3),
        Rule(fault="body", calls=(4,), value="<html>"),
        Rule(fault="huge", calls=(5,), size=1_000_000),
    )
    assert lml.ask(asked_for(IDS)).elapsed.total_seconds() >= 0.3
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        lml.ask(asked_for(IDS))
    trickled = lml.ask(asked_for(IDS))
    assert trickled.elapsed.total_seconds() >= 0.25
    assert trickled.json()["results"] == good
    assert lml.ask(asked_for(IDS)).text == "<html>"
    assert len(lml.ask(asked_for(IDS)).json()) == 1_000_000 - 2


@pytest.mark.parametrize("rules", [b"{", b"{}", b'[{"fault": "no such"}]', b'[{"fault": "slow", "sconds": 1}]'])
def test_an_unknown_fault_is_refused(rules: bytes, lml: LmlControl) -> None:
    assert httpx.post(f"{lml.url}/_faults", content=rules).status_code == 400
