"""What partners' warehouses really hold harms no child: each case is a tenant of one partner, refreshed in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from tests.integration.world import TestPartner, Warehouse, World, run_partner, world_of
from tests.unit.rosters.test_consumers_join import joined

Fill = Callable[[Warehouse, str], None]


def blank_ids(warehouse: Warehouse, tenant: str) -> None:
    for number in range(200):
        warehouse.student(tenant, f"{number:05}", *([("Local", f"L{number}")] if number < 181 else []))


def placeholders(warehouse: Warehouse, tenant: str) -> None:
    codes = ["N/A", "0", "000000000", "1.2E+11", "n/a ", "(none)", "T.B.D.", "#VALUE", "????", "xxxx", "\\N", "N\\A"]
    for number, code in enumerate([*codes, "0012"]):
        warehouse.student(tenant, f"{number:05}", ("Local", code))


def a_code_that_consumers_see_as_anothers(warehouse: Warehouse, tenant: str) -> None:
    warehouse.student(tenant, "1", ("Local", "77"), ("State", "123"))
    warehouse.student(tenant, "2", ("uri://x.org/S#Local", "77"), ("State", "123.0"))
    warehouse.student(tenant, "3", ("Local", "78"), ("State", "124"))


def an_id_in_two_spellings(warehouse: Warehouse, tenant: str) -> None:
    warehouse.student(tenant, "Kc9", ("Local", "7"))
    warehouse.student(tenant, "kC9", ("Local", "7"), ed_org_id=370002)
    for rows in (warehouse.associations, warehouse.codes):
        for row in rows:
            if row["tenant_code"] == tenant:
                row["k_student_xyear"] = "x-kc9"


def line_breaks(warehouse: Warehouse, tenant: str) -> None:
    warehouse.student(tenant, "1", ("Local", "7\u20288"))
    warehouse.student(tenant, '2"', ("Local", "9\u00850"))


def one_row_of_2062(warehouse: Warehouse, tenant: str) -> None:
    warehouse.students(tenant, 120)
    warehouse.student(tenant, "S00000", ("Local", "old"), year=2062)


def two_per_cent_of_2062(warehouse: Warehouse, tenant: str) -> None:
    warehouse.students(tenant, 98)
    warehouse.student(tenant, "S00000", year=2062)
    warehouse.student(tenant, "S00001", year=1066)


def masked_ids(warehouse: Warehouse, tenant: str) -> None:
    for number in range(300):
        warehouse.student(tenant, "*****", ("Local", f"L{number}"))


def masked_codes(warehouse: Warehouse, tenant: str) -> None:
    for number in range(30):
        warehouse.student(tenant, str(number), ("Local", "****"))


def with_keys(warehouse: Warehouse, tenant: str, key: str, students: int) -> None:
    warehouse.students(tenant, students)
    for rows in (warehouse.associations, warehouse.codes):
        for row in rows:
            if row["tenant_code"] == tenant:
                row["k_student_xyear"] = key


def empty_keys(warehouse: Warehouse, tenant: str) -> None:
    with_keys(warehouse, tenant, "", 4)


def masked_keys(warehouse: Warehouse, tenant: str) -> None:
    with_keys(warehouse, tenant, "*****", 2)


def one_key_for_all(warehouse: Warehouse, tenant: str) -> None:
    with_keys(warehouse, tenant, "0xdead", 20)


def codes_of_2062(warehouse: Warehouse, tenant: str) -> None:
    warehouse.students(tenant, 5)
    for row in warehouse.codes[-5:]:
        row["api_year"] = 2062


def system_named(id_system: str) -> Fill:
    def fill(warehouse: Warehouse, tenant: str) -> None:
        warehouse.student(tenant, "1", ("Local", "7"), (id_system, "8"))

    return fill


# What is published, with its warnings, and what is held, with the check that holds it.
PUBLISHED: dict[str, tuple[Fill, set[str]]] = {
    "blank_ids": (blank_ids, set()),
    "placeholders": (placeholders, {"id_type_coverage"}),
    "collisions": (a_code_that_consumers_see_as_anothers, {"colliding_codes", "id_type_coverage"}),
    "spellings": (an_id_in_two_spellings, set()),
    "line_breaks": (line_breaks, {"unsafe_ids"}),
    "one_of_2062": (one_row_of_2062, {"plausible_years"}),
    "empty_keys": (empty_keys, {"id_type_coverage"}),
}
HELD: dict[str, tuple[Fill, str]] = {
    "more_of_2062": (two_per_cent_of_2062, "plausible_years"),
    "codes_of_2062": (codes_of_2062, "plausible_years"),
    "masked_keys": (masked_keys, "not_masked"),
    "one_key": (one_key_for_all, "merged_students"),
    "masked_ids": (masked_ids, "not_masked"),
    "masked_codes": (masked_codes, "not_masked"),
    "colon": (system_named("State: X"), "consumer_contract"),
    "brace": (system_named("{x}"), "consumer_contract"),
    "column": (system_named("uri://x#StudentUniqueId"), "consumer_contract"),
}


@pytest.fixture(scope="module")
def refreshed(stack) -> Iterator[tuple[TestPartner, dg.ExecuteInProcessResult]]:  # type: ignore[no-untyped-def]
    """The partner of all cases, and its run."""
    with (
        pytest.MonkeyPatch.context() as patch,
        world_of(stack, patch) as world,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        warehouse = Warehouse()
        for tenant, (fill, _) in (PUBLISHED | HELD).items():
            fill(warehouse, tenant)
        partner = world.partner(warehouse, [*PUBLISHED, *HELD])
        yield partner, run_partner(instance, partner)


def failed(result: dg.ExecuteInProcessResult, partition: str) -> dict[str, dg.AssetCheckSeverity]:
    return {
        event.check_name: event.severity
        for event in result.get_asset_check_evaluations()
        if event.partition == partition and not event.passed
    }


@pytest.mark.parametrize("tenant", PUBLISHED)
def test_it_is_published_as_the_reference_says_and_warned_of(
    refreshed: tuple[TestPartner, dg.ExecuteInProcessResult], tenant: str
) -> None:
    partner, result = refreshed
    assert partner.published(tenant) == b"".join(partner.warehouse.reference(tenant).lines)
    warned = failed(result, partner.tenant(tenant).key)
    assert set(warned) == PUBLISHED[tenant][1]
    assert set(warned.values()) <= {dg.AssetCheckSeverity.WARN}


@pytest.mark.parametrize("tenant", HELD)
def test_it_is_held_by_its_check(refreshed: tuple[TestPartner, dg.ExecuteInProcessResult], tenant: str) -> None:
    partner, result = refreshed
    assert partner.published(tenant) is None
    errors = failed(result, partner.tenant(tenant).key)
    assert [name for name, severity in errors.items() if severity is dg.AssetCheckSeverity.ERROR] == [HELD[tenant][1]]


def test_a_blank_id_reaches_nobody_and_each_code_its_student(
    refreshed: tuple[TestPartner, dg.ExecuteInProcessResult],
) -> None:
    partner, _ = refreshed
    holders = joined(partner.published("blank_ids") or b"")["Local"]
    assert "" not in holders
    assert {code: students for code, students in holders.items() if code.startswith("L")} == {
        f"L{number}": {f"{number:05}"} for number in range(181)
    }


def test_the_manifest_counts_what_is_no_code(refreshed: tuple[TestPartner, dg.ExecuteInProcessResult]) -> None:
    partner, _ = refreshed
    assert partner.manifest("placeholders").placeholder_codes == 12
    assert partner.manifest("collisions").colliding_codes == 2
    assert partner.manifest("spellings").students == 1
    assert partner.manifest("line_breaks").unsafe_ids == 1
    assert partner.manifest("one_of_2062").implausible_rows == 1


@pytest.mark.slow
def test_without_fillers_the_file_is_as_it_was_before(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNWAY_ROSTER_FILLERS", "false")
    warehouse = Warehouse()
    blank_ids(warehouse, "north")
    partner = world.partner(warehouse, ["north"])
    assert run_partner(instance, partner).success
    assert len(joined(partner.published("north") or b"")["Local"][""]) == 19
