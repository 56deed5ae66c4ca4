"""Resolves a file's candidates to a tenant's students: pure (student resolution contract, sections 2 and 5).

`resolve` is what everybody calls. Its answer has the file's own ids and the students' ids, levels and numbers: never a
name or a birth date.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from runway_pipelines.students.agreement import shown
from runway_pipelines.students.deciding import USUAL_POLICY, Decision, Policy, Verdict, decide_file, is_foreign
from runway_pipelines.students.memory_database import USUAL_MEANS, Means
from runway_pipelines.students.model import Model
from runway_pipelines.students.observables import Candidates, Invalid
from runway_pipelines.students.persons import Persons
from runway_pipelines.students.scoring import Pair, Scores, score


class Match(msgspec.Struct, frozen=True, gc=False):
    """A student whom a review names, with what agrees."""

    student_unique_id: str
    weight: float
    agreement: dict[str, str]


class Resolution(msgspec.Struct, frozen=True, gc=False):
    """The answer to one line of the file."""

    candidate_id: str | None
    decision: Decision
    reason: str
    student_unique_id: str | None
    weight: float
    ids_agree: bool
    candidates: tuple[Match, ...]


class Counts(msgspec.Struct, frozen=True):
    """How many candidates, and how many records they stand for."""

    candidates: int
    records: int


class IdAlone(msgspec.Struct, frozen=True):
    """What matching by ID alone would have done with the file."""

    matched: Counts
    to_another_student: Counts
    contradicted: Counts


class Summary(msgspec.Struct, frozen=True):
    """The whole file in numbers; no identifier is in it."""

    candidates: int
    records: int
    decisions: dict[str, Counts]
    reasons: dict[str, Counts]
    id_alone: IdAlone
    is_foreign: bool
    date_order: str
    default_dates: int
    unreadable_dates: int
    students: int
    model_version: str


@dataclass(frozen=True, repr=False)
class Resolved:
    """The answers in the order of the file's lines, and the summary."""

    resolutions: tuple[Resolution, ...]
    summary: Summary


def resolve(
    candidates: Candidates, persons: Persons, model: Model, policy: Policy = USUAL_POLICY, means: Means = USUAL_MEANS
) -> Resolved:
    """Whose row each candidate is. Raises `TooLargeToResolve`."""
    scores = score(candidates.valid, persons, model, means)
    verdicts = decide_file(candidates.valid, scores.evidence, policy)
    answers = {each.line: _answer(each.candidate_id, verdicts[each.line]) for each in candidates.valid}
    answers |= {each.line: _refusal(each) for each in candidates.invalid}
    resolutions = tuple(answers[line] for line in sorted(answers))
    return Resolved(resolutions, _summary(candidates, persons, model, scores, verdicts, resolutions, policy))


def encode_answer(resolved: Resolved, facts: Mapping[str, Any]) -> Iterator[bytes]:
    """The answer's lines, the summary last. ``facts`` are the shell's: the moment of the query, and the seconds."""
    encoder = msgspec.json.Encoder()
    for resolution in resolved.resolutions:
        yield encoder.encode(resolution) + b"\n"
    yield encoder.encode({"summary": msgspec.to_builtins(resolved.summary) | dict(facts)}) + b"\n"


def _answer(candidate_id: str, verdict: Verdict) -> Resolution:
    best = verdict.evidence.best
    named = (best, verdict.evidence.second) if verdict.decision is Decision.REVIEW else ()
    return Resolution(
        candidate_id,
        verdict.decision,
        verdict.reason,
        verdict.student.student_unique_id if verdict.student else None,
        round(best.weight, 3) if best else 0.0,
        best.ids_agree if best else False,
        tuple(_match(pair) for pair in named if pair is not None),
    )


def _refusal(line: Invalid) -> Resolution:
    return Resolution(line.candidate_id, Decision.INVALID, line.reason, None, 0.0, False, ())


def _match(pair: Pair) -> Match:
    return Match(pair.student_unique_id, round(pair.weight, 3), shown(pair.levels))


def _summary(
    candidates: Candidates,
    persons: Persons,
    model: Model,
    scores: Scores,
    verdicts: Mapping[int, Verdict],
    resolutions: tuple[Resolution, ...],
    policy: Policy,
) -> Summary:
    records = {each.line: each.record_count for each in candidates.valid}
    lines = sorted([*records, *(each.line for each in candidates.invalid)])
    counted = [
        (each.decision.value, each.reason, records.get(line, 1)) for line, each in zip(lines, resolutions, strict=True)
    ]
    return Summary(
        candidates=len(lines),
        records=sum(count for _, _, count in counted),
        decisions=_counts((decision, count) for decision, _, count in counted),
        reasons=_counts((f"{decision}:{reason}", count) for decision, reason, count in counted),
        id_alone=_id_alone(scores, verdicts, records),
        is_foreign=is_foreign(scores.evidence, policy),
        date_order=candidates.date_order.value,
        default_dates=candidates.default_dates,
        unreadable_dates=candidates.unreadable_dates,
        students=persons.count,
        model_version=model.version,
    )


def _id_alone(scores: Scores, verdicts: Mapping[int, Verdict], records: Mapping[int, int]) -> IdAlone:
    """A match is wrong if it is another student than the accepted one, or one whom two observables contradict."""
    contradicted: list[int] = []
    to_another: list[int] = []
    for line, found in scores.id_alone.items():
        student = verdicts[line].student
        if student is None:
            contradicted += [records[line]] if verdicts[line].evidence.owners_contradicted else []
        elif found != {student.person}:
            to_another.append(records[line])
    matched = [records[line] for line in scores.id_alone]
    return IdAlone(*(Counts(len(each), sum(each)) for each in (matched, to_another, contradicted)))


def _counts(counted: Iterable[tuple[str, int]]) -> dict[str, Counts]:
    """Candidates and records by name."""
    counts: dict[str, Counts] = {}
    for (name, records), candidates in sorted(Counter(counted).items()):
        before = counts.get(name, Counts(0, 0))
        counts[name] = Counts(before.candidates + candidates, before.records + candidates * records)
    return counts
