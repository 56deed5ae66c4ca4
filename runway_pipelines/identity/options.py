"""The options of an identity run: the config of its ops."""

import dagster as dg
from pydantic import Field

from runway_pipelines.systems.lml.protocol import MOST_INPUTS

MOST_CALLS_IN_FLIGHT = 64


class IdentityOptions(dg.Config):
    """One run's options; the defaults are the nightly run's."""

    batch_size: int = Field(500, ge=1, le=MOST_INPUTS, description="Libraries per call, compilations excluded.")
    compilation_batch_size: int = Field(
        100, ge=1, le=MOST_INPUTS, description="Compilations per call; their answers hold every track."
    )
    shards: int = Field(4, ge=1, le=64, description="Parts of the catalogue (id % shards), one after the other.")
    calls_in_flight: int = Field(16, ge=1, le=MOST_CALLS_IN_FLIGHT, description="Concurrent calls to LML.")
    writers: int = Field(2, ge=1, le=8, description="Batches written concurrently.")
    stale_days: int = Field(
        7, ge=0, description="Ask again about libraries verified longer ago; 0 asks about every canonical library."
    )
    unresolved_retry_days: int = Field(
        30, ge=0, description="Leave unresolved libraries and compilations alone so long."
    )
    include_null_canonical: bool = Field(False, description="Include libraries without a canonical entity.")
    recheck: bool = Field(False, description="Ask again about every compilation with an earlier answer.")
    artist_level_ids: bool = Field(
        False, description="Also write the artist-level ids; runway-pipelines identity migrate adds their columns."
    )
    dry_run: bool = Field(False, description="Ask LML, but write nothing.")
    limit: int | None = Field(
        None, ge=1, description="Most libraries of each cohort (compilations, others); none: all."
    )
    most_failed_batches: int = Field(5, ge=1, description="Stop after so many failed batches in a row: LML is down.")
    most_unresolved: float = Field(0.5, ge=0, le=1, description="Warn above this share of unresolved answers.")
    least_fresh: float = Field(
        0.9, ge=0, le=1, description="Warn below this share of canonical libraries verified in time."
    )

    @property
    def shard_count(self) -> int:
        """The run's shards; at most ``limit``, so that each gets a part of it."""
        return self.shards if self.limit is None else min(self.shards, self.limit)

    def limit_of(self, shard: int) -> int | None:
        """A shard's part of the limit."""
        if self.limit is None:
            return None
        whole, rest = divmod(self.limit, self.shard_count)
        return whole + (shard < rest)
