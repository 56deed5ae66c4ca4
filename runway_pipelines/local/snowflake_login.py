"""Who may log in to the local Snowflake: the key-pair JWT, verified against registered keys as Snowflake does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

ACCOUNT_NAME = re.compile(r"^[A-Z0-9_-]{1,64}$")
_CLOCK_LEEWAY_SECONDS = 10


@dataclass(frozen=True)
class LoginRefused(Exception):
    """The login is refused with Snowflake's error code; the message carries no token."""

    code: str
    message: str


_TOKEN_INVALID = LoginRefused("390144", "JWT token is invalid.")


def account_and_user(data: Mapping[str, Any]) -> tuple[str, str]:
    """The account (without a region) and user of a login request's `data`, in upper case as Snowflake knows them."""
    account = str(data.get("ACCOUNT_NAME") or "").split(".")[0].upper()
    user = str(data.get("LOGIN_NAME") or "").upper()
    if not ACCOUNT_NAME.match(account):
        raise LoginRefused("390100", "The requested account name is not valid.")
    return account, user


def verify_login(data: Mapping[str, Any], public_keys: Path) -> None:
    """Check the JWT of a login request. Raises LoginRefused.

    The file is a JSON object of `"ACCOUNT.USER": [PEM, ...]`, the one or two public keys of that user (RSA_PUBLIC_KEY
    and RSA_PUBLIC_KEY_2). It is read anew each time: keys rotate while the server runs. An unreadable file refuses
    everyone.
    """
    account, user = account_and_user(data)
    if data.get("AUTHENTICATOR") != "SNOWFLAKE_JWT":
        raise LoginRefused("390100", "Incorrect username or password was specified.")
    subject = f"{account}.{user}"
    for pem in _registered_keys(public_keys).get(subject, []):
        if _is_signed_by(str(data.get("TOKEN") or ""), pem, subject):
            return
    raise _TOKEN_INVALID


def user_parameters(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The session parameters that a user was given (`ALTER USER ... SET`), by name in upper case.

    The file is a JSON object of `"ACCOUNT.USER": {parameter: value}`, read anew each time; it need not exist.
    """
    account, user = account_and_user(data)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    parameters = json.loads(text or "{}").get(f"{account}.{user}") or {}
    return {str(name).upper(): value for name, value in parameters.items()}


def fingerprint(key: RSAPublicKey) -> str:
    """`SHA256:` and the base64 digest of the key's DER form: what Snowflake shows as RSA_PUBLIC_KEY_FP."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()


def _registered_keys(path: Path) -> dict[str, list[str]]:
    try:
        keys = json.loads(path.read_text())
        return {str(subject): [str(pem) for pem in pems] for subject, pems in keys.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        print(f"public keys in {path} cannot be read ({type(error).__name__}): every login is refused", file=sys.stderr)
        return {}


def _is_signed_by(token: str, pem: str, subject: str) -> bool:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError:
        print(f"a public key of {subject} is not PEM", file=sys.stderr)
        return False
    if not isinstance(key, RSAPublicKey):
        return False
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            leeway=_CLOCK_LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "sub"], "verify_aud": False},
        )
    except jwt.InvalidTokenError:
        return False
    return bool(claims["sub"] == subject and claims["iss"] == f"{subject}.{fingerprint(key)}")
