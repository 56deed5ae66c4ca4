"""A process that resolves a tenant's waiting files and is killed before the first report, for tests of what is left.

``python -m tests.integration.resolve_process PARTNER/TENANT``
"""

import os
import signal
import sys
from unittest import mock

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.settings import load_settings
from runway_pipelines.students import file_resolution
from runway_pipelines.students.files import waiting_files
from runway_pipelines.wiring import build_student_services


def die(*_: object) -> None:
    """As the kernel ends a process: nothing of it runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    tenant = PartnerTenant.parse(sys.argv[1])
    with (
        build_student_services(load_settings()).process_config_and_initialize_cm() as students,
        mock.patch.object(file_resolution, "write_report", die),
    ):
        persons = students.fetch_persons(tenant, run_id="killed")
        for file in waiting_files(students.rosters.store, tenant):
            done = file_resolution.resolve_file(students.rosters.store, file, persons)
            file_resolution.write(students.rosters.store, done, "killed")
