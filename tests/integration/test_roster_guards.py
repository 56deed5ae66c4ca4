"""A roster that looks wrong is held, whichever way it comes, and only a person's decision publishes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread

import dagster as dg
import pytest

from runway_pipelines.errors import DecisionRefused, RunwayError
from runway_pipelines.rosters.audit import entries
from runway_pipelines.rosters.decisions import What
from runway_pipelines.rosters.expecting import end_expectation, expect
from runway_pipelines.rosters.guards import STUDENTS_ADDED, WAREHOUSE_MOVED
from runway_pipelines.rosters.manifest import hold_key, manifest_key, pointer_key, snapshot_key
from runway_pipelines.rosters.outcome import TenantStatus
from runway_pipelines.rosters.quality import STUDENTS_LOST
from runway_pipelines.rosters.services import RosterServices
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services
from tests.integration.guarded_world import STUDENTS, WHY, Guarded, guarded_tenant
from tests.integration.world import (
    Warehouse,
    World,
    everything_logged,
    failed_checks,
    materialized,
    reexecute,
    run_partner,
    run_tenants,
)
from tests.waiting import join


@pytest.fixture(autouse=True)
def _small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenants of a few students are guarded as large ones are."""
    monkeypatch.setenv("RUNWAY_GUARD_STUDENTS_LOST_LEAST", "5")
    monkeypatch.setenv("RUNWAY_GUARD_STUDENTS_ADDED_LEAST", "5")


@pytest.fixture
def services(world: World) -> Iterator[RosterServices]:
    load_settings.cache_clear()
    with build_services(load_settings()).process_config_and_initialize_cm() as running:
        yield running


@pytest.fixture
def guarded(world: World, services: RosterServices, instance: dg.DagsterInstance) -> Guarded:
    return guarded_tenant(world, services, instance)


def check_of(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    (found,) = (each for each in result.get_asset_check_evaluations() if each.check_name == name)
    return found


def test_half_of_the_students_vanish_and_the_roster_is_held_until_the_data_is_mended(guarded: Guarded) -> None:
    partner = guarded.partner
    before = partner.etag("north"), partner.pointer("north")
    pointer = partner.pointer("north")
    assert pointer is not None
    half = guarded.has((0, 30))
    result = guarded.run()
    assert not result.success
    assert (partner.etag("north"), partner.pointer("north")) == before
    assert failed_checks(result) == {(partner.tenant("north").key, STUDENTS_LOST)}
    hold = guarded.held()
    assert (hold.guards, hold.students, hold.published_sha256) == ((STUDENTS_LOST,), 30, pointer.sha256)
    said = check_of(result, STUDENTS_LOST).description
    assert said is not None
    assert "30 of 60 published students (50.0%)" in said
    assert f"rosters approve {partner.tenant('north')} {hold.sha256[:12]} " in said
    assert check_of(result, STUDENTS_LOST).metadata["students_removed"].value == 30
    tenant, store = partner.tenant("north"), guarded.services.store
    stored = store.read(snapshot_key(tenant, hold.sha256))
    assert stored is not None
    assert stored.body == half
    assert store.read(manifest_key(tenant, hold.sha256)) is not None
    assert guarded.audited() == ["hold", "hold-done"]
    assert materialized(result, "published_roster") == []
    entry = guarded.entry_of_index()
    assert (entry["status"], entry["since"], entry["sha256"]) == ("held", hold.since, pointer.sha256)

    # The same bytes: held still, and no news.
    assert not guarded.run().success
    assert (guarded.held().since, guarded.held().run_id) == (hold.since, hold.run_id)
    assert guarded.entry_of_index()["since"] == hold.since
    assert guarded.audited() == ["hold", "hold-done"]

    # Others: they take the first ones' place.
    guarded.has((0, 20))
    assert not guarded.run().success
    assert guarded.held().sha256 != hold.sha256
    assert guarded.audited() == ["hold", "hold-done"] * 2
    assert (partner.etag("north"), partner.pointer("north")) == before

    # Mended, with one student more.
    whole = guarded.has((0, STUDENTS + 1))
    result = guarded.run()
    assert result.success
    assert guarded.hold is None
    assert partner.published("north") == whole
    assert guarded.audited() == ["hold", "hold-done"] * 2 + ["release", "release-done"]
    assert guarded.entry_of_index()["since"] is None


@pytest.mark.slow
@pytest.mark.parametrize("route", ["direct", "from failure", "all of it", "a new year"])
def test_no_other_route_goes_around_a_hold(guarded: Guarded, route: str) -> None:
    partner, instance = guarded.partner, guarded.instance
    whole, before = partner.published("north"), (partner.etag("north"), partner.pointer("north"))
    guarded.has((0, 30))
    held = guarded.run()
    assert not held.success
    if route == "direct":
        assert not run_tenants(instance, partner, "north").success
    elif route == "a new year":
        partner.enable_year(2025)
        assert not guarded.run().success
        assert partner.published("north", 2025) == whole
    else:
        with reexecute(instance, held.run_id, from_failure=route == "from failure") as again:
            assert not again.success
            assert materialized(again, "published_roster") == []
    assert (partner.etag("north"), partner.pointer("north")) == before
    assert guarded.hold is not None


@pytest.mark.slow
def test_the_secret_of_another_partner_moves_no_tenant_though_their_codes_are_the_same(
    world: World, services: RosterServices, instance: dg.DagsterInstance
) -> None:
    codes = ["east", "north"]
    ours, theirs = Warehouse(), Warehouse()
    for code in codes:
        ours.students(code, STUDENTS)
        theirs.students(code, STUDENTS, prefix="T")
    theirs.students("new", STUDENTS, prefix="T")
    a, b = world.partner(ours, codes), world.partner(theirs, [*codes, "new"])
    assert run_partner(instance, a).success
    before = [(a.etag(code), a.pointer(code)) for code in codes]
    with world.connect() as connection:
        connection.execute("insert into tenant (code, partner_id) values ('new', %s)", [a.partner_id])
    secret = world.secrets.get_secret_value(SecretId=b.secret_name)["SecretString"]
    a.put_secret(secret)
    result = run_partner(instance, a)
    assert not result.success
    assert {key for key, check in failed_checks(result) if check == WAREHOUSE_MOVED} == {
        a.tenant(code).key for code in [*codes, "new"]
    }
    assert [(a.etag(code), a.pointer(code)) for code in codes] == before
    assert (a.published("new"), a.pointer("new")) == (None, None)
    said = check_text(result, a.tenant("new").key, WAREHOUSE_MOVED)
    assert f"{b.account}/EDU.PROD" in said
    assert f"{a.account}/EDU.PROD" in said


def check_text(result: dg.ExecuteInProcessResult, partition: str, name: str) -> str:
    (found,) = (
        each.description
        for each in result.get_asset_check_evaluations()
        if (each.partition, each.check_name) == (partition, name)
    )
    return str(found)


@pytest.mark.slow
def test_approve_publishes_exactly_the_candidate_and_asks_no_warehouse(guarded: Guarded) -> None:
    partner = guarded.partner
    guarded.has((0, 25))
    assert not guarded.run().success
    stale = guarded.held().sha256
    half = guarded.has((0, 30))
    assert not guarded.run().success
    sha256 = guarded.held().sha256
    partner.delete_secret()
    before = partner.etag("north"), partner.pointer("north")
    with pytest.raises(DecisionRefused, match=sha256[:12]):
        guarded.decide(What.APPROVE, stale)
    for wrong in (None, sha256[:7], "0" * 64):
        with pytest.raises(DecisionRefused):
            guarded.decide(What.APPROVE, wrong)
    assert (partner.etag("north"), partner.pointer("north")) == before
    assert guarded.audited()[-1] == "hold-done"

    outcome = guarded.decide(What.APPROVE, sha256[:8].upper())
    assert outcome.status is TenantStatus.NEW
    assert partner.published("north") == half
    assert guarded.hold is None
    pointer = partner.pointer("north")
    assert pointer is not None
    assert (pointer.sha256, pointer.previous_sha256) == (sha256, before[1] and before[1].sha256)
    begun, done = guarded.audit()[-2:]
    assert (begun.what, done.what, begun.id) == ("approve", "approve-done", done.id)
    assert begun.signature is not None
    assert (begun.signature.decided_by, begun.signature.reason) == ("Ann", WHY)
    assert (begun.from_sha256, begun.to_sha256) == (before[1] and before[1].sha256, sha256)

    count = len(guarded.audit())
    assert guarded.decide(What.APPROVE, sha256).status is TenantStatus.UNCHANGED
    assert (partner.pointer("north"), len(guarded.audit())) == (pointer, count)


@pytest.mark.slow
def test_a_rejected_candidate_stays_held_and_says_who_and_why(guarded: Guarded) -> None:
    partner = guarded.partner
    before = partner.etag("north"), partner.pointer("north")
    guarded.has((0, 30))
    assert not guarded.run().success
    hold = guarded.held()
    guarded.decide(What.REJECT, hold.sha256)
    result = guarded.run()
    assert not result.success
    again = guarded.held()
    assert again.rejected is not None
    assert (again.since, again.rejected.decided_by, again.rejected.reason) == (hold.since, "Ann", WHY)
    assert guarded.audited() == ["hold", "hold-done", "reject", "reject-done"]
    assert (partner.etag("north"), partner.pointer("north")) == before
    reason = guarded.entry_of_index()["reason"]
    assert "rejected" in reason
    assert "Ann" in reason
    assert WHY in reason


@pytest.mark.slow
def test_a_roll_back_pins_all_years_until_somebody_ends_it_and_then_the_guards_have_their_say(
    guarded: Guarded,
) -> None:
    partner = guarded.partner
    old = partner.published("north")
    partner.enable_year(2025)
    more = guarded.has((0, STUDENTS + 2))
    assert guarded.run().success
    assert [partner.published("north", year) for year in (2025, 2026)] == [more, more]
    assert guarded.decide(What.ROLLBACK).status is TenantStatus.PINNED
    assert [partner.published("north", year) for year in (2025, 2026)] == [old, old]
    pinned = partner.pointer("north")

    half = guarded.has((0, 30))
    result = guarded.run()
    assert result.success
    assert (partner.pointer("north"), partner.published("north")) == (pinned, old)
    assert guarded.entry_of_index()["status"] == "pinned"
    assert guarded.hold is None
    candidates = [key for key in partner.object_keys() if key.endswith(".jsonl") and "__roster_snapshots" in key]
    assert len(candidates) == 3
    with pytest.raises(DecisionRefused, match="unpin it first"):
        guarded.decide(What.APPROVE, "0" * 64)

    guarded.decide(What.UNPIN)
    assert not guarded.run().success
    assert partner.published("north") == old
    guarded.decide(What.APPROVE, guarded.held().sha256)
    assert partner.published("north") == half
    whats = [what for what in guarded.audited() if not what.endswith("-done")]
    assert whats == ["rollback", "unpin", "hold", "approve"]


@pytest.mark.slow
def test_what_is_expected_passes_while_it_is_expected_and_of_the_guards_that_were_named(guarded: Guarded) -> None:
    partner = guarded.partner
    later = datetime.now(UTC) + timedelta(hours=1)

    def announce(tenant: str | None, guard: str, until: datetime) -> str:
        return expect(guarded.decisions(), partner.partner_id, tenant, [guard], until, "Ann", WHY).id

    for until in (later + timedelta(days=60), datetime.now(UTC) - timedelta(seconds=1)):
        with pytest.raises(DecisionRefused, match="an end between now and 60 days"):
            announce(None, STUDENTS_LOST, until)
    with pytest.raises(DecisionRefused, match="no_such_guard"):
        announce(None, "no_such_guard", later)
    announce("south", STUDENTS_LOST, later)  # another tenant
    announce("north", STUDENTS_ADDED, later)  # another guard
    ended = announce(None, STUDENTS_LOST, later)
    end_expectation(guarded.decisions(), partner.partner_id, ended, "Ann", "it was put off")
    half = guarded.has((0, 30))
    assert not guarded.run().success
    assert [what for what in guarded.audited() if not what.startswith("expect")] == ["hold", "hold-done"]
    assert "expected" not in guarded.audited()

    announce("north", STUDENTS_LOST, later)
    result = guarded.run()
    assert result.success
    assert partner.published("north") == half
    check = check_of(result, STUDENTS_LOST)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "expected since" in str(check.description)
    whats = guarded.audited()
    assert sorted(whats[-4:]) == ["expected", "expected-done", "release", "release-done"]
    assert whats.count("expect") == whats.count("expect-done") == 2
    of_partner = [entry for entry in entries(guarded.services.store, partner.partner_id) if not entry.tenant_code]
    assert [entry.what for entry in of_partner] == ["expect", "expect-done", "expect-end", "expect-end-done"]


@pytest.mark.slow
def test_neither_a_student_nor_a_secret_is_in_anything_that_is_written_of_a_hold(
    guarded: Guarded, world: World
) -> None:
    secret = json.loads(world.secrets.get_secret_value(SecretId=guarded.partner.secret_name)["SecretString"])
    guarded.has((0, 30), prefix="CANARY")
    results = [guarded.run(), guarded.run()]
    guarded.decide(What.REJECT, guarded.held().sha256)
    guarded.decide(What.APPROVE, guarded.held().sha256)
    results.append(guarded.run())
    guarded.decide(What.ROLLBACK)
    results.append(guarded.run())
    assert [result.success for result in results] == [False, False, True, True]
    written = guarded.everything_kept()
    assert any("__roster_audit" in key for key in written)
    said = "\n".join(everything_logged(guarded.instance, result) for result in results)
    said += "\n".join(body.decode() for body in written.values())
    assert WHY in said
    for canary in ("S00001", "CANARY", "LS0", secret["privateKey"][100:140]):
        assert canary not in said


@pytest.mark.slow
def test_a_hold_that_cannot_be_read_holds_and_is_written_anew(guarded: Guarded) -> None:
    guarded.has((0, 30))
    assert not guarded.run().success
    sha256 = guarded.held().sha256
    key = hold_key(guarded.partner.tenant("north"))
    guarded.services.store.overwrite(key, b"{")
    with pytest.raises(DecisionRefused):
        guarded.decide(What.APPROVE, sha256)
    assert not guarded.run().success
    assert guarded.held().sha256 == sha256


@pytest.mark.slow
def test_where_the_pointer_cannot_be_read_a_decision_writes_it_anew(guarded: Guarded) -> None:
    partner, store = guarded.partner, guarded.services.store
    whole = partner.published("north")
    store.overwrite(pointer_key(partner.tenant("north")), b"{")
    more = guarded.has((0, STUDENTS + 1))
    result = guarded.run()
    assert failed_checks(result) == {(partner.tenant("north").key, STUDENTS_LOST)}
    assert partner.published("north") == whole
    guarded.decide(What.APPROVE, guarded.held().sha256)
    assert partner.published("north") == more
    assert guarded.run().success


@pytest.mark.slow
def test_a_move_to_another_account_with_the_same_data_is_approved_once(guarded: Guarded, world: World) -> None:
    partner = guarded.partner
    other = world.partner(Warehouse(), ["north"])
    other.warehouse = partner.warehouse
    other.write_tables()
    before = partner.etag("north")
    partner.put_secret(world.secrets.get_secret_value(SecretId=other.secret_name)["SecretString"])
    assert (partner.tenant("north").key, WAREHOUSE_MOVED) in failed_checks(guarded.run())
    guarded.decide(What.APPROVE, guarded.held().sha256)
    assert guarded.run().success
    assert guarded.hold is None
    assert partner.etag("north") == before


# two at once


@pytest.mark.slow
def test_of_two_who_decide_at_once_beside_a_refresh_one_whole_snapshot_is_what_comes_of_it(guarded: Guarded) -> None:
    partner = guarded.partner
    old = partner.published("north")
    partner.enable_year(2025)
    half = guarded.has((0, 30))
    assert not guarded.run().success
    sha256 = guarded.held().sha256
    refused: list[RunwayError] = []

    def attempt(what: What, named: str | None) -> Callable[[], None]:
        def take() -> None:
            try:
                guarded.decide(what, named, by=what.value)
            except DecisionRefused as error:
                refused.append(error)

        return take

    old_sha256 = guarded.held().published_sha256
    both = [attempt(What.APPROVE, sha256), attempt(What.ROLLBACK, old_sha256), attempt(What.APPROVE, sha256)]
    threads = [Thread(target=each) for each in both]
    for thread in threads:
        thread.start()
    guarded.run()
    join(*threads)
    pointer = partner.pointer("north")
    assert pointer is not None
    assert pointer.sha256 == old_sha256  # whoever was first: the roll back is the last that may change it
    assert pointer.pinned is not None
    assert pointer.pinned.decided_by == "rollback"
    assert [partner.published("north", year) for year in (2025, 2026)] == [old, old]
    assert half not in (partner.published("north", 2025), partner.published("north", 2026))
    assert len(refused) <= 2
