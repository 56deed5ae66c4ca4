"""The rights that the pipeline's user needs, with a real user that has only some of them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from runway_pipelines.doctor.findings import CheckStatus
from runway_pipelines.doctor.identity import examine_identity
from runway_pipelines.errors import ConfigurationError, Permanent
from runway_pipelines.identity.counts import Counts
from runway_pipelines.identity.rights import require_rights
from runway_pipelines.identity.services import IdentityServices
from runway_pipelines.identity.writer import NotWritten, write
from runway_pipelines.systems.lml.client import LmlService
from runway_pipelines.systems.lml.verdicts import Verdict
from runway_pipelines.systems.postgres.databases import CatalogueDatabase
from tests.integration.identity_world import NOW, TestCatalogue, answer, compilation, single, track, unresolved
from tests.integration.lml_control import LmlControl

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def documented() -> tuple[str, ...]:
    """The grants as docs/operations.md has them, with placeholders for the schema and the user."""
    [block] = [block for block in re.findall("```sql\n(.*?)```", OPERATIONS.read_text(), re.DOTALL) if "grant" in block]
    grants = " ".join(block.split()).replace("wxyc_schema", "{schema}").replace("to pipeline;", "to {user};")
    return tuple(grant.strip() for grant in grants.split(";") if grant.strip())


DOCUMENTED = documented()
USER, PASSWORD = "identity writer", "writer-canary"


class Restricted:
    """The catalogue as a user that owns nothing sees it."""

    def __init__(self, catalogue: TestCatalogue) -> None:
        self.catalogue = catalogue
        self.database: CatalogueDatabase = catalogue.database.model_copy(
            update={"username": USER, "password": PASSWORD}
        )

    def may(self, *grants: str) -> None:
        names = {"schema": sql.Identifier(self.catalogue.schema), "user": sql.Identifier(USER)}
        for grant in grants:
            self.catalogue.connection.execute(sql.SQL(grant).format(**names))  # type: ignore[arg-type]

    def require(self, schema: str | None = None) -> None:
        with self.database.connection() as connection:
            require_rights(connection, schema or self.catalogue.schema)

    def write(self, *verdicts: Verdict, **options: Any) -> Counts:
        return write(
            self.database.connection,
            answer(*verdicts),
            schema=self.catalogue.schema,
            has_artist_columns=True,
            now=NOW,
            **options,
        )


@pytest.fixture
def restricted(catalogue: TestCatalogue) -> Iterator[Restricted]:
    with user(catalogue):
        one = Restricted(catalogue)
        yield one
        one.database.close()


@contextmanager
def user(catalogue: TestCatalogue) -> Iterator[None]:
    """A user that may log in and nothing else; it goes with all of its rights."""
    name = sql.Identifier(USER)
    catalogue.connection.execute(sql.SQL("create role {} login password {}").format(name, sql.Literal(PASSWORD)))
    try:
        yield
    finally:
        catalogue.connection.execute(sql.SQL("drop owned by {}").format(name))
        catalogue.connection.execute(sql.SQL("drop role {}").format(name))


def test_the_documented_grants_are_enough_for_everything_that_is_written(restricted: Restricted) -> None:
    restricted.may(*DOCUMENTED)
    restricted.require()
    catalogue = restricted.catalogue
    catalogue.insert("artists", {"id": 1, "artist_name": "Wren"})
    catalogue.library(2, letters="Z")
    catalogue.track(1, 2, "A", "Song")
    catalogue.library(1)
    catalogue.library(3)
    batch = [compilation(2, track("A", "Song", "Wren", 0.9, "A1")), unresolved(3)]
    for qid in ("Q1", "Q2"):
        restricted.write(single(1, wikidata_qid=qid), *batch, is_dry_run=True)
        assert restricted.write(single(1, wikidata_qid=qid), *batch).rows_resolved == 1
    assert len(catalogue.rows("library_identity_history")) == 1
    assert catalogue.rows("compilation_track_artist")[0]["track_artist_id"] == 1


@pytest.mark.parametrize("left_out", DOCUMENTED, ids=lambda grant: grant.partition("{schema}")[2] or "usage")
def test_no_documented_grant_can_be_left_out_and_the_message_holds_it(restricted: Restricted, left_out: str) -> None:
    restricted.may(*(grant for grant in DOCUMENTED if grant != left_out))
    with pytest.raises(ConfigurationError, match="the rights to write them") as refused:
        restricted.require()
    assert " right on " in refused.value.came
    _, _, grants = refused.value.remedy.partition(" run: ")
    restricted.may(*(grant.replace("{", "{{") for grant in grants.split("; ")))
    restricted.require()


def test_every_missing_right_is_in_the_one_message(restricted: Restricted) -> None:
    restricted.may("grant select on {schema}.library, {schema}.library_identity to {user}")
    with pytest.raises(ConfigurationError) as refused:
        restricted.require()
    schema = restricted.catalogue.schema
    assert refused.value.came.split(", ") == [
        f"no USAGE right on schema {schema}",
        "no UPDATE right on table library",
        "no SELECT right on table artists",
        *(f"no {right} right on table library_identity" for right in ("INSERT", "UPDATE")),
        *(f"no {right} right on table library_identity_source" for right in ("SELECT", "INSERT", "UPDATE")),
        "no INSERT right on table library_identity_history",
        "no USAGE right on sequence library_identity_history_history_id_seq",
        *(f"no {right} right on table compilation_track_artist" for right in ("SELECT", "UPDATE")),
    ]
    assert f'grant usage on schema "{schema}" to "{USER}"' in refused.value.remedy
    assert f'grant insert, update on table "{schema}".library_identity to "{USER}"' in refused.value.remedy


def test_rights_on_whole_tables_are_as_good_as_on_columns(restricted: Restricted) -> None:
    restricted.may(
        "grant usage on schema {schema} to {user}",
        "grant select, insert, update on all tables in schema {schema} to {user}",
        "grant usage on all sequences in schema {schema} to {user}",
    )
    restricted.require()


def test_some_of_the_columns_are_not_enough(restricted: Restricted) -> None:
    restricted.may(*DOCUMENTED)
    restricted.may("revoke update (track_position) on {schema}.compilation_track_artist from {user}")
    with pytest.raises(ConfigurationError, match="no UPDATE right on table compilation_track_artist"):
        restricted.require()


def test_a_missing_schema_is_named_alone(restricted: Restricted) -> None:
    with pytest.raises(ConfigurationError, match="RUNWAY_CATALOGUE_SCHEMA") as refused:
        restricted.require("nowhere")
    assert refused.value.came == "no schema nowhere"


def test_a_missing_table_is_named_beside_the_missing_rights(restricted: Restricted) -> None:
    restricted.may(*DOCUMENTED)
    restricted.may("revoke insert on {schema}.library_identity from {user}")
    restricted.catalogue.execute("drop table library_identity_history")
    with pytest.raises(ConfigurationError) as refused:
        restricted.require()
    assert refused.value.came == "no table library_identity_history, no INSERT right on table library_identity"
    assert "RUNWAY_CATALOGUE_SCHEMA" in refused.value.remedy and "grant insert on table" in refused.value.remedy


def test_an_identity_column_needs_no_right_on_its_sequence(restricted: Restricted) -> None:
    restricted.catalogue.execute(
        "alter table library_identity_history alter column history_id drop default,"
        " alter column history_id add generated always as identity"
    )
    restricted.may(*(grant for grant in DOCUMENTED if "sequence" not in grant))
    restricted.require()


def test_the_question_needs_no_right_and_writes_nothing(restricted: Restricted) -> None:
    with restricted.database.connection() as connection, connection.transaction():
        connection.execute("set transaction read only")
        with pytest.raises(ConfigurationError):
            require_rights(connection, restricted.catalogue.schema)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def test_the_doctor_is_not_content_with_reading(restricted: Restricted, lml: LmlControl) -> None:
    restricted.may(
        "grant usage on schema {schema} to {user}", "grant select on all tables in schema {schema} to {user}"
    )
    services = IdentityServices(
        lml=LmlService(base_url=lml.url), catalogue=restricted.database, catalogue_schema=restricted.catalogue.schema
    )
    [answer_of_lml, tables] = examine_identity(services)
    assert (answer_of_lml.status, tables.status) == (CheckStatus.OK, CheckStatus.FAILED)
    assert "no UPDATE right on table library," in tables.detail and "; grant update (" in tables.fix
    restricted.may(*DOCUMENTED)
    assert [finding.status for finding in examine_identity(services)] == [CheckStatus.OK] * 2
    services.lml.close()


def test_a_write_without_a_right_says_so_and_quarantines_nobody(restricted: Restricted) -> None:
    restricted.may(*DOCUMENTED)
    restricted.may("revoke insert on {schema}.library_identity_source from {user}")
    for library_id in (1, 2):
        restricted.catalogue.library(library_id)
    refused: list[int] = []
    with pytest.raises(NotWritten) as ended:
        restricted.write(single(1), single(2), on_refusal=lambda library_id, reason: refused.append(library_id))
    reason = ended.value.reason
    assert isinstance(reason, Permanent) and reason.code == "42501"
    assert reason.came == "a missing right: permission denied for table library_identity_source"
    assert "docs/operations.md" in reason.remedy and refused == []
    assert restricted.catalogue.rows("library_identity") == []
