"""The counts of a run (library identity contract, section 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runway_pipelines.operations.wording import first_few
from runway_pipelines.systems.lml.verdicts import Answer

# How many faults a sentence names.
_FAULTS_SHOWN = 5


class Skip(StrEnum):
    """Why a scanned library's verdict is not written."""

    COMPILATION = "compilation"
    LML_ERROR = "lml_error"
    WRITER_ERROR = "writer_error"
    CARDINALITY_MISMATCH = "lml_cardinality_mismatch"
    UNTRUSTED_LIBRARY_ID = "lml_untrusted_library_id"
    INVALID_INPUT = "invalid_input"
    MANUAL_PROTECTED = "manual_protected"


# In every run's document, even if 0. Counts of LML's cache and of compilations' tracks appear only once counted.
OTHERS = (
    "source_rows_written", "source_rows_skipped_null_confidence", "source_rows_skipped_null_external_id",
    "source_rows_out_of_band", "rows_unchanged", "lml_total_calls", "lml_retries", "lml_total_latency_ms",
    "lml_not_believed", "lml_results_malformed", "lml_unknown_values", "lml_unusable_members",
)  # fmt: skip
_LIBRARIES = ("scanned", "rows_resolved", "rows_resolved_compilation", "rows_unresolved")


@dataclass
class Counts:
    """The counts of a run, a shard or a batch.

    Fields count libraries, except ``others``, which have units of their own under their names in the contract
    (``source_rows_written``, ``lml_cache.hits``, ``compilation_track_rows_linked``, ...).
    """

    scanned: int = 0
    rows_resolved: int = 0
    rows_resolved_compilation: int = 0
    rows_unresolved: int = 0
    rows_skipped: Counter[Skip] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    def merge(self, more: Counts) -> None:
        """Add ``more`` to these."""
        for name in _LIBRARIES:
            setattr(self, name, getattr(self, name) + getattr(more, name))
        self.rows_skipped.update(more.rows_skipped)
        self.others.update(more.others)

    @property
    def is_any_resolved(self) -> bool:
        """Whether at least one verdict was written, or its row is protected."""
        return self.rows_resolved + self.rows_resolved_compilation + self.rows_skipped[Skip.MANUAL_PROTECTED] > 0

    @property
    def not_believed_share(self) -> float:
        """The share of the scanned libraries whose answer from LML could not be believed; 0.0 if none was scanned."""
        return self.others["lml_not_believed"] / self.scanned if self.scanned else 0.0

    @property
    def accounted_for(self) -> int:
        """Libraries with an outcome; equals ``scanned`` unless some were lost."""
        answered = self.rows_resolved + self.rows_resolved_compilation + self.rows_unresolved
        return answered + self.rows_skipped.total()

    def outcomes(self) -> dict[str, int]:
        """Libraries by outcome, without zeros."""
        ended = {**self._libraries(), **_by_reason(self.rows_skipped)}
        return {name: number for name, number in ended.items() if number}

    def document(self) -> dict[str, Any]:
        """All counts under the contract's names."""
        return {
            **self._libraries(),
            "rows_skipped": _by_reason(self.rows_skipped),
            **{name: self.others[name] for name in sorted({*OTHERS, *self.others})},
        }

    def _libraries(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _LIBRARIES}


def skipped(libraries: int, skip: Skip) -> Counts:
    """Libraries skipped for one reason."""
    return Counts(scanned=libraries, rows_skipped=Counter({skip: libraries}))


def of_the_answer(answer: Answer) -> Counter[str]:
    """An answer's counts in other units; those of LML's cache may be fractions.

    Faults are counted in all, and by member and rule: ``lml_unusable_members.main.wikidata_qid.too_long``.
    """
    counted: Counter[str] = Counter(
        lml_not_believed=len(answer.missing) + len(answer.untrusted) + len(answer.malformed),
        lml_results_dropped=answer.results_dropped,
    )
    for name, faults in (
        ("lml_results_malformed", answer.refusals),
        ("lml_unknown_values", answer.left_out.unknown_values),
        ("lml_unusable_members", answer.left_out.unusable_members),
    ):
        counted[name] += faults.total()
        counted.update({f"{name}.{fault}": number for fault, number in faults.items()})
    counted.update({f"lml_cache.{name}": number for name, number in answer.cache_stats.items()})  # type: ignore[misc]
    return counted


def disbelief(counts: Counts) -> str:
    """Why answers were not believed, most frequent first: ``main.missing 412, no result 3``; empty if all were."""
    prefix = "lml_results_malformed."
    reasons = Counter({name.removeprefix(prefix): n for name, n in counts.others.items() if name.startswith(prefix)})
    reasons["no result"] += counts.rows_skipped[Skip.CARDINALITY_MISMATCH]
    reasons["another library's result"] += counts.rows_skipped[Skip.UNTRUSTED_LIBRARY_ID]
    reasons["no array of results"] += counts.others["lml_not_believed"] - reasons.total()
    return first_few([f"{reason} {number}" for reason, number in (+reasons).most_common()], _FAULTS_SHOWN)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum."""
    merged = Counts()
    for each in counts:
        merged.merge(each)
    return merged


def dry_run_document(counts: Counts) -> dict[str, Any]:
    """What a dry run prints."""
    return {
        "scanned": counts.scanned,
        "lml_total_calls": counts.others["lml_total_calls"],
        "lml_total_latency_ms": counts.others["lml_total_latency_ms"],
        "would_resolve": counts.rows_resolved,
        "would_resolve_compilation": counts.rows_resolved_compilation,
        "would_unresolved": counts.rows_unresolved,
        "would_skip": _by_reason(counts.rows_skipped),
        "source_rows_skipped_null_confidence": counts.others["source_rows_skipped_null_confidence"],
    }


def _by_reason(skipped: Counter[Skip]) -> dict[str, int]:
    return {skip.value: skipped[skip] for skip in Skip}
