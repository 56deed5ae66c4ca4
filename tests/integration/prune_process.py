"""A process that runs the retention job as of some days ahead, for tests that kill it.

``python -m tests.integration.prune_process DAYS``; it ends with 1 when the run failed.
"""

import sys
from datetime import timedelta
from unittest import mock

import dagster as dg

from runway_pipelines.rosters import pruning
from tests.integration.world import definitions

if __name__ == "__main__":
    real_now = pruning.bucket_time
    with (
        dg.DagsterInstance.ephemeral() as instance,
        mock.patch.object(pruning, "bucket_time", lambda store: real_now(store) + timedelta(days=int(sys.argv[1]))),
    ):
        job = definitions().resolve_job_def("run_retention_job")
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    sys.exit(not result.success)
