"""The tags, owners and runbook links on everything that Dagster shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from runway_pipelines.operations.wording import hosted, runbook_path

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

_RUNBOOK = "runbook"


def runbook(section: str) -> dict[str, str]:
    """The metadata of an asset or an event: the section of the operations page about it; `linked` makes it a link."""
    return {_RUNBOOK: runbook_path(section)}


def linked(metadata: Mapping[str, Any], docs_url: str | None) -> dict[str, Any]:
    """The metadata with its runbook as a link, if it is known where the repository is hosted."""
    path = metadata.get(_RUNBOOK)
    if not docs_url or not isinstance(path, str):
        return dict(metadata)
    return {**metadata, _RUNBOOK: dg.MetadataValue.url(hosted(path, docs_url))}


def domain(name: str) -> dict[str, str]:
    """An asset's tag of its domain. A job has none: each of its runs would show it in the list of runs."""
    return {DOMAIN_TAG: name}
