"""A process that makes one decision, for tests that kill it.

``python -m tests.integration.decide_process PARTNER/TENANT DECISION [SHA256]``; ``expect`` expects lost students for a
day, and ``expect-end`` ends the expectation that is named in place of a sha256.
"""

import sys
from datetime import UTC, datetime, timedelta

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.decisions import Decision, What
from runway_pipelines.rosters.expecting import end_expectation, expect
from runway_pipelines.rosters.quality import STUDENTS_LOST
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services

BY, WHY = "Ann", "the district closed a school"


def main(tenant: PartnerTenant, what: str, named: str = "") -> None:
    """Make the decision."""
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        context, partner_id = services.decisions("decision"), tenant.partner_id
        if what == "expect":
            tomorrow = datetime.now(UTC) + timedelta(days=1)
            expect(context, partner_id, tenant.tenant_code, [STUDENTS_LOST], tomorrow, BY, WHY)
        elif what == "expect-end":
            end_expectation(context, partner_id, named, BY, WHY)
        else:
            services.decide(tenant, Decision(What(what), BY, WHY, named or None), "decision")


if __name__ == "__main__":
    main(PartnerTenant.parse(sys.argv[1]), *sys.argv[2:])
