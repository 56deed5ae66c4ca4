"""A key is read back as it was written, and nothing else becomes one."""

import unicodedata

import pytest
from dagster._core.definitions.partitions.utils import raise_error_on_invalid_partition_key_substring
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.errors import InvalidKey
from runway_pipelines.partner_tenants.keys import PartnerTenant, checked_part, is_valid_part, shown, why_unusable

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@-"
ids = st.text(ALPHABET, min_size=1, max_size=64)
other_characters = st.characters(exclude_characters=ALPHABET)
letters = st.characters(categories=["L", "Nd", "Mn", "Mc"], exclude_characters="\ufe0f")
codes = st.text(letters | st.sampled_from(" ._-@+()&'"), min_size=1, max_size=128).filter(
    lambda code: code == code.strip(" ") and code not in (".", "..") and "..." not in code
)

UNUSABLE_IDS = ["", "..", "a..b", ".", "a b", " a", "a\n", "\x00", "a\\b", "a*", "a" * 65, "é", "１", "ſ", "\u202ea"]
UNUSABLE_CODES = {
    "": "empty",
    " a": "a space",
    "a ": "a space",
    ".": "a folder",
    "..": "a folder",
    "a...b": "separates",
    "a" * 129: "129 characters",
    "a/b": "U+002F",
    "a\n": "U+000A",
    "a\x00": "U+0000",
    "a\\b": "U+005C",
    "a*": "U+002A",
    "a,b": "U+002C",
    "a=b": "U+003D",
    'a"b': "U+0022",
    "a%20b": "U+0025",
    "[a]": "U+005B",
    "a\u00a0b": "U+00A0",  # a space to the eye alone
    "a\u2019b": "U+2019",  # a typographer's apostrophe
    "\U0001f3eb": "U+1F3EB",
    "1\ufe0f\u20e3": "U+FE0F",  # a digit that is drawn as an emoji
    "\u202ea": "U+202E",
    "a\ud800": "U+D800",
}
USABLE_CODES = [
    "St. Mary",
    "O'Brien ISD",
    "district.12",
    unicodedata.normalize("NFC", "Académie"),
    unicodedata.normalize("NFD", "Académie"),
    "R&D (East)+1 @x_-",
    "а",
    "東京都",
    "जिला १२",
    "a" * 128,
    "é" * 128,
    ".a",
    "a..b",
]


@given(ids, codes)
def test_a_key_is_read_back_as_what_it_was_made_of(partner_id: str, tenant_code: str) -> None:
    tenant = PartnerTenant(partner_id, tenant_code)
    assert PartnerTenant.parse(tenant.key) == tenant
    assert str(tenant) == tenant.key == f"{partner_id}/{tenant_code}"


@given(ids, codes, ids, codes)
def test_two_tenants_never_share_a_key(partner: str, tenant: str, other_partner: str, other_tenant: str) -> None:
    same_key = PartnerTenant(partner, tenant).key == PartnerTenant(other_partner, other_tenant).key
    assert same_key == ((partner, tenant) == (other_partner, other_tenant))


@given(st.text(ALPHABET, max_size=20), other_characters, st.text(ALPHABET, max_size=20))
def test_one_character_outside_the_alphabet_is_enough_for_an_id_to_be_refused(
    before: str, wrong: str, after: str
) -> None:
    assert not is_valid_part(before + wrong + after)
    with pytest.raises(InvalidKey):
        PartnerTenant(before + wrong + after, "district-12")


@pytest.mark.parametrize("part", UNUSABLE_IDS)
def test_an_unusable_id_is_refused(part: str) -> None:
    assert not is_valid_part(part)
    for make in (lambda: PartnerTenant(part, "district-12"), lambda: PartnerTenant.parse(f"{part}/district-12")):
        with pytest.raises(InvalidKey, match="a partner_id of 1 to 64 characters"):
            make()


@pytest.mark.parametrize("code", USABLE_CODES)
def test_a_code_is_whatever_a_key_can_hold_and_stays_as_it_is(code: str) -> None:
    assert why_unusable(code) is None
    assert PartnerTenant.parse(f"acme/{code}").tenant_code == code


@pytest.mark.parametrize("code", UNUSABLE_CODES)
def test_an_unusable_code_is_refused_with_the_reason(code: str) -> None:
    reason = why_unusable(code)
    assert reason is not None
    assert UNUSABLE_CODES[code] in reason
    assert reason.isascii() and reason.isprintable()
    for make in (lambda: PartnerTenant("acme", code), lambda: PartnerTenant.parse(f"acme/{code}")):
        with pytest.raises(InvalidKey) as refused:
            make()
        assert reason in str(refused.value)


@given(codes)
def test_an_s3_key_and_a_partition_can_hold_every_usable_code(code: str) -> None:
    assert len(f"__roster_snapshots/{'p' * 64}/{code}/{'0' * 64}.manifest.json".encode()) <= 1024  # S3's most
    raise_error_on_invalid_partition_key_substring([PartnerTenant("acme", code).key])


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
