"""What a tick of the sync sensor says and asks of Dagster."""

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.partner_tenants.partitions import partition_requests
from runway_pipelines.partner_tenants.reconciliation import PartitionChanges, approval_of, reconcile_all
from runway_pipelines.partner_tenants.registry import Registry
from runway_pipelines.partner_tenants.sync_sensor import LISTED_KEYS, build_sync_sensor, tick_summary, tick_warnings

Plan = dict[str, PartitionChanges]


def planned(*, gone: int = 0, new: int = 0, empty: bool = False) -> Plan:
    """Of 3 partners and 10 tenants, one partner and ``gone`` of its tenants go, and ``new`` come."""
    have = {"partners": {"acme", "borealis", "cascade"}, "partner_tenants": {f"acme/{n}" for n in range(10)}}
    want = {
        "partners": have["partners"] - ({"cascade"} if gone else set()),
        "partner_tenants": {f"acme/{n}" for n in range(gone, 10 + new)},
    }
    return reconcile_all(have, {"partners": set(), "partner_tenants": set()} if empty else want)


@pytest.mark.parametrize(
    ("plan", "cursor", "text"),
    [
        pytest.param(
            planned(), None, "Nothing changed: partners and partner_tenants are in line with the registry.", id="none"
        ),
        pytest.param(planned(new=2), None, "partner_tenants: 2 added, 0 removed.", id="added"),
        pytest.param(
            planned(gone=2),
            None,
            "partners: 0 added, 1 removed. partner_tenants: 0 added, 2 removed.",
            id="removed",
        ),
        pytest.param(
            planned(gone=5, new=1),
            None,
            "partners: 0 added, 0 removed, refused to remove 1 of 3 keys: these wait for those of partner_tenants. "
            "partner_tenants: 1 added, 0 removed, refused to remove 5 of 10 keys: more than a quarter at once. "
            "Nothing is removed. To remove these 6 keys, set this sensor's cursor to "
            f"{approval_of(planned(gone=5))}.",
            id="refused",
        ),
        pytest.param(
            planned(empty=True),
            None,
            "partners: 0 added, 0 removed, refused to remove 3 of 3 keys: the registry came back empty. "
            "partner_tenants: 0 added, 0 removed, refused to remove 10 of 10 keys: the registry came back empty.",
            id="an empty registry asks for no approval",
        ),
        pytest.param(
            planned(),
            "remove-1f3a9c2b",
            "Nothing changed: partners and partner_tenants are in line with the registry. The cursor was cleared.",
            id="an approval that was not needed",
        ),
    ],
)
def test_a_tick_says_what_was_done_and_what_was_refused(plan: Plan, cursor: str | None, text: str) -> None:
    assert tick_summary(plan, cursor) == text


def test_an_approval_of_other_keys_is_reported_as_such() -> None:
    text = tick_summary(planned(gone=5), "remove-1f3a9c2b")
    assert text.endswith("The cursor was cleared: it did not approve these keys.")
    assert "1f3a9c2b" not in text


def test_warnings_name_what_was_skipped_and_what_was_refused_each_on_one_printable_line() -> None:
    plan = reconcile_all({"partner_tenants": {"a\nb", "\x1b[31m", "c"}}, {"partner_tenants": {"acme/1"}})
    skipped = Registry(partners={}, skipped=("partner '../x'", "tenant 'a b' of partner acme"))
    warnings = list(tick_warnings(plan, skipped))
    assert warnings == [
        "Skipped, because they cannot be partition keys: partner '../x', tenant 'a b' of partner acme",
        r"Refused to remove from partner_tenants: '\x1b[31m', 'a\nb', 'c'",
    ]
    assert all(line.isprintable() for line in warnings)


def test_a_tick_without_trouble_logs_no_warning() -> None:
    assert list(tick_warnings(planned(gone=2, new=3), Registry(partners={}))) == []


def test_a_long_list_is_cut_and_counted() -> None:
    skipped = Registry(partners={}, skipped=tuple(f"partner '{n}/'" for n in range(LISTED_KEYS + 7)))
    (line,) = tick_warnings(planned(), skipped)
    assert line.count("partner '") == LISTED_KEYS
    assert line.endswith(" and 7 more")


partner_ids = st.frozensets(st.sampled_from("abcdef"))


@given(partner_ids, partner_ids)
def test_no_partner_is_ever_without_its_tenants_while_requests_are_applied(
    have: frozenset[str], want: frozenset[str]
) -> None:
    now = {"partners": set(have), "partner_tenants": {f"{partner}/1" for partner in have}}
    wanted = {"partners": want, "partner_tenants": {f"{partner}/1" for partner in want}}
    plan = reconcile_all(now, wanted, allow_mass_removal=True)
    for request in partition_requests(plan):
        for key in request.partition_keys:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                now[request.partitions_def_name].add(key)
            else:
                now[request.partitions_def_name].remove(key)
            assert {f"{partner}/1" for partner in now["partners"]} <= now["partner_tenants"]
    assert now == (wanted if want else {"partners": have, "partner_tenants": {f"{partner}/1" for partner in have}})


def test_an_empty_plan_makes_no_requests() -> None:
    assert partition_requests(planned()) == partition_requests(planned(empty=True)) == []


def test_the_sensor_is_on_by_default_with_its_interval_and_resources() -> None:
    sensor = build_sync_sensor(include_switched_off=False, interval_seconds=45)
    assert sensor.name == "partner_tenants_sync_sensor"
    assert sensor.minimum_interval_seconds == 45
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.required_resource_keys == {"database"}
