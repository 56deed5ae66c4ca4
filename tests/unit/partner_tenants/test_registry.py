"""Rows of the application's database become a registry; one bad row costs nobody else anything."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import InvalidKey, Permanent
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.registry import (
    PARTNERS_SQL,
    PUBLISHED_YEARS_SQL,
    TENANTS_SQL,
    Registry,
    RosterPartner,
    build_registry,
)

ids = st.sampled_from(["acme", "borealis", "cascade", "x/y", "..", "", "Z" * 65, "é", "a\nb"])
partner_rows = st.lists(st.tuples(ids, st.text(max_size=3), st.booleans()), unique_by=lambda row: row[0])
tenant_rows = st.lists(st.tuples(ids, ids), unique=True)
year_rows = st.lists(st.tuples(ids, st.integers(2020, 2030)))
USABLE = {"acme", "borealis", "cascade"}
USABLE_CODES = USABLE | {"Z" * 65, "é"}


@given(partner_rows, tenant_rows, year_rows, st.booleans())
def test_the_registry_holds_every_usable_tenant_of_every_enabled_partner_and_no_other(
    partners: list[tuple[str, str, bool]],
    tenants: list[tuple[str, str]],
    years: list[tuple[str, int]],
    include_switched_off: bool,
) -> None:
    registry = build_registry(partners, tenants, years, include_switched_off=include_switched_off)
    on = {partner for partner, _, enabled in partners if partner in USABLE and (enabled or include_switched_off)}
    expected = {PartnerTenant(partner, code) for partner, code in tenants if partner in on and code in USABLE_CODES}

    assert {tenant for partner in registry.partners.values() for tenant in partner.tenants} == expected
    assert registry.tenant_keys == {tenant.key for tenant in expected}
    assert registry.partner_keys == {partner for partner, _ in tenants if partner in on}
    for partner_id, partner in registry.partners.items():
        assert registry.partner(partner_id) is partner
        assert list(partner.tenant_codes) == sorted(partner.tenant_codes)
        assert {*partner.tenant_codes, *partner.unusable_codes} == {
            code for owner, code in tenants if owner == partner_id
        }
        assert not set(partner.unusable_codes) & USABLE_CODES
        assert list(partner.published_years) == sorted({year for owner, year in years if owner == partner_id})


@given(partner_rows, tenant_rows)
def test_every_row_that_cannot_be_a_key_is_listed_once_in_printable_form(
    partners: list[tuple[str, str, bool]], tenants: list[tuple[str, str]]
) -> None:
    registry = build_registry(partners, tenants, [])
    on = {partner for partner, _, enabled in partners if enabled and partner in USABLE}
    unusable = sum(partner not in USABLE for partner, _, _ in partners)
    unusable += sum(partner in on and code not in USABLE_CODES for partner, code in tenants)
    assert len(registry.skipped) == unusable
    assert all(text.isascii() and text.isprintable() for text in registry.skipped)


def test_unusable_ids_are_named_beside_the_partners_that_go_on() -> None:
    registry = build_registry(
        [("acme", "Acme", True), ("../other", "Evil", True)],
        [("acme", "district-12"), ("acme", "a*b"), ("../other", "district-1")],
        [],
    )
    assert registry.tenant_keys == {"acme/district-12"}
    assert registry.skipped == ("partner '../other'", "tenant 'a*b' of partner acme")
    assert registry.partner("acme").unusable_codes == ("a*b",)


def test_a_partner_that_is_switched_off_is_named_and_has_no_keys() -> None:
    rows = ([("acme", "Acme", False)], [("acme", "district-12")], [("acme", 2026)])
    registry = build_registry(*rows)
    assert registry == Registry(partners={}, switched_off=("acme",))
    assert registry.partner_keys == registry.tenant_keys == frozenset()

    included = build_registry(*rows, include_switched_off=True)
    assert included.switched_off == ()
    assert included.partner("acme") == RosterPartner("acme", "Acme", ("district-12",), (2026,))


def test_a_partner_without_a_tenant_is_left_out_and_one_without_a_usable_tenant_is_not() -> None:
    registry = build_registry([("acme", "Acme", True), ("borealis", "B", True)], [("borealis", "a/b")], [])
    assert registry.partner_keys == {"borealis"}
    assert registry.partner("borealis") == RosterPartner("borealis", "B", (), (), ("a/b",))
    assert registry.skipped == ("tenant 'a/b' of partner borealis",)


def test_a_tenant_of_a_deleted_partner_is_left_out() -> None:
    # The statements leave the deleted partner out, and know nothing of it when they list tenants and years.
    registry = build_registry([("acme", "Acme", True)], [("acme", "a"), ("gone", "b")], [("gone", 2026)])
    assert registry.tenant_keys == {"acme/a"}
    assert registry.partner("acme").published_years == ()


@pytest.mark.parametrize(
    ("partner_id", "came"),
    [
        ("acme", "a partner that is switched off"),
        ("nobody", "a partner that is unknown, deleted or without tenants"),
        ("borealis", "a partner that is unknown, deleted or without tenants"),
    ],
)
def test_asking_for_a_partner_without_rosters_says_why_it_has_none_and_what_to_do(partner_id: str, came: str) -> None:
    registry = build_registry([("acme", "Acme", False), ("borealis", "B", True)], [("acme", "a")], [])
    with pytest.raises(Permanent) as refused:
        registry.partner(partner_id)
    message = str(refused.value)
    assert f"partner '{partner_id}'" in message
    assert came in message
    assert "cross_year_matching_enabled" in message
    assert refused.value.__suppress_context__


def test_asking_for_an_unprintable_partner_shows_it_escaped() -> None:
    with pytest.raises(Permanent, match=r"partner 'a\\nb'"):
        build_registry([], [], []).partner("a\nb")


def test_a_partner_made_by_hand_with_an_unusable_code_fails_when_its_tenants_are_asked_for() -> None:
    with pytest.raises(InvalidKey):
        _ = RosterPartner("acme", "Acme", ("..",), ()).tenants


# The tables of the rosters contract, section 5.
APPLICATION_TABLES = """
create table partner (id varchar primary key, name varchar, cross_year_matching_enabled boolean not null default false,
                      deleted_on timestamp);
create table tenant (code varchar, partner_id varchar, is_global boolean not null default false, deleted_on timestamp,
                     primary key (code, partner_id));
create table school_year (id varchar primary key, start_year int, end_year int);
create table school_year_config (partner_id varchar, school_year_id varchar, is_enabled boolean,
                                 send_to_ods boolean default true, primary key (partner_id, school_year_id));
insert into partner values ('acme', 'Acme', true, null), ('off', 'Off', false, null),
                           ('gone', 'Gone', true, '2025-01-01');
insert into tenant values ('b', 'acme', false, null), ('a', 'acme', false, null), ('global', 'acme', true, null),
                          ('closed', 'acme', false, '2025-01-01'), ('a', 'off', false, null),
                          ('a', 'gone', false, null);
insert into school_year values ('2425', 2024, 2025), ('2526', 2025, 2026), ('2627', 2026, 2027), ('2728', 2027, 2028);
insert into school_year_config values ('acme', '2627', true, false), ('acme', '2526', true, false),
                                      ('acme', '2425', true, true), ('acme', '2728', false, false),
                                      ('off', '2526', null, false), ('off', '2627', true, null);
"""


def test_the_statements_leave_out_what_is_deleted_global_disabled_or_sent_to_an_ods() -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(APPLICATION_TABLES)
        partners, tenants, years = (
            database.execute(statement).fetchall() for statement in (PARTNERS_SQL, TENANTS_SQL, PUBLISHED_YEARS_SQL)
        )
    assert build_registry(partners, tenants, years) == Registry(
        partners={"acme": RosterPartner("acme", "Acme", ("a", "b"), (2026, 2027))}, switched_off=("off",)
    )
    assert build_registry(partners, tenants, years, include_switched_off=True).partner("off").published_years == ()
