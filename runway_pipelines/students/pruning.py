"""Deletes files of candidates and their answers after their time: an op of the daily retention job."""

import time
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby

import dagster as dg

from runway_pipelines.rosters.pruning import bucket_time
from runway_pipelines.students.files import CANDIDATES, RESOLUTIONS_PREFIX
from runway_pipelines.students.services import StudentServices
from runway_pipelines.systems.aws.object_store import ListedObject, ObjectStore

# Four objects a file take four requests to S3: 40,000 of them a night.
MOST_SECONDS = 1800.0


@dg.op(
    description="Deletes files of candidates and their answers, and whatever else is below the prefix, when none of "
    "a folder's objects was written within RUNWAY_RESOLUTION_KEEP_DAYS."
)
def delete_old_resolutions(context: dg.OpExecutionContext, students: StudentServices) -> None:
    """Delete every folder of files that is old, resolved or not: candidates are names and birth dates of children."""
    store = students.rosters.store
    before, deadline = bucket_time(store) - students.policy.files_kept, time.monotonic() + MOST_SECONDS
    folders = objects = 0
    for keys in old_folders(store, before):
        if time.monotonic() > deadline:
            context.log.warning("the time is up: the next run deletes the rest")
            break
        store.delete(keys)
        folders += 1
        objects += len(keys)
    context.log.info(f"{folders} folders of candidates from before {before:%Y-%m-%d} deleted")
    context.add_output_metadata({"folders": dg.MetadataValue.int(folders), "objects": dg.MetadataValue.int(objects)})


def old_folders(store: ObjectStore, before: datetime) -> Iterator[list[str]]:
    """The keys of each folder whose newest object is older than ``before``.

    The candidates go first: without them nothing waits for a run, and the next night deletes what is left.
    """
    for _, listed in groupby(store.list_objects(f"{RESOLUTIONS_PREFIX}/"), key=_folder):
        objects = list(listed)
        if max(each.last_modified for each in objects) < before:
            yield sorted((each.key for each in objects), key=lambda key: not key.endswith(f"/{CANDIDATES}"))


def _folder(listed: ListedObject) -> str:
    return listed.key.rpartition("/")[0]
