"""Facts about the partners' keys: from what was recorded, or from the secrets where the process may read them."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from runway_pipelines.credentials.connection_asset import (
    EDU_CONNECTION,
    KEY_AGE_LABEL,
    LAST_ROTATION_LABEL,
    SECRET_VERSION_LABEL,
)
from runway_pipelines.credentials.key_hygiene import NO_KEY_FACTS, UNKNOWN, KeyFacts, facts_of
from runway_pipelines.credentials.partner_secrets import PartnerSecrets
from runway_pipelines.credentials.trial import report_keys
from runway_pipelines.dagster_events import newest_materializations
from runway_pipelines.errors import RunwayError, SecretMissing
from runway_pipelines.systems.aws.secret_versions import Current, Gone, Observation, Unreadable

READERS = 8


def keys_now(secrets: PartnerSecrets, partner_ids: Iterable[str], now: datetime) -> dict[str, KeyFacts]:
    """The facts of each partner's key, from its secret. Unknown where the secret cannot be read now."""
    wanted = list(partner_ids)
    _ = secrets.client  # made before there are threads
    with ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="keys") as executor:
        facts = executor.map(lambda partner_id: key_now(secrets, partner_id, now), wanted)
        return dict(zip(wanted, facts, strict=True))


def key_now(secrets: PartnerSecrets, partner_id: str, now: datetime) -> KeyFacts:
    """The facts of one partner's key, from its secret. Unknown where the secret cannot be read now."""
    try:
        secrets.require(partner_id)
    except SecretMissing as error:
        return KeyFacts(trouble=error.came)
    except RunwayError:  # not allowed, or no answer: that says nothing of the key
        return NO_KEY_FACTS
    return facts_of(report_keys(secrets, partner_id, now=now))


def known_keys(
    instance: dg.DagsterInstance, secrets: PartnerSecrets, partner_ids: Iterable[str], now: datetime
) -> dict[str, KeyFacts]:
    """The facts of each partner's key at ``now``, with one list call for each 100 secrets and two statements.

    The code server's role allows that. If Secrets Manager does not answer, the newest record counts.
    """
    wanted = list(partner_ids)
    try:
        observed: Mapping[str, Observation] = secrets.observe(wanted)
    except RunwayError as error:
        observed = dict.fromkeys(wanted, Unreadable(str(error)))
    recorded = newest_materializations(instance, EDU_CONNECTION)
    return {partner_id: _facts(observed[partner_id], recorded.get(partner_id), now) for partner_id in wanted}


def _facts(seen: Observation, record: dg.EventLogRecord | None, now: datetime) -> KeyFacts:
    if isinstance(seen, Gone):
        return KeyFacts(trouble=seen.reason)
    materialization = record.asset_materialization if record else None
    if record is None or materialization is None:
        return NO_KEY_FACTS
    at = datetime.fromtimestamp(record.timestamp, UTC)
    metadata = {name: value.value for name, value in materialization.metadata.items()}
    if isinstance(seen, Current) and metadata.get(SECRET_VERSION_LABEL) != seen.secret_version:
        # The record is of another key; the list says which version is current, but not since when.
        return KeyFacts(last_rotation=f"after {at:%Y-%m-%d %H:%M} UTC; the new key is not proved yet")
    return _recorded(metadata).later(now - at)


def _recorded(metadata: Mapping[str, Any]) -> KeyFacts:
    age, rotation = metadata.get(KEY_AGE_LABEL), metadata.get(LAST_ROTATION_LABEL)
    return KeyFacts(age if isinstance(age, int) else None, rotation if isinstance(rotation, str) else UNKNOWN)
