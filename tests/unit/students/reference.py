"""The weights again, in plain loops over plain dicts, with nothing of the package but its model's numbers: slow.

A student is a dict of `world.student`. A row has first and last names in capitals, an ISO date, a school and IDs.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import orjson

from runway_pipelines.students import model as shipped

MODEL = orjson.loads(shipped.files(shipped.__package__).joinpath("model.json").read_bytes())
NICKNAMES = {("BILL", "WILLIAM"), ("WILLIAM", "BILL")}
AVERAGE = 500


def similarity(one: str, other: str) -> float:
    """Jaro's and Winkler's, by the book."""
    if one == other:
        return 1.0
    reach = max(max(len(one), len(other)) // 2 - 1, 0)
    free = list(range(len(other)))
    matched: list[tuple[int, int]] = []
    for i, letter in enumerate(one):
        for j in free:
            if abs(i - j) <= reach and other[j] == letter:
                matched.append((i, j))
                free.remove(j)
                break
    if not matched:
        return 0.0
    count = len(matched)
    in_other = [other[j] for j in sorted(j for _, j in matched)]
    turned = sum(one[i] != letter for (i, _), letter in zip(matched, in_other, strict=True)) // 2
    jaro = (count / len(one) + count / len(other) + (count - turned) / count) / 3
    same = len(list(itertools.takewhile(lambda both: both[0] == both[1], zip(one[:4], other[:4], strict=False))))
    return jaro + same * 0.1 * (1 - jaro) if jaro > 0.7 else jaro


def one_edit(one: str, other: str) -> bool:
    """A digit replaced, lost, added, or two neighbours turned."""
    if one == other or min(len(one), len(other)) < 5:
        return False
    if len(one) == len(other):
        wrong = [i for i in range(len(one)) if one[i] != other[i]]
        return len(wrong) == 1 or (
            len(wrong) == 2 and one[wrong[0]] == other[wrong[1]] and one[wrong[1]] == other[wrong[0]]
        )
    short, long = sorted((one, other), key=len)
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def levels(row: dict[str, Any], child: dict[str, Any]) -> dict[str, str]:
    """The level of each comparison."""
    first, other_first = row["first"], child["first_name"]
    last, other_last = row["last"], child["last_name"]
    swapped = bool(first) and bool(last) and first in other_last.split() and other_first in last.split()
    return {
        "first_name": _first(first, other_first, swapped),
        "last_name": _last(last, other_last, swapped),
        "birth_date": _birth(row["born"], child["birth_date"].isoformat()),
        "middle_name": "missing",
        "sex": "missing",
        "grade": "missing",
        "school": "exact" if row["school"] == child["school_id"] else "differs",
        "student_id": _ids(row["ids"], [child["student_unique_id"], *child["codes"]]),
    }


def _first(one: str | None, other: str, swapped: bool) -> str:
    if not one:
        return "missing"
    if one == other:
        return "exact"
    if (one, other) in NICKNAMES:
        return "nickname"
    if similarity(one, other) >= 0.92:
        return "near"
    if min(len(one), len(other)) >= 3 and (one.startswith(other) or other.startswith(one)):
        return "prefix"
    if similarity(one, other) >= 0.84:
        return "alike"
    return "swapped" if swapped else "differs"


def _last(one: str | None, other: str, swapped: bool) -> str:
    if not one:
        return "missing"
    if one == other:
        return "exact"
    if set(one.split()) & set(other.split()) or one.replace(" ", "") == other.replace(" ", ""):
        return "token"
    alike = similarity(one, other)
    return "near" if alike >= 0.9 else "alike" if alike >= 0.8 else "swapped" if swapped else "differs"


def _birth(one: str | None, other: str) -> str:
    if not one:
        return "missing"
    if one == other:
        return "exact"
    year, month, day = one.split("-")
    if other == f"{year}-{day}-{month}":
        return "swapped"
    wrong = sum(a != b for a, b in zip(one, other, strict=True))
    if wrong == 1 or other in {f"{year}-{month[::-1]}-{day}", f"{year}-{month}-{day[::-1]}"}:
        return "near"
    other_year, other_month, other_day = other.split("-")
    if year != other_year:
        return "differs"
    return "partly" if month == other_month or day == other_day else "year"


def _ids(ids: list[str], codes: list[str]) -> str:
    if not ids:
        return "missing"
    if set(ids) <= set(codes):
        return "exact"
    if set(ids) & set(codes):
        return "one"
    return "mistyped" if any(one_edit(a, b) for a in ids for b in codes) else "differs"


def weigh(row: dict[str, Any], child: dict[str, Any], roster: list[dict[str, Any]]) -> float:
    """The pair's weight in bits."""
    prior = min(MODEL["prior"], 1 / max(len(roster), 2))
    total = math.log2(prior / (1 - prior))
    found = levels(row, child)
    for comparison in MODEL["comparisons"]:
        level = next(each for each in comparison["levels"] if each["name"] == found[comparison["name"]])
        if level.get("missing"):
            continue
        u = level["u"]
        if column := level.get("frequency"):
            namesakes = sum(each[column] == child[column] for each in roster)
            u = (namesakes + AVERAGE * u) / (len(roster) + AVERAGE)
        total += math.log2(level["m"] / u)
    return total


def is_looked_at(row: dict[str, Any], child: dict[str, Any]) -> bool:
    """Whether the pair is one of those that are compared at all."""
    tokens, names = set((row["last"] or "").split()), set(child["last_name"].split())
    first, born = row["first"] == child["first_name"], row["born"] == child["birth_date"].isoformat()
    return (
        bool(set(row["ids"]) & {child["student_unique_id"], *child["codes"]})
        or (born and (first or bool(tokens & names)))
        or (first and bool(tokens & names))
        or (row["first"] in names and child["first_name"] in tokens)
        or (born and (row["first"] or "-")[0] == child["first_name"][0] and row["school"] == child["school_id"])
    )


def best(row: dict[str, Any], roster: list[dict[str, Any]]) -> list[tuple[float, str]]:
    """The two heaviest students, with their weights."""
    weights = [(weigh(row, child, roster), child) for child in roster if is_looked_at(row, child)]
    kept = [
        (-weight, child["student_unique_id"])
        for weight, child in weights
        if weight >= 0 or set(row["ids"]) & {child["student_unique_id"], *child["codes"]}
    ]
    return [(-weight, unique_id) for weight, unique_id in sorted(kept)[:2]]
