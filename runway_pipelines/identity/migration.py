"""Checks for the optional columns of the artist-level ids, and adds them.

The tables belong to the catalogue's application, whose owner decides when to apply ``migrations/``.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import psycopg
from psycopg import Connection

from runway_pipelines.errors import ConfigurationError, LockTimeout, Permanent
from runway_pipelines.identity.statements import ARTIST_IDS

MIGRATION = "0001_artist_level_ids.sql"
TABLES = ("library_identity", "library_identity_history")


def migration_sql() -> str:
    """The statements; they find the tables on the search path."""
    return (resources.files(__package__) / "migrations" / MIGRATION).read_text()


def missing_columns(connection: Connection[Any], schema: str) -> tuple[str, ...]:
    """The missing optional columns, as ``table.column``."""
    found = connection.execute(
        "select c.relname, a.attname from pg_catalog.pg_attribute as a"
        " join pg_catalog.pg_class as c on c.oid = a.attrelid"
        " join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = any(%s) and a.attname = any(%s) and not a.attisdropped",
        [schema, list(TABLES), list(ARTIST_IDS)],
    ).fetchall()
    there = set(found)
    return tuple(f"{table}.{column}" for table in TABLES for column in ARTIST_IDS if (table, column) not in there)


def require_columns(connection: Connection[Any], schema: str) -> None:
    """Raise `ConfigurationError` if a column is missing."""
    missing = missing_columns(connection, schema)
    if missing:
        raise ConfigurationError(
            expected=f"the columns of the artist-level ids in {schema}",
            came=f"no {', '.join(missing)}",
            remedy="have its owner run `runway-pipelines identity migrate --apply`, or turn the option off",
        )


def apply(connection: Connection[Any], schema: str) -> tuple[str, ...]:
    """Add the missing columns in one transaction, and return their names.

    Raises `LockTimeout` when the tables stay in use for longer than the migration waits, `Permanent` when the tables do
    not exist or the user may not alter them.
    """
    with connection.transaction():
        missing = missing_columns(connection, schema)
        if not missing:  # even an ALTER that changes nothing would wait for every reader
            return ()
        connection.execute("select set_config('search_path', quote_ident(%s), true)", [schema])
        try:
            connection.execute(migration_sql().encode())
        except psycopg.errors.LockNotAvailable:
            raise LockTimeout(
                expected=f"exclusive use of the identity's tables in {schema} for a moment",
                came="other sessions that hold them",
                remedy="apply it again in a quiet moment",
            ) from None
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege) as error:
            raise Permanent(
                expected=f"identity tables in {schema} that this user owns",
                came=type(error).__name__,
                remedy="check RUNWAY_CATALOGUE_SCHEMA, and have the tables' owner apply the migration",
                code=error.sqlstate,
            ) from None
    return missing
