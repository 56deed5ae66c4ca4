"""A snapshot as a table, for analysts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import orjson

from runway_pipelines.errors import Permanent, StoredObjectDamaged
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.encoding import FILLER
from runway_pipelines.rosters.manifest import snapshot_key
from runway_pipelines.rosters.publication import read_published
from runway_pipelines.systems.aws.object_store import ObjectStore
from runway_pipelines.systems.disk import private_file

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("student_unique_id", "ed_org_id", "ed_org_type", "id_system", "id_code")


def load_roster(store: ObjectStore, tenant: PartnerTenant, sha256: str | None = None) -> pd.DataFrame:
    """The roster with one row for each code of each record, or one row without a code for a record that has none.

    All columns (`COLUMNS`) are strings, which keeps leading zeros. ``sha256`` names a snapshot other than the published
    one.
    """
    return roster_frame(store.lines(snapshot_key(tenant, sha256 or _published_sha256(store, tenant))))


def roster_frame(lines: Iterable[bytes]) -> pd.DataFrame:
    """`load_roster` from lines. A record's further lines repeat its codes in another order; each is taken once.

    A filler is no code, and is left out.
    """
    import pandas as pd

    rows: dict[tuple[str, str, str, str | None, str | None], None] = {}
    for line in lines:
        record = orjson.loads(line)
        ed_org = record["educationOrganizationReference"]
        head = (
            record["studentReference"]["studentUniqueId"],
            str(ed_org["educationOrganizationId"]),
            ed_org["link"]["rel"],
        )
        codes = [
            (code["studentIdentificationSystemDescriptor"], code["identificationCode"])
            for code in record["studentIdentificationCodes"]
            if code["identificationCode"] != FILLER + head[0]
        ]
        for system, text in codes or [(None, None)]:
            rows[(*head, system, text)] = None
    return pd.DataFrame(list(rows), columns=list(COLUMNS), dtype="string")


def save_roster(store: ObjectStore, tenant: PartnerTenant, target: Path, sha256: str | None = None) -> int:
    """Write the roster to a file that only its owner can read; returns the number of students.

    ``.parquet`` and ``.csv`` hold `load_roster`'s table, any other suffix the stored bytes.
    """
    sha256 = sha256 or _published_sha256(store, tenant)
    frame = load_roster(store, tenant, sha256)
    with private_file(target) as file:
        if target.suffix == ".parquet":
            frame.to_parquet(file, index=False)
        elif target.suffix == ".csv":
            frame.to_csv(file, index=False)
        else:
            _download(store, snapshot_key(tenant, sha256), sha256, file)
    return int(frame["student_unique_id"].nunique())


def _download(store: ObjectStore, key: str, sha256: str, file: IO[bytes]) -> None:
    found = store.download(key, file)
    if found != sha256:
        raise StoredObjectDamaged(
            expected=f"sha256 {sha256} in {store.uri(key)}", came=found, remedy="publish the tenant's roster again"
        )


def _published_sha256(store: ObjectStore, tenant: PartnerTenant) -> str:
    published = read_published(store, tenant)
    if published is None:
        raise Permanent(
            expected=f"a published roster of {tenant}",
            came="none",
            remedy=f"materialize rosters/cross_year_roster for {tenant}",
        )
    return published.pointer.sha256
