"""The command line against the running stack."""

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from click.testing import CliRunner

from runway_pipelines.cli import main
from tests.integration.world import TestPartner, Warehouse, World, run_partner


@pytest.fixture
def partner(world: World, instance: dg.DagsterInstance) -> TestPartner:
    warehouse = Warehouse()
    warehouse.students("north", 5)
    warehouse.student("north", "0604921", ("Local", "0012"), ("Local", "12"))
    partner = world.partner(warehouse, ["north"])
    assert run_partner(instance, partner).success
    return partner


def test_show_prints_the_manifest_and_the_history(partner: TestPartner, instance: dg.DagsterInstance) -> None:
    first = partner.manifest("north")
    partner.warehouse.students("north", 2, prefix="N")
    partner.write_tables()
    assert run_partner(instance, partner).success
    result = CliRunner().invoke(main, ["rosters", "show", f"{partner.partner_id}/north"])
    assert result.exit_code == 0, result.output
    second = partner.manifest("north")
    assert second.sha256 in result.output
    assert result.output.index(second.sha256[:12]) < result.output.rindex(first.sha256[:12])


def test_show_of_a_tenant_without_a_roster_says_so(world: World) -> None:
    result = CliRunner().invoke(main, ["rosters", "show", "nobody/nowhere"])
    assert result.exit_code == 1
    assert "Nothing was ever published for nobody/nowhere" in result.output


def test_a_key_that_is_none_is_refused(world: World) -> None:
    result = CliRunner().invoke(main, ["rosters", "show", "../x"])
    assert result.exit_code == 2
    assert "partner_id" in result.output


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_load_writes_a_file_for_its_owner_alone(partner: TestPartner, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"roster{suffix}"
    result = CliRunner().invoke(main, ["rosters", "load", f"{partner.partner_id}/north", "--to", str(target)])
    assert result.exit_code == 0, result.output
    assert target.stat().st_mode & 0o777 == 0o600
    if suffix == ".jsonl":
        assert target.read_bytes() == partner.published("north")
        return
    frame = pd.read_parquet(target) if suffix == ".parquet" else pd.read_csv(target, dtype="string")
    codes = frame[frame["student_unique_id"] == "0604921"]["id_code"]
    assert sorted(codes) == ["0012", "12"]


def test_without_settings_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.delenv("RUNWAY_BUCKET")
    result = CliRunner().invoke(main, ["rosters", "show", "acme/north"])
    assert result.exit_code == 1
    assert "RUNWAY_BUCKET" in result.output
