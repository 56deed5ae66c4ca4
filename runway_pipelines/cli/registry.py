"""Errors for a name that the registry does not have, and for a tenant with nothing published."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runway_pipelines.errors import Permanent
from runway_pipelines.operations.wording import first_few, runbook_path

if TYPE_CHECKING:
    from runway_pipelines.credentials.key_hygiene import KeyFacts
    from runway_pipelines.partner_tenants.keys import PartnerTenant
    from runway_pipelines.partner_tenants.registry import Registry, RosterPartner
    from runway_pipelines.rosters.services import RosterServices

MOST_NAMES = 10


def known_partner(registry: Registry, partner_id: str) -> RosterPartner:
    """The partner of that name; raises `Permanent` with the names that there are."""
    if (partner := registry.partners.get(partner_id)) is not None:
        return partner
    if partner_id in registry.switched_off:
        raise Permanent(
            expected="a partner with cross-year matching",
            came=f"{partner_id}, which has it switched off",
            remedy="switch cross_year_matching_enabled on in the application's database, or name another one",
        )
    raise Permanent(
        expected=f"a partner with cross-year matching ({_listed(sorted(registry.partners))})",
        came=partner_id,
        remedy="name one of these" if registry.partners else "switch it on for a partner in the application's database",
    )


def known_tenant(registry: Registry, tenant: PartnerTenant) -> None:
    """Raise `Permanent` with the names that there are, unless this is one of them."""
    partner = known_partner(registry, tenant.partner_id)
    if tenant.tenant_code not in partner.tenant_codes:
        raise Permanent(
            expected=f"a tenant of {tenant.partner_id} ({_listed(partner.tenant_codes)})",
            came=tenant.tenant_code,
            remedy="name one of these; for a tenant that left, rosters purge deletes what is still published",
        )


def nothing_published(services: RosterServices, tenant: PartnerTenant) -> Permanent:
    """Why nothing is published for a tenant, as the registry and the partner's secret are now."""
    from runway_pipelines.credentials.known_keys import key_now

    return why_nothing(
        services.registry(), tenant, lambda partner_id: key_now(services.secrets, partner_id, datetime.now(UTC))
    )


def why_nothing(registry: Registry, tenant: PartnerTenant, key_of: Callable[[str], KeyFacts]) -> Permanent:
    """The first that holds: the registry has no such name, the partner has no credentials, no run has published yet."""
    try:
        known_tenant(registry, tenant)
    except Permanent as error:
        return error
    if trouble := key_of(tenant.partner_id).trouble:
        return Permanent(
            expected=f"something published for {tenant}",
            came=f"nothing so far, because {tenant.partner_id} has no usable credentials: {trouble}",
            remedy=f"put its secret into Secrets Manager as {runbook_path('the-secret-of-a-partner')} says",
        )
    return Permanent(
        expected=f"something published for {tenant}",
        came="nothing so far",
        remedy=f"materialize rosters/cross_year_roster, partition {tenant}, and look at what its run says",
    )


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return first_few(names, MOST_NAMES) if names else "there is none"
