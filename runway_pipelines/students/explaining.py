"""Explains the verdict on one candidate: pure (student resolution contract, sections 5 and 6).

An explanation has levels, weights, students' IDs and rules. It has no name and no birth date, not even the file's own:
what agrees exactly is also in the roster.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from runway_pipelines.errors import Permanent
from runway_pipelines.students.deciding import (
    CLAIMED_TWICE,
    FOREIGN_FILE,
    USUAL_POLICY,
    Decision,
    Policy,
    decide_file,
    deciding_rule,
)
from runway_pipelines.students.memory_database import USUAL_MEANS, Means
from runway_pipelines.students.model import Level, Model
from runway_pipelines.students.observables import Candidates
from runway_pipelines.students.persons import Persons
from runway_pipelines.students.scoring import Pair, prior_bits, score

SAYS: Mapping[str, str] = MappingProxyType(
    {
        "no_candidate": "Nobody is at even odds or better, and nobody here has one of the IDs.",
        "id_belongs_to_another_student": "An ID of the row is another student's than the one whom the rest describes "
        "best.",
        "first_name_contradicts": "The first name is another one.",
        "other_middle_name_or_suffix": "The middle initials, or the suffix (JR, III), are somebody else's.",
        "another_name_and_no_misspelling": "The first name is like the student's, but it is a name of its own here, or "
        "the sexes differ. It may be a brother or a sister.",
        "half_a_twin": "The student is marked as of a multiple birth, and the first name is not whole.",
        "twin_like_competitor": "Another student has the same birth date and a surname, and the first name does not "
        "clearly say which of them it is.",
        "two_candidates": "Another student fits nearly as well; or has the row's whole name at the school, and the "
        "row is not exact; or the student's record stands for two children.",
        "other_birth_date": "The birth date is another one, and the names are not whole, or not rare enough.",
        "id_confirmed": "An ID is the student's, and two of first name, last name and birth date agree.",
        "observables": "No ID agrees, but first name, last name and birth date do, and something else supports it.",
        "weak_evidence": "Nothing speaks against it, and nothing is enough to accept it.",
        FOREIGN_FILE: "Nearly all IDs of the file belong to somebody else here: it may be another district's.",
        CLAIMED_TWICE: "Another row of the file, with other names or another birth date, would be this student too.",
        "invalid": "The line is no candidate.",
    }
)


class NoSuchCandidate(Permanent):
    """The file has no candidate of that id."""


class ComparedLevel(msgspec.Struct, frozen=True):
    """How one observable agrees, and what that weighs; None where both names are weighed together."""

    comparison: str
    level: str
    bits: float | None


class ExplainedStudent(msgspec.Struct, frozen=True):
    """A student beside the candidate. ``weight`` is ``prior`` plus all levels plus ``names``, in bits.

    ``names`` is what both names weigh together, where both are equal: how much depends on how common they are here.
    """

    student_unique_id: str
    weight: float
    prior: float
    names: float
    levels: tuple[ComparedLevel, ...]


class Explanation(msgspec.Struct, frozen=True):
    """The verdict, the rule that spoke, and the best two students."""

    candidate_id: str
    decision: Decision
    reason: str
    rule: str
    says: str
    students: tuple[ExplainedStudent, ...] = ()
    owners_of_ids: int = 0
    called_so: int = 0


def explain(
    candidates: Candidates,
    candidate_id: str,
    persons: Persons,
    model: Model,
    policy: Policy = USUAL_POLICY,
    means: Means = USUAL_MEANS,
) -> Explanation:
    """Why a candidate was decided as it was. The whole file is judged, because a verdict may depend on it.

    Raises `NoSuchCandidate` and `TooLargeToResolve`.
    """
    line = next((each.line for each in candidates.valid if each.candidate_id == candidate_id), None)
    if line is None:
        return _invalid(candidates, candidate_id)
    evidence = score(candidates.valid, persons, model, means).evidence
    verdict = decide_file(candidates.valid, evidence, policy)[line]
    rule = verdict.reason if verdict.reason in {FOREIGN_FILE, CLAIMED_TWICE} else deciding_rule(evidence[line], policy)
    known = evidence[line]
    prior = prior_bits(model, persons)
    return Explanation(
        candidate_id,
        verdict.decision,
        verdict.reason,
        rule,
        SAYS[rule],
        tuple(_student(pair, model, prior) for pair in (known.best, known.second) if pair is not None),
        len(known.owners),
        known.namesakes,
    )


def _invalid(candidates: Candidates, candidate_id: str) -> Explanation:
    for each in candidates.invalid:
        if each.candidate_id == candidate_id:
            return Explanation(candidate_id, Decision.INVALID, each.reason, "invalid", SAYS["invalid"])
    raise NoSuchCandidate(
        expected="a candidate_id of the file",
        came="one that is not in it",
        remedy="take it from the file, or from resolutions.jsonl; rows of a CSV file are row-1, row-2 and so on",
    )


def _student(pair: Pair, model: Model, prior: float) -> ExplainedStudent:
    levels = {each.name: _level(model, each.name, pair.levels[each.name]) for each in model.comparisons}
    weighed = {name: level.bits for name, level in levels.items() if level.frequency is None}
    # How much an equal name weighs depends on how common it is; only the pair's weight has that.
    by_frequency = [name for name, level in levels.items() if level.frequency is not None]
    rest = pair.weight - prior - sum(weighed.values())
    if len(by_frequency) == 1:
        weighed[by_frequency[0]] = rest
    return ExplainedStudent(
        pair.student_unique_id,
        round(pair.weight, 3),
        round(prior, 3),
        round(rest, 3) if len(by_frequency) > 1 else 0.0,
        tuple(
            ComparedLevel(name, level.name, round(weighed[name], 3) if name in weighed else None)
            for name, level in levels.items()
        ),
    )


def _level(model: Model, comparison: str, name: str) -> Level:
    levels = next(each.levels for each in model.comparisons if each.name == comparison)
    return next(level for level in levels if level.name == name)
