"""The secret's JSON as connection arguments: pure (credentials contract, section 1)."""

import base64
import binascii
import json

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from runway_pipelines.errors import SecretMalformed
from runway_pipelines.systems.snowflake.connection import EduConnection

LONGEST_NAME = 255  # Snowflake's own limit for an identifier
_NOT_JSON = object()


def parse_connection(name: str, text: str) -> EduConnection:
    """Read the text of the secret ``name``; raises `SecretMalformed`, which names the secret and the field."""
    values = _fields(name, text)
    connection = EduConnection(
        username=_required(name, values, "username"),
        account=_required(name, values, "account"),
        database=_required(name, values, "database"),
        schema=_required(name, values, "schema"),
        private_key=_required(name, values, "privateKey"),
        warehouse=_optional(name, values, "warehouse"),
        role=_optional(name, values, "role"),
    )
    _check_private_key(name, connection.private_key)
    return connection


def partner_secret_name(envlabel: str, partner_id: str) -> str:
    """The name of a partner's secret."""
    return f"{envlabel}-edu-connection-info-{partner_id}"


def _fields(name: str, text: str) -> dict[str, object]:
    # Raised outside the except block: the decoder's error holds the whole document, and would be the context of ours.
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = _NOT_JSON
    if values is _NOT_JSON:
        raise _malformed(name, "a JSON object", "text that is not JSON")
    if not isinstance(values, dict):
        raise _malformed(name, "a JSON object", f"a JSON {type(values).__name__}")
    return values


def _required(name: str, values: dict[str, object], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        came = "no such field" if key not in values else "an empty string" if value == "" else type(value).__name__
        raise _malformed(name, f"the field {key} as a string that is not empty", came)
    if key != "privateKey" and (len(value) > LONGEST_NAME or value.splitlines() != [value]):
        # Names appear in errors and metadata; a key that was pasted into the wrong field must not.
        expected = f"the field {key} as one line of at most {LONGEST_NAME} characters"
        raise _malformed(name, expected, f"{len(value)} characters on {len(value.splitlines())} lines")
    return value


def _optional(name: str, values: dict[str, object], key: str) -> str | None:
    if values.get(key) in (None, ""):
        return None
    return _required(name, values, key)


def _check_private_key(name: str, encoded: str) -> None:
    expected = "the field privateKey as base64 of the PEM text of an unencrypted PKCS#8 RSA key"
    try:
        pem = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        pem = None
    if pem is None:
        raise _malformed(name, expected, "text that is not base64")
    if b"-----BEGIN PRIVATE KEY-----" not in pem:
        came = "an encrypted key" if b"BEGIN ENCRYPTED PRIVATE KEY" in pem else "base64 of something else"
        raise _malformed(name, expected, came)
    try:
        parses = isinstance(load_pem_private_key(pem, password=None), RSAPrivateKey)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        parses = False
    if not parses:
        raise _malformed(name, expected, "PEM text that is not an RSA key")


def _malformed(name: str, expected: str, came: str) -> SecretMalformed:
    return SecretMalformed(
        expected=f"{expected} in secret {name}", came=came, remedy=f"put a corrected value into secret {name}"
    )
