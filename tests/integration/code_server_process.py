"""What the code server does for the daemon, in a process of its own: it evaluates every sensor and every schedule once.

``python -m tests.integration.code_server_process``; a line of JSON for each: its name, the partners that it asks runs
for, and the error where there is one.
"""

import json
import sys
import time
from typing import Any

import dagster as dg
from dagster._core.remote_origin import RegisteredCodeLocationOrigin
from dagster._grpc.impl import get_external_schedule_execution, get_external_sensor_execution

from runway_pipelines.definitions import defs

ORIGIN = RegisteredCodeLocationOrigin("runway_pipelines")


def said(name: str, answer: Any) -> str:
    error = getattr(answer, "error", None)
    requests = getattr(answer, "run_requests", None) or []
    asked_for = [request.partition_key for request in requests]
    return json.dumps({"name": name, "partners": asked_for, "error": error and error.to_string()}) + "\n"


if __name__ == "__main__":
    repository = defs().get_repository_def()
    with dg.DagsterInstance.get() as instance:
        ref = instance.get_ref()
        for sensor in repository.sensor_defs:
            nothing_before = (None, None, None, None, None)
            answer = get_external_sensor_execution(repository, ORIGIN, ref, sensor.name, *nothing_before)
            sys.stdout.write(said(sensor.name, answer))
        for schedule in repository.schedule_defs:
            now = time.time()
            answer = get_external_schedule_execution(repository, ref, schedule.name, now, None, None)
            sys.stdout.write(said(schedule.name, answer))
