"""A tenant that is guarded: refreshed, held and decided on over the real servers, and what is kept of it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

import dagster as dg
from click.testing import CliRunner

from runway_pipelines.cli.app import main
from runway_pipelines.rosters.audit import entries
from runway_pipelines.rosters.decisions import Decision, DecisionContext, What
from runway_pipelines.rosters.holds import Hold, read_hold
from runway_pipelines.rosters.manifest import index_key
from runway_pipelines.rosters.outcome import TenantOutcome
from runway_pipelines.rosters.record import Entry
from runway_pipelines.rosters.services import RosterServices
from tests.integration.world import TestPartner, Warehouse, World, run_partner

STUDENTS = 60
WHY = "the district closed a school"


@dataclass
class Guarded:
    """A tenant "north" of a partner, of sixty students, which was published once."""

    partner: TestPartner
    services: RosterServices
    instance: dg.DagsterInstance

    def has(self, *students: tuple[int, int], prefix: str = "S") -> bytes:
        """The warehouse has these ranges of students from now on; returns the roster."""
        warehouse = Warehouse()
        for first, last in students:
            for number in range(first, last):
                warehouse.student("north", f"{prefix}{number:05d}", ("Local", f"L{prefix}{number:05d}"))
        self.partner.warehouse = warehouse
        self.partner.write_tables()
        return b"".join(warehouse.reference("north").lines)

    def run(self) -> dg.ExecuteInProcessResult:
        return run_partner(self.instance, self.partner)

    @property
    def hold(self) -> Hold | None:
        return read_hold(self.services.store, self.partner.tenant("north"))

    def held(self) -> Hold:
        found = self.hold
        assert found is not None
        return found

    def decide(self, what: What, sha256: str | None = None, by: str = "Ann") -> TenantOutcome:
        decision = Decision(what, by, WHY, sha256)
        return self.services.decide(self.partner.tenant("north"), decision, "decision")

    def decisions(self) -> DecisionContext:
        return DecisionContext(self.services.store, self.services.database, "decision", 60)

    def audit(self) -> list[Entry]:
        return entries(self.services.store, self.partner.tenant("north"))

    def audited(self) -> list[str]:
        return [entry.what for entry in self.audit()]

    def commands_that_finish(self) -> list[str]:
        """What a person reads of decisions that were begun and never completed."""
        result = CliRunner().invoke(main, ["rosters", "audit", self.partner.tenant("north").key])
        assert result.exit_code == 0, result.output
        told = [line.partition(" To do: ")[2] for line in result.output.splitlines() if "never completed" in line]
        assert ("unfinished" in " ".join(result.output.split())) is bool(told)
        return told

    def entry_of_index(self) -> dict[str, Any]:
        document = self.services.store.read(index_key(self.partner.partner_id))
        assert document is not None
        (entry,) = json.loads(document.body)["tenants"]
        return dict(entry)

    def everything_kept(self) -> dict[str, bytes]:
        """What was written of holds, decisions and publications: every document of the partner."""
        store, prefixes = self.services.store, ("__roster_audit", "__roster_snapshots")
        keys = [key for prefix in prefixes for key in store.list_keys(f"{prefix}/{self.partner.partner_id}/")]
        documents = ((key, store.read(key)) for key in keys if key.endswith(".json"))
        return {key: document.body for key, document in documents if document}


def guarded_tenant(world: World, services: RosterServices, instance: dg.DagsterInstance) -> Guarded:
    """One that was published once, with `STUDENTS`."""
    one = Guarded(world.partner(Warehouse(), ["north"]), services, instance)
    one.has((0, STUDENTS))
    assert one.run().success
    return one


def said(command: str) -> None:
    """A command that a person reads, and says."""
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
