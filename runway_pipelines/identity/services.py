"""The resource of the identity ops: LML and the catalogue."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event

import dagster as dg
from pydantic import PrivateAttr

from runway_pipelines.identity.counts import Counts
from runway_pipelines.identity.health import IdentityHealth, identity_health
from runway_pipelines.identity.migration import missing_columns, require_columns
from runway_pipelines.identity.options import IdentityOptions, require_in_range
from runway_pipelines.identity.resolution import Circuit, Resolver, Write
from runway_pipelines.identity.rights import require_rights
from runway_pipelines.identity.selection import Cohort, Selection, count, pages
from runway_pipelines.identity.writer import write
from runway_pipelines.systems.lml.client import LmlService
from runway_pipelines.systems.lml.verdicts import Answer
from runway_pipelines.systems.postgres.databases import CatalogueDatabase


class IdentityServices(dg.ConfigurableResource):  # type: ignore[type-arg]
    """LML, the catalogue, and the schema of its tables.

    Lives as long as its run, so it also holds the run's circuit.
    """

    lml: dg.ResourceDependency[LmlService]
    catalogue: dg.ResourceDependency[CatalogueDatabase]
    catalogue_schema: str = "wxyc_schema"

    _circuit: Circuit | None = PrivateAttr(default=None)

    def require_ready(self, options: IdentityOptions) -> None:
        """Check the options' ranges, that LML can be called, and that the tables, rights and columns are there.

        Call this before anything is read, and before the options are used.
        """
        require_in_range(options)
        self.lml.require_configured()
        with self.catalogue.connection() as connection:
            require_rights(connection, self.catalogue_schema)
            if options.artist_level_ids:
                require_columns(connection, self.catalogue_schema)

    def has_artist_columns(self) -> bool:
        """Whether the artist-level ids are written: where their columns are, no row may keep another artist's ids."""
        with self.catalogue.connection() as connection:
            return not missing_columns(connection, self.catalogue_schema)

    def due(self, options: IdentityOptions, as_of: datetime) -> dict[Cohort, int]:
        """How many libraries of each cohort a run asks about."""
        return count(self.catalogue.connection, self._selection(options, as_of))

    def resolve_shard(
        self,
        options: IdentityOptions,
        as_of: datetime,
        shard: int,
        circuit: Circuit,
        log: logging.Logger,
        *,
        has_artist_columns: bool,
    ) -> Counts:
        """Resolve one shard's two cohorts with the same threads, until ``circuit`` opens."""
        whole = self._selection(options, as_of)
        selection = replace(whole, shard=(shard, options.shard_count), limit=options.limit_of(shard))
        resolver = Resolver(
            lml=self.lml,
            write=self._writer(options, has_artist_columns, log),
            circuit=circuit,
            log=log,
            calls_in_flight=options.calls_in_flight,
            writers=options.writers,
        )
        sizes = {Cohort.NON_VA: options.batch_size, Cohort.VA: options.compilation_batch_size}
        return resolver.resolve(libraries for _, libraries in pages(self.catalogue.connection, selection, sizes))

    def run_circuit(self, options: IdentityOptions) -> Circuit:
        """The one circuit of the run, which its shards pass on; made for the first of them."""
        if self._circuit is None:
            self._circuit = Circuit(options.most_failed_batches)
        return self._circuit

    def health(self, fresh_since: datetime) -> IdentityHealth:
        """The catalogue's current state."""
        return identity_health(self.catalogue.connection, self.catalogue_schema, fresh_since)

    def _writer(self, options: IdentityOptions, has_artist_columns: bool, log: logging.Logger) -> Write:
        def on_refusal(library_id: int, reason: str) -> None:
            log.warning(f"library {library_id} is quarantined because the database refuses it: {reason}")

        def write_now(answer: Answer, *, stopped: Event) -> Counts:
            return write(
                self.catalogue.connection,
                answer,
                schema=self.catalogue_schema,
                has_artist_columns=has_artist_columns,
                now=datetime.now(UTC),
                moves_moments=options.recheck,
                is_dry_run=options.dry_run,
                on_refusal=on_refusal,
                stopped=stopped,
            )

        return write_now

    def _selection(self, options: IdentityOptions, as_of: datetime) -> Selection:
        """The due libraries of all shards."""
        return Selection(
            as_of=as_of,
            stale_days=options.stale_days,
            include_null_canonical=options.include_null_canonical,
            unresolved_retry_days=options.unresolved_retry_days,
            not_ready_retry_days=options.not_ready_retry_days,
            recheck=options.recheck,
            limit=options.limit,
            schema=self.catalogue_schema,
        )
