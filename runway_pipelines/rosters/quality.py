"""The rules that every roster must pass: pure. One function a rule, one result each.

A blocking rule that fails leaves what is published untouched; a failed warning is shown and publishes all the same.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from runway_pipelines.rosters.encoding import CONSUMER_CONTRACT, ROWS_OF_TENANT
from runway_pipelines.rosters.manifest import Manifest

NOT_EMPTY = "not_empty"
COLLIDING_CODES = "colliding_codes"
ID_TYPE_COVERAGE = "id_type_coverage"
STUDENTS_LOST = "students_lost"

# Colliding codes as a share of the students. An ordinary district has a few: typing errors, and codes used twice. Each
# costs at least two students a code, so at this share one student in 25 has lost one.
MOST_COLLIDING = 0.02
# Characters in a descriptor on which the consumer's run fails (rosters contract, section 3).
_UNSAFE_DESCRIPTOR = re.compile(r"[,'\"]|#$")


@dataclass(frozen=True)
class QualityRule:
    """A check's name, whether it blocks publication, and its description for operators."""

    name: str
    blocking: bool
    description: str


RULES = (
    QualityRule(ROWS_OF_TENANT, True, "Every row from the warehouse belongs to the tenant that was asked for."),
    QualityRule(NOT_EMPTY, True, "The roster has students: consumers refuse an empty file."),
    QualityRule(CONSUMER_CONTRACT, True, "The consumer's run can read every id system."),
    QualityRule(
        COLLIDING_CODES, False, "Few codes are shared by several students. Shared codes are left out for all of them."
    ),
    QualityRule(
        ID_TYPE_COVERAGE, False, "Enough students have an ID code, and no ID type lost many since the last snapshot."
    ),
    QualityRule(
        STUDENTS_LOST, False, "No more students have vanished since the last snapshot than merged records explain."
    ),
)


@dataclass(frozen=True)
class Thresholds:
    """The shares, between 0 and 1, at which warnings start."""

    students_with_codes: float = 0.5
    coverage_drop: float = 0.1
    students_lost: float = 0.01


@dataclass(frozen=True)
class CheckResult:
    """A rule's result for one roster; ``numbers`` are safe to show."""

    rule: QualityRule
    passed: bool
    reason: str
    numbers: Mapping[str, int | float] = field(default_factory=dict)

    @property
    def blocks(self) -> bool:
        """Whether it keeps the roster from being published."""
        return self.rule.blocking and not self.passed


def judge(manifest: Manifest, previous: Manifest | None, thresholds: Thresholds) -> tuple[CheckResult, ...]:
    """Every rule's result for a snapshot, in the order of `RULES`."""
    return (
        CheckResult(_rule(ROWS_OF_TENANT), True, "every row was compared", {"records": manifest.records}),
        _not_empty(manifest),
        _consumer_contract(manifest),
        _colliding_codes(manifest),
        _id_type_coverage(manifest, previous, thresholds),
        _students_lost(manifest, previous, thresholds),
    )


def refused(check: str, reason: str) -> CheckResult:
    """The result for rows that were refused while they were read."""
    return CheckResult(_rule(check), False, reason)


def blocking(results: Iterable[CheckResult]) -> tuple[CheckResult, ...]:
    """The results that keep the roster from being published."""
    return tuple(result for result in results if result.blocks)


def count_unreadable_systems(id_systems: Iterable[str]) -> int:
    """How many of the id systems the consumer's run cannot read."""
    return sum(1 for system in id_systems if _UNSAFE_DESCRIPTOR.search(system))


def _rule(name: str) -> QualityRule:
    return next(rule for rule in RULES if rule.name == name)


def _not_empty(manifest: Manifest) -> CheckResult:
    return CheckResult(
        _rule(NOT_EMPTY),
        manifest.students > 0,
        f"{manifest.students} students"
        if manifest.students
        else "the warehouse has no student of this tenant; what was published stays",
        {"students": manifest.students, "rows_without_identity": manifest.rows_without_identity},
    )


def _consumer_contract(manifest: Manifest) -> CheckResult:
    unsafe = count_unreadable_systems(manifest.students_by_id_system)
    return CheckResult(
        _rule(CONSUMER_CONTRACT),
        unsafe == 0,
        "every id system is readable"
        if not unsafe
        else f"{unsafe} id systems contain a comma, a quote or a trailing #: correct id_system in the warehouse",
        {"id_systems": len(manifest.students_by_id_system), "unreadable_id_systems": unsafe},
    )


def _colliding_codes(manifest: Manifest) -> CheckResult:
    colliding = manifest.colliding_codes
    share = _share(colliding, manifest.students) if manifest.students else float(colliding > 0)
    passed = share <= MOST_COLLIDING
    reasons = [
        f"{colliding} {'code is' if colliding == 1 else 'codes are'} shared by several students and left out for all "
        "of them"
    ]
    if not passed:
        reasons.append(f"more than {MOST_COLLIDING:.0%} of {manifest.students} students: check how codes are loaded")
    return CheckResult(
        _rule(COLLIDING_CODES),
        passed,
        "; ".join(reasons) if colliding else "no code is shared by several students",
        {"colliding_codes": colliding, "colliding_codes_share": round(share, 4)},
    )


def _id_type_coverage(manifest: Manifest, previous: Manifest | None, thresholds: Thresholds) -> CheckResult:
    covered = 1 - _share(manifest.students_without_codes, manifest.students)
    fallen = sorted(
        system
        for system, students in (previous.students_by_id_system.items() if previous else ())
        if round(
            _share(students, previous.students if previous else 0)
            - _share(manifest.students_by_id_system.get(system, 0), manifest.students),
            9,
        )
        > thresholds.coverage_drop
    )
    reasons = [f"{covered:.0%} of students have an ID code"]
    if fallen:
        reasons.append(f"{', '.join(fallen)} fell by more than {thresholds.coverage_drop:.0%} of students")
    return CheckResult(
        _rule(ID_TYPE_COVERAGE),
        covered >= thresholds.students_with_codes and not fallen,
        "; ".join(reasons),
        {"students_with_codes_share": round(covered, 4), "id_types_fallen": len(fallen)},
    )


def _students_lost(manifest: Manifest, previous: Manifest | None, thresholds: Thresholds) -> CheckResult:
    if manifest.previous_sha256 is None:
        return CheckResult(_rule(STUDENTS_LOST), True, "there is no snapshot to compare with")
    if previous is None or manifest.students_removed is None:
        return CheckResult(
            _rule(STUDENTS_LOST), False, "the previous snapshot could not be read, so losses are unknown"
        )
    share = _share(manifest.students_removed, previous.students)
    return CheckResult(
        _rule(STUDENTS_LOST),
        share <= thresholds.students_lost,
        f"{manifest.students_removed} of {previous.students} students are no longer in the warehouse",
        {"students_removed": manifest.students_removed, "students_removed_share": round(share, 4)},
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
