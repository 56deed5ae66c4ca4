"""A person at the command line: what waits, what it would change, and decisions with words that look like markup."""

from __future__ import annotations

import getpass
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from runway_pipelines.cli.app import main
from runway_pipelines.rosters.holds import read_hold
from runway_pipelines.settings import load_settings
from runway_pipelines.wiring import build_services
from tests.integration.stream_server import publish, refresh
from tests.integration.world import TestPartner, Warehouse, World

WHY = "[ticket 12] see [/x]"


@pytest.fixture
def partner(world: World) -> TestPartner:
    warehouse = Warehouse()
    warehouse.students("north", 100)
    partner = world.partner(warehouse, ["north"])
    publish(partner, "north")
    partner.warehouse.associations = partner.warehouse.associations[60:]
    partner.write_tables()
    assert refresh(partner, "north").hold is not None
    return partner


def said(*arguments: str, exit_code: int = 0) -> str:
    load_settings.cache_clear()
    result = CliRunner().invoke(main, ["rosters", *arguments])
    assert result.exit_code == exit_code, result.output
    return " ".join(result.output.split())


def held_sha256(partner: TestPartner) -> str | None:
    with build_services(load_settings()).process_config_and_initialize_cm() as services:
        hold = read_hold(services.store, partner.tenant("north"))
    return hold and hold.sha256


def test_what_is_held_is_looked_at_approved_and_rolled_back(partner: TestPartner, tmp_path: Path) -> None:
    key, ids = partner.tenant("north").key, tmp_path / "ids.csv"
    sha256 = held_sha256(partner)
    assert sha256 is not None
    assert f"rosters approve {key} {sha256[:12]}" in said("holds", partner.partner_id)
    shown = said("diff", key, "--ids", str(ids))
    assert "removed │ 60" in shown
    assert "S00000" not in shown
    assert ids.read_text().splitlines()[1] == "removed,S00000"
    assert stat.S_IMODE(ids.stat().st_mode) == 0o600
    assert "students_lost" in said("show", key)

    assert "what is held now is" in said("approve", key, "0" * 8, "--reason", WHY, exit_code=1)
    assert "leave out the digits" in said("approve", partner.partner_id, sha256, "--all", "--reason", WHY, exit_code=2)
    of_others = ["approve", partner.partner_id, "--all", "--guard", "warehouse_moved", "--reason", WHY]
    assert "by these guards alone" in said(*of_others)
    assert WHY in said("approve", partner.partner_id, "--all", "--yes", "--by", "ann", "--reason", WHY)
    assert said("holds") == "No roster is held."
    assert WHY in said("rollback", key, "--reason", WHY)
    assert f"by {getpass.getuser()}: {WHY}" in said("show", key)
    assert "not pinned" in said("unpin", key, "--reason", WHY)
    record = said("audit", key)
    assert all(word in record for word in ("hold", "approve", "rollback", "unpin", "ann"))
    assert "unfinished" not in record


def test_what_is_known_to_come_is_said_before_listed_and_ended(partner: TestPartner) -> None:
    assert "got none" in said("expect", partner.partner_id, "--guard", "students_lost", exit_code=2)
    listed = said(*("expect", partner.partner_id, "--guard", "students_lost", "--until", _in_a_week(), "--reason", WHY))
    assert "students_lost" in listed
    assert refresh(partner, "north").status.is_success
    (named,) = {word for word in listed.split() if len(word) == 8 and set(word) <= set("0123456789abcdef")}
    assert "Nothing is expected" in said("expect", partner.partner_id, "--end", named, "--reason", WHY)


def _in_a_week() -> str:
    return (datetime.now(UTC) + timedelta(days=7)).date().isoformat()
