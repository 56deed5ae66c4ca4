"""Whatever breaks: a clear error, nothing lost, and what is published stays as it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from benchmarks.big_tenant import big_tenant_tables
from runway_pipelines.errors import Unavailable
from runway_pipelines.local.dataset import ASSOCIATIONS, IDENTIFICATION_CODES
from runway_pipelines.rosters import assets, extraction, gate, refresh
from runway_pipelines.rosters.manifest import pointer_key
from runway_pipelines.rosters.query import ROSTER_SQL
from runway_pipelines.systems.snowflake.client import EduSession, Selection
from tests.integration.fault_proxy import fault_proxy
from tests.integration.test_fast_clock import index_of
from tests.integration.world import (
    TestPartner,
    Warehouse,
    World,
    failed_checks,
    materialized,
    reexecute,
    run_partner,
    run_tenants,
)
from tests.waiting import PATIENCE_SECONDS

Route = Callable[[dg.DagsterInstance, TestPartner], dg.ExecuteInProcessResult]
ROUTES = {"partner_rosters_job": run_partner, "direct": lambda i, p: run_tenants(i, p, "north")}


def reasons(result: dg.ExecuteInProcessResult) -> str:
    """What the failed step says."""
    (event,) = (event for event in result.all_events if event.is_step_failure)
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    return str({key: value.value for key, value in failure.metadata.items()})


@pytest.fixture
def partner(world: World, instance: dg.DagsterInstance) -> TestPartner:
    """A partner whose roster was published once."""
    warehouse = Warehouse()
    warehouse.students("north", 20)
    partner = world.partner(warehouse, ["north"])
    assert run_partner(instance, partner).success
    return partner


def empty_the_tenant(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    partner.warehouse.associations = [row | {"tenant_code": "elsewhere"} for row in partner.warehouse.associations]
    partner.write_tables()


def spoil_a_descriptor(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    partner.warehouse.student("north", "spoiled", ("Local, old", "1"))
    partner.write_tables()


def answer_with_another_tenants_rows(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    partner.warehouse.students("other", 5, prefix="O")
    partner.write_tables()
    monkeypatch.setattr(extraction, "ROSTER_SQL", ROSTER_SQL.replace("%(tenant_code)s", "'other'"))


def swap_systems_and_codes(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> None:
    partner.warehouse.codes = [
        row | {"id_system": row["id_code"], "id_code": row["id_system"]} for row in partner.warehouse.codes
    ]
    partner.warehouse.students("north", 60, prefix="T")
    for row in partner.warehouse.codes[-60:]:
        row["id_system"], row["id_code"] = row["id_code"], f"{row['id_system']}{row['id_code']}"
    partner.write_tables()


@pytest.mark.parametrize("route", ["direct", pytest.param("partner_rosters_job", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (empty_the_tenant, "not_empty"),
        (spoil_a_descriptor, "consumer_contract"),
        (swap_systems_and_codes, "consumer_contract"),
        (answer_with_another_tenants_rows, "rows_of_tenant"),
    ],
)
def test_a_blocking_check_leaves_every_stable_key_untouched(
    partner: TestPartner,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[TestPartner, pytest.MonkeyPatch], None],
    check: str,
    route: str,
) -> None:
    etag, pointer, keys = partner.etag("north"), partner.pointer("north"), partner.object_keys()
    spoil(partner, monkeypatch)
    result = ROUTES[route](instance, partner)
    assert not result.success
    assert failed_checks(result) == {(partner.tenant("north").key, check)}
    assert (partner.etag("north"), partner.pointer("north")) == (etag, pointer)
    assert [key for key in partner.object_keys() if not key.endswith("index.json")] == [
        key for key in keys if not key.endswith("index.json")
    ]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda p: p.delete_secret(), "no secret of that name"),
        (lambda p: p.rotate(privateKey=None), "the field privateKey"),
        (lambda p: p.rotate(register_key=False), "a refused login (error 390144)"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                (lambda p: p.put_secret("{not json"), "not JSON"),
                (lambda p: p.rotate(privateKey="bm90IGEga2V5"), "the field privateKey as base64 of the PEM text"),
                (lambda p: p.rotate(database="NOWHERE"), "correct database and schema in the secret"),
                (lambda p: p.rotate(schema="NOWHERE"), "Snowflake's error"),
            )
        ),
    ],
    ids=["missing", "no key", "wrong key", "malformed", "bad key", "unknown database", "unknown schema"],
)
def test_credentials_that_do_not_work_name_the_reason_and_change_nothing(
    partner: TestPartner, instance: dg.DagsterInstance, spoil: Callable[[TestPartner], object], expected: str
) -> None:
    before = partner.etag("north"), partner.pointer("north")
    spoil(partner)
    result = run_partner(instance, partner)
    assert not result.success
    # A planned check without an evaluation is shown as one whose execution failed.
    judged = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    is_same = judged.pop("same_warehouse")
    assert judged == {"can_connect": False, "key_age": True, "tenants_fresh": True, "tenants_published": False}
    assert is_same is ("NOWHERE" not in partner.secret_text())
    assert expected in reasons(result)
    assert (partner.etag("north"), partner.pointer("north")) == before


@pytest.mark.slow
def test_a_refused_key_costs_a_few_logins_and_not_one_for_each_tenant(
    world: World, instance: dg.DagsterInstance
) -> None:
    codes = [f"t{number}" for number in range(15)]
    partner = world.partner(Warehouse(), codes)
    partner.rotate(register_key=False)
    result = run_partner(instance, partner)
    (line,) = (e.user_message for e in instance.all_logs(result.run_id) if "Snowflake session" in e.user_message)
    connects = int(line.split("over ")[1].split()[0])
    assert connects <= 5, line  # four in parallel, and one more with the secret read again


@pytest.mark.slow
def test_a_missing_table_is_one_partners_trouble_and_found_once_a_session(
    world: World, instance: dg.DagsterInstance
) -> None:
    codes = [f"t{number}" for number in range(15)]
    partner = world.partner(Warehouse(), codes)
    partner.drop_table(IDENTIFICATION_CODES)
    result = run_partner(instance, partner)
    assert not result.success
    assert "error 2003" in reasons(result)
    (line,) = (e.user_message for e in instance.all_logs(result.run_id) if "Snowflake session" in e.user_message)
    assert int(line.split("over ")[1].split()[0]) <= 4, line


@pytest.mark.slow
def test_an_unreachable_warehouse_is_said_to_be_that(
    partner: TestPartner, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = partner.etag("north")
    monkeypatch.setenv("RUNWAY_SNOWFLAKE_PORT", "1")
    monkeypatch.setenv("RUNWAY_SNOWFLAKE_LOGIN_TIMEOUT", "1")
    monkeypatch.setattr(refresh, "ATTEMPTS", 1)
    result = run_partner(instance, partner)
    assert "no session after" in reasons(result)
    assert partner.etag("north") == before


@pytest.mark.slow
def test_the_registrys_database_down_fails_the_run_with_its_address_and_nothing_else(
    partner: TestPartner, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = partner.etag("north"), partner.pointer("north")
    from tests.integration.world import definitions

    monkeypatch.setenv("RUNWAY_APP_DB_PORT", "1")
    job = definitions().resolve_job_def("partner_rosters_job")
    result = job.execute_in_process(instance=instance, partition_key=partner.partner_id, raise_on_error=False)
    (event,) = (event for event in result.all_events if event.is_step_failure)
    text = event.step_failure_data.error_display_string
    assert "the database runway at 127.0.0.1:1" in text
    assert os.environ["RUNWAY_APP_DB_PASSWORD"] not in text
    assert (partner.etag("north"), partner.pointer("north")) == before


@pytest.mark.slow
def test_a_wrong_database_password_is_named_at_once(
    partner: TestPartner, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.integration.world import definitions

    monkeypatch.setenv("RUNWAY_APP_DB_PASSWORD", "wrong-canary")
    job = definitions().resolve_job_def("partner_rosters_job")
    result = job.execute_in_process(instance=instance, partition_key=partner.partner_id, raise_on_error=False)
    (event,) = (event for event in result.all_events if event.is_step_failure)
    text = event.step_failure_data.error_display_string
    assert "a refused login" in text
    assert "wrong-canary" not in text


def big_partner(world: World, students: int = 60_000) -> TestPartner:
    """A tenant whose roster takes several upload parts (about 20 MB)."""
    from tests.integration.world import write_parquet

    partner = world.partner(Warehouse(), ["big"])
    import pyarrow as pa

    pairs = list(big_tenant_tables(students))
    folder = world.stack.warehouse_dir / partner.account / "EDU" / "PROD"
    for name, side in zip((ASSOCIATIONS, IDENTIFICATION_CODES), zip(*pairs, strict=True), strict=True):
        write_parquet(folder / f"{name}.parquet", pa.Table.from_batches(side))
    return partner


@pytest.mark.slow
@pytest.mark.parametrize("verdict", [403, "cut"], ids=["refused", "cut"])
def test_s3_failing_in_the_middle_of_an_upload_leaves_no_part_behind(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, verdict: int | str
) -> None:
    partner = big_partner(world)
    monkeypatch.setattr(refresh, "ATTEMPTS", 1)
    with fault_proxy(world.stack.aws_endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.fault = lambda method, path: verdict if method == "PUT" and "partNumber=2" in path else None
        result = run_partner(instance, partner)
        assert any("partNumber=2" in path for _, path in proxy.seen)
        assert not result.success
        assert partner.pending_uploads() == []
        assert [key for key in partner.object_keys() if not key.endswith("index.json")] == []

        proxy.fault = lambda method, path: None
        assert run_partner(instance, partner).success
    assert partner.published("big") is not None
    assert partner.pending_uploads() == []


@pytest.mark.slow
def test_a_transient_fault_is_tried_again_within_the_run(
    partner: TestPartner, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    partner.warehouse.students("north", 3, prefix="N")
    partner.write_tables()
    failures = iter([503] * 7)  # more than one call's own retries
    with fault_proxy(world.stack.aws_endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.fault = lambda method, path: next(failures, None) if path.endswith("current.json") else None
        assert run_partner(instance, partner).success
    assert partner.published("north") == b"".join(partner.warehouse.reference("north").lines)


def run_until_killed(world: World, partner: TestPartner, moment: str, **environment: str) -> None:
    """Run the partner in a process that gets SIGKILL when its first request to write ``moment`` arrives, before that
    does anything.
    """
    with fault_proxy(world.stack.aws_endpoint_url) as proxy:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.run_partner", partner.partner_id],
            env=os.environ | {"AWS_ENDPOINT_URL": proxy.url} | environment,
        )

        def kill(method: str, path: str) -> str | None:
            if method == "PUT" and moment in path:
                process.send_signal(signal.SIGKILL)
                return "cut"
            return None

        proxy.fault = kill
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["partNumber=2", "manifest.json", "/2026/", "current.json"])
def test_a_run_killed_at_any_moment_and_run_again_ends_as_if_nothing_had_happened(
    world: World, instance: dg.DagsterInstance, tmp_path: Path, moment: str
) -> None:
    """SIGKILL when the first request to write ``moment`` arrives, before it does anything."""
    partner = big_partner(world)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run_until_killed(world, partner, moment, TMPDIR=str(temporary))
    assert partner.pointer("big") is None
    assert (partner.published("big") is not None) is (moment == "current.json")
    left_behind = [path for path in temporary.rglob("*") if path.is_file()]
    assert [path for path in left_behind if b"studentUniqueId" in path.read_bytes()] == []

    assert run_partner(instance, partner).success
    untouched = big_partner(world)
    assert run_partner(instance, untouched).success
    assert partner.published("big") == untouched.published("big")
    assert partner.pending_uploads() == []

    def names(of: TestPartner) -> list[str]:
        return [key.replace(of.partner_id, "") for key in of.object_keys()]

    assert names(partner) == names(untouched)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [".jsonl", "/2025/", "/2026/", "current.json"])
def test_a_run_killed_over_a_published_roster_leaves_the_old_or_the_new_one_whole(
    partner: TestPartner, world: World, instance: dg.DagsterInstance, moment: str
) -> None:
    partner.enable_year(2025)
    assert run_partner(instance, partner).success
    old = partner.published("north")
    partner.warehouse.students("north", 9, prefix="K")
    partner.write_tables()
    new = b"".join(partner.warehouse.reference("north").lines)
    run_until_killed(world, partner, moment)
    assert {partner.published("north", 2025), partner.published("north", 2026)} <= {old, new}
    assert run_partner(instance, partner).success
    assert {partner.published("north", 2025), partner.published("north", 2026)} == {new}
    assert partner.manifest("north").students_added in (9, 0)


@pytest.mark.slow
def test_an_older_query_is_discarded_when_a_newer_one_was_published(
    partner: TestPartner, instance: dg.DagsterInstance, world: World
) -> None:
    pointer = partner.pointer("north")
    assert pointer is not None
    soon = datetime.now(UTC) + timedelta(minutes=4)  # more would be another clock's: test_fast_clock.py
    later = json.loads(pointer.to_json()) | {"query_started_at": soon.isoformat()}
    key = pointer_key(partner.tenant("north"))
    world.s3.put_object(Bucket="runway-local", Key=key, Body=json.dumps(later).encode())
    partner.warehouse.students("north", 5, prefix="L")
    partner.write_tables()
    before = partner.etag("north")
    result = run_partner(instance, partner)
    assert result.success
    assert partner.etag("north") == before
    assert any("superseded" in entry.user_message for entry in instance.all_logs(result.run_id))


@pytest.mark.slow
@pytest.mark.parametrize("error", [Unavailable(expected="to write", came="SlowDown", remedy="try again"), SystemExit()])
def test_what_a_run_published_before_it_died_is_in_the_index_after_the_one_that_goes_on(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    warehouse = Warehouse()
    for code in ("north", "south"):
        warehouse.students(code, 3)
    partner = world.partner(warehouse, ["north", "south"])

    def dies(*arguments: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(assets, "record_outcomes", dies)
        with suppress(SystemExit):
            run_partner(instance, partner)
    (died,) = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": partner.partner_id}))
    if not died.is_finished:
        instance.report_run_failed(died)
    with reexecute(instance, died.run_id, copy_tags=True) as again:
        assert again.success
        assert all(each.passed for each in again.get_asset_check_evaluations())
    for code in ("north", "south"):
        entry, pointer = index_of(partner)[code], partner.pointer(code)
        assert pointer is not None
        assert (entry["status"], entry["sha256"], entry["students"]) == ("unchanged", pointer.sha256, 3)
        assert datetime.fromisoformat(entry["refreshed_at"]) == datetime.fromisoformat(pointer.verified_at).replace(
            microsecond=0
        )
        assert entry["changed_at"] and entry["students_before"] is None


@pytest.mark.slow
def test_a_run_waits_for_the_tenants_lock_and_says_when_it_waited_too_long(
    partner: TestPartner, instance: dg.DagsterInstance, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNWAY_LOCK_WAIT_SECONDS", "1")
    monkeypatch.setattr(refresh, "ATTEMPTS", 1)
    name = f"runway_pipelines/roster/{partner.tenant('north')}"
    with world.connect() as connection:
        connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [name])
        started = time.monotonic()
        result = run_partner(instance, partner)
        assert "another run that still holds it" in reasons(result)
        assert time.monotonic() - started >= 1
    assert run_partner(instance, partner).success


@pytest.mark.slow
def test_a_lock_that_is_lost_during_the_upload_copies_nothing_and_the_tenant_is_tried_again(
    partner: TestPartner, instance: dg.DagsterInstance, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, copy = gate.keep_snapshot, gate.publish
    happened: list[str] = []

    def keep_and_lose_the_lock(*arguments: Any, **options: Any) -> None:
        keep(*arguments, **options)
        happened.append("kept")
        if happened == ["kept"]:
            with world.connect() as connection:
                connection.execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")

    def noted(*arguments: Any) -> Any:
        happened.append("copied")
        return copy(*arguments)

    monkeypatch.setattr(gate, "keep_snapshot", keep_and_lose_the_lock)
    monkeypatch.setattr(gate, "publish", noted)
    assert run_partner(instance, partner).success
    assert happened == ["kept", "kept", "copied"]


@pytest.mark.slow
def test_beside_a_damaged_pointer_a_roster_is_held(
    partner: TestPartner, instance: dg.DagsterInstance, world: World
) -> None:
    """Nobody knows what is published, nor whether it was pinned; test_roster_guards.py approves it."""
    key, before = pointer_key(partner.tenant("north")), partner.etag("north")
    world.s3.put_object(Bucket="runway-local", Key=key, Body=b"{")
    partner.warehouse.students("north", 1, prefix="N")
    partner.write_tables()
    assert failed_checks(run_partner(instance, partner)) == {(partner.tenant("north").key, "students_lost")}
    assert partner.etag("north") == before


@pytest.mark.slow
def test_ids_that_cannot_be_a_key_are_skipped_and_fatal_to_nobody(world: World, instance: dg.DagsterInstance) -> None:
    warehouse = Warehouse()
    warehouse.students("fine", 3)
    bad = ["..", "a/b", " leading space", "emoji \U0001f600", "x" * 300]
    partner = world.partner(warehouse, ["fine", *bad])
    assert run_partner(instance, partner).success
    keys = instance.get_dynamic_partitions("partner_tenants")
    assert [key for key in keys if key.startswith(partner.partner_id)] == [f"{partner.partner_id}/fine"]


def test_an_answer_that_comes_short_is_not_published(
    partner: TestPartner, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver does not count the rows of Arrow chunks: one that is lost on the way would be children lost."""
    before = partner.etag("north"), partner.pointer("north")
    select = EduSession.select

    def short(self: EduSession, *arguments: Any, **options: Any) -> Selection:
        selection = select(self, *arguments, **options)
        return dataclasses.replace(
            selection, batches=(batch.slice(0, batch.num_rows - 1) for batch in selection.batches)
        )

    monkeypatch.setattr(refresh, "ATTEMPTS", 1)
    monkeypatch.setattr(EduSession, "select", short)
    result = run_partner(instance, partner)
    assert "the whole answer: 20 rows; got 19 rows" in reasons(result)
    assert (partner.etag("north"), partner.pointer("north")) == before


@pytest.mark.slow
def test_two_runs_at_once_on_one_tenant_leave_one_whole_roster(
    partner: TestPartner, instance: dg.DagsterInstance
) -> None:
    partner.warehouse.students("north", 7, prefix="Q")
    partner.write_tables()
    # A process of its own: Dagster configures logging for each run, and two of them in one process can deadlock there.
    scheduled = subprocess.Popen([sys.executable, "-m", "tests.integration.run_partner", partner.partner_id])
    beside = 0
    while scheduled.poll() is None:
        assert run_tenants(instance, partner, "north").success
        beside += 1
    assert scheduled.returncode == 0
    assert beside > 1
    expected = b"".join(partner.warehouse.reference("north").lines)
    assert partner.published("north") == expected
    pointer = partner.pointer("north")
    assert pointer is not None
    assert pointer.sha256 == hashlib.sha256(expected).hexdigest()


@pytest.mark.slow
def test_re_executing_all_of_a_run_takes_every_roster_again(partner: TestPartner, instance: dg.DagsterInstance) -> None:
    first = run_partner(instance, partner)
    with reexecute(instance, first.run_id, from_failure=False) as again:
        assert materialized(again, "published_roster") == [partner.tenant("north").key]


@pytest.mark.slow
def test_tenants_whose_data_is_refused_cost_no_further_sessions(world: World, instance: dg.DagsterInstance) -> None:
    warehouse = Warehouse()
    codes = [f"t{number}" for number in range(12)]
    for code in codes:
        warehouse.student(code, "one", ("Local, old", "1"))
    partner = world.partner(warehouse, codes)
    result = run_partner(instance, partner)
    assert len(failed_checks(result)) == 12
    (line,) = (e.user_message for e in instance.all_logs(result.run_id) if "Snowflake session" in e.user_message)
    assert int(line.split("over ")[1].split()[0]) <= 4, line


@pytest.mark.slow
def test_an_unreachable_warehouse_is_not_waited_for_by_every_tenant(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNWAY_SNOWFLAKE_PORT", "1")
    monkeypatch.setenv("RUNWAY_SNOWFLAKE_LOGIN_TIMEOUT", "1")
    partner = world.partner(Warehouse(), [f"t{number}" for number in range(15)])
    result = run_partner(instance, partner)
    assert not result.success
    (line,) = (e.user_message for e in instance.all_logs(result.run_id) if "Snowflake session" in e.user_message)
    assert int(line.split("over ")[1].split()[0]) <= 8, line
