"""The state of the catalogue's identity: how much is verified in time, and which rows lack sources."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql

from runway_pipelines.identity.statements import NOTES
from runway_pipelines.identity.transactions import Connections, in_transaction

# Counts the libraries that a nightly run asks about: canonical, with an artist. One whose last answer was no verdict
# has a stamp that is newer than its main row, if it has a row at all, and cannot be verified until the next answer.
_FRESHNESS = sql.SQL("""
select count(*) filter (where i.last_verified_at >= %(fresh_since)s), count(*)
from {library} as l left join {identity} as i on i.library_id = l.id
where l.canonical_entity_id is not null and l.artist_name is not null
  and (l.unresolved_attempted_at is null or i.last_verified_at >= l.unresolved_attempted_at)
""")
_WITHOUT_SOURCES = sql.SQL("""
select count(*) from {identity} as i
where i.notes = %(notes)s
  and not exists (select from {source} as s where s.library_id = i.library_id)
""")


@dataclass(frozen=True)
class IdentityHealth:
    """Libraries verified in time, libraries that could be, and our main rows without a source row."""

    verified_in_time: int
    verifiable: int
    mains_without_sources: int

    @property
    def fresh_share(self) -> float:
        """1.0 with nothing to verify."""
        return self.verified_in_time / self.verifiable if self.verifiable else 1.0


def identity_health(connections: Connections, schema: str, fresh_since: datetime) -> IdentityHealth:
    """Read it from the catalogue; raises what `in_transaction` raises."""
    names = {"library": "library", "identity": "library_identity", "source": "library_identity_source"}
    tables = {name: sql.Identifier(schema, table) for name, table in names.items()}

    def ask(connection: Connection[Any]) -> IdentityHealth:
        fresh = connection.execute(_FRESHNESS.format(**tables), {"fresh_since": fresh_since}).fetchone() or (0, 0)
        lacking = connection.execute(_WITHOUT_SOURCES.format(**tables), {"notes": NOTES}).fetchone() or (0,)
        return IdentityHealth(int(fresh[0]), int(fresh[1]), int(lacking[0]))

    return in_transaction(connections, ask, read_only=True)
