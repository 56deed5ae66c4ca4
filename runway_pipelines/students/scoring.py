"""Weighs a file's candidates against a tenant's students, in DuckDB: pure (student resolution contract, section 5).

What belongs here: what is known of each candidate before anybody decides. `deciding` judges it. Whatever the order of
the rows, the evidence is the same: every sum has one order, and equals are told apart by the student's ID.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.students.agreement import CONTRADICTS
from runway_pipelines.students.memory_database import USUAL_MEANS, Means, memory_database
from runway_pipelines.students.model import Model
from runway_pipelines.students.names import nicknames
from runway_pipelines.students.numbering import read_once, whole
from runway_pipelines.students.observables import Candidate
from runway_pipelines.students.persons import Persons
from runway_pipelines.students.scoring_sql import pairs_sql, scoring_sql

# Candidates are weighed in parts, so that memory does not grow with the file.
PART = 20_000
_ROWS_AT_ONCE = 500
# Pairs below even odds do not count, unless an ID agrees.
LEAST_WEIGHT = 0.0
# This many average names are added to the roster's: in a school of 30, every name is one in 30.
_AVERAGE_NAMES = 500

_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
_CANDIDATE = {
    "line": pa.int32(), "first_name": _TEXT, "further_name": _TEXT, "initial": _TEXT, "initials": _TEXTS,
    "last_name": _TEXT, "last_name_plain": _TEXT, "surname_tokens": _TEXTS, "suffix": _TEXT, "birth_date": _TEXT,
    "school_id": _TEXT, "student_ids": _TEXTS, "sex": _TEXT, "grade": pa.int32(),
}  # fmt: skip

# Every variant of each student who has a variant in a pair, as the model compares them.
_STUDENTS = """
create or replace table student as
    select variant.*, first_name[1] as initial, replace(last_name, ' ', '') as last_name_plain,
        student_unique_id, school_ids, grade,
        (first_name_students + $average * $first_name_u) / ($count + $average) as first_name_frequency,
        (last_name_students + $average * $last_name_u) / ($count + $average) as last_name_frequency
    from variant join people using (person)
    where person in (select person from variant join pair using (variant));
"""
_HITS = """
create table hit as
    select line, place, id_type, person from candidate_id join code using (student_id);
"""
_BEST = """
create or replace table best as
    select scored.*, student_unique_id, school_ids, is_multiple_birth, is_divided,
        row_number() over (partition by line order by weight desc, student_unique_id, person)::int as rank
    from scored join people using (person) qualify rank <= 2;
"""
_RANKED = "select line, person, student_unique_id, weight, ids_agree, {columns} from best order by line, rank"
# Students who share the chosen one's birth date and a surname: how similar their first names are to the candidate's,
# and how similar the chosen one's is. An unknown first name is similar to every other.
_RIVALS = """
with chosen as (
    select line, person, candidate.first_name as called, nicknames from best join candidate using (line) where rank = 1
), named as (
    select person, birth_date, surname_token from surname where birth_date is not null
), rival as (
    select distinct own.person, other.person as rival
    from (from named where person in (select person from chosen)) as own
    join named as other on own.birth_date = other.birth_date and own.surname_token = other.surname_token
        and own.person <> other.person
), rivals as (
    select line, max(case
        when called is null or first_name is null or length(least(called, first_name)) <= 1 then 1.0
        when list_contains(nicknames, first_name) then 1.0
        else jaro_winkler_similarity(called, first_name) end) as likeness
    from chosen join rival using (person) join variant on variant.person = rival group by line
), own as (
    select line, max(coalesce(jaro_winkler_similarity(called, first_name), 0.0)) as likeness
    from chosen join student using (person) group by line
)
select line, rivals.likeness, own.likeness from rivals join own using (line)
"""
_CHOSEN = """
select line, is_multiple_birth, is_divided,
    coalesce(bool_or(suffix_l <> suffix_r) and not bool_or(suffix_l = suffix_r), false) as suffix_differs,
    coalesce(any_value(called.students), 0)::int as namesakes,
    not bool_or(further_l is not distinct from further_r) as is_half_named
from (
    select line, is_multiple_birth, is_divided, candidate.first_name,
        candidate.suffix as suffix_l, student.suffix as suffix_r,
        candidate.further_name as further_l, student.further_name as further_r
    from best join candidate using (line) join student on student.person = best.person where rank = 1
) left join (
    select first_name, any_value(first_name_students) as students from variant
    where first_name in (select first_name from candidate) group by first_name
) as called using (first_name)
group by line, is_multiple_birth, is_divided
"""
# Lines with a namesake: another student with the candidate's whole name, at its school or one of the chosen one's.
_NAMESAKES = """
select distinct line
from best join candidate using (line)
join variant as called on called.first_name = candidate.first_name and called.last_name = candidate.last_name
join people as other on other.person = called.person
where rank = 1 and other.person <> best.person
    and list_has_any(other.school_ids, list_append(coalesce(best.school_ids, []), candidate.school_id))
"""
# Lines whose observables fit another student better than the chosen one: what chose is the ID.
_OUTWEIGHED = "select line from best where rank = 1 and is_outweighed"
_OWNERS = "select distinct line, person from hit"
# Lines where two or more observables contradict every student who has one of the line's IDs.
_CONTRADICTED = """
select line from scored where ids_agree group by line
having bool_and(
    list_contains($first_name, first_name)::int + list_contains($last_name, last_name)::int
    + list_contains($birth_date, birth_date)::int >= 2)
"""
# Matches IDs as the consumers do: the column of the file and the ID type of the roster that find most rows.
_ID_ALONE = """
with best as (
    select place, id_type from hit group by all order by count(distinct line) desc, place, id_type limit 1
)
select distinct line, person from hit join best using (place, id_type)
"""


class Pair(msgspec.Struct, frozen=True, gc=False):
    """A candidate beside a student: the weight, and the name of each comparison's level."""

    person: int
    student_unique_id: str
    weight: float
    levels: Mapping[str, str]
    ids_agree: bool


class Rivals(msgspec.Struct, frozen=True, gc=False):
    """Others who share the chosen one's birth date and a surname.

    ``likeness`` is how similar one of their first names is to the candidate's, ``own_likeness`` the chosen one's.
    """

    likeness: float
    own_likeness: float


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """What is known of one candidate. ``owners`` are the students who have one of its IDs, by their numbers."""

    best: Pair | None = None
    second: Pair | None = None
    rivals: Rivals | None = None
    owners: frozenset[int] = frozenset()
    owners_contradicted: bool = False  # names and birth date contradict each of the owners
    is_multiple_birth: bool = False
    is_divided: bool = False
    suffix_differs: bool = False
    namesakes: int = 0  # how many students have the candidate's first name
    has_namesake: bool = False  # another student of the school has the candidate's whole name
    is_half_named: bool = False  # one is called ANA MARIA, and the other ANA or ANA LUISA
    is_outweighed: bool = False  # without IDs, another student fits better than the best


@dataclass(frozen=True)
class Scores:
    """The evidence by line, and the students that ID matching alone would find, by line."""

    evidence: Mapping[int, Evidence]
    id_alone: Mapping[int, frozenset[int]]


def score(candidates: Sequence[Candidate], persons: Persons, model: Model, means: Means = USUAL_MEANS) -> Scores:
    """The evidence of every candidate. Raises `TooLargeToResolve`."""
    evidence: dict[int, Evidence] = {}
    students = _tables(persons)
    # Most of the statements are too small for two threads: two connections keep both cores busy.
    with memory_database(means) as database, ThreadPoolExecutor(1) as beside:
        other = database.cursor()
        for connection in (database, other):
            for name, table in students.items():
                connection.register(name, table)
        hits = beside.submit(_hits, other, candidates)
        for start in range(0, len(candidates), PART):
            _load_candidates(database, candidates[start : start + PART])
            _pair(database, persons, model)
            owners = hits.result().owners
            database.execute(scoring_sql(model), {"prior": prior_bits(model, persons), "least": LEAST_WEIGHT})
            database.execute(_BEST)
            facts = beside.submit(_facts, other, model)
            pairs = _best_pairs(database, model)
            evidence.update(_evidence(pairs, facts.result(), owners))
        nobody = Evidence()
        return Scores({each.line: evidence.get(each.line, nobody) for each in candidates}, hits.result().id_alone)


def prior_bits(model: Model, persons: Persons) -> float:
    """The prior's odds in bits: among more students than the model was trained on, a random pair is one more rarely."""
    prior = min(model.prior, 1 / max(persons.count, 2))
    return math.log2(prior / (1 - prior))


def _tables(persons: Persons) -> dict[str, pa.Table]:
    """All students, under the statements' names. They are not copied: few students are in a pair."""
    variants = persons.variants.append_column("variant", _places(persons.variants.num_rows))
    return {"people": persons.people, "variant": variants, "surname": _surnames(variants), "code": persons.codes}


def _places(count: int) -> pa.Array:
    return pc.cumulative_sum(pa.repeat(pa.scalar(1, pa.int32()), count))


def _surnames(variants: pa.Table) -> pa.Table:
    """A row for each surname of each variant, with what is looked up beside it."""
    tokens = whole(variants["surname_tokens"])
    rows = variants.select(["variant", "person", "first_name", "birth_date"]).take(pc.list_parent_indices(tokens))
    return rows.append_column("surname_token", pc.list_flatten(tokens))


def _pair(database: duckdb.DuckDBPyConnection, persons: Persons, model: Model) -> None:
    """Make ``pair`` and ``student`` for the part of the file that is loaded."""
    database.execute(pairs_sql(model))
    _look_at_students(database, persons, model)


def _look_at_students(database: duckdb.DuckDBPyConnection, persons: Persons, model: Model) -> None:
    usual = {
        f"{level.frequency}_u": level.u
        for comparison in model.comparisons
        for level in comparison.levels
        if level.frequency is not None
    }
    database.execute(_STUDENTS, usual | {"average": _AVERAGE_NAMES, "count": persons.count})


class _Hits(NamedTuple):
    """For each line, the students who have one of its IDs, and those whom ID matching alone would find."""

    owners: dict[int, frozenset[int]]
    id_alone: dict[int, frozenset[int]]


def _hits(database: duckdb.DuckDBPyConnection, candidates: Sequence[Candidate]) -> _Hits:
    _load_ids(database, candidates)
    return _Hits(*(_persons_by_line(database, statement) for statement in (_OWNERS, _ID_ALONE)))


def _load_ids(database: duckdb.DuckDBPyConnection, candidates: Sequence[Candidate]) -> None:
    columns = {
        "line": pa.array([each.line for each in candidates for _ in each.student_ids], pa.int32()),
        "place": pa.array([place for each in candidates for place, _ in each.student_ids], pa.int32()),
        "student_id": pa.array([student_id for each in candidates for _, student_id in each.student_ids], _TEXT),
    }
    database.register("candidate_id", pa.table(columns))
    database.execute(_HITS)


def _candidate_table(candidates: Sequence[Candidate]) -> pa.Table:
    columns = {
        "line": [each.line for each in candidates],
        "first_name": [each.first_name for each in candidates],
        "further_name": [each.further_name for each in candidates],
        "initial": [each.first_name[0] if each.first_name else None for each in candidates],
        "initials": [[word[0] for word in each.middle_names] or None for each in candidates],
        "last_name": [each.last_name for each in candidates],
        "last_name_plain": [each.last_name.replace(" ", "") if each.last_name else None for each in candidates],
        "surname_tokens": [each.surname_tokens or None for each in candidates],
        "suffix": [each.suffix for each in candidates],
        "birth_date": [each.birth_date.isoformat() if each.birth_date else None for each in candidates],
        "school_id": [each.school_id for each in candidates],
        "student_ids": [[student_id for _, student_id in each.student_ids] or None for each in candidates],
        "sex": [each.sex for each in candidates],
        "grade": [each.grade for each in candidates],
    }
    table = pa.table({name: pa.array(column, _CANDIDATE[name]) for name, column in columns.items()})
    return table.append_column("nicknames", _nicknames(table["first_name"]))


def _nicknames(first_names: pa.ChunkedArray) -> pa.Array:
    related = nicknames()
    readings, places = read_once(first_names, lambda name: related.get(name or "", ()))
    return pa.array(readings, _TEXTS).take(places)


def _load_candidates(database: duckdb.DuckDBPyConnection, candidates: Sequence[Candidate]) -> None:
    database.register("candidate_arrow", _candidate_table(candidates))
    database.execute("create or replace table candidate as from candidate_arrow")


def _best_pairs(database: duckdb.DuckDBPyConnection, model: Model) -> dict[int, list[Pair]]:
    """The one or two best pairs of each line that has any."""
    names = [comparison.name for comparison in model.comparisons]
    level_names = [[level.name for level in comparison.levels] for comparison in model.comparisons]
    known: dict[tuple[int, ...], Mapping[str, str]] = {}  # pairs share a few hundred combinations of levels
    pairs: dict[int, list[Pair]] = defaultdict(list)
    ranked = _rows(database, _RANKED.format(columns=", ".join(names)))
    for line, person, student_unique_id, weight, ids_agree, *levels in ranked:
        key = tuple(levels)
        if key not in known:
            known[key] = {name: of[level] for name, of, level in zip(names, level_names, levels, strict=True)}
        pairs[line].append(Pair(person, student_unique_id, weight, known[key], ids_agree))
    return pairs


class _Facts(NamedTuple):
    """What is known of the best pairs, by line."""

    rivals: dict[int, Rivals]
    chosen: dict[int, tuple[Any, ...]]
    contradicted: frozenset[int]
    namesakes_at_school: frozenset[int]
    outweighed: frozenset[int]


def _facts(database: duckdb.DuckDBPyConnection, model: Model) -> _Facts:
    return _Facts(
        {line: Rivals(likeness, own) for line, likeness, own in _rows(database, _RIVALS)},
        {line: tuple(facts) for line, *facts in _rows(database, _CHOSEN)},
        _contradicted(database, model),
        frozenset(line for (line,) in _rows(database, _NAMESAKES)),
        frozenset(line for (line,) in _rows(database, _OUTWEIGHED)),
    )


def _evidence(
    pairs: Mapping[int, list[Pair]], facts: _Facts, owners: Mapping[int, frozenset[int]]
) -> Iterator[tuple[int, Evidence]]:
    for line, found in pairs.items():
        is_multiple_birth, is_divided, suffix_differs, namesakes, is_half_named = facts.chosen[line]
        yield (
            line,
            Evidence(
                best=found[0],
                second=found[1] if len(found) > 1 else None,
                rivals=facts.rivals.get(line),
                owners=owners.get(line, frozenset()),
                owners_contradicted=line in facts.contradicted,
                is_multiple_birth=is_multiple_birth,
                is_divided=is_divided,
                suffix_differs=suffix_differs,
                namesakes=namesakes,
                has_namesake=line in facts.namesakes_at_school,
                is_half_named=is_half_named,
                is_outweighed=line in facts.outweighed,
            ),
        )


def _persons_by_line(database: duckdb.DuckDBPyConnection, statement: str) -> dict[int, frozenset[int]]:
    found: dict[int, frozenset[int]] = {}
    for line, person in _rows(database, statement):
        found[line] = found.get(line, frozenset()) | {person}
    return found


def _rows(database: duckdb.DuckDBPyConnection, statement: str) -> Iterator[tuple[Any, ...]]:
    """A statement's rows, few at a time: Python's collector would look at all of a large list again and again."""
    answer = database.execute(statement)
    while rows := answer.fetchmany(_ROWS_AT_ONCE):
        yield from rows


def _contradicted(database: duckdb.DuckDBPyConnection, model: Model) -> frozenset[int]:
    numbers = {
        comparison.name: [
            number for number, level in enumerate(comparison.levels) if level.name in CONTRADICTS[comparison.name]
        ]
        for comparison in model.comparisons
        if comparison.name in CONTRADICTS
    }
    return frozenset(line for (line,) in database.execute(_CONTRADICTED, numbers).fetchall())
