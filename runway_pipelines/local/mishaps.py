"""Mishaps to practise on: who can have one, what it makes of a tenant's rows, and whose warehouse a wrong key opens.

Pure: values in, values out. `breakage.py` makes them happen.
"""

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from runway_pipelines.errors import Permanent
from runway_pipelines.local import dataset
from runway_pipelines.local.partners import Partner, Tenant
from runway_pipelines.operations.wording import first_few

Tables = Mapping[str, pa.Table]  # a tenant's rows, by the name of the table

_ONE_STUDENT_IN = 20  # stays when most are lost
_MOST_NAMES = 12


def partners_with_rosters(partners: Sequence[Partner]) -> tuple[Partner, ...]:
    """The partners whose refreshes succeed: nobody would see a mishap at any other partner."""
    return tuple(one for one in partners if one.has_secret and one.cross_year_matching_enabled and not one.deleted)


def tenants_with_students(partner: Partner) -> tuple[Tenant, ...]:
    """The partner's tenants that have a roster; a global one has none."""
    return tuple(one for one in partner.tenants if one.students and not one.deleted and not one.is_global)


def named(partners: Sequence[Partner], text: str) -> tuple[Partner, Tenant | None]:
    """The partner of PARTNER, or the partner and the tenant of PARTNER/TENANT. Raises `Permanent`."""
    partner_id, separator, code = text.partition("/")
    candidates = {one.partner_id: one for one in partners_with_rosters(partners)}
    if partner_id not in candidates:
        raise _unknown("partner of the synthetic data that has rosters", candidates, partner_id)
    partner = candidates[partner_id]
    if not separator:
        return partner, None
    tenants = {tenant.code: tenant for tenant in tenants_with_students(partner)}
    if code not in tenants:
        raise _unknown(f"tenant of {partner_id} that has students", tenants, code)
    return partner, tenants[code]


def _unknown(what: str, known: Collection[str], came: str) -> Permanent:
    return Permanent(
        expected=f"a {what} ({first_few(known, _MOST_NAMES)})", came=came or "no name", remedy="name one of these"
    )


def seeded_rows(partner: Partner, tenant: Tenant) -> Tables:
    """The tenant's rows as seeding writes them."""
    return {
        dataset.ASSOCIATIONS: dataset.associations(partner, tenant),
        dataset.IDENTIFICATION_CODES: dataset.identification_codes(partner, tenant),
        dataset.STUDENTS: dataset.students(partner, tenant),
        dataset.SCHOOLS: dataset.schools(partner, tenant),
    }


def no_rows() -> Tables:
    """The rows of a tenant that the warehouse does not have."""
    return {name: schema.empty_table() for name, schema in dataset.SCHEMAS.items()}


def few_students(rows: Tables) -> Tables:
    """The rows of one student in twenty. Every table keeps the same students; a tenant keeps one at least."""
    associations = rows[dataset.ASSOCIATIONS]
    ids = sorted(one for one in pc.unique(associations["student_unique_id"]).to_pylist() if one)
    is_kept = pc.is_in(associations["student_unique_id"], value_set=pa.array(ids[::_ONE_STUDENT_IN], pa.string()))
    kept_keys = pc.unique(associations["k_student_xyear"].filter(is_kept))
    return {name: table.filter(pc.is_in(table["k_student_xyear"], value_set=kept_keys)) for name, table in rows.items()}


def under_code(rows: Tables, code: str) -> Tables:
    """The same rows, as those of a tenant with this code."""
    return {
        name: table.set_column(0, "tenant_code", pa.repeat(pa.scalar(code, pa.string()), len(table)))
        for name, table in rows.items()
    }


def other_partner(partner: Partner, codes: Collection[str], partners: Sequence[Partner]) -> Partner:
    """The partner whose warehouse a wrong key opens: the one that has most of these tenant codes itself.

    Raises `Permanent` if no other partner has rosters.
    """
    others = [one for one in partners_with_rosters(partners) if one.partner_id != partner.partner_id]
    if not others:
        raise Permanent(expected="a second partner with rosters", came="none", remedy="use the whole data set")
    return max(others, key=lambda one: sum(tenant.code in codes for tenant in tenants_with_students(one)))


def stand_in(other: Partner, tenant: Tenant) -> Tenant:
    """The other partner's tenant whose students are found under the tenant's code: that of the most similar size."""
    return min(tenants_with_students(other), key=lambda one: abs(one.students - tenant.students))


def borrowed_codes(partner: Partner, other: Partner) -> frozenset[str]:
    """The partner's tenant codes that the other partner has only if a mishap put them there."""
    return frozenset(one.code for one in partner.tenants) - {one.code for one in other.tenants}
