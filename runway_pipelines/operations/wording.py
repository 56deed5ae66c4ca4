"""Lists inside sentences: pure."""

from collections.abc import Iterable


def first_few(texts: Iterable[str], most: int, separator: str = ", ", where: str = "") -> str:
    """The first ``most`` texts and the number of the others; ``where`` tells the reader where to find those."""
    known = list(texts)
    more = len(known) - most
    return separator.join(known[:most]) + (f" and {more:,} more{where}" if more > 0 else "")
