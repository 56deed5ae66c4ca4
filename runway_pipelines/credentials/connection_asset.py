"""What Dagster sees of a partner's credentials: ``credentials/edu_connection``, its checks, and the events of a trial.

The asset is materialized by the run that refreshes the partner's rosters (``rosters/assets.py``): the session that
proves the credentials is the first that the rosters are taken over, since opening one takes 20 s.
"""

from collections.abc import Iterator

import dagster as dg

from runway_pipelines.credentials.key_hygiene import KeyHygiene
from runway_pipelines.credentials.trial import Trial
from runway_pipelines.dagster_events import target_of_newest
from runway_pipelines.operations.outcomes import CODE, SECRET_VERSION_ID
from runway_pipelines.operations.tags import OPERATIONS, OWNERS, domain, runbook
from runway_pipelines.partner_tenants.partitions import PARTNERS

EDU_CONNECTION = dg.AssetKey(["credentials", "edu_connection"])
CAN_CONNECT = dg.AssetCheckKey(EDU_CONNECTION, "can_connect")
KEY_AGE = dg.AssetCheckKey(EDU_CONNECTION, "key_age")

EDU_CONNECTION_SPEC = dg.AssetSpec(
    EDU_CONNECTION,
    description="The partner's connection to its EDU warehouse, as of the newest version of its secret that works. A "
    "version that does not work is not materialized: the check says why, and the partition is failed.",
    group_name="credentials",
    owners=OWNERS,
    tags=domain("credentials"),
    kinds={"snowflake", "aws"},
    metadata=runbook("the-secret-of-a-partner"),
    skippable=True,
)
CONNECTION_CHECK_SPECS = [
    dg.AssetCheckSpec(
        CAN_CONNECT.name,
        asset=EDU_CONNECTION,
        description="The credentials open a session that can read the tables. Failing it refreshes none of the "
        "partner's rosters; what is published stays.",
        blocking=True,
        partitions_def=PARTNERS,
    ),
    dg.AssetCheckSpec(
        KEY_AGE.name,
        asset=EDU_CONNECTION,
        description="The current key is not older than RUNWAY_KEY_AGE_WARNING_DAYS.",
        partitions_def=PARTNERS,
    ),
]
_Metadata = dict[str, dg.MetadataValue | int | float | str]


def events_of_trial(instance: dg.DagsterInstance, trial: Trial, key_age_warning_days: int) -> Iterator[object]:
    """The events of one trial: the connection (an observation where it does not work), then its checks."""
    metadata = connection_metadata(trial)
    if trial.error is None:
        yield dg.AssetMaterialization(
            EDU_CONNECTION,
            partition=trial.partner_id,
            metadata=metadata,
            tags={"dagster/data_version": trial.secret_version or ""},
        )
    else:
        yield dg.AssetObservation(EDU_CONNECTION, partition=trial.partner_id, metadata=metadata)
    target = target_of_newest(instance, EDU_CONNECTION, trial.partner_id)
    yield dg.AssetCheckEvaluation(
        asset_key=EDU_CONNECTION,
        check_name=CAN_CONNECT.name,
        passed=trial.error is None,
        severity=dg.AssetCheckSeverity.ERROR,
        blocking=True,
        description=f"{trial.error} The previous key: {trial.previous_key}." if trial.error else None,
        metadata=metadata | ({CODE: trial.code} if trial.code else {}),
        partition=trial.partner_id,
        target_materialization_data=target,
    )
    # Also where there is no key to judge: a planned check that a failed run leaves out is shown as failed itself.
    yield dg.AssetCheckEvaluation(
        asset_key=EDU_CONNECTION,
        check_name=KEY_AGE.name,
        passed=not trial.hygiene.is_old(key_age_warning_days),
        severity=dg.AssetCheckSeverity.WARN,
        description=_said_of_age(trial.hygiene, key_age_warning_days),
        metadata={} if trial.hygiene.age_days is None else {"age days": trial.hygiene.age_days},
        partition=trial.partner_id,
        target_materialization_data=target,
    )


def _said_of_age(hygiene: KeyHygiene, warning_days: int) -> str:
    if hygiene.age_days is None:
        return f"not judged: the key's age is not known ({CAN_CONNECT.name} says whether there is a key)"
    days = f"the current key is {hygiene.age_days} days old"
    return f"{days}, more than {warning_days}: rotate it as {OPERATIONS} says" if hygiene.is_old(warning_days) else days


def connection_metadata(trial: Trial) -> _Metadata:
    """Who connects where with which key; never the key."""
    metadata: _Metadata = {"previous key": trial.previous_key}
    if trial.secret_version:
        metadata[SECRET_VERSION_ID] = trial.secret_version
    if connection := trial.connection:
        metadata |= {
            "account": connection.account,
            "user": connection.username,
            "role": connection.role or "the user's default",
            "warehouse": connection.warehouse or "the user's default",
            "database": connection.database,
            "schema": connection.schema,
        }
    hygiene = trial.hygiene
    if hygiene.fingerprint:
        metadata["key fingerprint"] = hygiene.fingerprint
    if hygiene.previous_fingerprint:
        metadata["previous key fingerprint"] = hygiene.previous_fingerprint
    if hygiene.age_days is not None:
        metadata["key age days"] = hygiene.age_days
        metadata["last rotation"] = (
            "never" if hygiene.rotated_days_ago is None else f"{hygiene.rotated_days_ago} days ago"
        )
    return metadata
