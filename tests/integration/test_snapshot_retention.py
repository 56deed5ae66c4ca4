"""Snapshots of no more use go, in one pass over the bucket; what is of use stays, whatever breaks meanwhile.

S3 dates an object when it is written: the job runs as of 40 days ahead.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from runway_pipelines.dagster_events import kept_value
from runway_pipelines.local.stack import BUCKET
from runway_pipelines.operations import retention as retention_of_runs
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters import pruning
from runway_pipelines.rosters.audit import entries
from runway_pipelines.rosters.holds import Hold
from runway_pipelines.rosters.manifest import (
    Manifest,
    Pointer,
    dump_document,
    hold_key,
    manifest_key,
    pointer_key,
    snapshot_key,
)
from runway_pipelines.rosters.publication import list_manifests
from runway_pipelines.rosters.record import Entry
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services
from tests.factories import manifest, pointer
from tests.integration.fault_proxy import fault_proxy
from tests.integration.world import TestPartner, Warehouse, World, definitions, run_partner
from tests.waiting import PATIENCE_SECONDS

DAYS_AHEAD = 40
KEPT = 3
A_SNAPSHOT = b"a line\n"
SIZE = len(A_SNAPSHOT)


def digest(number: int) -> str:
    """Of snapshots that were stored in the same second, the greater digest counts as the newer."""
    return f"{'f' * 56}{number:08x}"


@pytest.fixture(autouse=True)
def _settings(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWAY_SNAPSHOTS_KEPT", str(KEPT))
    monkeypatch.setenv("RUNWAY_SNAPSHOTS_MONTHLY_DAYS", "0")
    monkeypatch.setattr(pruning, "LOCK_WAIT_SECONDS", 1)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job runs as of so many days ahead."""
    real_now = pruning.bucket_time
    monkeypatch.setattr(pruning, "bucket_time", lambda store: real_now(store) + timedelta(days=DAYS_AHEAD))


@pytest.fixture
def left(world: World) -> TestPartner:
    """A partner that left the registry, with ten snapshots of each of two tenants.

    The manifest of what is published says of north what was published before, the pointer of south: in older versions
    the pointer does not.
    """
    partner = TestPartner(world, f"p-{uuid.uuid4().hex[:8]}", Warehouse(), ())
    for code in ("north", "south"):
        keep(partner, code, range(10))
    put_pointer(partner, "north", pointer(sha256=digest(1)), manifest(sha256=digest(1), previous_sha256=digest(0)))
    put_pointer(partner, "south", pointer(sha256=digest(1), previous_sha256=digest(0)), manifest(sha256=digest(1)))
    return partner


@pytest.fixture
def partner(world: World, instance: dg.DagsterInstance) -> TestPartner:
    """A partner whose tenant was published twice, with ten snapshots after these."""
    warehouse = Warehouse()
    warehouse.students("north", 3)
    partner = world.partner(warehouse, ["north"])
    assert run_partner(instance, partner).success
    publish(partner, instance, "T")
    keep(partner, "north", range(10))
    return partner


def put_pointer(partner: TestPartner, code: str, pointer: Pointer, manifest: Manifest) -> None:
    tenant = partner.tenant(code)
    put(partner.world, pointer_key(tenant), pointer.to_json())
    put(partner.world, manifest_key(tenant, pointer.sha256), manifest.to_json())


def keep(partner: TestPartner, code: str, numbers: range) -> None:
    tenant = partner.tenant(code)
    for number in numbers:
        put(partner.world, snapshot_key(tenant, digest(number)), A_SNAPSHOT)
        put(partner.world, manifest_key(tenant, digest(number)), b"{}")


def put(world: World, key: str, body: bytes) -> None:
    world.s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def publish(partner: TestPartner, instance: dg.DagsterInstance, *prefixes: str) -> None:
    """A run for each, with two students more than before."""
    for prefix in prefixes:
        partner.warehouse.students("north", 2, prefix=prefix)
        partner.write_tables()
        assert run_partner(instance, partner).success


def take_back(partner: TestPartner, instance: dg.DagsterInstance, *prefixes: str) -> None:
    """A run without these students."""
    beginnings = tuple(f"x-north-{prefix}" for prefix in prefixes)
    for rows in (partner.warehouse.associations, partner.warehouse.codes):
        rows[:] = [row for row in rows if not row["k_student_xyear"].startswith(beginnings)]
    partner.write_tables()
    assert run_partner(instance, partner).success


def names(partner: TestPartner, code: str) -> set[str]:
    """What is in the tenant's folder of snapshots."""
    folder = f"__roster_snapshots/{partner.tenant(code)}/"
    return {key.removeprefix(folder) for key in partner.object_keys() if key.startswith(folder)}


def snapshots(partner: TestPartner, code: str = "north") -> set[str]:
    """The digests of the tenant's snapshots; each has its manifest, and no manifest is alone."""
    found = {name.removesuffix(".jsonl") for name in names(partner, code) if name.endswith(".jsonl")}
    with_manifest = {name for name in names(partner, code) if name.endswith(".manifest.json")}
    assert found == {name.removesuffix(".manifest.json") for name in with_manifest}
    return found


def everything(world: World) -> list[str]:
    """Every key below the prefix of snapshots."""
    pages = world.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="__roster_snapshots/")
    return [entry["Key"] for page in pages for entry in page["Contents"]]


def newest_sha256(partner: TestPartner) -> str:
    pointer = partner.pointer("north")
    assert pointer is not None
    return pointer.sha256


def published(partner: TestPartner, code: str = "north") -> set[str]:
    """What is published, and what was before."""
    pointer = partner.pointer(code)
    assert pointer is not None
    previous = partner.manifest(code).previous_sha256
    assert previous is not None
    return {pointer.sha256, previous}


def digests(*numbers: int) -> set[str]:
    return set(map(digest, numbers))


def prune(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = definitions().resolve_job_def("run_retention_job")
    return job.execute_in_process(instance=instance, raise_on_error=False)


def reported(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of the op, whether it succeeded or not."""
    (event,) = (
        event
        for event in result.all_events
        if event.step_key == "prune_snapshots" and event.event_type_value in ("STEP_OUTPUT", "STEP_FAILURE")
    )
    if event.is_step_failure:
        failure = event.step_failure_data.user_failure_data
        assert failure is not None
        return {name: _plain(value) for name, value in failure.metadata.items()}
    return {name: _plain(value) for name, value in event.step_output_data.metadata.items()}


def _plain(value: dg.MetadataValue) -> Any:
    return [row.data for row in value.records] if isinstance(value, dg.TableMetadataValue) else value.value


def skipped(result: dg.ExecuteInProcessResult, partner: TestPartner) -> dict[str, str]:
    """The partner's tenants that were skipped, and why."""
    rows = reported(result).get("skipped", [])
    return {
        row["tenant"].split("/")[1]: row["reason"] for row in rows if row["tenant"].startswith(f"{partner.partner_id}/")
    }


def recorded(partner: TestPartner, code: str = "north") -> list[Entry]:
    """What the record says of pruning."""
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        return [each for each in entries(services.store, partner.tenant(code)) if each.what.startswith("prune")]


@pytest.mark.usefixtures("ahead")
def test_the_newest_and_what_is_published_held_or_was_published_before_stay_and_the_record_names_the_others(
    left: TestPartner, world: World, instance: dg.DagsterInstance
) -> None:
    hold = Hold(digest(4), "2026-11-01T00:00:00+00:00", "run", (), None, 5, "", "", "")
    put(world, hold_key(left.tenant("north")), dump_document(hold))
    first = prune(instance)
    assert first.success

    assert snapshots(left) == digests(0, 1, 4, 7, 8, 9)
    assert snapshots(left, "south") == digests(0, 1, 7, 8, 9)
    begun, done = recorded(left)
    assert (begun.what, done.what, begun.run_id, begun.id) == ("prune", "prune-done", first.run_id, done.id)
    gone = " ".join(map(digest, (2, 3, 5, 6)))
    why = {"keep_last": KEPT, "monthly_days": 0}
    assert begun.details == done.details == {"snapshots": 4, "bytes": 4 * SIZE, "sha256": gone} | why
    assert begun.program_version == done.program_version != ""

    report = reported(first)
    assert report["snapshots pruned"] >= 9
    assert report["bytes freed"] >= 9 * SIZE
    assert report["tenants"] >= 2
    assert report["snapshots kept"] >= 11

    second = prune(instance)
    assert second.success
    assert (reported(second)["snapshots pruned"], reported(second)["bytes freed"]) == (0, 0)
    assert reported(second)["snapshots kept"] == report["snapshots kept"]
    assert len(recorded(left)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ahead")
def test_rosters_are_refreshed_after_it_as_before_also_with_bytes_that_were_pruned(
    partner: TestPartner, instance: dg.DagsterInstance
) -> None:
    of_today, bytes_of_today = newest_sha256(partner), partner.published("north")
    publish(partner, instance, "U", "V")
    keep(partner, "north", range(10, 13))
    expected = partner.published("north")
    assert prune(instance).success
    assert of_today not in snapshots(partner)

    assert run_partner(instance, partner).success
    assert partner.published("north") == expected
    take_back(partner, instance, "U", "V")
    assert partner.published("north") == bytes_of_today
    assert newest_sha256(partner) == of_today
    assert of_today in snapshots(partner)


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize(
    ("monthly_days", "first"), [(DAYS_AHEAD + 1, [0]), (DAYS_AHEAD - 1, [])], ids=["in its time", "after it"]
)
def test_a_months_first_stays_as_long_as_the_setting_says(
    left: TestPartner,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    monthly_days: int,
    first: list[int],
) -> None:
    monkeypatch.setenv("RUNWAY_SNAPSHOTS_MONTHLY_DAYS", str(monthly_days))
    keep(left, "St. Mary", range(5))
    assert prune(instance).success
    assert snapshots(left, "St. Mary") == digests(*first, 2, 3, 4)


def test_what_was_stored_today_stays_and_a_night_with_nothing_to_prune_only_lists_the_bucket(
    left: TestPartner, world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_proxy(world.stack.aws_endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert prune(instance).success
    assert snapshots(left) == digests(*range(10))
    assert proxy.seen
    assert all(method == "GET" and "list-type=2" in path for method, path in proxy.seen)
    # Each of the two ops that prune the bucket asks for the time, and lists.
    assert len(proxy.seen) <= 4 + len(everything(world)) // 1000


@pytest.mark.usefixtures("ahead")
def test_a_tenant_that_is_being_published_waits_for_the_next_night(
    left: TestPartner, instance: dg.DagsterInstance
) -> None:
    with (
        build_services(load_settings()).process_config_and_initialize_cm() as services,
        services.database.advisory_lock(f"runway_pipelines/roster/{left.tenant('north')}", 1),
    ):
        meanwhile = prune(instance)
    assert meanwhile.success
    assert snapshots(left) == digests(*range(10))
    assert recorded(left) == []
    assert list(skipped(meanwhile, left)) == ["north"]
    assert "another run that still holds it" in skipped(meanwhile, left)["north"]
    assert snapshots(left, "south") == digests(0, 1, 7, 8, 9)
    assert skipped(prune(instance), left) == {}
    assert snapshots(left) == digests(0, 1, 7, 8, 9)


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize(
    ("key", "body", "said"),
    [
        (pointer_key, b"{", "a pointer in"),
        (hold_key, b'{"sha256": 7}', "a hold in"),
        (lambda tenant: manifest_key(tenant, digest(1)), b"", "the manifest of the published snapshot"),
    ],
    ids=["pointer", "hold", "manifest"],
)
def test_where_it_cannot_be_read_what_is_of_use_nothing_is_pruned_and_the_run_says_so(
    left: TestPartner, instance: dg.DagsterInstance, key: Callable[[PartnerTenant], str], body: bytes, said: str
) -> None:
    put(left.world, key(left.tenant("north")), body)
    before = names(left, "north")
    result = prune(instance)
    assert result.success
    assert names(left, "north") == before
    assert said in skipped(result, left)["north"]
    assert recorded(left) == []
    assert snapshots(left, "south") == digests(0, 1, 7, 8, 9)


@pytest.mark.usefixtures("ahead")
def test_a_tenant_that_was_never_published_is_pruned_too(left: TestPartner, instance: dg.DagsterInstance) -> None:
    keep(left, "St. Mary", range(5))
    assert prune(instance).success
    assert snapshots(left, "St. Mary") == digests(2, 3, 4)


@pytest.mark.usefixtures("ahead")
def test_the_night_after_one_that_was_too_short_begins_where_that_one_ended(
    left: TestPartner, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the last tenants of the bucket might never have their turn."""
    looked_at: list[str] = []
    clock = [0.0]
    real = pruning.prune_tenant

    def watched(store: Any, database: Any, tenant: PartnerTenant, *more: Any) -> Any:
        looked_at.append(tenant.key)
        if tenant == left.tenant("north"):
            clock[0] += pruning.MOST_SECONDS + 1
        return real(store, database, tenant, *more)

    monkeypatch.setattr(pruning, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(pruning, "prune_tenant", watched)
    cut_short = prune(instance)
    assert cut_short.success
    assert reported(cut_short)["tenants"] == len(looked_at)
    assert looked_at[-1] == left.tenant("north").key
    assert (snapshots(left), snapshots(left, "south")) == (digests(0, 1, 7, 8, 9), digests(*range(10)))

    first_night = looked_at.copy()
    looked_at.clear()
    monkeypatch.setattr(pruning, "MOST_SECONDS", float("inf"))
    assert prune(instance).success
    assert looked_at[0] == left.tenant("south").key
    assert looked_at[-len(first_night) :] == first_night
    assert len(looked_at) == len(set(looked_at))
    assert snapshots(left, "south") == digests(0, 1, 7, 8, 9)
    assert not kept_value(instance, pruning.RESUME_KEY)


@pytest.mark.usefixtures("ahead")
def test_snapshots_are_pruned_also_where_old_runs_cannot_be_deleted(
    left: TestPartner, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(instance: dg.DagsterInstance) -> set[str]:
        raise RuntimeError("storage")

    monkeypatch.setattr(retention_of_runs, "runs_of_newest_requests", broken)
    result = prune(instance)
    assert not result.success
    assert snapshots(left) == digests(0, 1, 7, 8, 9)


@pytest.mark.usefixtures("ahead")
def test_where_s3_refuses_the_run_fails_with_its_numbers_and_old_runs_are_deleted_all_the_same(
    left: TestPartner, world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_proxy(world.stack.aws_endpoint_url) as proxy:
        proxy.fault = lambda method, path: 403 if method == "DELETE" and left.partner_id in path else None
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        result = prune(instance)
    monkeypatch.setenv("AWS_ENDPOINT_URL", world.stack.aws_endpoint_url)
    assert not result.success
    assert {event.step_key for event in result.all_events if event.is_step_success} == {
        "delete_old_runs",
        "delete_old_resolutions",
        "forget_old_boards",
    }
    assert "HTTP 403" in skipped(result, left)["north"]
    assert reported(result)["tenants skipped"] >= 1
    assert snapshots(left) == digests(*range(10))
    assert [entry.what for entry in recorded(left)] == ["prune"]


@pytest.mark.usefixtures("ahead")
def test_nothing_is_deleted_once_the_lock_is_lost(
    left: TestPartner, world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may be publishing these bytes by then."""
    real = pruning.protected_digests

    def and_lose_the_lock(store: Any, tenant: PartnerTenant) -> frozenset[str]:
        digests = real(store, tenant)
        with world.connect() as connection:
            connection.execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")
        return digests

    monkeypatch.setattr(pruning, "protected_digests", and_lose_the_lock)
    assert not prune(instance).success
    assert snapshots(left) == digests(*range(10))
    monkeypatch.setattr(pruning, "protected_digests", real)
    assert prune(instance).success
    assert snapshots(left) == digests(0, 1, 7, 8, 9)


@pytest.mark.slow
def test_killed_between_a_snapshots_two_deletions_it_promises_nothing_and_the_next_night_ends_it(
    partner: TestPartner, world: World, instance: dg.DagsterInstance, request: pytest.FixtureRequest
) -> None:
    half_gone = newest_sha256(partner)
    publish(partner, instance, "U", "V")
    keep(partner, "north", range(10, 13))
    old_manifest = Manifest.from_json("", partner._get(manifest_key(partner.tenant("north"), half_gone)) or b"")
    prune_until_killed(world, f"{partner.tenant('north')}/{half_gone}")

    assert {name for name in names(partner, "north") if name.startswith(half_gone)} == {f"{half_gone}.jsonl"}
    assert [entry.what for entry in recorded(partner)] == ["prune"]
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        offered = {manifest.sha256 for manifest in list_manifests(services.store, partner.tenant("north"))}
    assert half_gone not in offered
    assert published(partner) <= offered

    # The same bytes come again: they are kept with the numbers of the run that they came to.
    take_back(partner, instance, "U", "V")
    assert newest_sha256(partner) == half_gone
    assert half_gone in snapshots(partner)
    assert partner.manifest("north").run_id != old_manifest.run_id
    assert partner.published("north") == b"".join(partner.warehouse.reference("north").lines)

    request.getfixturevalue("ahead")
    assert prune(instance).success
    assert digests(10, 11, 12) | published(partner) == snapshots(partner)
    assert [entry.what for entry in recorded(partner)] == ["prune", "prune", "prune-done"]


@pytest.mark.slow
def test_killed_between_a_snapshots_two_deletions_the_next_night_deletes_the_rest(
    left: TestPartner, world: World, instance: dg.DagsterInstance, request: pytest.FixtureRequest
) -> None:
    prune_until_killed(world, f"{left.tenant('north')}/{digest(3)}")
    there = names(left, "north")
    assert {name for name in there if name.startswith(digest(3))} == {f"{digest(3)}.jsonl"}
    assert {name.partition(".")[0] for name in there} == digests(0, 1, *range(3, 10)) | {"current"}
    request.getfixturevalue("ahead")
    assert prune(instance).success
    assert snapshots(left) == digests(0, 1, 7, 8, 9)


def prune_until_killed(world: World, snapshot: str) -> None:
    """Prune in a process that gets SIGKILL when its second deletion for the snapshot arrives, before that is done."""
    deletions: list[str] = []
    with fault_proxy(world.stack.aws_endpoint_url) as proxy:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.prune_process", str(DAYS_AHEAD)],
            env=os.environ | {"AWS_ENDPOINT_URL": proxy.url},
        )

        def kill(method: str, path: str) -> str | None:
            if method == "DELETE" and snapshot in path:
                deletions.append(path)
                if len(deletions) == 2:
                    process.send_signal(signal.SIGKILL)
                    return "cut"
            return None

        proxy.fault = kill
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
