"""The types of arguments that name a partner or a tenant; what is none is a wrong call."""

from __future__ import annotations

import click

from runway_pipelines.errors import InvalidKey
from runway_pipelines.partner_tenants.keys import SEPARATOR, PartnerTenant, checked_part, shown


class TenantArgument(click.ParamType[PartnerTenant]):
    """PARTNER/TENANT."""

    name = "PARTNER/TENANT"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """How usage lines call it."""
        return self.name

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


class PartnerArgument(click.ParamType[str]):
    """PARTNER."""

    name = "PARTNER"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """How usage lines call it."""
        return self.name

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        if SEPARATOR in value:
            self.fail(f"Expected PARTNER alone; got {shown(value)}. To do: leave out the tenant.", param, ctx)
        try:
            return checked_part("partner_id", value)
        except InvalidKey as error:
            self.fail(f"Expected {error.expected}; got {error.came}. To do: correct its spelling.", param, ctx)


class PartnerOrTenantArgument(click.ParamType[str | PartnerTenant]):
    """PARTNER or PARTNER/TENANT."""

    name = "PARTNER[/TENANT]"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """How usage lines call it."""
        return self.name

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str | PartnerTenant:
        """The partner's id, or the tenant."""
        kind = TenantArgument() if SEPARATOR in value else PartnerArgument()
        return kind.convert(value, param, ctx)
