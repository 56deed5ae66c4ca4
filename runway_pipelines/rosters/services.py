"""The one resource of the roster assets: the systems that they speak to, and the policy that they follow."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.credentials.trial import Trial, try_credentials
from runway_pipelines.errors import DecisionRefused
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.registry import Registry, read_registry
from runway_pipelines.rosters.advice import Advice
from runway_pipelines.rosters.decisions import Decision, DecisionContext, decide
from runway_pipelines.rosters.guards import Guards
from runway_pipelines.rosters.index import PartnerIndex, record_outcomes
from runway_pipelines.rosters.outcome import TenantOutcome
from runway_pipelines.rosters.quality import Thresholds
from runway_pipelines.rosters.query import READABLE_SQL
from runway_pipelines.rosters.retention import Retention
from runway_pipelines.systems.aws.object_store import ObjectStore
from runway_pipelines.systems.postgres.databases import ApplicationDatabase
from runway_pipelines.systems.snowflake.client import EduSnowflake


class GuardPolicy(dg.Config):
    """The settings of the guards, as `Guards` describes them."""

    students_lost: float
    students_lost_least: int
    students_added: float
    students_added_least: int
    students_changed: float
    id_type_lost: float
    colliding_codes: float
    warehouse_moved: bool

    @property
    def guards(self) -> Guards:
        """Where guards hold a roster."""
        return Guards(**self.model_dump())


class RosterPolicy(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The settings for refreshing rosters; their defaults are in `settings`."""

    sessions_per_partner: int
    lock_wait_seconds: int
    include_switched_off: bool
    fillers: bool
    snapshots_kept: int
    snapshots_monthly_days: int
    key_age_warning_days: int
    least_students_with_codes: float
    most_coverage_drop: float
    most_students_lost: float
    roster_fresh_hours: float
    docs_url: str | None = None
    command: str
    guards: GuardPolicy

    @property
    def advice(self) -> Advice:
        """How next steps are worded on Dagster's pages, whose readers are in Dagster and need no address."""
        return Advice(self.command, docs_url=self.docs_url)

    @property
    def most_roster_age(self) -> timedelta:
        """How old a roster may be."""
        return timedelta(hours=self.roster_fresh_hours)

    @property
    def retention(self) -> Retention:
        """Which snapshots are kept."""
        return Retention(keep_last=self.snapshots_kept, monthly_days=self.snapshots_monthly_days)

    @property
    def thresholds(self) -> Thresholds:
        """Where warnings start."""
        return Thresholds(
            students_with_codes=self.least_students_with_codes,
            coverage_drop=self.most_coverage_drop,
            students_lost=self.most_students_lost,
        )


class RosterServices(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Everything that refreshing rosters speaks to."""

    database: dg.ResourceDependency[ApplicationDatabase]
    secrets: dg.ResourceDependency[PartnerSecrets]
    snowflake: dg.ResourceDependency[EduSnowflake]
    store: dg.ResourceDependency[ObjectStore]
    policy: dg.ResourceDependency[RosterPolicy]

    def registry(self) -> Registry:
        """The partners and tenants that have rosters now."""
        with self.database.connection() as connection:
            return read_registry(connection, include_switched_off=self.policy.include_switched_off)

    def decisions(self, run_id: str) -> DecisionContext:
        """What a person's decisions are made with; ``run_id`` says in the record where they were made."""
        return DecisionContext(self.store, self.database, run_id, self.policy.lock_wait_seconds)

    def index(self, partner_id: str) -> PartnerIndex:
        """The partner's index as it is; raises `Permanent` for a partner that is not in the registry."""
        return PartnerIndex.read(self.store, self.registry().partner(partner_id))

    def decide(self, tenant: PartnerTenant, decision: Decision, run_id: str) -> TenantOutcome:
        """Make a decision about a tenant's roster take effect, and record it in the partner's index.

        Raises what `decisions.decide` raises, and `Permanent` if the partner or the tenant is not in the registry.
        """
        registry = self.registry()
        partner = registry.partner(tenant.partner_id)
        if tenant not in partner.tenants:
            raise DecisionRefused(
                expected=f"a tenant of {tenant.partner_id} that is in the registry",
                came=tenant.key,
                remedy="a tenant that left gets no new roster; rosters purge deletes what is still published",
            )
        outcome = decide(self.decisions(run_id), tenant, partner.published_years, decision)
        record_outcomes(self.store, partner, [outcome], run_id, datetime.now(UTC))
        return outcome

    def try_credentials(self, partner_id: str, sessions: PartnerSessions) -> Trial:
        """Connect over ``sessions`` and prove that the source tables are readable."""
        return try_credentials(
            partner_id, sessions, self.secrets, self.snowflake, statement=READABLE_SQL, now=datetime.now(UTC)
        )
