"""Lists the rights that the pipeline's user needs in the catalogue, and checks that it has them.

The tables belong to the catalogue's application, whose owner grants. Each right here is one that a statement of ours
needs; docs/operations.md lists them for that owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from psycopg import Connection

from runway_pipelines.errors import ConfigurationError

# ``select ... for no key update`` needs ``update`` too. Where only some columns are written, a grant of these will do.
RIGHTS: Mapping[str, tuple[str, ...]] = {
    "library": ("select", "update"),
    "artists": ("select",),
    "library_identity": ("select", "insert", "update"),
    "library_identity_source": ("select", "insert", "update"),
    "library_identity_history": ("insert",),
    "compilation_track_artist": ("select", "update"),
}
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "library": ("unresolved_attempted_at",),
    "compilation_track_artist": (
        "track_artist_id",
        "track_artist_link_confidence",
        "track_artist_link_method",
        "track_position",
    ),
}
# Reads system tables alone, so it works without any right. A serial column takes its numbers from a sequence, which
# needs a right of its own; an identity column does not.
_QUESTION = """
with tables as (
    select n.oid as schema, c.oid, u.name, u.privilege, u.columns, u.place
    from unnest(%(names)s::text[], %(privileges)s::text[], %(columns)s::text[])
        with ordinality as u(name, privilege, columns, place)
    left join pg_catalog.pg_namespace as n on n.nspname = %(schema)s
    left join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = u.name and c.relkind in ('r', 'p', 'v')
),
needs(place, kind, name, target, privilege, columns, is_there, is_held) as (
    select 0, 'schema', %(schema)s, quote_ident(%(schema)s), 'usage', '',
        exists (select from pg_catalog.pg_namespace where nspname = %(schema)s),
        (select has_schema_privilege(n.oid, 'usage') from pg_catalog.pg_namespace as n where n.nspname = %(schema)s)
    union all
    select t.place, 'table', t.name, format('%%I.%%I', %(schema)s, t.name), t.privilege, t.columns, t.oid is not null,
        has_table_privilege(t.oid, t.privilege)
        or t.columns <> '' and (
            select bool_and(has_column_privilege(a.attrelid, a.attnum, t.privilege)) from pg_catalog.pg_attribute as a
            where a.attrelid = t.oid and a.attname = any(string_to_array(t.columns, ', ')) and not a.attisdropped
        )
    from tables as t where t.schema is not null
    union all
    select t.place, 'sequence', s.relname, format('%%I.%%I', n.nspname, s.relname), 'usage', '', true,
        has_sequence_privilege(s.oid, 'usage, update')
    from tables as t
    join pg_catalog.pg_attrdef as d on d.adrelid = t.oid
    join pg_catalog.pg_depend as p on p.classid = 'pg_catalog.pg_attrdef'::regclass and p.objid = d.oid
        and p.refclassid = 'pg_catalog.pg_class'::regclass
    join pg_catalog.pg_class as s on s.oid = p.refobjid and s.relkind = 'S'
    join pg_catalog.pg_namespace as n on n.oid = s.relnamespace
    where t.name = 'library_identity_history' and t.privilege = 'insert'
)
select kind, name, target, privilege, columns, quote_ident(current_user), is_there, is_held
from needs order by place, kind desc
"""


class _Need(NamedTuple):
    """A right, and what the database says about it; ``target`` and ``user`` are quoted for SQL.

    ``columns`` are those that a grant may be limited to, joined by commas. ``is_held`` is None for a missing object.
    """

    kind: str
    name: str
    target: str
    privilege: str
    columns: str
    user: str
    is_there: bool
    is_held: bool | None


def require_rights(connection: Connection[Any], schema: str) -> None:
    """Raise `ConfigurationError`, which lists every missing table and right, and the grants that remedy them."""
    needs = _needs(connection, schema)
    missing = dict.fromkeys(f"no {need.kind} {need.name}" for need in needs if not need.is_there)
    refused = [need for need in needs if need.is_there and not need.is_held]
    if not missing and not refused:
        return
    remedies = []
    if missing:
        remedies.append("correct RUNWAY_CATALOGUE_SCHEMA and the database (docs/contracts/library_identity.md)")
    if refused:
        remedies.append(f"have the owner of {schema} run: {'; '.join(_grants(refused))}")
    raise ConfigurationError(
        expected=f"the tables of the library identity in {schema}, and the rights to write them",
        came=", ".join(
            [*missing, *(f"no {need.privilege.upper()} right on {need.kind} {need.name}" for need in refused)]
        ),
        remedy=", and ".join(remedies),
    )


def _needs(connection: Connection[Any], schema: str) -> list[_Need]:
    pairs = [(table, privilege) for table, privileges in RIGHTS.items() for privilege in privileges]
    bound = {
        "schema": schema,
        "names": [table for table, _ in pairs],
        "privileges": [privilege for _, privilege in pairs],
        "columns": [_columns(table, privilege) for table, privilege in pairs],
    }
    return [_Need(*row) for row in connection.execute(_QUESTION, bound).fetchall()]


def _columns(table: str, privilege: str) -> str:
    return ", ".join(COLUMNS.get(table, ())) if privilege == "update" else ""


def _grants(refused: Iterable[_Need]) -> list[str]:
    """One statement for each object."""
    privileges: dict[tuple[str, str, str], list[str]] = {}
    for need in refused:
        limited = f"{need.privilege} ({need.columns})" if need.columns else need.privilege
        privileges.setdefault((need.kind, need.target, need.user), []).append(limited)
    return [
        f"grant {', '.join(granted)} on {kind} {target} to {user}"
        for (kind, target, user), granted in privileges.items()
    ]
