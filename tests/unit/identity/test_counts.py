"""Counts lose nothing, add up in any order, and have the contract's names."""

from collections import Counter
from copy import deepcopy

import orjson
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.identity.counts import Counts, Skip, dry_run_document, total

SKIPS = {
    "compilation",
    "lml_error",
    "writer_error",
    "lml_cardinality_mismatch",
    "lml_untrusted_library_id",
    "invalid_input",
    "manual_protected",
}

numbers = st.integers(0, 2**40)
others = st.dictionaries(
    st.sampled_from(["source_rows_written", "lml_total_calls", "lml_total_latency_ms", "lml_cache.hits"]), numbers
)
skipped = st.dictionaries(st.sampled_from(Skip), numbers)


@st.composite
def complete_counts(draw: st.DrawFn) -> Counts:
    """Counts of which every scanned library ended somewhere."""
    counts = Counts(0, draw(numbers), draw(numbers), draw(numbers), Counter(draw(skipped)), Counter(draw(others)))
    counts.scanned = counts.accounted_for
    return counts


@given(st.lists(complete_counts(), max_size=5), st.data())
def test_the_sum_is_complete_and_independent_of_order_and_grouping(parts: list[Counts], data: st.DataObject) -> None:
    kept = deepcopy(parts)
    cut = data.draw(st.integers(0, len(parts)))
    shuffled = data.draw(st.permutations(parts))
    expected = total(parts)
    assert total([total(parts[:cut]), total(parts[cut:])]) == expected
    assert total(shuffled) == expected
    assert expected.accounted_for == expected.scanned == sum(part.scanned for part in parts)
    assert parts == kept, "merging left its parts as they were"


@given(complete_counts())
def test_adding_nothing_changes_nothing(counts: Counts) -> None:
    before = deepcopy(counts)
    counts.merge(Counts())
    assert counts == before == total([Counts(), before])


def test_a_lost_library_shows() -> None:
    counts = Counts(scanned=3, rows_resolved=1, rows_skipped=Counter({Skip.LML_ERROR: 1}))
    assert counts.accounted_for == 2


def test_the_document_has_all_names_of_the_contract_even_without_counts() -> None:
    document = Counts().document()
    assert set(document) == {
        "scanned",
        "rows_resolved",
        "rows_resolved_compilation",
        "rows_unresolved",
        "rows_skipped",
        "source_rows_written",
        "source_rows_skipped_null_confidence",
        "source_rows_skipped_null_external_id",
        "source_rows_out_of_band",
        "rows_unchanged",
        "lml_total_calls",
        "lml_retries",
        "lml_total_latency_ms",
        "lml_not_believed",
        "lml_results_malformed",
        "lml_unknown_values",
        "lml_unusable_members",
    }
    assert set(document["rows_skipped"]) == SKIPS
    assert not any(document["rows_skipped"].values())


def test_the_document_has_the_other_counts_too() -> None:
    counts = Counts(others=Counter({"lml_cache.hits": 7, "compilation_track_rows_linked": 2, "lml_retries": 1}))
    document = counts.document()
    assert (document["lml_cache.hits"], document["compilation_track_rows_linked"], document["lml_retries"]) == (7, 2, 1)


@given(complete_counts())
def test_documents_are_json_and_leave_the_counts_unchanged(counts: Counts) -> None:
    before = deepcopy(counts)
    for document in (counts.document(), dry_run_document(counts)):
        assert orjson.loads(orjson.dumps(document)) == document
    assert counts == before
    assert set(counts.others) == set(before.others)


def test_a_dry_run_uses_the_contracts_names_and_no_others() -> None:
    counts = Counts(
        scanned=21,
        rows_resolved=10,
        rows_resolved_compilation=3,
        rows_unresolved=2,
        rows_skipped=Counter({Skip.COMPILATION: 5, Skip.MANUAL_PROTECTED: 1}),
        others=Counter(
            {
                "lml_total_calls": 4,
                "lml_total_latency_ms": 812,
                "source_rows_skipped_null_confidence": 6,
                "source_rows_written": 99,
                "lml_cache.hits": 1,
            }
        ),
    )
    assert dry_run_document(counts) == {
        "scanned": 21,
        "lml_total_calls": 4,
        "lml_total_latency_ms": 812,
        "would_resolve": 10,
        "would_resolve_compilation": 3,
        "would_unresolved": 2,
        "would_skip": dict.fromkeys(SKIPS, 0) | {"compilation": 5, "manual_protected": 1},
        "source_rows_skipped_null_confidence": 6,
    }


def test_a_dry_run_that_asked_nothing_has_all_its_names() -> None:
    document = dry_run_document(Counts())
    assert document.pop("would_skip") == dict.fromkeys(SKIPS, 0)
    assert set(document.values()) == {0}
    assert len(document) == 7
