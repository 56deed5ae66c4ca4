"""A process that runs one partner, for tests that kill it or run something beside it.

``python -m tests.integration.run_partner PARTNER``; it ends with 1 when the run failed.
"""

import sys

import dagster as dg

from tests.integration.world import bring_in_line, definitions

if __name__ == "__main__":
    with dg.DagsterInstance.ephemeral() as instance:
        bring_in_line(instance)
        result = (
            definitions()
            .resolve_job_def("partner_rosters_job")
            .execute_in_process(instance=instance, partition_key=sys.argv[1], raise_on_error=False)
        )
    sys.exit(not result.success)
