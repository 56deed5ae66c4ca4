"""Any sequence of answers ends in the tables of a naive reference, with all libraries counted."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runway_pipelines.identity.counts import Counts
from runway_pipelines.identity.folding import fold_artist_name
from runway_pipelines.identity.writer import write
from runway_pipelines.local.stack import EmbeddedStack
from runway_pipelines.systems.lml.verdicts import Answer, ArtistIds, Kind, Provenance, Track, Verdict
from tests.integration.identity_world import NOW, TestCatalogue, new_catalogue
from tests.properties import examples
from tests.reference_identity import ARTIST_IDS, NOTES, PLAIN_IDS, RELEASE_IDS, ReferenceCatalogue, float4

SINGLES, COMPILATIONS = (1, 2, 3), (4, 5)
LIBRARIES = SINGLES + COMPILATIONS
ARTISTS = {1: "Björn Wren", 2: "Zoë Quartz", 3: "ZOE QUARTZ", 4: "Ødger"}
TITLES = ("Song", None)
HOURS = (0, 1, 5, 13, 24, 200)  # noon plus 13 is another day
TRACKS = ("offered", "unmatched", "unnamed")
UUIDS = ("0f3e8d9c-1111-4222-8333-944445555666", "1a2b3c4d-1111-4222-8333-944445555666")
TABLES = "library, library_identity, library_identity_source, library_identity_history, compilation_track_artist"
slow = settings(
    max_examples=examples(100),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", params=[True, False], ids=["with the optional columns", "without"])
def catalogue(stack: EmbeddedStack, request: pytest.FixtureRequest) -> Iterator[TestCatalogue]:
    """Without the optional columns it is without the SQL function too."""
    with new_catalogue(stack.postgres, artist_columns=request.param, folding=request.param) as one:
        for artist_id, artist_name in ARTISTS.items():
            one.insert("artists", {"id": artist_id, "artist_name": artist_name})
        yield one


methods = st.sampled_from(["manual", "manual", "exact_match", "name_variation", "llm", "trigram", "embedding"])
confidences = st.sampled_from([0.0, 0.6, 0.7, 0.7 + 1e-9, 0.79, 0.9, 0.99, 1.0])
maybe = st.none() | st.sampled_from(["a", "b"])
ids = st.builds(
    ArtistIds,
    discogs_artist_id=st.none() | st.sampled_from([1, 2]),
    musicbrainz_artist_id=st.none() | st.sampled_from(UUIDS),
    wikidata_qid=maybe,
    spotify_artist_id=maybe,
    apple_music_artist_id=maybe,
    bandcamp_id=maybe,
)
# Few values, and mostly such as are written: an answer should often say almost what an earlier one said.
provenance = st.lists(
    st.builds(
        Provenance,
        st.sampled_from(["discogs", "spotify"]),
        st.sampled_from(["trigram"] * 4 + ["llm", "exact_match", "embedding"]),
        st.sampled_from([0.7, 0.7 + 1e-9, 0.9, 0.9, None]),
        st.sampled_from(["a", "a", "b", None]),
    ),
    max_size=3,
).map(tuple)
tracks = st.lists(
    st.builds(
        Track,
        track_position=st.sampled_from([None, "A1", "A1", "B2", "x" * 21]),
        artist_name=st.sampled_from(["As printed", "As printed", "Nobody's"]),
        track_title=st.sampled_from(TITLES),
        resolved_artist_name=st.sampled_from([None, "BJORN WREN", "Zoé Quartz", "ødger", "Unknown"]),
        confidence=st.sampled_from([None, 0.7, 0.7 + 1e-9, 0.9]),
    ),
    max_size=4,
).map(tuple)


def verdicts(library_id: int) -> st.SearchStrategy[Verdict]:
    single_artist = st.builds(
        Verdict,
        st.just(library_id),
        st.just(Kind.SINGLE_ARTIST),
        artist_ids=ids,
        method=methods,
        confidence=confidences,
        provenance=provenance,
    )
    compilation = st.builds(
        Verdict,
        st.just(library_id),
        st.just(Kind.COMPILATION),
        tracks_attempted=st.sampled_from([True] * 4 + [False, None]),
        tracks=tracks | st.none(),
    )
    unresolved = st.just(Verdict(library_id, Kind.UNRESOLVED))
    usual = single_artist if library_id in SINGLES else compilation
    return st.one_of(usual, usual, usual, single_artist, compilation, unresolved)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    fates = {n: draw(st.sampled_from(["verdict"] * 12 + ["missing", "untrusted", "malformed", "-"])) for n in LIBRARIES}
    chosen = [draw(verdicts(n)) for n, fate in fates.items() if fate == "verdict"]
    others = {fate: tuple(n for n in LIBRARIES if fates[n] == fate) for fate in ("missing", "untrusted", "malformed")}
    return Answer(
        tuple(draw(st.permutations(chosen))), tracks_contract_version=draw(st.sampled_from([1] * 5 + [None])), **others
    )


@st.composite
def identities(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Main rows that are there before, of which some are by hand, some ours, and some have a neighbour's ids."""
    rows = []
    for library_id in draw(st.sets(st.sampled_from(LIBRARIES))):
        row: dict[str, Any] = {"library_id": library_id, "last_verified_at": NOW - timedelta(days=30)}
        row |= {"method": draw(methods), "confidence": float4(draw(confidences))}
        row |= {
            "notes": draw(st.sampled_from([None, "by hand", NOTES, NOTES])),
            "agreement_sources": draw(maybe),
            **dict.fromkeys(RELEASE_IDS),
            **dict.fromkeys(PLAIN_IDS + ARTIST_IDS),
        }
        row |= {"discogs_release_id": draw(st.none() | st.just(7)), "spotify_id": draw(maybe)}
        row |= {"bandcamp_id": draw(maybe), "musicbrainz_artist_id": draw(st.none() | st.sampled_from(UUIDS))}
        rows.append(row)
    return rows


@st.composite
def boosted(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Sources that are there before, which a neighbour has boosted."""
    return [
        {"library_id": library_id, "source": source, "external_id": draw(st.sampled_from(["a", "b"]))}
        | {"method": "trigram", "confidence": float4(0.9), "notes": draw(maybe), "boost_sources": draw(maybe)}
        | {"last_verified_at": NOW - timedelta(days=30)}
        for library_id, source in draw(st.sets(st.tuples(st.sampled_from(SINGLES), st.just("discogs"))))
    ]


@st.composite
def track_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of compilations; each has an artist and a title of its own."""
    names = draw(
        st.lists(
            st.tuples(st.sampled_from(COMPILATIONS), st.just("As printed"), st.sampled_from(TITLES)),
            min_size=2,
            max_size=6,
            unique=True,
        )
    )
    return [
        {
            "id": number,
            "library_id": library_id,
            "artist_name": artist_name,
            "track_title": title,
            "track_position": draw(st.sampled_from([None, "", "C3"])),
            "track_artist_id": draw(st.none() | st.sampled_from(sorted(ARTISTS))),
            "track_artist_link_confidence": draw(st.none() | confidences.map(float4)),
            "track_artist_link_method": draw(st.sampled_from([None, None, "librarian", "lml_backfill", "another"])),
        }
        for number, (library_id, artist_name, title) in enumerate(names)
    ]


def prepare(
    catalogue: TestCatalogue,
    mains: list[dict[str, Any]],
    sources: list[dict[str, Any]],
    rows: list[dict[str, Any]],
) -> ReferenceCatalogue:
    """The same content in the real tables and in the reference."""
    has_columns = not catalogue.schema.startswith("catalogue_")
    catalogue.execute(f"truncate {TABLES} restart identity")
    reference = ReferenceCatalogue(has_columns, artists=ARTISTS, stamps=dict.fromkeys(LIBRARIES))
    for library_id in LIBRARIES:
        catalogue.library(library_id)
    for row in mains:
        kept = {name: value for name, value in row.items() if has_columns or name not in ARTIST_IDS}
        catalogue.insert("library_identity", kept)
        reference.identity[row["library_id"]] = kept
    for row in sources:
        catalogue.insert("library_identity_source", row)
        reference.sources[row["library_id"], row["source"]] = row
    for row in rows:
        catalogue.insert("compilation_track_artist", row)
        reference.tracks[row["id"]] = dict(row)
    return reference


def assert_equal(catalogue: TestCatalogue, reference: ReferenceCatalogue) -> None:
    tables = catalogue.tables()
    assert {row["id"]: row["unresolved_attempted_at"] for row in tables["library"]} == reference.stamps
    for row in tables["library_identity"]:
        del row["distinct_unresolved_sources"]
    assert {row["library_id"]: rounded(row) for row in tables["library_identity"]} == reference.identity
    sources = {(row["library_id"], row["source"]): rounded(row) for row in tables["library_identity_source"]}
    assert sources == reference.sources
    history = [rounded(row) for row in tables["library_identity_history"]]
    assert all(row.pop("superseded_reason").startswith("LML changed ") for row in history)
    for row in history:
        del row["history_id"], row["reason_category"], row["archived_at"]
    assert history == reference.history
    assert {row["id"]: rounded(row) for row in tables["compilation_track_artist"]} == reference.tracks


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Postgres gives a float4 as its shortest decimal."""
    return {name: float4(value) if isinstance(value, float) else value for name, value in row.items()}


def comparable(counts: Counts) -> Counter[str]:
    """What the contract names; rows of tracks are named by us."""
    document = counts.document()
    flat = Counter(document.pop("rows_skipped"))
    flat.update({name: number for name, number in document.items() if not name.startswith("compilation_track_rows")})
    return +flat


@pytest.mark.slow
@slow
@given(
    mains=identities(),
    sources=boosted(),
    rows=track_rows(),
    batches=st.lists(st.tuples(answers(), st.sampled_from(HOURS), st.booleans()), min_size=1, max_size=4),
    repeat=st.booleans(),
)
def test_any_sequence_of_answers_ends_in_the_tables_of_the_reference(
    catalogue: TestCatalogue,
    mains: list[Any],
    sources: list[Any],
    rows: list[Any],
    batches: list[tuple[Answer, int, bool]],
    repeat: bool,
) -> None:
    """Each answer comes some hours after the last, and some of them in a recheck."""
    reference = prepare(catalogue, mains, sources, rows)
    options: dict[str, Any] = {"schema": catalogue.schema, "has_artist_columns": reference.has_artist_columns}
    now = NOW
    track_counts: Counter[str] = Counter()
    for batch, hours, is_recheck in [*batches, *batches[-1:] * repeat]:
        now += timedelta(hours=hours)
        planned = write(catalogue.database.connection, batch, now=now, is_dry_run=True, **options)
        assert_equal(catalogue, reference)
        counts = write(catalogue.database.connection, batch, now=now, moves_moments=is_recheck, **options)
        assert comparable(counts) == reference.apply(batch, now, is_recheck)
        track_counts += Counter({name: counts.others[f"compilation_track_rows_{name}"] for name in TRACKS})
        assert track_counts == +reference.track_counts
        assert counts.scanned == counts.accounted_for
        assert planned.document() == counts.document()
        assert_equal(catalogue, reference)


def is_known(name: str) -> bool:
    """Python and Postgres know different versions of Unicode: letters that both know."""
    return "\0" not in name and all(unicodedata.category(character) != "Cn" for character in name)


@slow
@given(names=st.lists(st.text(st.characters(exclude_categories=("Cs",))).filter(is_known), max_size=50))
def test_the_sql_function_folds_as_python_does(catalogue: TestCatalogue, names: list[str]) -> None:
    if catalogue.schema.startswith("catalogue_"):
        pytest.skip("This catalogue has no function.")
    [(folded,)] = catalogue.execute(
        "select array_agg(fold_artist_name(u.name) order by u.at) from unnest(%s::text[]) with ordinality u(name, at)",
        names,
    )
    assert (folded or []) == [fold_artist_name(name) for name in names]


@pytest.mark.slow
def test_the_sql_function_folds_every_single_character_as_python_does(catalogue: TestCatalogue) -> None:
    if catalogue.schema.startswith("catalogue_"):
        pytest.skip("This catalogue has no function.")
    characters = [chr(n) for n in range(1, 0x110000) if not 0xD800 <= n <= 0xDFFF and is_known(chr(n))]
    cursor = catalogue.connection.execute(
        b"select u.name, fold_artist_name(u.name) from unnest(%s::text[]) as u(name)", [characters]
    )
    differ = {name: (folded, fold_artist_name(name)) for name, folded in cursor if folded != fold_artist_name(name)}
    assert differ == {}
