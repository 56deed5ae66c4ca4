"""``data-contracts``: the page of every name and path by which data and data stores are found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runway_pipelines.credentials.edu_connection import partner_secret_name
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters import manifest
from runway_pipelines.systems.mongo import names as mongo
from runway_pipelines.systems.mongo.names import MongoEnv
from runway_pipelines.systems.postgres import names as postgres
from runway_pipelines.systems.redis import names as redis
from runway_pipelines.systems.vocabulary import DEFAULT_REGION, Env, Role

_TENANT = PartnerTenant("acme", "ashford")
_SHA256 = "{sha256}"
# Example names: the page shows what the functions make of them.
SERVICE, DB_ID, PROJECT = "chat-api", "history", "chat-api"
_ROLES = {
    Role.OWNER: "DDL; `runway-pipelines identity migrate` alone connects as this one",
    Role.APP: "DML; the default",
    Role.RO: "reads; the application's database",
}
_MEMBERS_OF_POSTGRES = (
    "`host`, `port` (a number, or digits), `password`; `username` and one of `database` and `dbname` override the names"
)
_MEMBERS_OF_REDIS = f"`username`, `password`; `endpoint`, `port` ({redis.DEFAULT_PORT}), `tls` override"
Rows = Iterable[Sequence[str]]


def page() -> str:
    """docs/data-contracts.md, made from the names themselves; a test fails when the file differs."""
    from runway_pipelines.students import files  # it imports what speaks to the bucket, which is slow

    own_names = [
        (
            "secret of a partner",
            f"`{partner_secret_name('{ENVLABEL}', '{partner_id}')}`",
            "EDU connection info, as JSON",
        ),
        ("published roster", f"`{manifest.stable_key(_TENANT, 2026)}`", "what Runway reads"),
        ("snapshot", f"`{manifest.snapshot_key(_TENANT, _SHA256)}`", "a roster that was taken and kept"),
        ("manifest", f"`{manifest.manifest_key(_TENANT, _SHA256)}`", "the snapshot, in numbers"),
        ("pointer", f"`{manifest.pointer_key(_TENANT)}`", "which snapshot is published"),
        ("hold", f"`{manifest.hold_key(_TENANT)}`", "the candidate that waits for a person"),
        (
            "expectations",
            f"`{manifest.expectations_key(_TENANT.partner_id)}`",
            "changes that a person approved ahead",
        ),
        ("record", f"`{manifest.AUDIT_PREFIX}/acme/ashford/`", "what was held and decided, for good"),
        ("index", f"`{manifest.index_key(_TENANT.partner_id)}`", "the partner's tenants"),
        ("board", f"`{manifest.BOARD_KEY}`", "all partners at a glance, as a page"),
        (
            "file of candidates",
            f"`{files.FileFolder(_TENANT, '{name}').key(files.CANDIDATES)}`",
            "whose rows are to be resolved; the answers come beside it",
        ),
        (
            "key of the stream's tokens",
            "the secret that `RUNWAY_STREAM_TOKEN_SECRET` names",
            "32 bytes or more, in base64",
        ),
    ]
    sections = [
        "# Data contracts",
        "Made by `runway-pipelines data-contracts`. Every name and path by which data and data stores are found.",
        "## The pipeline's own",
        _table(("what", "name", "holds"), own_names),
        "## The vocabulary",
        f"A store is found by `env` ({_listed(Env)}), `service` as deployed (below: `{SERVICE}`; inside a database "
        f"with underscores) and, for Postgres, a role. Region: `{DEFAULT_REGION}`, unless `AWS_REGION` is set.",
        _table(("role", "for"), [(f"`{role}`", meaning) for role, meaning in _ROLES.items()]),
        "## Postgres",
        _table(("env", "what", "name"), _postgres_rows()),
        f"Members of the secret: {_MEMBERS_OF_POSTGRES}.",
        "In dev TLS is off. In mirror and prod each new connection has a password of "
        "its own, an RDS IAM token, and the server's certificate is verified (`RUNWAY_DB_CA_FILE`: the RDS roots).",
        "## Redis",
        _table(("env", "what", "name"), _redis_rows()),
        f"Members of the secret: {_MEMBERS_OF_REDIS}. TLS is on unless the secret says otherwise, in dev off. The "
        "service's user needs what the rate limiter does:\n"
        "`~runway:* +ping +eval +evalsha +script|load +time +get +set`.",
        "## MongoDB",
        _table(("env", "what", "name"), _mongo_rows()),
        f"Database and authSource: `{mongo.project_database(PROJECT)}`. TLS is always on. dev has no MongoDB. The last "
        f"parameter names the secret of the CA, whose field is `{mongo.CA_FIELD}`. `staging` is deprecated and warns: "
        "say `mirror`.",
        "What was run for real: Postgres behind TLS and verified tokens, and Redis with an ACL user behind TLS, both "
        "on loopback. MongoDB was not: its client was run against a responder that logs in and pings. No store of AWS "
        "was.",
    ]
    return "\n\n".join(sections) + "\n"


def _postgres_rows() -> Rows:
    for db_id, remark in ((None, ""), (DB_ID, f", db_id `{DB_ID}`")):
        for role in Role:
            name = postgres.role_secret(SERVICE, role, db_id)
            yield str(Env.DEV), f"secret of role `{role}`{remark}", f"`{name}`"
    for env in postgres.RDS_PARAMETERS:
        yield str(env), "parameter: host", f"`{postgres.endpoint_path(env)}`"
        yield str(env), "parameter: port", f"`{postgres.port_path(env)}`"
    for role in Role:
        yield "all", f"user in role `{role}`", f"`{postgres.user_name(SERVICE, role)}`"
    yield "all", "database", f"`{postgres.database_name(SERVICE)}`"
    yield "all", f"database, db_id `{DB_ID}`", f"`{postgres.database_name(SERVICE, DB_ID)}`"


def _redis_rows() -> Rows:
    for env in Env:
        yield str(env), "secret", f"`{redis.service_secret(env, SERVICE)}`"
        yield str(env), "parameter: host, where the secret names none", f"`{redis.endpoint_path(env)}`"


def _mongo_rows() -> Rows:
    for env in MongoEnv:
        for path in mongo.parameter_paths(env):
            yield str(env), "parameter", f"`{path}`"
        yield str(env), "secret", f"`{mongo.project_secret(env, PROJECT)}`: `username`, `password`"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _table(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
