"""Long lists in a sentence are cut, and the sentence says by how much."""

from runway_pipelines.operations.wording import first_few

NAMES = [f"n{number}" for number in range(11)]


def test_names_beyond_the_most_are_counted() -> None:
    assert first_few(NAMES[:10], 10) == ", ".join(NAMES[:10])
    assert first_few(NAMES, 10) == ", ".join(NAMES[:10]) + " and 1 more"
    assert first_few(map(str, range(3000)), 1, where=" (see the log)") == "0 and 2,999 more (see the log)"


def test_nothing_is_an_empty_text() -> None:
    assert first_few([], 3) == ""
