"""The one resource of student resolution: the rosters' systems, and the policy that it follows.

Every Dagster process has it and few resolve, so modules that import duckdb are imported where they are used.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.errors import Permanent
from runway_pipelines.operations.wording import first_few
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.services import RosterServices

if TYPE_CHECKING:
    from runway_pipelines.students.warehouse import TenantPersons

_MOST_NAMES = 10


class ResolutionOff(Permanent):
    """The partner's students are not resolved: the partner decides, and the setting says so."""


class NoSuchTenant(Permanent):
    """The registry has no such tenant, or its partner's cross-year matching is off."""


class ResolutionPolicy(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The settings for resolving students. ``partners`` are those who agreed."""

    partners: list[str]
    keep_days: int

    @property
    def files_kept(self) -> timedelta:
        """For how long a file and its answers stay in the bucket."""
        return timedelta(days=self.keep_days)


class StudentServices(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Everything that resolving students speaks to."""

    rosters: dg.ResourceDependency[RosterServices]
    policy: dg.ResourceDependency[ResolutionPolicy]

    def is_on(self, partner_id: str) -> bool:
        """Whether the partner's students are resolved."""
        return partner_id in self.policy.partners

    def require_on(self, partner_id: str) -> None:
        """Raise `ResolutionOff`, which says what to set, unless the partner's students are resolved."""
        if not self.is_on(partner_id):
            raise ResolutionOff(
                expected=f"student resolution to be on for {partner_id}",
                came="a partner for whom it is off",
                remedy=f"once the partner agreed to it, add {partner_id} to RUNWAY_STUDENT_RESOLUTION "
                "(docs/student-resolution.md)",
            )

    def require_resolvable(self, tenant: PartnerTenant) -> None:
        """Raise `ResolutionOff`, `NoSuchTenant`, or `Permanent` for a partner that is not in the registry."""
        self.require_on(tenant.partner_id)
        partner = self.rosters.registry().partner(tenant.partner_id)
        if tenant not in partner.tenants:
            raise NoSuchTenant(
                expected=f"a tenant of {tenant.partner_id} that is in the registry",
                came=tenant.key,
                remedy=f"name one of its own: {first_few(partner.tenant_codes, _MOST_NAMES)}",
            )

    def fetch_persons(self, tenant: PartnerTenant, *, run_id: str) -> "TenantPersons":
        """The tenant's students, over a session that ends with the call.

        Raises `ResolutionOff`, what `PartnerSessions.session` raises, and what `warehouse.fetch_persons` does.
        """
        from runway_pipelines.students.warehouse import fetch_persons

        self.require_on(tenant.partner_id)
        sessions = PartnerSessions(
            tenant.partner_id,
            self.rosters.secrets,
            self.rosters.snowflake,
            size=1,
            query_tag=f"runway_pipelines resolution partner={tenant.partner_id}",
        )
        try:
            with sessions.session() as session:
                return fetch_persons(session, tenant, run_id=run_id)
        finally:
            sessions.close()
