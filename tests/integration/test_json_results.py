"""``--json`` against the real stack: one document on stdout, moments as ISO 8601, and no student in it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runway_pipelines.cli.app import main
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.settings import load_settings
from tests.integration.stream_server import publish, refresh
from tests.integration.world import TestPartner, Warehouse, World

WHY = "the partner says so"
OF_A_MOMENT = ("at", "since", "seen_at", "verified_at", "created_at", "confirmed_at", "query_started_at", "until")


@pytest.fixture
def partner(world: World) -> TestPartner:
    """North is published and has a candidate that is held; south was never refreshed."""
    warehouse = Warehouse()
    warehouse.students("north", 100)
    partner = world.partner(warehouse, ["north", "south"])
    publish(partner, "north")
    partner.warehouse.associations = partner.warehouse.associations[60:]
    partner.write_tables()
    assert refresh(partner, "north").hold is not None
    return partner


def document(*arguments: str, exit_code: int = ExitCode.DONE) -> Any:
    """What the command printed: one document, and nothing else."""
    load_settings.cache_clear()
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == exit_code, result.output
    assert "S0000" not in result.output  # how the students' ids begin
    found = json.loads(result.stdout)
    for name, value in _members(found):
        if name in OF_A_MOMENT and value is not None:
            assert datetime.fromisoformat(value).utcoffset() == timedelta(0), (name, value)
    return found


def _members(found: Any) -> list[tuple[str, Any]]:
    if isinstance(found, list):
        return [pair for each in found for pair in _members(each)]
    if not isinstance(found, dict):
        return []
    return [*found.items(), *(pair for each in found.values() for pair in _members(each))]


def test_what_is_held_is_decided_by_a_machine(partner: TestPartner, tmp_path: Path) -> None:
    one, key = partner.partner_id, partner.tenant("north").key
    named = {"partner_id": one, "tenant_code": "north"}
    (waiting,) = document("rosters", "holds", one)
    assert waiting.items() >= named.items()
    assert f"rosters approve {key}" in waiting["next_step"]
    candidate = waiting["hold"]["sha256"]

    (row,) = document("rosters", "status", one, exit_code=ExitCode.NOT_WELL)["partners"]
    assert (row["partner_id"], row["is_fine"]) == (one, False)
    assert [each["tenant_code"] for each in document("rosters", "list", one)] == ["north", "south"]
    assert document("rosters", "show", key)["hold"]["sha256"] == candidate

    ids = tmp_path / "ids.csv"
    changed = document("rosters", "diff", key, "--ids", str(ids))
    assert changed.items() >= (named | {"to_sha256": candidate, "ids_file": str(ids)}).items()
    assert changed["students"]["removed"] == 60
    assert (changed["before"]["students"], changed["after"]["students"]) == (100, 40)

    expected = document("rosters", "expect", one, "--guard", "students_added", "--until", _soon(), "--reason", WHY)
    assert [(each["guards"], each["signature"]["reason"]) for each in expected] == [(["students_added"], WHY)]
    rejected = document("rosters", "reject", key, candidate, "--reason", WHY)
    assert rejected.items() >= (named | {"is_published": False, "status": "held"}).items()
    approved = document("rosters", "approve", key, candidate, "--reason", WHY)
    assert approved.items() >= (named | {"is_published": True, "status": "new", "sha256": candidate}).items()
    assert document("rosters", "approve", one, "--all", "--yes", "--reason", WHY) == []
    assert document("rosters", "rollback", key, "--reason", WHY)["status"] == "pinned"
    assert document("rosters", "unpin", key, "--reason", WHY)["status"] == "unchanged"
    record = document("rosters", "audit", key)
    assert [each["what"] for each in record][-4:] == ["reject", "approve", "rollback", "unpin"]
    assert {each["state"] for each in record} == {"completed"}

    file = tmp_path / "north.csv"
    loaded = document("rosters", "load", key, "--to", str(file))
    assert loaded == named | {"students": 100, "rows": 100, "file": str(file)}


def _soon() -> str:
    return (datetime.now(UTC) + timedelta(days=7)).date().isoformat()


@pytest.mark.parametrize(
    "arguments",
    [["rosters", "approve", "acme", "--all", "--reason", WHY], ["rosters", "purge", "acme", "--reason", WHY]],
)
def test_a_machine_is_asked_nothing(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == ExitCode.USAGE
    assert "add --yes" in result.output


def test_a_refusal_leaves_stdout_empty(partner: TestPartner) -> None:
    load_settings.cache_clear()
    result = CliRunner().invoke(main, ["rosters", "status", "nobody", "--json"])
    assert (result.exit_code, result.stdout) == (ExitCode.REFUSED, "")
    assert result.stderr.startswith("Error: Expected ")


def test_what_the_settings_give_is_a_document_too(world: World) -> None:
    by_variable = {each["variable"]: each for each in document("settings")}
    assert by_variable["RUNWAY_ROSTER_FRESH_HOURS"]["meaning"]
    assert by_variable["RUNWAY_LARGE_PARTNERS"]["default"] == ""
    assert document("identity", "migrate", "--check", exit_code=ExitCode.NOT_WELL)["added"] == []


def test_what_left_is_purged_by_a_machine(partner: TestPartner, world: World) -> None:
    one = partner.partner_id
    with world.connect() as connection:
        connection.execute("update partner set cross_year_matching_enabled = false where id = %s", [one])
    purged = document("rosters", "purge", one, "--yes", "--reason", WHY)
    assert purged["partner_id"] == one and purged["deleted"] > 0
