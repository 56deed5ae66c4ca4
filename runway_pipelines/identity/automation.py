"""When the library's identity is resolved: the nightly job, and the one that asks about all compilations again."""

import dagster as dg

from runway_pipelines.identity.assets import COMPILATION_TRACK_ARTIST, GRAPH, LIBRARY_IDENTITY, LIBRARY_IDENTITY_SOURCE
from runway_pipelines.identity.options import IdentityOptions
from runway_pipelines.operations.tags import OWNERS, domain

# A step that stopped has done its work and said so: running only the summary again would repeat its words. What was
# answered is not asked again anyway.
RERUN_ALL = {"dagster/retry_strategy": "ALL_STEPS"}
_SELECTION = dg.AssetSelection.assets(LIBRARY_IDENTITY, LIBRARY_IDENTITY_SOURCE, COMPILATION_TRACK_ARTIST)

library_identity_job = dg.define_asset_job(
    "library_identity_job",
    selection=_SELECTION,
    description="Ask LML about what is due, and write its verdicts.",
    tags=RERUN_ALL | domain("identity"),
    owners=OWNERS,
)
library_identity_recheck_job = dg.define_asset_job(
    "library_identity_recheck_job",
    selection=_SELECTION,
    config=dg.ConfigMapping(
        # Whatever else it is told, it rechecks: a config given in the launchpad takes the place of the job's own.
        config_schema={name: field for name, field in IdentityOptions.to_fields_dict().items() if name != "recheck"},
        config_fn=lambda options: {"ops": {GRAPH: {"config": {**options, "recheck": True}}}},
    ),
    description="Ask again about every compilation that was answered before, on demand.",
    tags=RERUN_ALL | domain("identity"),
    owners=OWNERS,
)


def build_identity_schedule(cron_schedule: str, timezone: str) -> dg.ScheduleDefinition:
    """What is due, once a day."""
    return dg.ScheduleDefinition(
        name="library_identity_daily_schedule",
        job=library_identity_job,
        cron_schedule=cron_schedule,
        execution_timezone=timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        owners=OWNERS,
        description="A run that finds nothing due asks nothing.",
    )
