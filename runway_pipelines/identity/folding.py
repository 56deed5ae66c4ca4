"""Folding an artist's name, as the catalogue's SQL function ``fold_artist_name(text)`` does: pure."""

import re
import unicodedata

_MARKS = re.compile("[\u0300-\u036f]")


def fold_artist_name(name: str) -> str:
    """The name decomposed (NFD), without the marks U+0300 to U+036F, in lower case: two spellings, one artist."""
    return _MARKS.sub("", unicodedata.normalize("NFD", name)).lower()
