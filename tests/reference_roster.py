"""A naive reference of a roster's bytes, to compare the real one with.

Written from the cross-year roster contract, sections 2 and 3, and from nothing else: plain dicts, one rule after the
other, no care for speed or memory. It must stay independent of `runway_pipelines.rosters`.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Code = tuple[str, str]  # id_system, id_code

LAST_PLAUSIBLE_YEAR = 2028
BLANKS = " \t\r\n\v\f\u00a0\u2002\u2003\u2007\u2009\u200b\u202f\u3000\ufeff"
PUNCTUATION = re.compile(r"[ \u00a0.,:;()<>\[\]\"'!?/–—_-]")
SEPARATORS = r"[-+–—_ .,/'#]*"
NO_ID = re.compile(
    r"[-+–—_ .,/'#0]*|([1-9])\1{3,}"
    rf"|{SEPARATORS}([1-9])({SEPARATORS}\2){{6,}}{SEPARATORS}"
    r"|-1|\\N|NO-CODE:.*"
    r"|[0-9]+([.,][0-9]+)?E\+[0-9]+"
)
NO_ID_WORD = re.compile(
    r"X*|N\\A|NA|NULL|NIL|NONE|NAN|UNK|UNKN|UNKNOWN|TBD|TBA|MISSING|BLANK|EMPTY|UNDEFINED|PENDING|NO(ID|CODE)"
    r"|NOT(AVAILABLE|APPLICABLE|ASSIGNED|KNOWN)|NONEASSIGNED|#(NA|NANA|REF|VALUE|NAME|NULL|NUM|DIV0|ERROR)"
)


@dataclass(frozen=True)
class ReferenceRoster:
    """The lines of the file (each ends with a newline), and its numbers.

    `records` counts (ed_org_id, student_unique_id), `students` children, `colliding_codes` distinct codes as consumers
    compare them, `placeholder_codes` each child's, `implausible_rows` rows of the associations.
    """

    lines: list[bytes]
    records: int
    students: int
    colliding_codes: int
    placeholder_codes: int = 0
    implausible_rows: int = 0


def reference_lines(tenant_code: str, associations_rows: Iterable[Row], codes_rows: Iterable[Row]) -> list[bytes]:
    """The lines of the tenant's roster."""
    return reference_roster(tenant_code, associations_rows, codes_rows).lines


def reference_roster(
    tenant_code: str, associations_rows: Iterable[Row], codes_rows: Iterable[Row], *, fillers: bool = True
) -> ReferenceRoster:
    """The tenant's roster, from rows of the two source tables as dicts by column name, in any order, of any tenants."""
    # A row that names no student, no ed-org or no year is left out before anything is asked of it.
    identified = [
        row
        for row in associations_rows
        if row["tenant_code"] == tenant_code
        and row["student_unique_id"]
        and row["ed_org_id"] is not None
        and row["api_year"] is not None
    ]
    associations = [row for row in identified if 1990 <= row["api_year"] <= LAST_PLAUSIBLE_YEAR]

    # An empty key is none. A student without a key across years is known by the student_unique_id, in any case.
    associations = [
        {**row, "k_student_xyear": row["student_unique_id"].lower()} if not row["k_student_xyear"] else row
        for row in associations
    ]
    latest_year: dict[str, int] = {}
    for row in associations:
        key = row["k_student_xyear"]
        latest_year[key] = max(latest_year.get(key, row["api_year"]), row["api_year"])
    latest = [row for row in associations if row["api_year"] == latest_year[row["k_student_xyear"]]]

    # One key or one student_unique_id (in any case) is one child.
    children = Groups()
    for row in latest:
        children.unite(("id", row["student_unique_id"].lower()), ("key", row["k_student_xyear"]))
    types_of_record: dict[tuple[str, int], set[str]] = defaultdict(set)
    for row in latest:
        types = types_of_record[(row["student_unique_id"], row["ed_org_id"])]
        if row["ed_org_type"]:
            types.add(row["ed_org_type"])

    # What consumers see as one code of one child is one code.
    spellings: dict[tuple[Any, str, str], list[Code]] = defaultdict(list)
    for row in codes_rows:
        key = row["k_student_xyear"]
        if row["tenant_code"] != tenant_code or not key or row["api_year"] is None:
            continue
        if row["api_year"] != latest_year.get(key) or not row["id_system"] or not row["id_code"]:
            continue
        child = children.of(("key", key))
        spellings[(child, id_type(row["id_system"]), compared(row["id_code"]))].append(
            (row["id_system"], row["id_code"])
        )

    placeholders = {code for code in spellings if is_placeholder(code[2])}
    holders: dict[Code, set[Any]] = defaultdict(set)
    for child, system, code in set(spellings) - placeholders:
        holders[(system, code)].add(child)
    colliding = {code for code, children_of_code in holders.items() if len(children_of_code) > 1}

    codes_of_child: dict[Any, list[Code]] = defaultdict(list)
    systems_of_type: dict[str, set[str]] = defaultdict(set)
    for (child, system, code), spelt in spellings.items():
        if (child, system, code) not in placeholders and (system, code) not in colliding:
            one = (smallest(text for text, _ in spelt), smallest(text for _, text in spelt))
            codes_of_child[child].append(one)
            systems_of_type[system].add(one[0])

    lines = []
    records = sorted(types_of_record, key=lambda record: (record[0].encode(), record[1]))
    for student, ed_org_id in records:
        types = types_of_record[(student, ed_org_id)]
        rel = smallest(types) if types else "LocalEducationAgency"
        codes = list(codes_of_child[children.of(("id", student.lower()))])
        if fillers:
            missing = set(systems_of_type) - {id_type(system) for system, _ in codes}
            codes += [(smallest(systems_of_type[one]), f"no-code:{student}") for one in missing]
        codes.sort(key=lambda code: (id_type(code[0]).encode(), code[1].encode()))
        lines += [_line(student, ed_org_id, rel, arranged) for arranged in _arrangements(codes)]
    return ReferenceRoster(
        lines,
        len(records),
        len({children.of(("id", student.lower())) for student, _ in records}),
        len(colliding),
        len(placeholders),
        len(identified) - len(associations),
    )


def is_placeholder(code: str) -> bool:
    """Whether it is what people and spreadsheets write where there is no ID."""
    shouted = code.strip(BLANKS).upper()
    return bool(NO_ID.fullmatch(shouted) or NO_ID_WORD.fullmatch(PUNCTUATION.sub("", shouted)))


class Groups:
    """Things that belong together, directly or through others."""

    def __init__(self) -> None:
        self._groups: dict[Any, set[Any]] = {}

    def unite(self, one: Any, other: Any) -> None:
        """The two, and all that belong to either, belong together."""
        united = self._groups.get(one, {one}) | self._groups.get(other, {other})
        for member in united:
            self._groups[member] = united

    def of(self, one: Any) -> Any:
        """A name for its group; itself, if it was never named."""
        return min(self._groups.get(one, {one}))


def id_type(id_system: str) -> str:
    """What consumers see of a descriptor."""
    return id_system.rsplit("#", 1)[-1]


def compared(id_code: str) -> str:
    """What consumers compare of a code."""
    return id_code.removesuffix(".0")


def smallest(texts: Iterable[str]) -> str:
    """The first in the order of UTF-8."""
    return min(texts, key=str.encode)


def _arrangements(codes: list[Code]) -> list[list[Code]]:
    """What each line lists: the first code of every type; then each further code, before the other types' first."""
    first_of_type: dict[str, Code] = {}
    further = []
    for code in codes:
        if id_type(code[0]) in first_of_type:
            further.append(code)
        else:
            first_of_type[id_type(code[0])] = code
    firsts = list(first_of_type.values())
    return [firsts] + [
        [code] + [first for first in firsts if id_type(first[0]) != id_type(code[0])] for code in further
    ]


def _line(student_unique_id: str, ed_org_id: int, rel: str, codes: list[Code]) -> bytes:
    line = {
        "educationOrganizationReference": {"educationOrganizationId": ed_org_id, "link": {"rel": rel}},
        "studentReference": {"studentUniqueId": student_unique_id},
        "studentIdentificationCodes": [
            {"studentIdentificationSystemDescriptor": system, "identificationCode": code} for system, code in codes
        ],
    }
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    for character in "\x85\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode() + b"\n"
