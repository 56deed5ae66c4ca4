"""Writes the students' ids into a bundle's output: pure (student resolution contract, section 2).

A line is changed where it names a candidate, and nowhere else: what surrounds the name stays byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import orjson

# In quotes, as the bundles write it: a name within a longer text is no student's id.
_PLACEHOLDER = re.compile(rb'"CANDIDATE_([A-Za-z0-9_-]{1,64})"')


class AppliedLine(NamedTuple):
    """A line, and whether every candidate that it names was accepted."""

    line: bytes
    is_resolved: bool


def apply_resolutions(lines: Iterable[bytes], accepted: Mapping[str, str]) -> Iterator[AppliedLine]:
    """Each line with the ids of the accepted candidates; a line that names another one stays as it was, unresolved.

    ``accepted`` has the student's id of each accepted ``candidate_id``. A line that names no candidate is resolved.
    """
    for line in lines:
        named = _PLACEHOLDER.findall(line)
        if not all(candidate_id.decode() in accepted for candidate_id in named):
            yield AppliedLine(line, False)
            continue
        yield AppliedLine(_PLACEHOLDER.sub(lambda found: orjson.dumps(accepted[found[1].decode()]), line), True)
