"""Decides whose row a candidate is: pure (student resolution contract, section 5). One function a rule.

The rules are asked in their order, and the first that speaks decides. Those that guard come before those that accept,
so no weight overrules them. A wrong accept costs a child, a review costs a person a minute: in doubt, review.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import msgspec

from runway_pipelines.students.agreement import (
    BIRTH_DATE,
    CONTRADICTS,
    FIRST_NAME,
    LAST_NAME,
    MIDDLE_NAME,
    OBSERVED,
    SCHOOL,
    SEX,
    STUDENT_ID,
    agrees,
)
from runway_pipelines.students.observables import Candidate
from runway_pipelines.students.scoring import Evidence, Pair

ID_CONFIRMED = "id_confirmed"
OBSERVABLES = "observables"
ID_BELONGS_TO_ANOTHER_STUDENT = "id_belongs_to_another_student"
FIRST_NAME_CONTRADICTS = "first_name_contradicts"
TWIN_LIKE_COMPETITOR = "twin_like_competitor"
TWO_CANDIDATES = "two_candidates"
WEAK_EVIDENCE = "weak_evidence"
NO_CANDIDATE = "no_candidate"
FOREIGN_FILE = "foreign_file"
CLAIMED_TWICE = "claimed_twice"


class Decision(StrEnum):
    """What becomes of a candidate."""

    ACCEPT = "accept"
    REVIEW = "review"
    NONE = "none"
    INVALID = "invalid"


@dataclass(frozen=True)
class Policy:
    """Weights, in bits, and likenesses between 0 and 1, at which the rules speak."""

    floor: float = 14.0
    floor_without_id: float = 18.0
    margin: float = 8.0
    # Two first names that are more alike than this do not tell twins apart.
    rival_likeness: float = 0.9
    # With an ID, a misspelt first name tells twins apart when it is at least this much more like the chosen one's.
    rival_distance: float = 0.1
    # A first name that this many students have is a name of its own, and no misspelling of one like it.
    fewest_namesakes: int = 3
    # A file is another district's when this many of its IDs are known here, and this share of them is somebody else's.
    foreign_hits: int = 10
    foreign_share: float = 0.8


USUAL_POLICY = Policy()


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What was decided, why, and on what evidence."""

    decision: Decision
    reason: str
    evidence: Evidence

    @property
    def student(self) -> Pair | None:
        """The student; None unless the decision is to accept."""
        return self.evidence.best if self.decision is Decision.ACCEPT else None


class _Case(msgspec.Struct, frozen=True, gc=False):
    """A candidate's evidence with the best pair at hand."""

    best: Pair
    evidence: Evidence
    policy: Policy

    def level(self, comparison: str) -> str:
        return self.best.levels[comparison]

    @property
    def agreeing(self) -> int:
        return sum(agrees(self.best.levels, name) for name in OBSERVED)

    @property
    def exact(self) -> int:
        return sum(self.level(name) == "exact" for name in OBSERVED)


_WHOLE_FIRST_NAMES = frozenset({"exact", "nickname", "swapped"})
_WHOLE_SURNAMES = frozenset({"exact", "swapped"})

_Ruling = tuple[Decision, str] | None
_Rule = Callable[[_Case], _Ruling]


def decide(evidence: Evidence, policy: Policy = USUAL_POLICY) -> Verdict:
    """The verdict on one candidate, whatever the rest of its file says."""
    _, decision, reason = _first_ruling(evidence, policy)
    return Verdict(decision, reason, evidence)


def deciding_rule(evidence: Evidence, policy: Policy = USUAL_POLICY) -> str:
    """The name of the rule that speaks on one candidate, such as ``half_a_twin``: several rules share a reason."""
    return _first_ruling(evidence, policy)[0]


def _first_ruling(evidence: Evidence, policy: Policy) -> tuple[str, Decision, str]:
    if evidence.best is None:
        return NO_CANDIDATE, Decision.NONE, NO_CANDIDATE
    case = _Case(evidence.best, evidence, policy)
    for rule in RULES:
        ruling = rule(case)
        if ruling is not None:
            return rule.__name__.removeprefix("_"), *ruling
    return WEAK_EVIDENCE, Decision.REVIEW, WEAK_EVIDENCE


def decide_file(
    candidates: Sequence[Candidate], evidence: Mapping[int, Evidence], policy: Policy = USUAL_POLICY
) -> dict[int, Verdict]:
    """The verdicts on a whole file, by line."""
    verdicts = {candidate.line: decide(evidence[candidate.line], policy) for candidate in candidates}
    if is_foreign(evidence, policy):
        return {line: _foreign(verdict) for line, verdict in verdicts.items()}
    return _without_claimed_twice(candidates, verdicts)


def is_foreign(evidence: Mapping[int, Evidence], policy: Policy = USUAL_POLICY) -> bool:
    """Whether nearly all IDs that are known here belong to students whom the observables contradict."""
    hits = [each for each in evidence.values() if each.owners]
    contradicted = sum(each.owners_contradicted for each in hits)
    return len(hits) >= policy.foreign_hits and contradicted >= policy.foreign_share * len(hits)


def _foreign(verdict: Verdict) -> Verdict:
    if verdict.decision is Decision.NONE:
        return verdict
    return msgspec.structs.replace(verdict, decision=Decision.REVIEW, reason=FOREIGN_FILE)


def _without_claimed_twice(candidates: Sequence[Candidate], verdicts: Mapping[int, Verdict]) -> dict[int, Verdict]:
    """A student is one child: candidates with different names or birth dates cannot all be that child."""
    claims: dict[int, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        student = verdicts[candidate.line].student
        if student is not None:
            claims[student.person].append(candidate)
    twice = {
        candidate.line
        for claimants in claims.values()
        if len(claimants) > 1 and _are_of_several(claimants)
        for candidate in claimants
    }
    return {
        line: msgspec.structs.replace(verdict, decision=Decision.REVIEW, reason=CLAIMED_TWICE)
        if line in twice
        else verdict
        for line, verdict in verdicts.items()
    }


def _are_of_several(claimants: Sequence[Candidate]) -> bool:
    """Whether two of them cannot be one child. What one has and another has not tells nothing."""
    told = {
        (claimant.first_name, claimant.further_name, claimant.birth_date, claimant.suffix) for claimant in claimants
    }
    initials = {frozenset(word[0] for word in claimant.middle_names) for claimant in claimants} - {frozenset()}
    return any(len({*values} - {None}) > 1 for values in zip(*told, strict=True)) or any(
        one.isdisjoint(other) for one, other in combinations(initials, 2)
    )


# The rules, in their order.


def _no_candidate(case: _Case) -> _Ruling:
    """Less than even odds, unless an ID asks for a person's look."""
    is_none = case.best.weight < 0 and not case.best.ids_agree
    return (Decision.NONE, NO_CANDIDATE) if is_none else None


def _id_belongs_to_another_student(case: _Case) -> _Ruling:
    """An ID is another student's than the chosen one's; or the ID alone chose, and the observables say another."""
    others = case.evidence.owners - {case.best.person}
    chose_alone = case.best.ids_agree and case.evidence.is_outweighed
    return (Decision.REVIEW, ID_BELONGS_TO_ANOTHER_STUDENT) if others or chose_alone else None


def _first_name_contradicts(case: _Case) -> _Ruling:
    return (Decision.REVIEW, FIRST_NAME_CONTRADICTS) if case.level(FIRST_NAME) == "differs" else None


def _other_middle_name_or_suffix(case: _Case) -> _Ruling:
    """JOSE LUIS is not his brother JOSE MANUEL, and JR is not III."""
    differs = case.level(MIDDLE_NAME) == "differs" or case.evidence.suffix_differs
    return (Decision.REVIEW, FIRST_NAME_CONTRADICTS) if differs else None


def _another_name_and_no_misspelling(case: _Case) -> _Ruling:
    """MARIA and MARIO differ by a letter. So do JADEN and JAYDEN, his brother who may not be in the roster yet."""
    is_alike = case.level(FIRST_NAME) in {"near", "alike", "prefix"}
    is_a_name = case.evidence.namesakes >= case.policy.fewest_namesakes
    is_other_sex = case.level(SEX) == "differs"
    return (Decision.REVIEW, FIRST_NAME_CONTRADICTS) if is_alike and (is_a_name or is_other_sex) else None


def _half_a_twin(case: _Case) -> _Ruling:
    """The first name of a student marked as a twin must be whole: the other twin may not be in the roster yet."""
    is_whole = case.level(FIRST_NAME) in _WHOLE_FIRST_NAMES and not case.evidence.is_half_named
    return (Decision.REVIEW, FIRST_NAME_CONTRADICTS) if case.evidence.is_multiple_birth and not is_whole else None


def _twin_like_competitor(case: _Case) -> _Ruling:
    rivals, policy = case.evidence.rivals, case.policy
    if rivals is None:
        return None
    says_which = case.level(FIRST_NAME) == "exact" and rivals.likeness < policy.rival_likeness
    says_nearly_which = (
        case.best.ids_agree
        and agrees(case.best.levels, FIRST_NAME)
        and rivals.own_likeness - rivals.likeness >= policy.rival_distance
    )
    return None if says_which or says_nearly_which else (Decision.REVIEW, TWIN_LIKE_COMPETITOR)


def _two_candidates(case: _Case) -> _Ruling:
    second = case.evidence.second
    is_close = second is not None and case.best.weight - second.weight < case.policy.margin
    # Two children of a school have one name, and lists are sorted by name: the ID may be the next line's.
    is_one_of_two = case.evidence.has_namesake and case.exact < 3
    return (Decision.REVIEW, TWO_CANDIDATES) if is_close or is_one_of_two or case.evidence.is_divided else None


def _other_birth_date(case: _Case) -> _Ruling:
    """With another birth date, both names must be whole and not common: cousins and brothers have similar names."""
    if case.level(BIRTH_DATE) not in CONTRADICTS[BIRTH_DATE]:
        return None
    are_whole = case.level(FIRST_NAME) in _WHOLE_FIRST_NAMES and case.level(LAST_NAME) in _WHOLE_SURNAMES
    is_rare = case.best.weight >= case.policy.floor_without_id
    return None if are_whole and is_rare else (Decision.REVIEW, WEAK_EVIDENCE)


def _id_confirmed(case: _Case) -> _Ruling:
    is_confirmed = case.best.ids_agree and case.agreeing >= 2 and case.best.weight >= case.policy.floor
    return (Decision.ACCEPT, ID_CONFIRMED) if is_confirmed else None


def _observables(case: _Case) -> _Ruling:
    """Without an ID, both names and the birth date must agree: all exactly, or two exactly and something supports it.

    Twins enroll together: their IDs differ by a digit, and one called ANA or KERRY may have a sister ANA MARIA or KERRI
    who is not in the roster yet. So without an ID the first name must be the roster's, letter for letter.
    """
    is_whole = case.level(FIRST_NAME) in {"exact", "swapped"}
    could_be_a_twin = case.evidence.is_half_named or (
        case.evidence.is_multiple_birth and case.level(STUDENT_ID) in {"mistyped", "differs"}
    )
    is_supported = (
        case.level(SCHOOL) == "exact"
        or case.level(MIDDLE_NAME) == "exact"
        or case.level(STUDENT_ID) == "mistyped"
        or case.exact == 3
    )
    is_accepted = (
        not case.best.ids_agree
        and is_whole
        and not could_be_a_twin
        and case.agreeing == 3
        and case.exact >= 2
        and is_supported
        and case.best.weight >= case.policy.floor_without_id
    )
    return (Decision.ACCEPT, OBSERVABLES) if is_accepted else None


GUARDS: tuple[_Rule, ...] = (
    _no_candidate,
    _id_belongs_to_another_student,
    _first_name_contradicts,
    _other_middle_name_or_suffix,
    _another_name_and_no_misspelling,
    _half_a_twin,
    _twin_like_competitor,
    _two_candidates,
    _other_birth_date,
)
RULES: tuple[_Rule, ...] = (*GUARDS, _id_confirmed, _observables)
