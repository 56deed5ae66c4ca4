"""Text columns as they appear between JSON's quotes: pure."""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.rosters.arrow_columns import bytes_of, count_true

# What JSON must escape, and the line breaks of Unicode: clients that split lines at them would see broken lines.
_TO_ESCAPE = r'["\\\x00-\x1f\x{85}\x{2028}\x{2029}]'
_LINE_BREAKS = str.maketrans({character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"})
# In UTF-8, each of those characters is or begins with one of these bytes.
_MAY_NEED_ESCAPE = np.zeros(256, dtype=bool)
_MAY_NEED_ESCAPE[[*range(0x20), ord('"'), ord("\\"), 0x7F, 0xC2, 0xE2]] = True
_UNSAFE = r'["\\]|\p{Cc}'


def json_text(values: pa.Array) -> pa.Array:
    """Each string as it appears between the quotes of a JSON string; nulls stay null.

    The raw bytes show whether any value of the column needs an escape; hardly any does.
    """
    if not _may_need_escape(values):
        return values
    needs_escape = pc.match_substring_regex(values, _TO_ESCAPE)
    texts = values.filter(needs_escape).to_pylist()
    escaped = [orjson.dumps(text)[1:-1].decode().translate(_LINE_BREAKS) for text in texts]
    return pc.replace_with_mask(values, pc.fill_null(needs_escape, False), pa.array(escaped, pa.string()))


def count_unsafe(ids: pa.Array) -> int:
    """How many of the ids hold what consumers would have to escape."""
    return count_true(pc.match_substring_regex(ids, _UNSAFE)) if _may_need_escape(ids) else 0


def _may_need_escape(values: pa.Array) -> bool:
    return bool(np.any(_MAY_NEED_ESCAPE[np.frombuffer(bytes_of(values), dtype=np.uint8)]))
