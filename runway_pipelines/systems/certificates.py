"""CA certificates in PEM: checked before a driver meets them, read from files and written to private ones."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from runway_pipelines.errors import SecretMissing
from runway_pipelines.systems.lookups import malformed


def checked_ca(text: str, place: str) -> str:
    """``text``, if it is one or more certificates; raises `SecretMalformed`, which names ``place``.

    A driver would report the same mistake as an OpenSSL code, at some later connection.
    """
    if "PRIVATE KEY-----" in text:
        raise malformed("certificates alone", place, "a private key among them")
    not_pem = malformed("certificates in PEM (-----BEGIN CERTIFICATE-----)", place, "something else")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # Bundles name their authorities between the certificates, in any language; OpenSSL takes only ASCII.
        context.load_verify_locations(cadata=text.encode("ascii", "replace").decode())
    except (ssl.SSLError, ValueError):
        raise not_pem from None
    if not context.cert_store_stats()["x509"]:
        raise not_pem
    return text


def read_ca_file(path: str, variable: str) -> str:
    """``path``, if it holds certificates; raises `SecretMissing` or `SecretMalformed`, which name ``variable``."""
    place = f"the file that {variable} names"
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretMissing(
            expected=f"certificates in {place}", came=type(error).__name__, remedy="set it to a readable file"
        ) from None
    checked_ca(text, place)
    return path


def write_ca_file(path: Path, text: str) -> None:
    """Write a file that only its owner reads and nobody changes. A stale one is removed, so a restart works."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
        file.write(text)
