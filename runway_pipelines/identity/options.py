"""The options of an identity run: the config of its ops."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from runway_pipelines.errors import ConfigurationError
from runway_pipelines.systems.lml.protocol import MOST_INPUTS

MOST_CALLS_IN_FLIGHT = 64
_MOST_DAYS = 36_500  # a hundred years; as_of minus more than twenty of those is no date


def _ranged(default: float | None, description: str, *, least: float, most: float | None = None) -> Any:
    """An option with its range, for `require_in_range` and for people.

    Dagster's config knows no ranges, and pydantic's would fail inside Dagster, with an error that names neither the
    option nor the range in the run's failure.
    """
    bounds: dict[str, float] = {"least": least} if most is None else {"least": least, "most": most}
    return Field(default, description=f"{description} {_text(bounds)}.", json_schema_extra=bounds)  # type: ignore[arg-type]


def _text(bounds: dict[str, Any]) -> str:
    return f"{bounds['least']} to {bounds['most']}" if "most" in bounds else f"{bounds['least']} or more"


class IdentityOptions(dg.Config):
    """One run's options; the defaults are the nightly run's. `require_in_range` checks them."""

    batch_size: int = _ranged(500, "Libraries per call, compilations excluded:", least=1, most=MOST_INPUTS)
    compilation_batch_size: int = _ranged(
        100, "Compilations per call, whose answers hold every track:", least=1, most=MOST_INPUTS
    )
    shards: int = _ranged(4, "Parts of the catalogue (id % shards), one after the other:", least=1, most=64)
    calls_in_flight: int = _ranged(16, "Concurrent calls to LML:", least=1, most=MOST_CALLS_IN_FLIGHT)
    writers: int = _ranged(2, "Batches written concurrently:", least=1, most=8)
    stale_days: int = _ranged(
        7,
        "Ask again about libraries verified more days ago; 0 asks about every canonical library:",
        least=0,
        most=_MOST_DAYS,
    )
    unresolved_retry_days: int = _ranged(
        30, "Days to leave a library alone that LML answered without an identity:", least=0, most=_MOST_DAYS
    )
    not_ready_retry_days: int = _ranged(
        7,
        "Days to leave a compilation alone that no track is matched of; at most unresolved_retry_days count:",
        least=0,
        most=_MOST_DAYS,
    )
    include_null_canonical: bool = Field(default=False, description="Include libraries without a canonical entity.")
    recheck: bool = Field(
        default=False,
        description="Ask again about the libraries with a stamp, the earliest answer first, and about no others.",
    )
    artist_level_ids: bool = Field(
        default=False,
        description="Refuse to run without the columns of the artist-level ids; where they are, they are written. "
        "runway-pipelines identity migrate adds them.",
    )
    dry_run: bool = Field(default=False, description="Ask LML, but write nothing.")
    limit: int | None = _ranged(None, "Most libraries of each cohort (compilations, others), or none for all:", least=1)
    most_failed_batches: int = _ranged(5, "Stop after so many failed batches in a row, because LML is down:", least=1)
    most_unresolved: float = _ranged(0.5, "Warn above this share of unresolved answers:", least=0, most=1)
    least_fresh: float = _ranged(0.9, "Warn below this share of canonical libraries verified in time:", least=0, most=1)

    @property
    def shard_count(self) -> int:
        """The run's shards; at most ``limit``, so that each gets a part of it.

        A limited recheck has one shard, because any shard may hold the earliest answers of all.
        """
        if self.limit is None:
            return self.shards
        return 1 if self.recheck else min(self.shards, self.limit)

    def limit_of(self, shard: int) -> int | None:
        """A shard's part of the limit."""
        if self.limit is None:
            return None
        whole, rest = divmod(self.limit, self.shard_count)
        return whole + (shard < rest)


def require_in_range(options: IdentityOptions) -> None:
    """Raise `ConfigurationError` with each option that is out of its range, its value and its range."""
    if wrong := dict(_out_of_range(options)):
        raise ConfigurationError(
            expected=", ".join(f"{name} to be {_text(bounds)}" for name, bounds in wrong.items()),
            came=", ".join(f"{name} {getattr(options, name)}" for name in wrong),
            remedy="correct the run's config",
        )


def _out_of_range(options: IdentityOptions) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in type(options).model_fields.items():
        bounds, value = field.json_schema_extra, getattr(options, name)
        if not isinstance(bounds, dict) or value is None:
            continue
        most: Any = bounds.get("most", value)
        if not bounds["least"] <= value <= most:  # neither is true of nan
            yield name, bounds
