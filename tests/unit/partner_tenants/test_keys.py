"""A key is read back as it was written, and nothing else becomes one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import InvalidKey
from runway_pipelines.partner_tenants.keys import PartnerTenant, checked_part, is_valid_part, shown

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@-"
parts = st.text(ALPHABET, min_size=1, max_size=64)
other_characters = st.characters(exclude_characters=ALPHABET)

UNUSABLE = [
    "",
    "..",
    "a..b",
    ".",
    "a/b",
    "/",
    "a b",
    " a",
    "a\n",
    "\na",
    "a\r",
    "a\x00",
    "a\\b",
    "a*",
    "a" * 65,
    "a" * 300,
    "é",
    "а",  # Cyrillic
    "１",  # a digit to \d, not to us
    "ſ",  # folds to s
    "\u202ea",
]


@given(parts, parts)
def test_a_key_is_read_back_as_what_it_was_made_of(partner_id: str, tenant_code: str) -> None:
    tenant = PartnerTenant(partner_id, tenant_code)
    assert PartnerTenant.parse(tenant.key) == tenant
    assert str(tenant) == tenant.key == f"{partner_id}/{tenant_code}"


@given(parts, parts, parts, parts)
def test_two_tenants_never_share_a_key(partner: str, tenant: str, other_partner: str, other_tenant: str) -> None:
    same_key = PartnerTenant(partner, tenant).key == PartnerTenant(other_partner, other_tenant).key
    assert same_key == ((partner, tenant) == (other_partner, other_tenant))


@given(st.text(ALPHABET, max_size=20), other_characters, st.text(ALPHABET, max_size=20))
def test_one_character_outside_the_alphabet_is_enough_to_be_refused(before: str, wrong: str, after: str) -> None:
    assert not is_valid_part(before + wrong + after)
    with pytest.raises(InvalidKey):
        PartnerTenant("acme", before + wrong + after)


@pytest.mark.parametrize("part", UNUSABLE)
def test_an_unusable_part_is_refused_as_partner_tenant_and_key(part: str) -> None:
    assert not is_valid_part(part)
    with pytest.raises(InvalidKey, match="a tenant_code of 1 to 64 characters"):
        PartnerTenant("acme", part)
    with pytest.raises(InvalidKey, match="a partner_id of 1 to 64 characters"):
        PartnerTenant(part, "district-12")
    with pytest.raises(InvalidKey):
        PartnerTenant.parse(f"acme/{part}")
    with pytest.raises(InvalidKey):
        PartnerTenant.parse(f"{part}/district-12")


@pytest.mark.parametrize("length", [1, 64])
def test_the_shortest_and_the_longest_part_are_accepted(length: int) -> None:
    assert checked_part("partner_id", "a" * length) == "a" * length


def test_a_key_without_a_slash_says_what_a_key_looks_like() -> None:
    with pytest.raises(InvalidKey, match="a partition key partner/tenant; got 'acme'"):
        PartnerTenant.parse("acme")


@given(st.text())
def test_any_text_is_shown_as_printable_ascii(text: str) -> None:
    result = shown(text)
    assert result.isascii()
    assert result.isprintable()


@given(st.text(ALPHABET, min_size=61, max_size=400))
def test_a_long_text_is_shown_cut_with_its_length(text: str) -> None:
    assert shown(text) == f"'{text[:60]}'... ({len(text)} characters)"


def test_a_refusal_shows_the_text_escaped_and_cut() -> None:
    with pytest.raises(InvalidKey) as refused:
        PartnerTenant("acme", "\x1b[31m\né" + "x" * 300)
    message = str(refused.value)
    assert r"\x1b[31m\n\xe9xxx" in message
    assert "(307 characters)" in message
    assert message.isprintable()
    assert len(message) < 300


def test_tenants_sort_by_partner_and_then_by_tenant() -> None:
    # As texts "a-b/..." comes before "a/..."; grouping by partner needs the order of the pairs.
    tenants = [PartnerTenant("b", "1"), PartnerTenant("a-b", "1"), PartnerTenant("a", "2"), PartnerTenant("a", "10")]
    assert [tenant.key for tenant in sorted(tenants)] == ["a/10", "a/2", "a-b/1", "b/1"]
