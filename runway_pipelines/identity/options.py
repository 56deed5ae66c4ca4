"""What a run of the library's identity can be told: the config of its ops."""

import dagster as dg
from pydantic import Field

from runway_pipelines.systems.lml.protocol import MOST_INPUTS

MOST_CALLS_IN_FLIGHT = 64


class IdentityOptions(dg.Config):
    """Options of one run; each has a default that is right for the nightly one."""

    batch_size: int = Field(
        500, ge=1, le=MOST_INPUTS, description="Libraries a call, of those that are no compilations."
    )
    compilation_batch_size: int = Field(
        100, ge=1, le=MOST_INPUTS, description="Compilations a call: their answers hold every track."
    )
    shards: int = Field(
        4, ge=1, le=64, description="Parts that the catalogue is cut into (id % shards), one after the other."
    )
    calls_in_flight: int = Field(16, ge=1, le=MOST_CALLS_IN_FLIGHT, description="Calls of LML at a time.")
    writers: int = Field(2, ge=1, le=8, description="Batches that are written at a time.")
    stale_days: int = Field(7, ge=0, description="Ask again what was verified longer ago; 0: every canonical library.")
    unresolved_retry_days: int = Field(
        30, ge=0, description="Leave an unresolved library, or a compilation, alone for so long."
    )
    include_null_canonical: bool = Field(False, description="Bring in libraries without a canonical entity.")
    recheck: bool = Field(False, description="Ask again about every compilation that was answered before.")
    artist_level_ids: bool = Field(
        False, description="Write the artist-level ids too: needs the columns of runway-pipelines identity migrate."
    )
    dry_run: bool = Field(False, description="Ask LML all the same, and write nothing.")
    limit: int | None = Field(
        None, ge=1, description="The most libraries of each cohort, compilations and others; none: all."
    )
    most_failed_batches: int = Field(5, ge=1, description="Stop after so many failed batches in a row: LML is down.")
    most_unresolved: float = Field(
        0.5, ge=0, le=1, description="Warn when a larger share of the answers is unresolved."
    )
    least_fresh: float = Field(
        0.9, ge=0, le=1, description="Warn when a smaller share of canonical libraries is verified in time."
    )

    @property
    def shard_count(self) -> int:
        """The shards that a run is cut into: with a limit no more than it, so that each has its part of it."""
        return self.shards if self.limit is None else min(self.shards, self.limit)

    def limit_of(self, shard: int) -> int | None:
        """A shard's part of the limit."""
        if self.limit is None:
            return None
        whole, rest = divmod(self.limit, self.shard_count)
        return whole + (shard < rest)
