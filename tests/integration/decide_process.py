"""A process that makes one decision, for tests that kill it.

``python -m tests.integration.decide_process PARTNER/TENANT DECISION [SHA256]``.
"""

import sys

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.decisions import Decision, What
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services

if __name__ == "__main__":
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        sha256 = sys.argv[3] if len(sys.argv) > 3 else None
        decision = Decision(What(sys.argv[2]), "Ann", "the district closed a school", sha256)
        services.decide(PartnerTenant.parse(sys.argv[1]), decision, "decision")
