"""Two sorted files, merged as streams, give what comparing them as dicts gives; foreign lines are refused unquoted."""

from collections.abc import Iterable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import RowsUnreadable
from runway_pipelines.rosters.comparison import RosterChanges, compare_rosters, differences
from tests.factories import everything_said_by, roster_lines

CANARY = "c4n4ry"
Roster = dict[str, tuple[tuple[int, tuple[tuple[str, str], ...]], ...]]

# What JSON escapes, what looks like our own keys, what sorts differently by locale or as UTF-16, and anything else.
awkward = st.sampled_from(
    [
        '"',
        "\\",
        '\\"',
        "\\u0041",
        "\n",
        "\x01",
        "\x7f",
        "é",
        "\uffff",
        "\U0001f600",
        "Z",
        "a",
        " 7 ",
        "0604921",
        "604921",
        '"},"studentIdentificationCodes":[',
        '"studentReference":{"studentUniqueId":"',
    ]
)
student_ids = awkward | st.text(min_size=1, max_size=4)
codes = st.lists(st.tuples(st.sampled_from(["Local", "State", 'x"y']), awkward), max_size=3, unique=True).map(tuple)
records = st.lists(st.tuples(st.integers(1, 3), codes), min_size=1, max_size=2, unique_by=lambda r: r[0]).map(tuple)


@st.composite
def two_rosters(draw: st.DrawFn) -> tuple[Roster, Roster]:
    """An old and a new roster which share many students, some of them changed."""
    old, new = {}, {}
    for student in draw(st.lists(student_ids, max_size=8, unique=True)):
        before = draw(st.none() | records)
        after = draw(st.just(before) | st.none() | records)
        if before is not None:
            old[student] = before
        if after is not None:
            new[student] = after
    return old, new


def file_of(roster: Roster) -> list[bytes]:
    return roster_lines((student, ed_org, own) for student, each in roster.items() for ed_org, own in each)


def lines_by_student(lines: Iterable[bytes]) -> dict[str, set[bytes]]:
    """Without fillers, which are no codes."""
    students: dict[str, set[bytes]] = {}
    for line in lines:
        record = orjson.loads(line)
        record["studentIdentificationCodes"] = [
            code
            for code in record["studentIdentificationCodes"]
            if not code["identificationCode"].startswith("no-code:")
        ]
        students.setdefault(record["studentReference"]["studentUniqueId"], set()).add(orjson.dumps(record))
    return students


@given(two_rosters())
def test_any_two_rosters_compare_as_their_students_lines_do(rosters: tuple[Roster, Roster]) -> None:
    old_file, new_file = map(file_of, rosters)
    old, new = lines_by_student(old_file), lines_by_student(new_file)
    assert compare_rosters(iter(old_file), iter(new_file)) == RosterChanges(
        added=len(new.keys() - old.keys()),
        removed=len(old.keys() - new.keys()),
        changed=sum(old[student] != new[student] for student in old.keys() & new.keys()),
    )


@given(two_rosters())
def test_the_other_way_round_the_added_are_the_removed(rosters: tuple[Roster, Roster]) -> None:
    old, new = map(file_of, rosters)
    there, back = compare_rosters(old, new), compare_rosters(new, old)
    assert (there.added, there.removed, there.changed) == (back.removed, back.added, back.changed)
    assert compare_rosters(new, new) == RosterChanges(0, 0, 0)


def test_a_filler_that_comes_or_goes_changes_nobody() -> None:
    state = [(f'"{number}\\', 9, [("State, é", f"S{number}")]) for number in range(5)]
    with_a_type_more = [*state[:4], ('"4\\', 9, [("State, é", "S4"), ("Local", "7")])]
    before, after = roster_lines(state), roster_lines(with_a_type_more)
    assert compare_rosters(before, after) == RosterChanges(added=0, removed=0, changed=1)
    assert compare_rosters(after, before) == RosterChanges(added=0, removed=0, changed=1)


def test_an_empty_file_on_either_side_is_an_empty_roster() -> None:
    lines = roster_lines([("1", 9, []), ("2", 9, [("Local", "7")]), ("2", 10, [])])
    assert compare_rosters([], lines) == RosterChanges(added=2, removed=0, changed=0)
    assert compare_rosters(lines, []) == RosterChanges(added=0, removed=2, changed=0)
    assert compare_rosters([], []) == RosterChanges(0, 0, 0)


def test_a_student_with_many_lines_is_one_student() -> None:
    before = roster_lines([("1", 9, [("Local", f"L{n}") for n in range(50)])])
    after = roster_lines([("1", 9, [("Local", f"L{n}") for n in range(49)])])
    assert len(before) == 50
    assert compare_rosters(before, after) == RosterChanges(added=0, removed=0, changed=1)


@given(st.lists(student_ids, min_size=2, max_size=6, unique=True), st.data())
def test_a_file_out_of_order_is_refused_whichever_side_it_is_on(ids: list[str], data: st.DataObject) -> None:
    sorted_lines = roster_lines([(each, 9, []) for each in ids])
    lines = data.draw(st.permutations(sorted_lines).filter(lambda permuted: permuted != sorted_lines))
    for previous, current in ((lines, sorted_lines), (sorted_lines, lines), (lines, []), ([], lines)):
        with pytest.raises(RowsUnreadable, match="students out of order"):
            compare_rosters(previous, current)


def test_a_student_that_comes_back_after_another_is_out_of_order() -> None:
    first, second, third = roster_lines([(CANARY, 9, []), (CANARY, 10, []), (f"{CANARY}2", 9, [])])
    with pytest.raises(RowsUnreadable) as refused:
        compare_rosters([], [first, third, second])
    assert CANARY not in everything_said_by(refused.value)


(WHOLE_LINE,) = roster_lines([(CANARY, 9, [("Local", CANARY)])])
FOREIGN_LINES = [
    b"\n",
    b"{}\n",
    f"{CANARY},9,Local\n".encode(),
    WHOLE_LINE[:100],
    WHOLE_LINE.replace(b":", b": "),
    WHOLE_LINE.replace(b"studentReference", b"student_reference"),
    WHOLE_LINE.replace(b"studentIdentificationCodes", b"codes"),
    f'{{"studentIdentificationCodes":[],"studentReference":{{"studentUniqueId":"{CANARY}"}}}}\n'.encode(),
    b"\xff\xfe" + CANARY.encode("utf-16-le"),
]


@pytest.mark.parametrize("line", FOREIGN_LINES)
def test_a_foreign_line_is_refused_and_not_quoted(line: bytes) -> None:
    for previous, current in (([line], [WHOLE_LINE]), ([WHOLE_LINE], [line])):
        with pytest.raises(RowsUnreadable, match="a line of another form") as refused:
            compare_rosters(previous, current)
        assert CANARY not in everything_said_by(refused.value)


@pytest.mark.parametrize("escape", [rb"\x", rb"\ud800", rb"\u12"])
def test_an_id_with_a_damaged_escape_is_refused_and_not_quoted(escape: bytes) -> None:
    line = WHOLE_LINE.replace(CANARY.encode(), CANARY.encode() + escape)
    with pytest.raises(RowsUnreadable, match="a damaged escape") as refused:
        compare_rosters([line], [])
    assert CANARY not in everything_said_by(refused.value)


@pytest.mark.parametrize(
    "damaged",
    [
        WHOLE_LINE.replace(b'"educationOrganizationReference"', b'"somethingElse"'),
        WHOLE_LINE.replace(b"}\n", b"\n"),
    ],
    ids=["a member of another name", "a line that was cut"],
)
def test_a_damaged_line_of_a_student_who_differs_is_refused_and_not_quoted(damaged: bytes) -> None:
    (other,) = roster_lines([(CANARY, 9, [("Local", "another")])])
    with pytest.raises(RowsUnreadable, match="a damaged line") as refused:
        list(differences([damaged], [other]))
    assert CANARY not in everything_said_by(refused.value)
