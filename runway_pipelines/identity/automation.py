"""Resolves the library's identity every night, and asks again on demand about what has a stamp."""

import dagster as dg

from runway_pipelines.identity.assets import COMPILATION_TRACK_ARTIST, GRAPH, LIBRARY_IDENTITY, LIBRARY_IDENTITY_SOURCE
from runway_pipelines.identity.options import IdentityOptions
from runway_pipelines.operations.tags import OWNERS

# A stopped step counts as done, so retrying the failed step alone would only repeat the summary. Libraries with an
# answer are not asked about again anyway.
RERUN_ALL = {"dagster/retry_strategy": "ALL_STEPS"}
_SELECTION = dg.AssetSelection.assets(LIBRARY_IDENTITY, LIBRARY_IDENTITY_SOURCE, COMPILATION_TRACK_ARTIST)

library_identity_job = dg.define_asset_job(
    "library_identity_job",
    selection=_SELECTION,
    description="Ask LML about due libraries and write its verdicts.",
    tags=RERUN_ALL,
    owners=OWNERS,
)
library_identity_recheck_job = dg.define_asset_job(
    "library_identity_recheck_job",
    selection=_SELECTION,
    config=dg.ConfigMapping(
        # Not an option: a config from the launchpad replaces the job's own, and could switch it off.
        config_schema={name: field for name, field in IdentityOptions.to_fields_dict().items() if name != "recheck"},
        config_fn=lambda options: {"ops": {GRAPH: {"config": {**options, "recheck": True}}}},
    ),
    description="Ask again about the libraries with a stamp, the earliest answer first; limit takes a slice of them.",
    tags=RERUN_ALL,
    owners=OWNERS,
)


def build_identity_schedule(cron_schedule: str, timezone: str) -> dg.ScheduleDefinition:
    """The daily schedule."""
    return dg.ScheduleDefinition(
        name="library_identity_daily_schedule",
        job=library_identity_job,
        cron_schedule=cron_schedule,
        execution_timezone=timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        owners=OWNERS,
        description="A run asks nothing when nothing is due.",
    )
