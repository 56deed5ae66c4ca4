"""The run that a token names, in the application's database: its partner, its tenant, and whether that has a roster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runway_pipelines.partner_tenants.keys import PartnerTenant, is_valid_part

if TYPE_CHECKING:
    from runway_pipelines.systems.postgres.databases import ApplicationDatabase

# The rule for who has a roster: rosters contract, section 5. A run of a partner or tenant that is not there has none.
RUN_SQL = """
select job.partner_id, job.tenant_code,
       coalesce(partner.cross_year_matching_enabled and partner.deleted_on is null
                and tenant.deleted_on is null and not tenant.is_global, false) as has_roster
from run
join job on job.id = run.job_id
left join partner on partner.id = job.partner_id
left join tenant on tenant.partner_id = job.partner_id and tenant.code = job.tenant_code
where run.id = %s
"""
LARGEST_ID = 2**31 - 1  # int in Postgres
_RUN_ID = re.compile("[1-9][0-9]{0,9}")  # one spelling for each: the token's claim is compared as text


@dataclass(frozen=True)
class RunTenant:
    """Whose run it is. ``tenant`` is None where partner or tenant cannot have a roster (or a key in the bucket)."""

    runway_run_id: int
    tenant: PartnerTenant | None


def find_run(database: ApplicationDatabase, runway_run_id: str) -> RunTenant | None:
    """The run, or None when there is none; raises what `ApplicationDatabase.connection` raises."""
    if _RUN_ID.fullmatch(runway_run_id) is None or int(runway_run_id) > LARGEST_ID:
        return None
    with database.connection() as connection:
        row = connection.execute(RUN_SQL, [int(runway_run_id)]).fetchone()
    if row is None:
        return None
    partner_id, tenant_code, has_roster = row
    is_key = all(isinstance(part, str) and is_valid_part(part) for part in (partner_id, tenant_code))
    return RunTenant(int(runway_run_id), PartnerTenant(partner_id, tenant_code) if has_roster and is_key else None)
