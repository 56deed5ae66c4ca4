"""The asset of a partner's credentials, ``credentials/edu_connection``: its spec, its checks, the events of a trial.

The run that refreshes the partner's rosters materializes it (``rosters/assets.py``). Opening a session takes 20 s, so
the one that proves the credentials goes on to read the first rosters.
"""

from collections.abc import Collection, Iterator

import dagster as dg

from runway_pipelines.credentials.key_hygiene import KeyHygiene, rotated_in_words
from runway_pipelines.credentials.trial import Trial
from runway_pipelines.dagster_events import target_of_newest
from runway_pipelines.errors import Transient
from runway_pipelines.neighbours import EDU_SECRET
from runway_pipelines.operations.run_report import RUN_REPORT, CredentialsFailure, RunReport
from runway_pipelines.operations.tags import OWNERS, domain, runbook
from runway_pipelines.operations.wording import OPERATIONS
from runway_pipelines.partner_tenants.partitions import PARTNERS
from runway_pipelines.systems.snowflake.connection import Place

EDU_CONNECTION = dg.AssetKey(["credentials", "edu_connection"])
CAN_CONNECT = dg.AssetCheckKey(EDU_CONNECTION, "can_connect")
KEY_AGE = dg.AssetCheckKey(EDU_CONNECTION, "key_age")
SAME_WAREHOUSE = dg.AssetCheckKey(EDU_CONNECTION, "same_warehouse")

EDU_CONNECTION_SPEC = dg.AssetSpec(
    EDU_CONNECTION,
    deps=[EDU_SECRET],
    description="The partner's connection to its EDU warehouse, materialized for each version of its secret that "
    "works. For a version that does not, the partition fails and the check can_connect says why.",
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
        description="The credentials open a session that can read the tables. If they do not, none of the partner's "
        "rosters is refreshed; what is published stays.",
        blocking=True,
        partitions_def=PARTNERS,
    ),
    dg.AssetCheckSpec(
        KEY_AGE.name,
        asset=EDU_CONNECTION,
        description="The current key is not older than RUNWAY_KEY_AGE_WARNING_DAYS days.",
        partitions_def=PARTNERS,
    ),
    dg.AssetCheckSpec(
        SAME_WAREHOUSE.name,
        asset=EDU_CONNECTION,
        description="The secret opens the account, database and schema that the partner's published rosters came from. "
        "If it opens another one, every roster is held.",
        partitions_def=PARTNERS,
    ),
]
SECRET_VERSION_LABEL = "secret version id"  # noqa: S105 - a label
KEY_AGE_LABEL = "key age days"
LAST_ROTATION_LABEL = "last rotation"
_Metadata = dict[str, dg.MetadataValue | int | float | str]


def events_of_trial(
    instance: dg.DagsterInstance, trial: Trial, key_age_warning_days: int, known_places: Collection[Place] = ()
) -> Iterator[object]:
    """The events of one trial: the connection (an observation if it does not work), then its checks.

    ``known_places`` are warehouses that the partner's published rosters came from.
    """
    metadata, failure = connection_metadata(trial), _failure_of(trial)
    # A broken connection says nothing about the key, so the check only warns; operators hear of a failed refresh.
    may_pass = isinstance(trial.error, Transient)
    if failure is None:
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
        passed=failure is None,
        severity=dg.AssetCheckSeverity.WARN if may_pass else dg.AssetCheckSeverity.ERROR,
        blocking=True,
        description=failure.reason if failure else None,
        metadata=metadata | (_failure_metadata(failure, is_verdict=not may_pass) if failure else {}),
        partition=trial.partner_id,
        target_materialization_data=target,
    )
    # Yielded even without a key to judge: a planned check that a failed run leaves out is shown by Dagster as failed.
    yield dg.AssetCheckEvaluation(
        asset_key=EDU_CONNECTION,
        check_name=KEY_AGE.name,
        passed=not trial.hygiene.is_old(key_age_warning_days),
        severity=dg.AssetCheckSeverity.WARN,
        description=_age_in_words(trial.hygiene, key_age_warning_days),
        metadata={} if trial.hygiene.age_days is None else {"age days": trial.hygiene.age_days},
        partition=trial.partner_id,
        target_materialization_data=target,
    )
    moved = trial.moved_from(known_places)
    yield dg.AssetCheckEvaluation(
        asset_key=EDU_CONNECTION,
        check_name=SAME_WAREHOUSE.name,
        passed=moved is None,
        severity=dg.AssetCheckSeverity.ERROR,
        description=moved,
        partition=trial.partner_id,
        target_materialization_data=target,
    )


def _failure_of(trial: Trial) -> CredentialsFailure | None:
    if trial.error is None:
        return None
    verdict = "No verdict on the credentials. " if isinstance(trial.error, Transient) else ""
    return CredentialsFailure(
        trial.code, trial.secret_version, f"{verdict}{trial.error} The previous key: {trial.previous_key}."
    )


def _failure_metadata(failure: CredentialsFailure, *, is_verdict: bool) -> _Metadata:
    report = RunReport(credentials_failure=failure if is_verdict else None)
    return {"code": failure.code or "", RUN_REPORT: dg.MetadataValue.json(report.document())}


def _age_in_words(hygiene: KeyHygiene, warning_days: int) -> str:
    if hygiene.age_days is None:
        return f"not judged: the key's age is unknown ({CAN_CONNECT.name} says whether there is a key)"
    days = f"the current key is {hygiene.age_days} days old"
    return f"{days}, more than {warning_days}: rotate it as {OPERATIONS} says" if hygiene.is_old(warning_days) else days


def connection_metadata(trial: Trial) -> _Metadata:
    """Who connects where with which key, without the key itself."""
    metadata: _Metadata = {"previous key": trial.previous_key}
    if trial.secret_version:
        metadata[SECRET_VERSION_LABEL] = trial.secret_version
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
        metadata[KEY_AGE_LABEL] = hygiene.age_days
        metadata[LAST_ROTATION_LABEL] = rotated_in_words(hygiene.rotated_days_ago)
    return metadata
