"""The Runway run that a token names: whose it is, whether it has a roster, and what its executor is told about that."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runway_pipelines.partner_tenants.keys import PartnerTenant, is_valid_part, why_unusable

if TYPE_CHECKING:
    from runway_pipelines.systems.postgres.databases import ApplicationDatabase

API_PREFIX = "/api"  # the application's global prefix; the stream answers with it and without
ROSTER_PATH = "/earthbeam/jobs/{run_id}/roster"
CROSS_YEAR_PATH = "/earthbeam/jobs/{run_id}/cross-year"
RESOLUTIONS_PATH = "/earthbeam/jobs/{run_id}/resolutions"
# Who has a roster: rosters contract, section 5. A run of an unknown partner or tenant has none.
_RUN_SQL = """
select job.partner_id, job.tenant_code,
       coalesce(partner.cross_year_matching_enabled and partner.deleted_on is null
                and tenant.deleted_on is null and not tenant.is_global, false) as has_roster
from run
join job on job.id = run.job_id
left join partner on partner.id = job.partner_id
left join tenant on tenant.partner_id = job.partner_id and tenant.code = job.tenant_code
where run.id = %s
"""
_LARGEST_ID = 2**31 - 1  # int in Postgres
RUN_ID = re.compile("[1-9][0-9]{0,9}")  # one spelling each: the token's claim is compared as text


@dataclass(frozen=True)
class RunTenant:
    """Whose run it is. ``tenant`` is None if partner or tenant has no roster.

    If that is because the tenant's code, or the partner's id, can be no key in the bucket, ``unusable`` says why.
    """

    runway_run_id: int
    tenant: PartnerTenant | None
    unusable: str | None = None


def find_run(database: ApplicationDatabase, runway_run_id: str) -> RunTenant | None:
    """The run, or None if there is none; raises what `ApplicationDatabase.connection` raises."""
    if RUN_ID.fullmatch(runway_run_id) is None or int(runway_run_id) > _LARGEST_ID:
        return None
    with database.connection() as connection:
        row = connection.execute(_RUN_SQL, [int(runway_run_id)]).fetchone()
    if row is None:
        return None
    partner_id, tenant_code, has_roster = row
    if not has_roster:
        return RunTenant(int(runway_run_id), None)
    unusable = why_unusable(tenant_code) if is_valid_part(partner_id) else "the partner's id cannot be a key"
    tenant = PartnerTenant(partner_id, tenant_code) if unusable is None else None
    return RunTenant(int(runway_run_id), tenant, unusable)


def job_payload(can_connect: Callable[[str], bool], run: RunTenant, *, base_url: str) -> dict[str, Any]:
    """The executor's payload about cross-year matching (rosters contract, section 7).

    ``appUrls.roster`` is present only if ``crossYearMatchAvailable``. ``can_connect`` says whether a partner can be
    connected to; it is asked only for a run with a roster.
    """
    is_available = run.tenant is not None and can_connect(run.tenant.partner_id)
    urls = {"roster": base_url.rstrip("/") + ROSTER_PATH.format(run_id=run.runway_run_id)} if is_available else {}
    return {"crossYearMatchAvailable": is_available, "appUrls": urls}
