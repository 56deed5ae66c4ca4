"""The optional columns, on real tables."""

import threading
from collections.abc import Iterator

import psycopg
import pytest

from runway_pipelines.errors import ConfigurationError, LockTimeout, Permanent
from runway_pipelines.identity import migration
from runway_pipelines.identity.migration import apply, missing_columns, require_columns
from runway_pipelines.local.stack import EmbeddedStack
from tests.integration.identity_world import NOW, TestCatalogue, new_catalogue

COLUMNS = ("discogs_artist_id", "musicbrainz_artist_id", "bandcamp_id")
ALL = tuple(f"{table}.{column}" for table in ("library_identity", "library_identity_history") for column in COLUMNS)


@pytest.fixture
def catalogue(stack: EmbeddedStack) -> Iterator[TestCatalogue]:
    with new_catalogue(stack.postgres, artist_columns=False) as one:
        yield one


def test_missing_columns_are_named_and_then_added(catalogue: TestCatalogue) -> None:
    assert missing_columns(catalogue.connection, catalogue.schema) == ALL
    with pytest.raises(ConfigurationError, match=r"library_identity\.discogs_artist_id.*identity migrate --apply"):
        require_columns(catalogue.connection, catalogue.schema)
    assert apply(catalogue.connection, catalogue.schema) == ALL
    assert missing_columns(catalogue.connection, catalogue.schema) == ()
    require_columns(catalogue.connection, catalogue.schema)
    types = catalogue.execute(
        "select distinct attname::text, atttypid::regtype::text from pg_attribute where attname = any(%s)"
        " and attrelid in ('library_identity'::regclass, 'library_identity_history'::regclass)",
        list(COLUMNS),
    )
    assert dict(types) == dict(zip(COLUMNS, ("integer", "uuid", "text"), strict=True))


def test_applying_it_again_changes_nothing_and_keeps_existing_values(catalogue: TestCatalogue) -> None:
    apply(catalogue.connection, catalogue.schema)
    catalogue.library(1, verified=NOW, bandcamp_id="b")
    assert apply(catalogue.connection, catalogue.schema) == ()
    assert catalogue.main(1)["bandcamp_id"] == "b"


def test_only_what_is_missing_is_reported_as_added(catalogue: TestCatalogue) -> None:
    catalogue.execute("alter table library_identity add column bandcamp_id text")
    assert apply(catalogue.connection, catalogue.schema) == tuple(
        name for name in ALL if name != "library_identity.bandcamp_id"
    )


def test_the_schema_may_have_any_name(stack: EmbeddedStack) -> None:
    with new_catalogue(stack.postgres) as odd:
        assert " " in odd.schema
        assert missing_columns(odd.connection, odd.schema) == ()


def test_the_connections_search_path_is_unchanged(catalogue: TestCatalogue) -> None:
    before = catalogue.execute("show search_path")
    catalogue.execute("set search_path to pg_catalog")
    apply(catalogue.connection, catalogue.schema)
    assert catalogue.execute("show search_path") == [("pg_catalog",)] != before


def test_tables_in_use_are_waited_for_briefly_and_left_as_they_are(
    catalogue: TestCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = migration.migration_sql()
    assert "lock_timeout = '5s'" in sql
    monkeypatch.setattr(migration, "migration_sql", lambda: sql.replace("'5s'", "'50ms'"))
    reader = psycopg.connect(catalogue.connection.info.dsn, password=catalogue.connection.info.password)
    reader.execute(f'select from "{catalogue.schema}".library_identity_history')
    with pytest.raises(LockTimeout, match="quiet moment"):
        apply(catalogue.connection, catalogue.schema)
    assert missing_columns(catalogue.connection, catalogue.schema) == ALL
    reader.close()
    assert apply(catalogue.connection, catalogue.schema) == ALL


def test_two_concurrent_migrations_both_succeed(catalogue: TestCatalogue) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with psycopg.connect(
                catalogue.connection.info.dsn, password=catalogue.connection.info.password
            ) as connection:
                apply(connection, catalogue.schema)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and missing_columns(catalogue.connection, catalogue.schema) == ()


def test_a_schema_without_the_tables_is_a_clear_error(catalogue: TestCatalogue) -> None:
    with pytest.raises(ConfigurationError):
        require_columns(catalogue.connection, "nowhere")
    with pytest.raises(Permanent, match="RUNWAY_CATALOGUE_SCHEMA"):
        apply(catalogue.connection, "nowhere")


def test_a_user_who_may_not_alter_the_tables_is_told_so(catalogue: TestCatalogue) -> None:
    catalogue.execute("create role only_reads")
    try:
        catalogue.execute(f'grant usage on schema "{catalogue.schema}" to only_reads')
        catalogue.execute("set role only_reads")
        with pytest.raises(Permanent, match="owner"):
            apply(catalogue.connection, catalogue.schema)
    finally:
        catalogue.execute("reset role")
        catalogue.execute("drop owned by only_reads")
        catalogue.execute("drop role only_reads")
