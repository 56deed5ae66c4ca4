"""A secret is read or refused with the field's name; its values are said nowhere."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from runway_pipelines.credentials.edu_connection import parse_connection, partner_secret_name
from runway_pipelines.errors import SecretMalformed
from tests.factories import base64_text, everything_said_by, pem, rsa_key, secret_members, secret_text

NAME = "stg-edu-connection-info-acme"
CANARY = "c4n4ry"
REQUIRED = ("username", "account", "database", "schema", "privateKey")
OPTIONAL = ("warehouse", "role")
NOT_STRINGS: list[Any] = [None, 7, 1.5, True, [CANARY], {CANARY: CANARY}]

texts = st.text(min_size=1, max_size=30).filter(lambda text: text.splitlines() == [text])


def refusal(text: str, *, with_suppressed: bool = False) -> str:
    """What the refusal of a secret says, wherever one looks."""
    with pytest.raises(SecretMalformed) as refused:
        parse_connection(NAME, text)
    assert NAME in str(refused.value)
    return everything_said_by(refused.value, with_suppressed=with_suppressed)


@given(st.fixed_dictionaries(dict.fromkeys(("username", "account", "database", "schema", "warehouse", "role"), texts)))
def test_a_good_secret_is_read_field_by_field_and_untouched(values: dict[str, str]) -> None:
    connection = parse_connection(NAME, secret_text(**values))
    assert vars(connection) == values | {"private_key": secret_members()["privateKey"]}


def test_the_key_is_not_in_the_connections_representation() -> None:
    connection = parse_connection(NAME, secret_text())
    assert connection.private_key == base64_text(pem())
    assert connection.private_key[:20] not in repr(connection)


@pytest.mark.parametrize("field", ["username", "account", "database", "schema", "warehouse", "role"])
@pytest.mark.parametrize("pasted", ["k" * 256, "k\nk"], ids=["long", "lines"])
def test_a_key_that_was_pasted_into_another_field_is_refused_and_not_shown(field: str, pasted: str) -> None:
    said = refusal(secret_text(**{field: pasted}))
    assert f"the field {field} as one line of at most 255 characters" in said
    assert pasted not in said


def test_the_fingerprint_is_snowflakes_own() -> None:
    from snowflake.connector.auth.keypair import AuthByKeyPair

    expected = AuthByKeyPair.calculate_public_key_fingerprint(rsa_key())
    assert parse_connection(NAME, secret_text()).fingerprint == expected


@pytest.mark.parametrize("field", OPTIONAL)
@pytest.mark.parametrize("absent", [{}, {"value": None}, {"value": ""}], ids=["missing", "null", "empty"])
def test_an_optional_field_that_is_absent_is_none(field: str, absent: dict[str, Any]) -> None:
    members = secret_members(warehouse="wh", role="reader")
    del members[field]
    if absent:
        members[field] = absent["value"]
    connection = parse_connection(NAME, json.dumps(members))
    other = "role" if field == "warehouse" else "warehouse"
    assert getattr(connection, field) is None
    assert getattr(connection, other) is not None


@pytest.mark.parametrize("field", OPTIONAL)
@pytest.mark.parametrize("value", [7, True, [CANARY], {CANARY: CANARY}])
def test_an_optional_field_that_is_not_a_string_is_refused_by_name(field: str, value: Any) -> None:
    said = refusal(secret_text(**{field: value}))
    assert f"the field {field} as a string" in said
    assert CANARY not in said


@pytest.mark.parametrize("field", REQUIRED)
def test_a_missing_field_is_named(field: str) -> None:
    members = dict.fromkeys(REQUIRED, CANARY) | {"privateKey": secret_members()["privateKey"]}
    del members[field]
    said = refusal(json.dumps(members))
    assert f"the field {field} as a string that is not empty" in said
    assert "no such field" in said
    assert CANARY not in said


@pytest.mark.parametrize("field", REQUIRED)
def test_an_empty_field_is_named(field: str) -> None:
    said = refusal(secret_text(**{field: ""}))
    assert f"the field {field}" in said
    assert "an empty string" in said


@pytest.mark.parametrize("field", REQUIRED)
@pytest.mark.parametrize("value", NOT_STRINGS, ids=lambda value: type(value).__name__)
def test_a_field_that_is_not_a_string_is_named_with_its_type_and_without_its_value(field: str, value: Any) -> None:
    said = refusal(secret_text(**{field: value}))
    assert f"the field {field}" in said
    assert type(value).__name__ in said
    assert CANARY not in said


@pytest.mark.parametrize("document", [f'["{CANARY}"]', f'"{CANARY}"', "7", "null", "true", "1e400"])
def test_json_that_is_not_an_object_is_refused_with_its_type(document: str) -> None:
    said = refusal(document)
    assert "a JSON object" in said
    assert CANARY not in said


NOT_JSON = [
    "",
    CANARY,
    f"{{'username': '{CANARY}'}}",
    f'{{"username": "{CANARY}",}}',
    f'{{"username": "{CANARY}"',
    "\ufeff" + json.dumps({"username": CANARY}),
]


@pytest.mark.parametrize("document", NOT_JSON)
def test_a_text_that_is_not_json_is_refused_and_not_shown(document: str) -> None:
    said = refusal(document)
    assert "a JSON object in secret" in said
    assert "text that is not JSON" in said
    assert CANARY not in said


@pytest.mark.parametrize("text", [CANARY, secret_text(privateKey=f"{CANARY}é")], ids=["not JSON", "not ASCII"])
def test_a_value_is_not_kept_in_a_refusals_suppressed_context(text: str) -> None:
    assert CANARY not in refusal(text, with_suppressed=True)


def test_a_document_nested_too_deep_is_refused_like_any_other() -> None:
    assert "text that is not JSON" in refusal("[" * 60_000)


EXPECTED_KEY = "the field privateKey as base64 of the PEM text of an unencrypted PKCS#8 RSA key"
PUBLIC_PEM = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
TORN_PEM = pem()[:200] + b"\n" + pem()[-30:]
UNUSABLE_KEYS = {
    "the PEM text itself": (pem().decode(), "text that is not base64"),
    "not base64": (f"{CANARY}!", "text that is not base64"),
    "not ASCII": (f"{CANARY}é", "text that is not base64"),
    "base64 that was cut": (base64_text(pem())[:-1], "text that is not base64"),
    "base64 of something else": (base64_text(CANARY.encode()), "base64 of something else"),
    "spaces only": ("   ", "base64 of something else"),
    "base64 twice": (base64_text(base64_text(pem()).encode()), "base64 of something else"),
    "DER": (
        base64_text(rsa_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())),
        "base64 of something else",
    ),
    "PKCS#1": (base64_text(pem(PrivateFormat.TraditionalOpenSSL)), "base64 of something else"),
    "a public key": (base64_text(PUBLIC_PEM), "base64 of something else"),
    "encrypted PKCS#8": (base64_text(pem(password=CANARY.encode())), "an encrypted key"),
    "a torn PEM": (base64_text(TORN_PEM), "PEM text that is not an RSA key"),
}


@pytest.mark.parametrize("kind", UNUSABLE_KEYS)
def test_an_unusable_key_is_described_and_not_shown(kind: str) -> None:
    key, came = UNUSABLE_KEYS[kind]
    said = refusal(secret_text(privateKey=key))
    assert EXPECTED_KEY in said
    assert f"got {came}" in said
    assert CANARY not in said
    for part in (key[:24], key[-24:], pem().decode().splitlines()[1]):
        assert not part.strip() or part not in said


@given(st.integers(1, 200))
def test_line_breaks_in_the_base64_are_no_fault(width: int) -> None:
    whole = base64_text(pem())
    wrapped = "\r\n".join(whole[start : start + width] for start in range(0, len(whole), width)) + "\n"
    assert parse_connection(NAME, secret_text(privateKey=wrapped)).private_key == wrapped


@given(st.text(max_size=200))
def test_any_secret_text_parses_or_is_malformed(text: str) -> None:
    with pytest.raises(SecretMalformed):
        parse_connection(NAME, text)


def test_unknown_members_are_ignored() -> None:
    assert parse_connection(NAME, secret_text(password=CANARY, port=7)) == parse_connection(NAME, secret_text())


def test_a_secrets_name_is_the_environment_and_the_partner() -> None:
    assert partner_secret_name("stg", "acme") == NAME
