"""Which JSON lines a filter pattern of CloudWatch Logs matches: as much of its grammar as deploy/ecs/alarms.yaml uses.

By the user guide ("Matching terms in JSON log events"): `{ $.a = "x" && $.b != "y*" || $.c = * }`; `&&` binds closer; a
star stands for any text at the beginning or the end of a value, and for itself within; a member that is not there
matches neither `=` nor, to be on the safe side, `!=`. Whatever else a pattern says is an error here.
"""

import re
from collections.abc import Mapping
from typing import Any

_TERM = re.compile(r'\s*\$\.(?P<member>[A-Za-z_]+)\s*(?P<operator>!?=)\s*(?:"(?P<text>[^"]*)"|(?P<any>\*))\s*')


def matches(pattern: str, line: Mapping[str, Any]) -> bool:
    """Whether the pattern matches the line."""
    assert pattern.startswith("{") and pattern.endswith("}") and "(" not in re.sub('"[^"]*"', "", pattern), pattern
    alternatives = [alternative.split("&&") for alternative in pattern[1:-1].split("||")]
    return any(all(_holds(term, line) for term in terms) for terms in alternatives)


def _holds(term: str, line: Mapping[str, Any]) -> bool:
    parts = _TERM.fullmatch(term)
    assert parts, f"not a term that is understood here: {term}"
    value = line.get(parts["member"])
    if not isinstance(value, str):
        return False
    return _is_like(value, parts["any"] or parts["text"]) == (parts["operator"] == "=")


def _is_like(value: str, wanted: str) -> bool:
    inner = wanted.removeprefix("*").removesuffix("*") if wanted != "*" else ""
    begins, ends = wanted.startswith("*"), wanted.endswith("*")
    if begins and ends:
        return inner in value
    if begins:
        return value.endswith(inner)
    return value.startswith(inner) if ends else value == wanted
