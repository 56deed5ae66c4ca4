"""The rules that every roster must pass: pure. One function a rule, one result each.

A blocking rule that fails leaves what is published untouched; a failed warning is shown, and the roster is published.
A guard (`guards`) holds a well-formed roster that looks wrong beside what is published.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from runway_pipelines.operations.wording import how_many
from runway_pipelines.rosters.encoding import CONSUMER_CONTRACT, ROWS_OF_TENANT, RosterCounts
from runway_pipelines.rosters.manifest import Manifest
from runway_pipelines.rosters.query import FIRST_PLAUSIBLE_YEAR, id_type_of

NOT_EMPTY = "not_empty"
NOT_MASKED = "not_masked"
PLAUSIBLE_YEARS = "plausible_years"
MERGED_STUDENTS = "merged_students"
COLLIDING_CODES = "colliding_codes"
UNSAFE_IDS = "unsafe_ids"
ID_TYPE_COVERAGE = "id_type_coverage"
STUDENTS_LOST = "students_lost"

# Colliding codes as a share of the students. An ordinary district has a few: typing errors, and codes used twice. Each
# costs at least two students a code, so at this share one student in 25 has lost one.
MOST_COLLIDING = 0.02
# The share of a tenant's rows that may be of an implausible year: typing errors. Above it, a load went wrong.
MOST_IMPLAUSIBLE = 0.01
# This many ids may share a key with another id, which makes them one student: an id was corrected. If both limits are
# exceeded, the number and the share of the students, the key does not tell students apart: each would get all codes of
# the others.
MOST_MERGED, MOST_MERGED_SHARE = 5, 0.01
# An ID type is what follows the last # of its descriptor. Consumers write it into a YAML list and a Jinja template, and
# name a column after it, beside two columns of their own (rosters contract, section 3).
_UNSAFE_IN_TYPE = re.compile(r"[,'\"`\\\x00-\x1f\x7f-\x9f\u2028\u2029]|:(\s|$)|^\s|\s$|^[@*&!?%|>]|^-\s")
_OPEN_OR_CLOSE = frozenset({"Ps", "Pe", "Pi", "Pf"})  # Unicode's brackets, braces and paired quotes of any kind
_CONSUMERS_COLUMNS = frozenset({"studentuniqueid", "edorgid"})


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
    QualityRule(NOT_MASKED, True, "No id or code is hidden by a masking policy: none is made of asterisks alone."),
    QualityRule(
        PLAUSIBLE_YEARS, True, f"At most {MOST_IMPLAUSIBLE:.0%} of the rows are of an implausible school year."
    ),
    QualityRule(
        MERGED_STUDENTS,
        True,
        f"At most {MOST_MERGED} students, or {MOST_MERGED_SHARE:.0%} of them, share k_student_xyear with another id.",
    ),
    QualityRule(
        COLLIDING_CODES, False, "Few codes are shared by several students. Shared codes are left out for all of them."
    ),
    QualityRule(UNSAFE_IDS, False, "No student's id has characters that consumers write without an escape."),
    QualityRule(
        ID_TYPE_COVERAGE,
        False,
        "Enough students have an ID code, and no ID type lost many of those that are published.",
    ),
    QualityRule(
        STUDENTS_LOST,
        False,
        "Nearly all published students are still there. A few vanish when records are merged; many mean a broken load.",
    ),
)


@dataclass(frozen=True)
class Thresholds:
    """The shares, between 0 and 1, at which warnings start."""

    students_with_codes: float
    coverage_drop: float
    students_lost: float


@dataclass(frozen=True)
class CheckResult:
    """A rule's result for one roster; ``numbers`` are safe to show. A blocking rule may fail by too little to block.

    A guard that fails ``holds`` the roster until a person decides; nobody can approve what a blocking rule refuses.
    """

    rule: QualityRule
    passed: bool
    reason: str
    numbers: Mapping[str, int | float] = field(default_factory=dict)
    only_warns: bool = False
    holds: bool = False

    @property
    def is_error(self) -> bool:
        """Whether the result, if it is a failure, is more than a warning."""
        return (self.rule.blocking or self.holds) and not self.only_warns

    @property
    def blocks(self) -> bool:
        """Whether it refuses the roster, whatever anybody decides."""
        return self.rule.blocking and not self.only_warns and not self.passed


def judge(manifest: Manifest, previous: Manifest | None, thresholds: Thresholds) -> tuple[CheckResult, ...]:
    """Every rule's result for a snapshot, in the order of `RULES`."""
    return (
        CheckResult(_rule(ROWS_OF_TENANT), True, "every row was compared", {"records": manifest.records}),
        not_empty(manifest),
        *judge_announced(manifest),
        _colliding_codes(manifest),
        _unsafe_ids(manifest),
        _id_type_coverage(manifest, previous, thresholds),
        _students_lost(manifest, previous, thresholds),
    )


def judge_announced(counts: Manifest | RosterCounts) -> tuple[CheckResult, ...]:
    """The blocking rules that need only what the warehouse announces before the first row."""
    return (_consumer_contract(counts), _not_masked(counts), _plausible_years(counts), _merged_students(counts))


def unreadable(check: str, reason: str) -> CheckResult:
    """The result for rows that were refused while they were read."""
    return CheckResult(_rule(check), False, reason)


def blocking(results: Iterable[CheckResult]) -> tuple[CheckResult, ...]:
    """The results that refuse the roster."""
    return tuple(result for result in results if result.blocks)


def as_refusals(results: Iterable[CheckResult]) -> tuple[CheckResult, ...]:
    """The results; those that refuse the roster say so, because a person may approve only what a guard holds."""
    return tuple(
        replace(result, reason=f"refused, and nobody can approve it: {result.reason}") if result.blocks else result
        for result in results
    )


def why_refused(blocks: Iterable[CheckResult]) -> str:
    """Which checks refuse the roster, and why."""
    refusing = tuple(blocks)
    names = ", ".join(result.rule.name for result in refusing)
    return f"refused by {names}, and nobody can approve it: {'; '.join(result.reason for result in refusing)}"


def is_readable(id_system: str) -> bool:
    """Whether the consumer's run can read the id system."""
    id_type = id_type_of(id_system)
    return bool(id_type) and not (
        _UNSAFE_IN_TYPE.search(id_type)
        or any(unicodedata.category(character) in _OPEN_OR_CLOSE for character in id_type)
        or {"<", ">"}.intersection(id_type)
        or id_type.casefold() in _CONSUMERS_COLUMNS
    )


def _rule(name: str) -> QualityRule:
    return next(rule for rule in RULES if rule.name == name)


def not_empty(counts: Manifest | RosterCounts) -> CheckResult:
    """Whether there is a student."""
    return CheckResult(
        _rule(NOT_EMPTY),
        counts.students > 0,
        f"{counts.students} students" if counts.students else "the warehouse has no student of this tenant",
        {"students": counts.students, "rows_without_identity": counts.rows_without_identity},
    )


def _consumer_contract(counts: Manifest | RosterCounts) -> CheckResult:
    id_systems = len(counts.students_by_id_system)
    unreadable = sum(not is_readable(id_system) for id_system in counts.students_by_id_system)
    return CheckResult(
        _rule(CONSUMER_CONTRACT),
        unreadable == 0,
        "every id system is readable"
        if not unreadable
        else f"{unreadable} of {id_systems} id systems have a name that breaks the consumer's run (a comma, a quote, a "
        "backslash, a bracket, a colon, or the name of a column): correct id_system in the warehouse",
        {"id_systems": id_systems, "unreadable_id_systems": unreadable},
    )


def _not_masked(counts: Manifest | RosterCounts) -> CheckResult:
    return CheckResult(
        _rule(NOT_MASKED),
        counts.masked_values == 0,
        "no id or code is masked"
        if not counts.masked_values
        else f"{counts.masked_values} ids, codes and keys are asterisks alone: ask the partner to exempt the role from "
        "its masking policy",
        {"masked_values": counts.masked_values},
    )


def _plausible_years(counts: Manifest | RosterCounts) -> CheckResult:
    implausible = counts.implausible_rows + counts.implausible_codes
    share = max(
        share_of(counts.implausible_rows, counts.association_rows), share_of(counts.implausible_codes, counts.code_rows)
    )
    return CheckResult(
        _rule(PLAUSIBLE_YEARS),
        implausible == 0,
        "every row is of a plausible school year"
        if not implausible
        else f"{counts.implausible_rows} of {counts.association_rows} associations and {counts.implausible_codes} of "
        f"{counts.code_rows} codes are of a school year before {FIRST_PLAUSIBLE_YEAR} or after the next one, and are "
        "left out: correct api_year in the warehouse",
        {"implausible_rows": implausible, "implausible_rows_share": round(share, 4)},
        only_warns=0 < share <= MOST_IMPLAUSIBLE,
    )


def _merged_students(counts: Manifest | RosterCounts) -> CheckResult:
    merged = counts.merged_ids
    # The students are not counted yet when the announcements come; their rows are.
    is_small = merged <= max(MOST_MERGED, MOST_MERGED_SHARE * counts.association_rows)
    return CheckResult(
        _rule(MERGED_STUDENTS),
        merged == 0,
        "no two ids share a key"
        if not merged
        else f"{merged} ids share k_student_xyear with another id, so they count as one student: correct the keys in "
        "the warehouse, or the ids if they are one student's",
        {"merged_ids": merged},
        only_warns=merged > 0 and is_small,
    )


def _unsafe_ids(manifest: Manifest) -> CheckResult:
    return CheckResult(
        _rule(UNSAFE_IDS),
        manifest.unsafe_ids == 0,
        "every id is safe"
        if not manifest.unsafe_ids
        else f"{how_many(manifest.unsafe_ids, 'student id')} with a quote, a backslash or a control character, which "
        "consumers write into their output as it is: correct student_unique_id in the warehouse",
        {"unsafe_ids": manifest.unsafe_ids},
    )


def _colliding_codes(manifest: Manifest) -> CheckResult:
    colliding = manifest.colliding_codes
    share = share_of(colliding, manifest.students) if manifest.students else float(colliding > 0)
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
    covered = 1 - share_of(manifest.students_without_codes, manifest.students)
    now = students_by_type(manifest.students_by_id_system)
    before = students_by_type(previous.students_by_id_system) if previous else {}
    before_all = previous.students if previous else 0
    fallen = sorted(
        id_type
        for id_type, students in before.items()
        # Rounded, because 0.9 - 0.8 is above 0.1 by the last bit.
        if round(share_of(students, before_all) - share_of(now.get(id_type, 0), manifest.students), 9)
        > thresholds.coverage_drop
    )
    reasons = [f"{covered:.0%} of students have an ID code"]
    if fallen:
        reasons.append(f"{', '.join(fallen)} fell by more than {thresholds.coverage_drop:.0%} of students")
    if fallen and not any(now.get(id_type) for id_type in fallen):
        reasons.append(
            "none of these codes is left: the warehouse may be loading them still, so refresh again after it"
        )
    return CheckResult(
        _rule(ID_TYPE_COVERAGE),
        covered >= thresholds.students_with_codes and not fallen,
        "; ".join(reasons),
        {"students_with_codes_share": round(covered, 4), "id_types_fallen": len(fallen)},
    )


def students_by_type(students_by_id_system: Mapping[str, int]) -> dict[str, int]:
    """Students by ID type. A snapshot of 0.1.0 counts each spelling of a type, and any spelling may come first."""
    by_type: dict[str, int] = {}
    for system, students in students_by_id_system.items():
        by_type[id_type_of(system)] = max(students, by_type.get(id_type_of(system), 0))
    return by_type


def _students_lost(manifest: Manifest, previous: Manifest | None, thresholds: Thresholds) -> CheckResult:
    if manifest.previous_sha256 is None:
        return CheckResult(_rule(STUDENTS_LOST), True, "there is no snapshot to compare with")
    if previous is None or manifest.students_removed is None:
        return CheckResult(
            _rule(STUDENTS_LOST), False, "the previous snapshot could not be read, so losses are unknown"
        )
    share = share_of(manifest.students_removed, previous.students)
    return CheckResult(
        _rule(STUDENTS_LOST),
        share <= thresholds.students_lost,
        f"{manifest.students_removed} of {previous.students} students are no longer in the warehouse",
        {"students_removed": manifest.students_removed, "students_removed_share": round(share, 4)},
    )


def share_of(part: int, whole: int) -> float:
    """The part as a share of the whole; 0 if the whole is 0."""
    return part / whole if whole else 0.0
