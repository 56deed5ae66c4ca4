"""Certificates that a server is to be verified with: what may be one."""

import ssl

from runway_pipelines.errors import SecretMalformed
from runway_pipelines.systems.lookups import malformed


def checked_ca(text: str, place: str) -> str:
    """``text`` where it is one or more certificates in PEM; raises `SecretMalformed` that names ``place``.

    Found here it is named; found by a driver it is one of OpenSSL's codes, at some connection later.
    """
    if "PRIVATE KEY-----" in text:
        raise malformed("certificates alone", place, "a private key among them")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # Bundles name their authorities between the certificates, in any language; OpenSSL takes ASCII alone.
        context.load_verify_locations(cadata=text.encode("ascii", "replace").decode())
    except (ssl.SSLError, ValueError):
        raise not_pem(place) from None
    if not context.cert_store_stats()["x509"]:
        raise not_pem(place)
    return text


def not_pem(place: str) -> SecretMalformed:
    """The error for what is no certificate."""
    return malformed("certificates in PEM (-----BEGIN CERTIFICATE-----)", place, "something else")
