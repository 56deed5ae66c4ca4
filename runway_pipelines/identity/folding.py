"""Folds an artist's name exactly as the catalogue's SQL function ``fold_artist_name(text)`` does."""

import re
import unicodedata

_MARKS = re.compile("[\u0300-\u036f]")


def fold_artist_name(name: str) -> str:
    """The name in NFD and lower case, without the marks U+0300 to U+036F."""
    return _MARKS.sub("", unicodedata.normalize("NFD", name)).lower()
