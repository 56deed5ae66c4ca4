"""The catalogue's connections: they may write, they see what they waited for, and they say what is wrong."""

from collections.abc import Iterator

import pytest

from runway_pipelines.errors import AuthenticationRefused, Permanent, Unavailable
from runway_pipelines.local.stack import EmbeddedStack
from runway_pipelines.systems.postgres.databases import CatalogueDatabase


@pytest.fixture
def database(stack: EmbeddedStack) -> Iterator[CatalogueDatabase]:
    postgres = stack.postgres
    postgres.create_database("catalogue_database")
    one = CatalogueDatabase(
        host=postgres.host,
        port=postgres.port,
        database="catalogue_database",
        username=postgres.user,
        password=postgres.password,
    )
    yield one
    one.close()


@pytest.mark.slow
def test_it_may_write_and_gives_up_waiting_before_long(database: CatalogueDatabase) -> None:
    with database.connection() as connection:
        connection.execute("create table one (number int)")
        connection.execute("drop table one")
        settings = connection.execute(
            "select name, setting from pg_settings where name in ('default_transaction_isolation',"
            " 'lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout')"
        ).fetchall()
    assert dict(settings) == {
        "default_transaction_isolation": "read committed",
        "idle_in_transaction_session_timeout": "30000",
        "lock_timeout": "30000",
        "statement_timeout": "120000",
    }


def test_its_settings_outweigh_those_of_the_database(database: CatalogueDatabase) -> None:
    with database.connection() as connection:
        connection.execute("alter database catalogue_database set default_transaction_read_only = on")
        connection.execute("alter database catalogue_database set default_transaction_isolation = 'serializable'")
    database.close()
    with database.connection() as connection:
        assert connection.execute("show transaction_read_only").fetchone() == ("off",)
        assert connection.execute("show transaction_isolation").fetchone() == ("read committed",)


def test_a_refused_login_names_the_catalogues_settings(database: CatalogueDatabase) -> None:
    stranger = database.model_copy(update={"password": "wrong"})
    with pytest.raises(AuthenticationRefused, match="RUNWAY_CATALOGUE_DB_PASSWORD"), stranger.connection():
        pass


@pytest.mark.slow
def test_a_server_that_is_not_there_may_come(database: CatalogueDatabase) -> None:
    away = database.model_copy(update={"port": 1})
    with pytest.raises(Unavailable), away.connection():
        pass


def test_a_table_that_is_not_there_is_looked_for_in_the_contract(database: CatalogueDatabase) -> None:
    with (
        pytest.raises(Permanent, match="library identity contract, section 5"),
        database.connection() as connection,
    ):
        connection.execute("select from no_such_table")
