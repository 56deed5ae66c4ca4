"""The optional columns, on real tables."""

import threading
from collections.abc import Iterator

import psycopg
import pytest

from runway_pipelines.errors import ConfigurationError, LockTimeout, Permanent
from runway_pipelines.identity import migration
from runway_pipelines.identity.migration import apply, missing_columns, require_columns
from runway_pipelines.local.stack import EmbeddedStack
from tests.integration.identity_world import NOW, TestCatalogue, catalogue

COLUMNS = ("discogs_artist_id", "musicbrainz_artist_id", "bandcamp_id")
ALL = tuple(f"{table}.{column}" for table in ("library_identity", "library_identity_history") for column in COLUMNS)


@pytest.fixture
def world(stack: EmbeddedStack) -> Iterator[TestCatalogue]:
    with catalogue(stack.postgres, "identity_migration", artist_columns=False) as one:
        yield one


def test_missing_columns_are_named_and_then_added(world: TestCatalogue) -> None:
    assert missing_columns(world.connection, world.schema) == ALL
    with pytest.raises(ConfigurationError, match=r"library_identity\.discogs_artist_id.*identity migrate --apply"):
        require_columns(world.connection, world.schema)
    assert apply(world.connection, world.schema) == ALL
    assert missing_columns(world.connection, world.schema) == ()
    require_columns(world.connection, world.schema)
    types = world.execute(
        "select distinct attname::text, atttypid::regtype::text from pg_attribute where attname = any(%s)"
        " and attrelid in ('library_identity'::regclass, 'library_identity_history'::regclass)",
        list(COLUMNS),
    )
    assert dict(types) == dict(zip(COLUMNS, ("integer", "uuid", "text"), strict=True))


def test_applying_it_again_changes_nothing_and_keeps_what_is_there(world: TestCatalogue) -> None:
    apply(world.connection, world.schema)
    world.library(1, verified=NOW, bandcamp_id="b")
    assert apply(world.connection, world.schema) == ()
    assert world.main(1)["bandcamp_id"] == "b"


def test_only_what_is_missing_is_reported_as_added(world: TestCatalogue) -> None:
    world.execute("alter table library_identity add column bandcamp_id text")
    assert apply(world.connection, world.schema) == tuple(
        name for name in ALL if name != "library_identity.bandcamp_id"
    )


def test_the_schema_s_name_may_be_any(stack: EmbeddedStack) -> None:
    with catalogue(stack.postgres, "identity_migration") as odd:
        assert " " in odd.schema
        assert missing_columns(odd.connection, odd.schema) == ()


def test_the_search_path_of_the_connection_stays(world: TestCatalogue) -> None:
    before = world.execute("show search_path")
    world.execute("set search_path to pg_catalog")
    apply(world.connection, world.schema)
    assert world.execute("show search_path") == [("pg_catalog",)] != before


def test_tables_in_use_are_waited_for_briefly_and_left_as_they_are(
    world: TestCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = migration.migration_sql()
    assert "lock_timeout = '5s'" in sql
    monkeypatch.setattr(migration, "migration_sql", lambda: sql.replace("'5s'", "'50ms'"))
    reader = psycopg.connect(world.connection.info.dsn, password=world.connection.info.password)
    reader.execute(f'select from "{world.schema}".library_identity_history')
    with pytest.raises(LockTimeout, match="quiet moment"):
        apply(world.connection, world.schema)
    assert missing_columns(world.connection, world.schema) == ALL
    reader.close()
    assert apply(world.connection, world.schema) == ALL


def test_two_at_once_both_succeed(world: TestCatalogue) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with psycopg.connect(world.connection.info.dsn, password=world.connection.info.password) as connection:
                apply(connection, world.schema)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and missing_columns(world.connection, world.schema) == ()


def test_a_schema_without_the_tables_is_a_clear_error(world: TestCatalogue) -> None:
    with pytest.raises(ConfigurationError):
        require_columns(world.connection, "nowhere")
    with pytest.raises(Permanent, match="RUNWAY_CATALOGUE_SCHEMA"):
        apply(world.connection, "nowhere")


def test_a_user_who_may_not_alter_the_tables_is_told_so(world: TestCatalogue) -> None:
    world.execute("create role only_reads")
    try:
        world.execute(f'grant usage on schema "{world.schema}" to only_reads')
        world.execute("set role only_reads")
        with pytest.raises(Permanent, match="owner"):
            apply(world.connection, world.schema)
    finally:
        world.execute("reset role")
        world.execute("drop owned by only_reads")
        world.execute("drop role only_reads")
