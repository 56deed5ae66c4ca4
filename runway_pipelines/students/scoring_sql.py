"""Makes the SQL texts that find a model's pairs and weigh them: pure (student resolution contract, section 5).

A pair's weight is the logarithm to base 2 of the odds that both are one student: the prior's weight plus, for each
comparison, its level's. A weight of 14 is odds of 16,000 to 1.
"""

from __future__ import annotations

import math

from runway_pipelines.students.agreement import STUDENT_ID
from runway_pipelines.students.model import Blocking, Comparison, Level, Model

MISTYPED = "mistyped"
# An ID of fewer digits has too many neighbours: a wrong digit in it says nothing.
_SHORTEST_MISTYPED = 5

# A candidate's keys that are lists: one equal entry is enough.
_CANDIDATES_LISTS = {"student_id": "student_ids", "surname_token": "surname_tokens"}
# The tables and expressions of the students' keys that are not columns of `variant`.
_STUDENTS_TABLES = {
    "surname_token": "surname",
    "student_id": "code join variant using (person)",
    "school_id": "variant join people using (person)",
}
_STUDENTS_KEYS = {"initial": "first_name[1]", "school_id": "unnest(school_ids)"}

# For each candidate and student, the variant that weighs most. Pairs below $least are dropped unless their ID is equal.
# IDs are compared last: for most pairs names, birth date and school have said enough.
_SCORING = """
create or replace table scored as
with compared as (
    select line, variant, person, r.first_name_frequency, r.last_name_frequency,
        {levels}
    from pair join candidate as l using (line) join student as r using (variant)
), weighed as (
    select *, {weights} as observables_weight from compared
), hopeful as materialized (
    select weighed.* from weighed left join (select distinct line, person, true as has_id from hit) using (line, person)
    where has_id or observables_weight + {most_hope} >= $least
), observed as (
    select line, max(observables_weight) as most_observed from hopeful group by line
), known as materialized (
    select person, list(student_id) as student_ids from code
    where person in (select person from hopeful) group by person
), identified as (
    select hopeful.*, {id_level}
    from hopeful join candidate as l using (line) join known as r using (person)
), plausible as (
    select * from identified
    where student_id in ({id_levels}) or observables_weight + case student_id {hopes} end >= $least
), mistyped as (
    select distinct line, person from plausible
    join (select line, unnest(student_ids) as one from candidate) using (line)
    join (select person, unnest(student_ids) as other from known) using (person)
    where plausible.student_id = {differs} and length(one) >= {shortest} and length(other) >= {shortest}
        and abs(length(one) - length(other)) <= 1
        and (levenshtein(one, other) = 1 or (
            levenshtein(one, other) = 2 and length(one) = length(other)
            and list_sort(string_split(one, '')) = list_sort(string_split(other, ''))))
), settled as (
    select plausible.*
        replace (case when mistyped.line is null then plausible.student_id else {mistyped} end as student_id)
    from plausible left join mistyped using (line, person)
), weighty as (
    select line, person, observables_weight + case student_id {id_weights} end as weight,
        {names}, student_id in ({id_levels}) as ids_agree, observables_weight < most_observed as is_outweighed
    from settled join observed using (line)
)
select * from weighty where ids_agree or weight >= $least
qualify row_number() over (partition by line, person order by weight desc, {names}) = 1
"""
_BLOCK = """
    select line, variant from (select line, {left} from candidate)
    join (select variant, {right} from {table}) using ({keys})""".lstrip("\n")


def pairs_sql(model: Model) -> str:
    """The statement that makes ``pair`` (line, variant) from ``candidate`` and the tables of all students above."""
    return "create or replace table pair as\n" + "\n    union\n".join(map(_block, model.blocking))


def scoring_sql(model: Model) -> str:
    """The statement that makes ``scored`` from ``pair``, ``candidate``, ``student``, ``code`` and ``hit``.

    Its parameters are ``prior``, in bits, and ``least``, the smallest weight that counts.
    """
    observables = [comparison for comparison in model.comparisons if comparison.name != STUDENT_ID]
    ids = _comparison(model, STUDENT_ID)
    number = {level.name: place for place, level in enumerate(ids.levels)}
    own = (number["exact"], number["one"])
    return _SCORING.format(
        levels=",\n        ".join(map(_level, observables)),
        weights=" + ".join(["$prior", *map(_weight, observables)]),
        most_hope=repr(max(level.bits for place, level in enumerate(ids.levels) if place not in own)),
        id_level=_level(ids),
        id_levels=", ".join(map(str, own)),
        hopes=_id_weights(ids, {"differs": ids.levels[number[MISTYPED]].bits}),
        id_weights=_id_weights(ids, {}),
        differs=number["differs"],
        mistyped=number[MISTYPED],
        shortest=_SHORTEST_MISTYPED,
        names=", ".join(comparison.name for comparison in model.comparisons),
    )


def _block(blocking: Blocking) -> str:
    ours, theirs = zip(*blocking.equal, strict=True)
    left = (f"unnest({_CANDIDATES_LISTS[key]})" if key in _CANDIDATES_LISTS else key for key in ours)
    right = (_STUDENTS_KEYS.get(key, key) for key in theirs)
    return _BLOCK.format(
        left=", ".join(f"{key} as key_{place}" for place, key in enumerate(left)),
        right=", ".join(f"{key} as key_{place}" for place, key in enumerate(right)),
        table=next((_STUDENTS_TABLES[key] for key in theirs if key in _STUDENTS_TABLES), "variant"),
        keys=", ".join(f"key_{place}" for place in range(len(blocking.equal))),
    )


def _level(comparison: Comparison) -> str:
    """The number of the first level that holds; whether an ID is mistyped is checked later, for few pairs."""
    cases = [
        f"when {level.when} then {place}"
        for place, level in enumerate(comparison.levels)
        if level.when is not None and level.name != MISTYPED
    ]
    return f"case {' '.join(cases)} else {len(comparison.levels) - 1} end as {comparison.name}"


def _weight(comparison: Comparison) -> str:
    cases = [f"when {place} then {_bits_sql(level)}" for place, level in enumerate(comparison.levels)]
    return f"case {comparison.name} {' '.join(cases)} end"


def _bits_sql(level: Level) -> str:
    if level.frequency is None:
        return repr(level.bits)
    return f"{math.log2(level.m)!r} - log2({level.frequency}_frequency)"


def _id_weights(ids: Comparison, instead: dict[str, float]) -> str:
    return " ".join(
        f"when {place} then {instead.get(level.name, level.bits)!r}" for place, level in enumerate(ids.levels)
    )


def _comparison(model: Model, name: str) -> Comparison:
    return next(comparison for comparison in model.comparisons if comparison.name == name)
