"""The types of arguments that name a partner or a tenant; anything else is a usage error."""

from __future__ import annotations

import click

from runway_pipelines.errors import InvalidKey
from runway_pipelines.partner_tenants.keys import SEPARATOR, PartnerTenant, checked_part, shown


class _CalledByName:
    """Usage lines call the argument by the name of its type."""

    name: str

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The name, as it is."""
        return self.name


class TenantArgument(_CalledByName, click.ParamType[PartnerTenant]):
    """PARTNER/TENANT."""

    name = "PARTNER/TENANT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> PartnerTenant:
        """Parse and check both parts."""
        if SEPARATOR not in value:
            self.fail(
                f"Expected PARTNER/TENANT; got {shown(value)} alone. To do: say it like acme/ashford.", param, ctx
            )
        try:
            return PartnerTenant.parse(value)
        except InvalidKey as error:
            self.fail(f"Expected {error.expected}; got {error.came}. To do: correct its spelling.", param, ctx)


class PartnerArgument(_CalledByName, click.ParamType[str]):
    """PARTNER."""

    name = "PARTNER"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        if SEPARATOR in value:
            self.fail(f"Expected PARTNER alone; got {shown(value)}. To do: leave out the tenant.", param, ctx)
        try:
            return checked_part("partner_id", value)
        except InvalidKey as error:
            self.fail(f"Expected {error.expected}; got {error.came}. To do: correct its spelling.", param, ctx)


class PartnerOrTenantArgument(_CalledByName, click.ParamType[str | PartnerTenant]):
    """PARTNER or PARTNER/TENANT."""

    name = "PARTNER[/TENANT]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str | PartnerTenant:
        """The partner's id, or the tenant."""
        kind = TenantArgument() if SEPARATOR in value else PartnerArgument()
        return kind.convert(value, param, ctx)
