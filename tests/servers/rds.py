"""A local Postgres with RDS' IAM logins: only over TLS, with a signed token that has not expired.

    with local_rds(server, data, folder, users=["chat_api_app"], region=..., secret_key=...) as rds:
        ...  # rds.front.port, rds.ca_file, rds.tokens

Every token's signature, endpoint, user and time are verified as RDS does; the keys are the local stack's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg import sql
from tenacity import retry, stop_after_delay, wait_fixed

from runway_pipelines.local.postgres_server import PostgresServer
from tests.servers.certificates import new_authority
from tests.servers.tls_front import TlsFront, postgres_tls_front
from tests.waiting import PATIENCE_SECONDS

_CLOCKS_DIFFER = timedelta(minutes=5)


@dataclass(frozen=True)
class Signer:
    """Whose tokens are accepted, and for which endpoint; clients may connect to another address."""

    host: str
    port: int
    region: str
    secret_key: str = field(repr=False)


@dataclass
class LocalRds:
    """The running front: ``tokens`` it was shown, and the reasons for its ``refusals``.

    ``ahead`` moves its clock, so that a token signed a moment ago has expired. ``refuse_next`` good ones are refused,
    as RDS does now and then.
    """

    front: TlsFront
    ca_file: Path
    tokens: list[str] = field(default_factory=list, repr=False)
    refusals: list[str] = field(default_factory=list)
    ahead: timedelta = timedelta(0)
    refuse_next: int = 0


@contextmanager
def local_rds(
    server: PostgresServer,
    data: Path,
    folder: Path,
    *,
    users: Sequence[str],
    region: str,
    secret_key: str,
    names: Sequence[str] = ("localhost", "127.0.0.1"),
    endpoint: tuple[str, int] | None = None,
) -> Iterator[LocalRds]:
    """Front ``server`` (whose data folder is ``data``). Tokens are signed for ``endpoint``, or the front's own address.

    Missing users are created. ``names`` are the certificate's.
    """
    let_in(server, data, users)
    authority = new_authority(folder)
    rds = LocalRds(TlsFront(0), authority.certificate)

    def doorkeeper(user: str, token: str) -> str | None:
        host, port = endpoint or (names[0], rds.front.port)
        rds.tokens.append(token)
        reason = refusal_of(token, Signer(host, port, region, secret_key), user, datetime.now(UTC) + rds.ahead)
        if reason is None and user not in users:
            reason = "no IAM user of that name"
        if reason is None and rds.refuse_next:
            rds.refuse_next -= 1
            reason = "a good one"
        if reason is not None:
            rds.refusals.append(reason)
        return reason

    with postgres_tls_front(server.port, authority.issue(*names), doorkeeper) as front:
        rds.front = front
        yield rds


def let_in(server: PostgresServer, data: Path, users: Sequence[str]) -> None:
    """Create users that the server trusts on loopback: the front has checked their tokens."""
    rules = data / "pg_hba.conf"
    lines = [f'host all "{user}" 127.0.0.1/32 trust' for user in users]
    text = rules.read_text()
    rules.write_text("\n".join([*(line for line in lines if line not in text), text]))
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        for user in users:
            if connection.execute("select from pg_roles where rolname = %s", [user]).fetchone() is None:
                connection.execute(sql.SQL("create role {} login").format(sql.Identifier(user)))
        connection.execute("select pg_reload_conf()")
    for user in users:
        _until_trusted(server, user)


@retry(stop=stop_after_delay(PATIENCE_SECONDS), wait=wait_fixed(0.05), reraise=True)
def _until_trusted(server: PostgresServer, user: str) -> None:
    """The server rereads its rules a moment after it is told to."""
    psycopg.connect(host=server.host, port=server.port, dbname="postgres", user=user).close()


def refusal_of(token: str, signer: Signer, user: str, now: datetime) -> str | None:
    """Why a token is refused, or None if the key signed it for this endpoint and user, and it has not expired."""
    parts = urlsplit(f"https://{token}")
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if parts.netloc != f"{signer.host}:{signer.port}":
        return "signed for another endpoint"
    if query.get("Action") != "connect" or query.get("DBUser") != user:
        return "signed for another user"
    try:
        signed_at = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        expires = signed_at + timedelta(seconds=int(query["X-Amz-Expires"]))
        given = query["X-Amz-Signature"]
    except (KeyError, ValueError):
        return "not a token"
    if not signed_at - _CLOCKS_DIFFER <= now <= expires:
        return "expired"
    unsigned = "&".join(sorted(part for part in parts.query.split("&") if not part.startswith("X-Amz-Signature=")))
    if not hmac.compare_digest(given, _signature(parts.netloc, unsigned, query["X-Amz-Date"], signer)):
        return "a wrong signature"
    return None


def _signature(host: str, query: str, date: str, signer: Signer) -> str:
    """AWS' Signature Version 4 of a presigned GET for the service rds-db."""
    request = "\n".join(["GET", "/", query, f"host:{host}", "", "host", hashlib.sha256(b"").hexdigest()])
    scope = [date[:8], signer.region, "rds-db", "aws4_request"]
    text = "\n".join(["AWS4-HMAC-SHA256", date, "/".join(scope), hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{signer.secret_key}".encode()
    for part in scope:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
