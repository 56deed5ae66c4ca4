"""Which tenants have a roster, read from the application's database: the statements, and the registry of their rows.

A tenant has a roster (rosters contract, section 5) if neither it nor its partner is deleted, the partner's
``cross_year_matching_enabled`` is true, and the tenant is not global.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runway_pipelines.errors import Permanent
from runway_pipelines.partner_tenants.keys import PartnerTenant, is_valid_part, shown, why_unusable

if TYPE_CHECKING:
    from psycopg import Connection

PARTNERS_SQL = """
select id, name, cross_year_matching_enabled
from partner
where deleted_on is null
order by id
"""

TENANTS_SQL = """
select partner_id, code
from tenant
where deleted_on is null and not is_global
order by partner_id, code
"""

# The years for which a roster is read from S3: enabled for the partner, and not sent to an ODS.
PUBLISHED_YEARS_SQL = """
select config.partner_id, year.end_year
from school_year_config as config
join school_year as year on year.id = config.school_year_id
where config.is_enabled and not config.send_to_ods and year.end_year is not null
order by config.partner_id, year.end_year
"""

# The rule of `build_registry` for one tenant, in SQL.
HAS_ROSTER_SQL = """
select exists (
    select from tenant join partner on partner.id = tenant.partner_id
    where tenant.partner_id = %(partner_id)s and tenant.code = %(tenant_code)s and tenant.deleted_on is null
        and not tenant.is_global and partner.deleted_on is null
        and (partner.cross_year_matching_enabled or %(include_switched_off)s)
)
"""


@dataclass(frozen=True)
class RosterPartner:
    """A partner whose tenants have rosters; ``published_years`` are end years, ascending.

    ``unusable_codes`` are tenants that would have a roster if their code could be a key.
    """

    partner_id: str
    name: str
    tenant_codes: tuple[str, ...]
    published_years: tuple[int, ...]
    unusable_codes: tuple[str, ...] = ()

    @property
    def tenants(self) -> tuple[PartnerTenant, ...]:
        """The partner's tenants, in order."""
        return tuple(PartnerTenant(self.partner_id, code) for code in self.tenant_codes)


@dataclass(frozen=True)
class Registry:
    """Every partner with rosters, by id.

    ``skipped`` lists, in printable form, the ids and codes that cannot be keys and do not stop the others.
    ``switched_off`` are partners whose toggle is off.
    """

    partners: Mapping[str, RosterPartner]
    skipped: tuple[str, ...] = ()
    switched_off: tuple[str, ...] = field(default=())

    @property
    def partner_keys(self) -> frozenset[str]:
        """Partition keys of the partners."""
        return frozenset(self.partners)

    @property
    def tenant_keys(self) -> frozenset[str]:
        """Partition keys of the tenants of all partners."""
        return frozenset(tenant.key for partner in self.partners.values() for tenant in partner.tenants)

    def partner(self, partner_id: str) -> RosterPartner:
        """The partner; raises `Permanent` if it has no rosters (any more)."""
        try:
            return self.partners[partner_id]
        except KeyError:
            raise Permanent(
                expected=f"partner {shown(partner_id)} with cross-year matching in the application's database",
                came="a partner that is "
                + ("switched off" if partner_id in self.switched_off else "unknown, deleted or without tenants"),
                remedy="switch cross_year_matching_enabled on, or let the partitions sync remove this partition",
            ) from None


def build_registry(
    partners: Iterable[tuple[str, str, bool]],
    tenants: Iterable[tuple[str, str]],
    published_years: Iterable[tuple[str, int]],
    *,
    include_switched_off: bool = False,
) -> Registry:
    """Make the registry from the rows of the three statements.

    ``include_switched_off`` adds partners whose toggle is off, for older Runways that read the S3 file all the same. A
    partner without tenants is left out; one whose tenants all have unusable codes is not.
    """
    skipped: list[str] = []
    names: dict[str, str] = {}
    switched_off: list[str] = []
    for partner_id, name, enabled in partners:
        if not is_valid_part(partner_id):
            skipped.append(f"partner {shown(partner_id)}")
        elif enabled or include_switched_off:
            names[partner_id] = name
        else:
            switched_off.append(partner_id)

    codes: dict[str, list[str]] = {}
    unusable: dict[str, list[str]] = {}
    for partner_id, code in tenants:
        if partner_id not in names:
            continue
        if why_unusable(code) is None:
            codes.setdefault(partner_id, []).append(code)
        else:
            unusable.setdefault(partner_id, []).append(code)
            skipped.append(f"tenant {shown(code)} of partner {partner_id}")

    years: dict[str, set[int]] = {}
    for partner_id, end_year in published_years:
        years.setdefault(partner_id, set()).add(end_year)

    return Registry(
        partners={
            partner_id: RosterPartner(
                partner_id=partner_id,
                name=name,
                tenant_codes=tuple(sorted(codes.get(partner_id, ()))),
                published_years=tuple(sorted(years.get(partner_id, ()))),
                unusable_codes=tuple(sorted(unusable.get(partner_id, ()))),
            )
            for partner_id, name in names.items()
            if partner_id in codes or partner_id in unusable
        },
        skipped=tuple(skipped),
        switched_off=tuple(switched_off),
    )


def read_registry(connection: Connection[Any], *, include_switched_off: bool = False) -> Registry:
    """Read the registry from the application's database, in one snapshot for all three statements."""
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        partners, tenants, published_years = (
            connection.execute(statement).fetchall() for statement in (PARTNERS_SQL, TENANTS_SQL, PUBLISHED_YEARS_SQL)
        )
    return build_registry(partners, tenants, published_years, include_switched_off=include_switched_off)


def has_roster(connection: Connection[Any], tenant: PartnerTenant, *, include_switched_off: bool = False) -> bool:
    """Whether the tenant has a roster now."""
    asked = {
        "partner_id": tenant.partner_id,
        "tenant_code": tenant.tenant_code,
        "include_switched_off": include_switched_off,
    }
    return connection.execute(HAS_ROSTER_SQL, asked).fetchone() == (True,)
