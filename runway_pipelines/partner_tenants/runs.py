"""The request for a partner's run: its partition, its run_key, its tags."""

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from runway_pipelines.operations.tags import PARTNER_TAG, TRIGGER_TAG


@dataclass(frozen=True)
class LargeRuns:
    """The partners whose runs need a larger task, and its size: CPU units (1024 are a core) and MiB of memory.

    Dagster's ECS launcher reads the tags; other launchers ignore them.
    """

    partners: frozenset[str] = frozenset()
    cpu: int = 4096
    memory: int = 16384

    def tags(self, partner_id: str) -> dict[str, str]:
        """The tags that make the task of this partner's runs larger; none for most partners."""
        if partner_id not in self.partners:
            return {}
        return {"ecs/cpu": str(self.cpu), "ecs/memory": str(self.memory)}


NO_LARGE_RUNS = LargeRuns()


def partner_run(
    partner_id: str,
    run_key: str,
    trigger: str,
    more_tags: Mapping[str, str] | None = None,
    large_runs: LargeRuns = NO_LARGE_RUNS,
) -> dg.RunRequest:
    """The request for a partner's run. The queue runs one at a time for each value of the partner's tag."""
    tags = {PARTNER_TAG: partner_id, TRIGGER_TAG: trigger, **large_runs.tags(partner_id), **(more_tags or {})}
    return dg.RunRequest(run_key=run_key, partition_key=partner_id, tags=tags)
