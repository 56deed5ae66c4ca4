"""Makes the one SQL text that weighs pairs of a model: pure (student resolution contract, section 5).

A pair's weight is the logarithm to base 2 of the odds that both are one student: the prior's, and for each comparison
that of its level. A weight of 14 is odds of 16,000 to 1.
"""

from __future__ import annotations

import math

from runway_pipelines.students.agreement import STUDENT_ID
from runway_pipelines.students.model import Blocking, Comparison, Level, Model

MISTYPED = "mistyped"
# An ID of fewer digits has too many neighbours: a wrong digit in it says nothing.
_SHORTEST_MISTYPED = 5

# Lists that are equal in one entry.
_CANDIDATES_LISTS = {"student_id": "student_ids", "surname_token": "surname_tokens"}
_STUDENTS_LISTS = {**_CANDIDATES_LISTS, "school_id": "school_ids"}

# Of each candidate and student the variant that weighs most. Pairs below $least are not worth a look, but those whose
# ID is equal always are.
_SCORING = """
create or replace temp table scored as
with pair as (
{blocking}
), compared as (
    select line, variant, person, r.first_name_frequency, r.last_name_frequency,
        {levels}
    from pair join candidate as l using (line) join student as r using (variant)
), weighed as (
    select *, {weights} as observables_weight from compared
), plausible as (
    select * from weighed
    where student_id in ({id_levels}) or observables_weight + case student_id {hopes} end >= $least
), mistyped as (
    select distinct line, person from plausible
    join (select line, unnest(student_ids) as one from candidate) using (line)
    join code using (person)
    where plausible.student_id = {differs} and length(one) >= {shortest} and length(code.student_id) >= {shortest}
        and abs(length(one) - length(code.student_id)) <= 1
        and (levenshtein(one, code.student_id) = 1 or (
            levenshtein(one, code.student_id) = 2 and length(one) = length(code.student_id)
            and list_sort(string_split(one, '')) = list_sort(string_split(code.student_id, ''))))
), identified as (
    select plausible.*
        replace (case when mistyped.line is null then plausible.student_id else {mistyped} end as student_id)
    from plausible left join mistyped using (line, person)
), weighty as (
    select line, person, observables_weight + case student_id {id_weights} end as weight,
        {names}, student_id in ({id_levels}) as ids_agree
    from identified
)
select * from weighty where ids_agree or weight >= $least
qualify row_number() over (partition by line, person order by weight desc, {names}) = 1
"""
_BLOCK = """
    select line, variant from (select line, {left} from candidate)
    join (select variant, {right} from student) using ({keys})""".lstrip("\n")


def scoring_sql(model: Model) -> str:
    """The statement that makes ``scored`` of the tables ``candidate``, ``student`` and ``code``.

    Its parameters are ``prior``, in bits, and ``least``, the smallest weight that counts.
    """
    observables = [comparison for comparison in model.comparisons if comparison.name != STUDENT_ID]
    ids = _comparison(model, STUDENT_ID)
    number = {level.name: place for place, level in enumerate(ids.levels)}
    return _SCORING.format(
        blocking="\n    union\n".join(_block(blocking) for blocking in model.blocking),
        levels=",\n        ".join(_level(comparison) for comparison in model.comparisons),
        weights=" + ".join(["$prior", *(_weight(comparison) for comparison in observables)]),
        id_levels=f"{number['exact']}, {number['one']}",
        hopes=_id_weights(ids, {"differs": ids.levels[number[MISTYPED]].bits}),
        id_weights=_id_weights(ids, {}),
        differs=number["differs"],
        mistyped=number[MISTYPED],
        shortest=_SHORTEST_MISTYPED,
        names=", ".join(comparison.name for comparison in model.comparisons),
    )


def _block(blocking: Blocking) -> str:
    places = range(len(blocking.equal))
    left = ", ".join(f"{_key(blocking.equal[i][0], _CANDIDATES_LISTS)} as key_{i}" for i in places)
    right = ", ".join(f"{_key(blocking.equal[i][1], _STUDENTS_LISTS)} as key_{i}" for i in places)
    return _BLOCK.format(left=left, right=right, keys=", ".join(f"key_{i}" for i in places))


def _key(column: str, lists: dict[str, str]) -> str:
    return f"unnest({lists[column]})" if column in lists else column


def _level(comparison: Comparison) -> str:
    """The number of the first level that holds; whether an ID is mistyped is seen later, for few pairs."""
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
