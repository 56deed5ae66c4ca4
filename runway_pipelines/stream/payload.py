"""The part of the executor's payload that concerns cross-year matching (rosters contract, section 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runway_pipelines.stream.runs import RunTenant

ROSTER_PATH = "/earthbeam/jobs/{run_id}/roster"
CROSS_YEAR_PATH = "/earthbeam/jobs/{run_id}/cross-year"


def job_payload(partner: Callable[[str], bool], run: RunTenant, *, base_url: str) -> dict[str, Any]:
    """``crossYearMatchAvailable``, and ``appUrls.roster`` only when that is true.

    ``partner`` says of a partner id whether it can be connected to; it is asked only where there is a roster to pull.
    """
    is_available = run.tenant is not None and partner(run.tenant.partner_id)
    urls = {"roster": base_url.rstrip("/") + ROSTER_PATH.format(run_id=run.runway_run_id)} if is_available else {}
    return {"crossYearMatchAvailable": is_available, "appUrls": urls}
