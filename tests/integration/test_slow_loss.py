"""A district that loses a few students each night is held once all of the last days' losses together are too many."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.rosters.decisions import Decision, DecisionContext, What, decide
from runway_pipelines.rosters.holds import read_hold
from runway_pipelines.rosters.manifest import Earlier, Pointer
from runway_pipelines.rosters.outcome import RefreshContext, TenantOutcome, TenantStatus
from runway_pipelines.rosters.refresh import refresh_tenant
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services
from tests.integration.world import TestPartner, Warehouse, World
from tests.waiting import PATIENCE_SECONDS

YEARS = (2026,)


@dataclass
class Nights:
    """The tenant "north", refreshed by a clock that goes on as the test says. S3 and the queries have their own."""

    partner: TestPartner
    services: RosterServices
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def refreshed(self, students: int, *, days: int = 1) -> TenantOutcome:
        """A refresh some days after the last one; the warehouse has so many students."""
        self.now += timedelta(days=days)
        self.partner.warehouse = Warehouse()
        self.partner.warehouse.students("north", students)
        self.partner.write_tables()
        services = self.services
        context = RefreshContext(
            services.store,
            services.database,
            f"run of {self.today}",
            services.policy.thresholds,
            services.policy.guards.guards,
            int(PATIENCE_SECONDS),
            logging.getLogger("test"),
            now=lambda: self.now,
        )
        sessions = PartnerSessions(
            self.partner.partner_id, services.secrets, services.snowflake, size=1, query_tag="test"
        )
        with closing(sessions):
            return refresh_tenant(context, sessions, self.partner.tenant("north"), YEARS)

    def decide(self, what: What, sha256: str | None = None) -> TenantOutcome:
        """A person's decision, by the same clock."""
        services = self.services
        context = DecisionContext(
            services.store, services.database, "decision", int(PATIENCE_SECONDS), lambda: self.now
        )
        return decide(context, self.partner.tenant("north"), YEARS, Decision(what, "Ann", "a school closed", sha256))

    @property
    def today(self) -> str:
        return self.now.date().isoformat()

    @property
    def pointer(self) -> Pointer:
        found = self.partner.pointer("north")
        assert found is not None
        return found

    @property
    def remembered(self) -> list[int]:
        return [each.students for each in self.pointer.earlier]


@pytest.fixture
def nights(world: World) -> Iterator[Nights]:
    warehouse = Warehouse()
    warehouse.students("north", 1)
    partner = world.partner(warehouse, ["north"])
    load_settings.cache_clear()
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        yield Nights(partner, services)


def test_four_percent_a_night_is_held_on_the_second_and_waits_until_the_students_are_back(nights: Nights) -> None:
    assert nights.refreshed(600).status is TenantStatus.NEW
    assert nights.refreshed(576).status is TenantStatus.NEW
    since = nights.today
    assert nights.pointer.earlier == (Earlier(nights.now.isoformat(timespec="seconds"), 600),)
    published = nights.partner.published("north")

    outcome = nights.refreshed(552)
    assert outcome.status is TenantStatus.HELD
    assert "24 of 576 published students (4.2%) are no longer in the warehouse; in small steps it lost 8.0% since " in (
        outcome.reason
    )
    assert f"since {since}, 600 -> 552 students, more than 5.0%. If the load went wrong" in outcome.reason
    assert nights.partner.published("north") == published
    assert nights.refreshed(552, days=9).status is TenantStatus.HELD, "time alone releases nothing"
    assert nights.refreshed(573).status is TenantStatus.NEW
    assert nights.refreshed(600).status is TenantStatus.NEW
    assert nights.remembered == []


def test_a_slower_loss_is_published_and_a_week_later_it_is_forgotten(nights: Nights) -> None:
    nights.refreshed(600)
    assert nights.refreshed(585).status is TenantStatus.NEW
    assert nights.refreshed(585, days=6).status is TenantStatus.UNCHANGED
    assert nights.remembered == [600]
    assert nights.refreshed(585, days=2).status is TenantStatus.UNCHANGED
    assert nights.remembered == []
    assert nights.refreshed(565).status is TenantStatus.NEW


@pytest.mark.parametrize("what", [What.APPROVE, What.ROLLBACK])
def test_a_decision_starts_the_count_anew(nights: Nights, what: What) -> None:
    nights.refreshed(600)
    nights.refreshed(576)
    assert nights.refreshed(552).status is TenantStatus.HELD
    if what is What.APPROVE:
        hold = read_hold(nights.services.store, nights.partner.tenant("north"))
        assert hold is not None
        nights.decide(What.APPROVE, hold.sha256)
        students = 552
    else:
        nights.decide(What.ROLLBACK)
        nights.decide(What.UNPIN)
        students = 600
    assert nights.remembered == []
    assert nights.refreshed(students - 22).status is TenantStatus.NEW
    assert nights.remembered == [students]
    assert nights.refreshed(students - 44).status is TenantStatus.HELD
