"""A file of candidates in the bucket is answered beside it: once, whole, and without anybody's name."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest

from runway_pipelines.dagster_events import evaluate_sensor
from runway_pipelines.errors import Unavailable
from runway_pipelines.local.stack import BUCKET
from runway_pipelines.settings import load_settings
from runway_pipelines.students import file_resolution, pruning, warehouse
from runway_pipelines.students.events import RESOLUTIONS
from runway_pipelines.students.files import lock_name
from runway_pipelines.students.observables import MOST_LINES
from runway_pipelines.students.warehouse import TenantPersons
from runway_pipelines.wiring import build_application_database, build_student_services
from tests.integration.event_bus import make_bus
from tests.integration.student_world import (
    Child,
    answers,
    candidate,
    children,
    file_of,
    of_another_district,
    resolved_partner,
)
from tests.integration.world import TestPartner, World, bring_in_line, definitions, everything_logged
from tests.waiting import PATIENCE_SECONDS, join, wait_until

DISTRICT = children(20)
SENSOR = "student_candidates_sensor"
ANSWERS = {"resolutions.jsonl", "review.jsonl", "report.json"}


class Bucket:
    """The files of one tenant, as a producer and a reader see them."""

    def __init__(self, partner: TestPartner, code: str = "north") -> None:
        self.s3 = partner.world.s3
        self.prefix = f"__resolutions/{partner.partner_id}/{code}/"

    def put(self, name: str, content: bytes) -> str:
        """A new version of a file; returns its ETag."""
        answer = self.s3.put_object(Bucket=BUCKET, Key=f"{self.prefix}{name}/candidates.jsonl", Body=content)
        return str(answer["ETag"])

    def put_answer(self, name: str, what: str) -> None:
        """What an earlier version of the file was answered."""
        self.s3.put_object(Bucket=BUCKET, Key=f"{self.prefix}{name}/{what}", Body=b"{}")

    def read(self, name: str, what: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=BUCKET, Key=f"{self.prefix}{name}/{what}")["Body"].read())

    def report(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.read(name, "report.json"))
        return document

    def there(self, name: str) -> dict[str, str]:
        """The objects of a folder but the candidates, with their ETags."""
        listed = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}{name}/").get("Contents", ())
        found = {entry["Key"].rpartition("/")[2]: entry["ETag"] for entry in listed}
        return {key: etag for key, etag in found.items() if key != "candidates.jsonl"}


@pytest.fixture
def partner(world: World, monkeypatch: pytest.MonkeyPatch) -> TestPartner:
    """A partner that agreed to resolution, with two tenants."""
    one = resolved_partner(world, DISTRICT, ["north", "south"])
    monkeypatch.setenv("RUNWAY_STUDENT_RESOLUTION", one.partner_id)
    return one


@pytest.fixture
def bucket(partner: TestPartner) -> Bucket:
    return Bucket(partner)


def run(instance: dg.DagsterInstance, partner: TestPartner, code: str = "north") -> dg.ExecuteInProcessResult:
    """`student_resolution_job` for the tenant, in this process."""
    bring_in_line(instance)
    job = definitions().resolve_job_def("student_resolution_job")
    return job.execute_in_process(instance=instance, partition_key=partner.tenant(code).key, raise_on_error=False)


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [each for each in result.all_events if each.event_type_value == "STEP_FAILURE"]
    failed = event.step_failure_data.user_failure_data
    assert failed is not None
    return str(failed.description)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {each.check_name: each.passed for each in result.get_asset_check_evaluations()}


def tick(instance: dg.DagsterInstance, cursor: str | None) -> tuple[list[dg.RunRequest], str | None]:
    made = evaluate_sensor(definitions(), SENSOR, instance, cursor)
    return list(made.run_requests or []), made.cursor


def test_a_new_file_is_seen_once_and_answered_beside_it(
    instance: dg.DagsterInstance, partner: TestPartner, bucket: Bucket
) -> None:
    bring_in_line(instance)
    requests, cursor = tick(instance, None)
    assert requests == []
    other_childs_id = candidate(DISTRICT[1], "wrong-id", obs_student_ids=[DISTRICT[2].code])
    twice = candidate(DISTRICT[3], "twice")
    lines = file_of([candidate(DISTRICT[0]), other_childs_id, twice, twice | {"obs_first_name": "felix"}, twice])
    etag = bucket.put("act", lines + b'{"candidate_id": "\xff"}\n')
    bucket.put("sat", file_of([candidate(DISTRICT[5])]))
    Bucket(partner, "no-such-tenant").put("act", lines)
    requests, cursor = tick(instance, cursor)
    assert [(each.partition_key, each.tags["runway/partner"]) for each in requests] == [
        (partner.tenant("north").key, partner.partner_id)
    ]
    assert tick(instance, cursor)[0] == [], "a version is requested once"
    assert tick(instance, "nonsense")[0][0].run_key == requests[0].run_key, "and so it is by a cleared cursor"

    result = run(instance, partner)
    assert result.success
    resolutions, summary = answers(bucket.read("act", "resolutions.jsonl"))
    said = [(each["candidate_id"], each["decision"], each["reason"]) for each in resolutions]
    assert said == [
        ("c-S00000", "accept", "id_confirmed"),
        ("wrong-id", "review", "id_belongs_to_another_student"),
        *[("twice", "invalid", "candidate_id.of_two_students")] * 3,
        (None, "invalid", "line.not_json"),
    ]
    assert resolutions[0]["student_unique_id"] == "S00000"
    review = [json.loads(line) for line in bucket.read("act", "review.jsonl").splitlines()]
    assert review == [resolutions[1]] and review[0]["candidates"][0]["student_unique_id"] == "S00001"
    report = bucket.report("act")
    assert (report["candidates_etag"], report["run_id"], report["summary"]) == (etag, result.run_id, summary)
    assert report["resolutions"]["lines"] == 7 and report["review"]["lines"] == 1
    assert set(bucket.there("sat")) == ANSWERS
    assert checks(result) == {"id_matches_hold": False, "no_foreign_file": True}
    (shown,) = result.asset_materializations_for_node("student_resolutions")
    assert shown.partition == partner.tenant("north").key
    numbers = {name: shown.metadata[name].value for name in ("files", "candidates", "candidates: accept", "students")}
    assert numbers == {"files": 2, "candidates": 7, "candidates: accept": 2, "students": 20}
    assert shown.metadata["share: accept"].value == round(2 / 7, 4)

    before = bucket.there("act")
    again = run(instance, partner)
    assert again.success and bucket.there("act") == before, "nothing waits: nothing is written again"
    assert again.asset_materializations_for_node("student_resolutions") == []

    bucket.put("act", file_of([candidate(DISTRICT[0])]))
    (request,), _ = tick(instance, cursor)
    assert request.run_key != requests[0].run_key
    assert run(instance, partner).success
    assert len(answers(bucket.read("act", "resolutions.jsonl"))[0]) == 1 and bucket.read("act", "review.jsonl") == b""


def test_a_file_over_the_limit_is_refused_whole_and_the_others_go_on(
    instance: dg.DagsterInstance, partner: TestPartner, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    hiccups, real = [Unavailable(expected="an answer", came="none", remedy="try again")], warehouse.fetch_persons

    def after_a_hiccup(*arguments: Any, **options: Any) -> TenantPersons:
        if hiccups:
            raise hiccups.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(warehouse, "fetch_persons", after_a_hiccup)
    for name in ANSWERS:
        bucket.put_answer("large", name)
    etag = bucket.put("large", b"{}\n" * (MOST_LINES + 1))
    bucket.put("small", file_of([candidate(DISTRICT[1])]))
    result = run(instance, partner)
    assert not result.success and "large: Expected at most 500,000 candidates" in failure(result)
    assert set(bucket.there("large")) == {"report.json"}, "what an earlier version was answered is gone"
    report = bucket.report("large")
    assert report["candidates_etag"] == etag and "500,000" in report["refusal"]
    assert set(bucket.there("small")) == ANSWERS
    assert run(instance, partner).success, "it waits no longer"


@pytest.mark.parametrize("switch", ["setting", "toggle"])
def test_what_is_switched_off_is_not_touched(
    world: World,
    instance: dg.DagsterInstance,
    partner: TestPartner,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    switch: str,
) -> None:
    bucket.put("act", file_of([candidate(DISTRICT[0])]))
    bring_in_line(instance)
    if switch == "setting":
        monkeypatch.setenv("RUNWAY_STUDENT_RESOLUTION", "")
    else:
        with world.connect() as connection:
            connection.execute(
                "update partner set cross_year_matching_enabled = false where id = %s", [partner.partner_id]
            )
    job = definitions().resolve_job_def("student_resolution_job")
    result = job.execute_in_process(instance=instance, partition_key=partner.tenant("north").key, raise_on_error=False)
    expected = "RUNWAY_STUDENT_RESOLUTION" if switch == "setting" else "cross_year_matching_enabled"
    assert not result.success and expected in failure(result)
    assert bucket.there("act") == {}
    if switch == "toggle":  # as the partitions' sync does at its next tick
        instance.delete_dynamic_partition("partner_tenants", partner.tenant("north").key)
    assert tick(instance, None)[0] == []


def test_two_runs_on_one_file_answer_it_once(partner: TestPartner, bucket: Bucket) -> None:
    bucket.put("act", file_of([candidate(DISTRICT[0])]))
    results: list[dg.ExecuteInProcessResult] = []
    runs: list[Thread] = []
    with (
        build_application_database(load_settings()).process_config_and_initialize_cm() as database,
        database.advisory_lock(lock_name(partner.tenant("north")), 10) as connection,
    ):
        for _ in range(2):
            runs.append(Thread(target=lambda: results.append(_run_alone(partner)), daemon=True))
            runs[-1].start()
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        wait_until(lambda: connection.execute(waiting).fetchone() == (2,))
        assert bucket.there("act") == {}
    join(*runs)
    assert [each.success for each in results] == [True, True]
    written = [each for each in results if each.asset_materializations_for_node("student_resolutions")]
    assert [each.run_id for each in written] == [bucket.report("act")["run_id"]]


def _run_alone(partner: TestPartner) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return run(instance, partner)


@pytest.mark.slow
def test_a_run_that_is_killed_before_its_report_is_healed_by_the_next(
    instance: dg.DagsterInstance, partner: TestPartner, bucket: Bucket
) -> None:
    bucket.put("act", file_of([candidate(DISTRICT[1])]))
    bucket.put_answer("act", "report.json")
    killed = subprocess.run(
        [sys.executable, "-m", "tests.integration.resolve_process", partner.tenant("north").key],
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert set(bucket.there("act")) == ANSWERS - {"report.json"}, "no report tells of answers that may be half"
    assert run(instance, partner).success
    resolutions, summary = answers(bucket.read("act", "resolutions.jsonl"))
    assert resolutions[0]["student_unique_id"] == "S00001" and bucket.report("act")["summary"] == summary


@pytest.mark.slow
def test_what_somebody_resolves_by_the_assets_button_is_told_like_any_other(
    instance: dg.DagsterInstance, partner: TestPartner, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = make_bus(f"operators-{uuid.uuid4().hex[:8]}")
    monkeypatch.setenv("RUNWAY_EVENT_BUS", bus.name)
    bring_in_line(instance)
    cursor = evaluate_sensor(definitions(), "run_outcome_event_sensor", instance, None).cursor
    bucket.put("foreign", of_another_district(DISTRICT[:12], children(12, "F", first=40)))
    every = definitions().resolve_implicit_global_asset_job_def()
    result = every.execute_in_process(
        instance=instance, partition_key=partner.tenant("north").key, asset_selection=[RESOLUTIONS]
    )
    assert result.success
    cursor = evaluate_sensor(definitions(), "run_outcome_event_sensor", instance, cursor).cursor
    assert bus.types() == ["student_file_foreign"]
    assert run(instance, partner).success  # it waits no more, and was told
    evaluate_sensor(definitions(), "run_outcome_event_sensor", instance, cursor)
    assert bus.types() == []


@pytest.mark.slow
def test_bytes_that_come_back_are_another_version(
    instance: dg.DagsterInstance, partner: TestPartner, bucket: Bucket
) -> None:
    bring_in_line(instance)
    right, wrong = file_of([candidate(DISTRICT[0])]), file_of([candidate(DISTRICT[1])])
    cursor, used = None, set()
    for content in (right, wrong, right):
        etag = bucket.put("act", content)
        ((request,), cursor) = tick(instance, cursor)
        assert request.run_key not in used, "Dagster would not run it again"
        used.add(request.run_key)
        assert run(instance, partner).success
        assert bucket.report("act")["candidates_etag"] == etag
        time.sleep(1.1)  # S3 dates objects in whole seconds


def test_of_another_districts_file_nothing_is_accepted_and_operators_hear_once(
    instance: dg.DagsterInstance, partner: TestPartner, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = make_bus(f"operators-{uuid.uuid4().hex[:8]}")
    monkeypatch.setenv("RUNWAY_EVENT_BUS", bus.name)
    cursor = evaluate_sensor(definitions(), "run_outcome_event_sensor", instance, None).cursor
    bucket.put("foreign", of_another_district(DISTRICT[:12], children(12, "F", first=40)))
    result = run(instance, partner)
    assert result.success and checks(result) == {"id_matches_hold": False, "no_foreign_file": False}
    resolutions, summary = answers(bucket.read("foreign", "resolutions.jsonl"))
    assert {each["reason"] for each in resolutions} == {"foreign_file"} and summary["is_foreign"]
    assert not any(each["student_unique_id"] for each in resolutions)

    cursor = evaluate_sensor(definitions(), "run_outcome_event_sensor", instance, cursor).cursor
    (event,) = bus.received()
    assert event["detail-type"] == "student_file_foreign" and event["detail"]["job"] == "student_resolution_job"
    assert event["detail"]["partner"] == partner.partner_id and event["detail"]["run_id"] == result.run_id
    assert "foreign: of 12 candidates" in event["detail"]["reasons"][partner.tenant("north").key]

    bucket.put("own", file_of([candidate(DISTRICT[0])]))
    assert checks(run(instance, partner)) == {"id_matches_hold": True, "no_foreign_file": True}
    evaluate_sensor(definitions(), "run_outcome_event_sensor", instance, cursor)
    assert bus.received() == []


def test_files_and_answers_go_after_their_time_and_not_before(
    instance: dg.DagsterInstance, partner: TestPartner, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("act", file_of([candidate(DISTRICT[0])]))
    assert run(instance, partner).success
    bucket.put("never-resolved", b"x\n")
    real = pruning.bucket_time
    for days, left in ((29, ANSWERS), (31, set())):
        monkeypatch.setattr(pruning, "bucket_time", lambda store, days=days: real(store) + timedelta(days=days))
        with (
            build_student_services(load_settings()).process_config_and_initialize_cm() as students,
            dg.build_op_context(resources={"students": students}) as context,
        ):
            pruning.delete_old_resolutions(context)
        assert set(bucket.there("act")) == left
    listed = partner.world.s3.list_objects_v2(Bucket=BUCKET, Prefix=bucket.prefix)
    assert listed["KeyCount"] == 0


CANARY = Child("CANARY77", "Canaryfirst", "Canarylast", date(2011, 3, 17), "CANARYCODE")
STRANGER = Child("CANARY99", "Strangefirst", "Strangelast", date(2012, 4, 19), CANARY.code)
BIRTH_DATES = [
    each.birth_date.strftime(notation)
    for each in (CANARY, STRANGER)
    for notation in ("%Y-%m-%d", "%m%d%Y", "%Y%m%d", "%m/%d/%Y")
]


def no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong."""


def a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError(CANARY.first_name, CANARY.birth_date.isoformat())

    monkeypatch.setattr(file_resolution, "resolve", fail)


def a_defect_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError(CANARY.last_name)

    monkeypatch.setattr(warehouse, "prepare_persons", fail)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.parametrize("trouble", [no_trouble, a_defect, a_defect_of_the_answer])
def test_what_a_run_leaves_behind_has_nobodys_name_or_birth_date(
    world: World,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    temporary: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    trouble: Any,
) -> None:
    partner = resolved_partner(world, [*DISTRICT, CANARY])
    monkeypatch.setenv("RUNWAY_STUDENT_RESOLUTION", partner.partner_id)
    bucket = Bucket(partner)
    bucket.put(
        "act",
        file_of(
            [
                candidate(CANARY, "its-own"),
                candidate(STRANGER, "a-stranger"),
                candidate(replace(CANARY, code="nobodys"), "by-name", obs_birth_date="2011-03-18"),
                candidate(CANARY, "not-a-text", obs_first_name=["Canaryfirst"]),
            ]
        )
        + b'{"candidate_id": "torn", "obs_first_name": "Canaryfirst\n',
    )
    caplog.set_level(logging.DEBUG)
    trouble(monkeypatch)

    result = run(instance, partner)

    assert result.success is (trouble is no_trouble)
    output = capfd.readouterr()
    left = {
        "event log": everything_logged(instance, result),
        "output": output.out + output.err,
        "logging": "\n".join(
            record.getMessage()
            for record in caplog.records
            if record.name.startswith(("runway", "dagster", "snowflake"))
        ),
    }
    left |= {name: bucket.read("act", name).decode() for name in bucket.there("act")}
    left |= {str(path): path.read_bytes().decode(errors="replace") for path in temporary.rglob("*") if path.is_file()}
    if trouble is no_trouble:
        assert left.keys() >= ANSWERS and CANARY.student_unique_id in left["resolutions.jsonl"]
    names = [name for each in (CANARY, STRANGER) for name in (each.first_name, each.last_name)]
    found = {
        (place, word) for place, text in left.items() for word in [*names, *BIRTH_DATES] if word.lower() in text.lower()
    }
    assert found == set()
    assert "KeyError" in left["event log"] or trouble is no_trouble
