"""``students``: files on disk against the real warehouse, and nothing of a student in what is left behind."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import traceback
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from runway_pipelines.cli.app import main
from runway_pipelines.credentials.sessions import PartnerSessions
from runway_pipelines.local import dataset
from runway_pipelines.local.partners import RESOLVED_PARTNER, synthetic_partners
from runway_pipelines.rosters.extraction import select_roster
from runway_pipelines.settings import load_settings
from runway_pipelines.students import observables, query, warehouse
from runway_pipelines.students.persons import prepare_persons
from runway_pipelines.students.services import StudentServices
from runway_pipelines.students.warehouse import StudentsNotReadable, TenantPersons, fetch_persons
from runway_pipelines.wiring import build_student_services
from tests.integration.student_world import Child, candidate, write_students
from tests.integration.world import TestPartner, Warehouse, World, write_parquet

# Nobody else has such names or birthdays: they are looked for in whatever a command leaves behind.
ONE = Child("0990001", "Kanarina", "Zwetschkenbaum", date(2011, 3, 27), "4711")
TWO = Child("0990002", "Pumpernella", "Quastenflosser", date(2012, 10, 19), "4712")
CHILDREN = (ONE, TWO)
STRANGER = Child("0770001", "Otto", "Anders", date(2011, 3, 27), "4711")
OUR_LOGGERS = ("runway", "dagster", "snowflake")


@pytest.fixture
def partner(world: World, monkeypatch: pytest.MonkeyPatch) -> TestPartner:
    """One for whom resolution is on; its warehouse has another tenant too, which is not in the registry."""
    warehouse = Warehouse()
    for tenant, children in (("north", CHILDREN), ("other", [STRANGER])):
        for child in children:
            warehouse.student(tenant, child.student_unique_id, ("Local", child.code))
    partner = world.partner(warehouse, ["north", "empty"])
    write_students(partner, {"north": CHILDREN, "other": [STRANGER]})
    switch_on(monkeypatch, partner.partner_id)
    return partner


def switch_on(monkeypatch: pytest.MonkeyPatch, *partners: str) -> None:
    """Resolution is on for these partners alone, from now on."""
    monkeypatch.setenv("RUNWAY_STUDENT_RESOLUTION", ",".join(partners))
    load_settings.cache_clear()


def change_table(partner: TestPartner, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Another table in the warehouse, from its next login on."""
    file = table_file(partner, name)
    write_parquet(file, change(pq.read_table(file)))


def table_file(partner: TestPartner, name: str) -> Path:
    return partner.world.stack.warehouse_dir / partner.account / "EDU" / "PROD" / f"{name}.parquet"


def row(candidate_id: str, child: Child, ids: object, **more: object) -> dict[str, Any]:
    """A line about the child, for one record."""
    return candidate(child, candidate_id, obs_student_ids=ids, record_count="1") | more


def write_candidates(file: Path, *lines: dict[str, Any] | bytes) -> Path:
    """A file of candidates; bytes are lines as they are."""
    file.write_bytes(b"".join(each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in lines))
    return file


def students(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["students", *map(str, arguments)])


def of(partner: TestPartner, tenant: str = "north") -> tuple[str, str]:
    return "--tenant", f"{partner.partner_id}/{tenant}"


def refusal(result: Result) -> str:
    """What a person reads: one line, and no traceback."""
    assert result.exit_code == 1, result.output
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert "To do: " in line
    assert "Traceback" not in result.output
    return line


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "resolutions.jsonl").read_bytes().splitlines()]


def test_each_line_of_a_file_has_an_answer_whatever_it_is(partner: TestPartner, tmp_path: Path) -> None:
    file = write_candidates(
        tmp_path / "candidates.jsonl",
        row("by-id", ONE, "['4711', '4711', 'none']"),
        b"\n",
        b"not json\n",
        b'{"candidate_id": "broken", "obs_first_name": "\xff"}\n',
        b"[1]\n",
        row("long", ONE, ["4711"], obs_middle_name="m" * 4096),
        row("twice", TWO, 4712),
        row("twice", TWO, 4712),
        row("two", ONE, ["4711"]),
        row("two", TWO, ["4712"]),
        row("nested", ONE, [["4711"]]),
        row("wrong-id", ONE, ["4712"], record_count=3),
    )
    folder = tmp_path / "answers"
    result = students("resolve", file, *of(partner), "--to", folder, "--json")
    assert result.exit_code == 0, result.output
    *found, last = answers(folder)
    assert [(each["candidate_id"], each["decision"], each["reason"]) for each in found] == [
        ("by-id", "accept", "id_confirmed"),
        (None, "invalid", "line.not_json"),
        (None, "invalid", "line.not_json"),
        (None, "invalid", "line.not_an_object"),
        (None, "invalid", "line.too_long"),
        ("twice", "accept", "id_confirmed"),
        ("twice", "invalid", "candidate_id.repeated"),
        ("two", "invalid", "candidate_id.of_two_students"),
        ("two", "invalid", "candidate_id.of_two_students"),
        ("nested", "invalid", "obs_student_ids.not_texts"),
        ("wrong-id", "review", "id_belongs_to_another_student"),
    ]
    assert found[0]["student_unique_id"] == "0990001"
    document = json.loads(result.stdout)
    assert document == json.loads((folder / "report.json").read_text()) == last
    summary = document["summary"]
    assert (summary["candidates"], summary["records"], summary["students"]) == (11, 13, 2)
    assert summary["id_alone"]["contradicted"] == {"candidates": 1, "records": 3}
    (review,) = (folder / "review.jsonl").read_bytes().splitlines()
    assert json.loads(review) == found[-1]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_answers_are_written_into_a_bundles_output_and_nothing_else_is_touched(
    partner: TestPartner, tmp_path: Path
) -> None:
    file = write_candidates(tmp_path / "c.jsonl", row("a1", ONE, "4711"), row("b2", TWO, "4711"))
    assert students("resolve", file, *of(partner), "--to", tmp_path / "answers").exit_code == 0
    output = tmp_path / "results.jsonl"
    output.write_bytes(b'{"s":  "CANDIDATE_a1", "x": 1.50}\r\n{"s": "CANDIDATE_b2"}\n{"t": "CANDIDATE_a1 no"}')
    resolutions, to, rest = tmp_path / "answers" / "resolutions.jsonl", tmp_path / "to", tmp_path / "rest"
    result = students("apply", output, "--resolutions", resolutions, "--to", to, "--unresolved", rest, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads(result.stdout) == {"resolved": 2, "unresolved": 1}
    assert to.read_bytes() == b'{"s":  "0990001", "x": 1.50}\r\n{"t": "CANDIDATE_a1 no"}'
    assert rest.read_bytes() == b'{"s": "CANDIDATE_b2"}\n'
    assert {path.stat().st_mode & 0o777 for path in (to, rest)} == {0o600}

    before = to.read_bytes()
    resolutions.write_bytes(b"\n".join(resolutions.read_bytes().splitlines()[:-1]) + b"\n")
    again = ("apply", output, "--resolutions", resolutions, "--to", to, "--unresolved", rest)
    assert "it is not the whole answer" in refusal(students(*again))
    resolutions.write_bytes(b"{}\n")
    assert "line 1)" in refusal(students(*again))
    assert to.read_bytes() == before


def test_a_verdict_is_explained_by_its_rule_and_its_levels(partner: TestPartner, tmp_path: Path) -> None:
    file = write_candidates(tmp_path / "c.jsonl", row("a1", ONE, ["4712"]), b'{"candidate_id": "bad", "obs_sex": []}\n')
    said = students("explain", file, "a1", *of(partner)).output
    assert "id_belongs_to_another_student" in said
    assert "0990001" in said and "0990002" in said
    document = json.loads(students("explain", file, "a1", *of(partner), "--json").stdout)
    best = document["students"][0]
    assert sum(level["bits"] or 0 for level in best["levels"]) + best["names"] + best["prior"] == pytest.approx(
        best["weight"], abs=0.01
    )
    assert json.loads(students("explain", file, "bad", *of(partner), "--json").stdout)["reason"] == "obs_sex.not_a_text"
    assert "one that is not in it" in refusal(students("explain", file, "nobody", *of(partner)))


def test_a_csv_file_says_what_its_columns_were_taken_for(partner: TestPartner, tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as text:
        csv.writer(text).writerows(
            [
                ("First Name", "student_last_name", "DOB", "Local ID", "Born"),
                (ONE.first_name, ONE.last_name, f"{ONE.birth_date:%-m/%-d/%Y}", "4711", ""),
            ]
        )
    result = students("resolve", file, *of(partner), "--to", tmp_path / "answers")
    assert (
        "first name = First Name, last name = student_last_name, birth date = DOB, student ids = Local ID"
        in result.stderr
    )
    assert answers(tmp_path / "answers")[0]["student_unique_id"] == "0990001"
    assert "none called Vorname" in refusal(students("resolve", file, *of(partner), "--first-name", "Vorname"))
    file.write_bytes(b"DOB,birthdate\n")
    assert "DOB and birthdate" in refusal(students("resolve", file, *of(partner)))
    file.write_bytes("First Name,DOB\nJosé,1/2/2010\n".encode("cp1252"))
    assert "CSV UTF-8" in refusal(students("resolve", file, *of(partner)))


def test_the_warehouses_answer_makes_the_students_that_its_tables_make(world: World) -> None:
    """What the statements leave out or fold says nothing: years without a change, and codes of nobody."""
    acme = next(one for one in synthetic_partners() if one.partner_id == RESOLVED_PARTNER)
    juniper = next(one for one in acme.tenants if one.code == "juniper")
    partner = world.partner(Warehouse(), ["juniper"])
    tables = {
        dataset.STUDENTS: dataset.students(acme, juniper),
        dataset.SCHOOLS: dataset.schools(acme, juniper),
        dataset.IDENTIFICATION_CODES: dataset.identification_codes(acme, juniper),
    }
    for name, table in tables.items():
        write_parquet(table_file(partner, name), table)
    latest = pc.max(tables[dataset.SCHOOLS]["api_year"]).as_py()
    tables[dataset.SCHOOLS] = tables[dataset.SCHOOLS].filter(pc.field("api_year") >= latest - 1)
    codes = tables[dataset.IDENTIFICATION_CODES]
    is_code = pc.and_(pc.not_equal(codes["id_code"], ""), pc.not_equal(codes["id_system"], ""))
    codes = codes.filter(is_code).rename_columns({"id_system": "id_type"})
    expected = prepare_persons(tables[dataset.STUDENTS], tables[dataset.SCHOOLS], codes)

    with build_student_services(load_settings()).process_config_and_initialize_cm() as services:
        found = _fetched(services, partner).persons
    assert found.people.equals(expected.people)
    assert found.variants.equals(expected.variants)
    assert found.codes.equals(expected.codes)
    assert found.count > 200


def _fetched(services: StudentServices, partner: TestPartner) -> TenantPersons:
    rosters = services.rosters
    sessions = PartnerSessions(partner.partner_id, rosters.secrets, rosters.snowflake, size=1, query_tag="test")
    with sessions.session() as session:
        found = fetch_persons(session, partner.tenant("juniper"), run_id="test")
    sessions.close()
    return found


def test_one_line_too_many_is_an_error_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observables, "MOST_LINES", 5)
    file = tmp_path / "c.jsonl"
    file.write_bytes(b"{}\n" * 6)
    assert "at most 5 candidates" in refusal(students("resolve", file, "--tenant", "nobody/nowhere"))


def test_resolution_is_off_for_who_did_not_ask_for_it(
    partner: TestPartner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = write_candidates(tmp_path / "c.jsonl", row("a1", ONE, "4711"))
    assert "a tenant of" in refusal(students("resolve", file, *of(partner, "nope")))
    assert "none in stg_ef3__students" in refusal(students("resolve", file, *of(partner, "empty")))
    switch_on(monkeypatch, "somebody-else")
    said = refusal(students("resolve", file, *of(partner)))
    assert f"add {partner.partner_id} to RUNWAY_STUDENT_RESOLUTION" in said


def without_the_table(partner: TestPartner) -> str:
    partner.drop_table(query.SCHOOLS_TABLE)
    return "the table stg_ef3__student_school_associations"


def without_columns(partner: TestPartner) -> str:
    columns = ["maiden_name", "is_multiple_birth"]
    change_table(partner, query.STUDENTS_TABLE, lambda table: table.drop_columns(columns))
    return "none called maiden_name, is_multiple_birth"


@pytest.mark.parametrize("lacking", [without_the_table, without_columns])
def test_a_warehouse_that_lacks_something_is_told_so_and_rosters_go_on(
    partner: TestPartner, lacking: Callable[[TestPartner], str], tmp_path: Path
) -> None:
    said = lacking(partner)
    file = write_candidates(tmp_path / "c.jsonl", row("a1", ONE, "4711"))
    assert said in refusal(students("resolve", file, *of(partner)))

    with build_student_services(load_settings()).process_config_and_initialize_cm() as services:
        rosters = services.rosters
        sessions = PartnerSessions(partner.partner_id, rosters.secrets, rosters.snowflake, size=1, query_tag="test")
        with pytest.raises(StudentsNotReadable), sessions.session() as session:
            fetch_persons(session, partner.tenant("north"), run_id="test")
        with sessions.session() as session:
            rows = sum(len(batch) for batch in select_roster(session, partner.tenant("north"), run_id="test").batches)
        assert rows > 0
        assert (sessions.connects, sessions.refusal) == (1, None)
        sessions.close()


def another_tenants_students(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> str:
    return _asked_for_another(monkeypatch, "STUDENTS", query.STUDENTS)


def another_tenants_schools(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> str:
    return _asked_for_another(monkeypatch, "SCHOOLS", query.SCHOOLS)


def another_tenants_codes(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> str:
    return _asked_for_another(monkeypatch, "CODES", query.CODES)


def _asked_for_another(monkeypatch: pytest.MonkeyPatch, name: str, source: query.Source) -> str:
    statement = source.statement.replace("%(tenant_code)s", "'other'")
    monkeypatch.setattr(warehouse, name, dataclasses.replace(source, statement=statement))
    return f"1 rows of another tenant in {source.table}"


def a_statement_that_fails_on_a_value(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> str:
    failing = query.STUDENTS.statement.replace("s.first_name, s.middle", "cast(s.first_name as int), s.middle", 1)
    monkeypatch.setattr(warehouse, "STUDENTS", dataclasses.replace(query.STUDENTS, statement=failing))
    return "the statement to run"


def a_name_where_a_date_belongs(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> str:
    renamed = query.STUDENTS.statement.replace("s.birth_date, s.birth_sex", "s.last_name as birth_date, s.birth_sex", 1)
    monkeypatch.setattr(warehouse, "STUDENTS", dataclasses.replace(query.STUDENTS, statement=renamed))
    return "birth_date of stg_ef3__students as date32"


def half_of_the_rows(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> str:
    cut = query.STUDENTS.statement + "limit 1"
    monkeypatch.setattr(warehouse, "STUDENTS", dataclasses.replace(query.STUDENTS, statement=cut))
    return "got 1"


def a_defect_of_ours(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> str:
    def fail(*_: object) -> None:
        raise KeyError(ONE.first_name, ONE.birth_date.isoformat())

    monkeypatch.setattr(warehouse, "prepare_persons", fail)
    return "an unexpected KeyError in test_student_commands.py, line"


def asterisks(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> str:
    masked = tuple(dataclasses.replace(child, student_unique_id="****") for child in CHILDREN)
    write_students(partner, {"north": masked})
    return "masking policy"


def ids_that_are_numbers(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> str:
    place = dataset.SCHEMAS[query.STUDENTS_TABLE].names.index("student_unique_id")
    change_table(
        partner,
        query.STUDENTS_TABLE,
        lambda table: table.set_column(place, "student_unique_id", table["student_unique_id"].cast(pa.int64())),
    )
    return "student_unique_id of stg_ef3__students as string"


def nothing_wrong(partner: TestPartner, monkeypatch: pytest.MonkeyPatch) -> str:
    return ""


@pytest.mark.parametrize(
    "trouble",
    [
        nothing_wrong,
        another_tenants_students,
        another_tenants_schools,
        another_tenants_codes,
        a_statement_that_fails_on_a_value,
        a_name_where_a_date_belongs,
        half_of_the_rows,
        a_defect_of_ours,
        asterisks,
        ids_that_are_numbers,
    ],
)
def test_what_a_command_leaves_behind_has_no_name_and_no_birth_date(
    partner: TestPartner,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[TestPartner, pytest.MonkeyPatch], str],
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    caplog.set_level(logging.DEBUG)
    says = trouble(partner, monkeypatch)
    file = write_candidates(tmp_path / "c.jsonl", row("a1", ONE, "4711"), row("b2", TWO, ["4711"]))
    folder = tmp_path / "answers"
    results = [
        students("resolve", file, *of(partner), "--to", folder),
        students("explain", file, "b2", *of(partner)),
    ]
    if trouble is nothing_wrong:
        results += [
            students("resolve", file, *of(partner), "--json"),
            students("explain", file, "b2", *of(partner), "--json"),
        ]
    for result in results:
        assert says in result.output if result.exit_code == 0 else says in refusal(result)
        assert (result.exit_code == 0) is (trouble is nothing_wrong)

    output = capfd.readouterr()
    left = {
        "output": output.out + output.err + "".join(result.output for result in results),
        "logging": "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(OUR_LOGGERS)),
        "exceptions": "".join(
            "".join(traceback.format_exception(result.exc_info[1])) for result in results if result.exc_info
        ),
    }
    for path in (*temporary.rglob("*"), *folder.rglob("*")):
        if path.is_file():
            left[str(path)] = path.read_bytes().decode(errors="replace")
    found = {
        (place, word) for place, text in left.items() for word in _spellings() if word.casefold() in text.casefold()
    }
    assert found == set()


def _spellings() -> list[str]:
    notations = ("%Y-%m-%d", "%m%d%Y", "%Y%m%d")
    dates = [f"{child.birth_date:{notation}}" for child in CHILDREN for notation in notations]
    return [*dates, *(name for child in CHILDREN for name in (child.first_name, child.last_name))]


def test_a_file_of_a_partner_without_a_secret_is_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    partner = world.partner(Warehouse(), ["north"])
    switch_on(monkeypatch, partner.partner_id)
    partner.delete_secret()
    file = write_candidates(tmp_path / "c.jsonl", row("a1", ONE, "4711"))
    assert partner.secret_name in refusal(students("resolve", file, *of(partner)))
