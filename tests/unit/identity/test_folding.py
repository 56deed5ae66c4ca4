"""Folding in Python; an integration test compares it with the SQL function."""

import pytest

from runway_pipelines.identity.folding import fold_artist_name


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("Björk", "bjork"),
        ("Bjo\u0308rk", "bjork"),
        ("SIGUR RÓS", "sigur ros"),
        ("Ørsted", "ørsted"),
        ("Łódź", "łodz"),
        ("İstanbul", "istanbul"),
        ("ΣΟΦΟΣ", "σοφος"),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
        ("a\u20d0b", "a\u20d0b"),
        ("  Two  Spaces ", "  two  spaces "),
        ("", ""),
    ],
)
def test_a_name_is_decomposed_stripped_of_its_marks_and_lower_cased(name: str, folded: str) -> None:
    assert fold_artist_name(name) == folded


def test_folding_again_changes_nothing() -> None:
    once = fold_artist_name("Zoë İÖÅ Quartz")
    assert fold_artist_name(once) == once
