"""The tags, owners and runbook links on everything that Dagster shows."""

from collections.abc import Sequence

OWNERS: Sequence[str] = ["team:runway-data"]
DOMAIN_TAG = "runway/domain"
PARTNER_TAG = "runway/partner"
# Dagster's own tag for a run's partition, which is the partner. Unlike runway/partner it is also on the runs of a
# backfill and on those started in the UI.
PARTITION_TAG = "dagster/partition"
# Dagster's own, on a run of several partitions.
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
TRIGGER_TAG = "runway/trigger"
SECRET_VERSION_TAG = "runway/secret_version"  # noqa: S105 - the name of a tag

# A path, not a link: this code does not know where the repository is hosted.
OPERATIONS = "docs/operations.md"


def runbook(section: str) -> dict[str, str]:
    """An asset's metadata: the section of the operations page about it."""
    return {"runbook": f"{OPERATIONS}#{section}"}


def domain(name: str) -> dict[str, str]:
    """The tag of a domain."""
    return {DOMAIN_TAG: name}
