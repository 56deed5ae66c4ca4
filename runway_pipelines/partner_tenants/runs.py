"""How a run of one partner is asked for, whoever asks: its partition, its run_key, its tags."""

from collections.abc import Mapping

import dagster as dg

PARTNER_TAG = "runway/partner"
TRIGGER_TAG = "runway/trigger"
SECRET_VERSION_TAG = "runway/secret_version"  # noqa: S105 - the name of a tag


def partner_run(
    partner_id: str, run_key: str, trigger: str, more_tags: Mapping[str, str] | None = None
) -> dg.RunRequest:
    """The request for a partner's run; the partner's tag lets the queue run one at a time for each partner."""
    return dg.RunRequest(
        run_key=run_key,
        partition_key=partner_id,
        tags={PARTNER_TAG: partner_id, TRIGGER_TAG: trigger, **(more_tags or {})},
    )
