"""The command line against the running stack."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from runway_pipelines.cli.app import main
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.cli.files import OutputFile
from runway_pipelines.cli.rosters import load as load_command
from runway_pipelines.local.stack import BUCKET
from runway_pipelines.rosters.manifest import index_key
from tests.integration.world import TestPartner, Warehouse, World, run_partner
from tests.waiting import PATIENCE_SECONDS


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
    said = result.output
    assert said.index("Manifest of the current snapshot") < said.index('"students_by_id_system"')
    assert said.index('"students_by_id_system"') < said.index("Pointer to it") < said.index('"verified_at"')
    history = said[said.index("Snapshots, newest first") :]
    assert history.index(second.sha256[:12]) < history.index("(current)") < history.index(first.sha256[:12])


@pytest.mark.parametrize(
    ("command", "nothing"),
    [
        (["show"], "something published for {}; got"),
        (["load", "--to", "never.csv"], "something published for {}"),
    ],
)
def test_nothing_published_is_told_apart_from_no_such_tenant(world: World, command: list[str], nothing: str) -> None:
    partner = world.partner(Warehouse(), ["north"])

    def said(tenant: str) -> str:
        result = CliRunner().invoke(main, ["rosters", *command, tenant])
        assert result.exit_code == 1
        return result.output

    assert nothing.format(f"{partner.partner_id}/north") in said(f"{partner.partner_id}/north")
    assert f"a tenant of {partner.partner_id} (north); got nope." in said(f"{partner.partner_id}/nope")
    assert "got nobody. To do: name one of these." in said("nobody/nowhere")


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
        published = partner.published("north")
        assert published is not None and target.read_bytes() == published
        lines = published.count(b"\n")
        assert result.output.startswith(f"{partner.partner_id}/north: 6 students, {lines} lines (as stored), in ")
        return
    # The five have a code each, the sixth two.
    assert ": 6 students, 7 rows (one for each student, organization and code), in " in result.output
    frame = pd.read_parquet(target) if suffix == ".parquet" else pd.read_csv(target, dtype="string")
    codes = frame[frame["student_unique_id"] == "0604921"]["id_code"]
    assert sorted(codes) == ["0012", "12"]


@pytest.mark.slow
def test_load_takes_a_snapshot_by_the_digits_that_show_has(
    partner: TestPartner, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    first, body = partner.manifest("north"), partner.published("north")
    partner.warehouse.students("north", 2, prefix="N")
    partner.write_tables()
    assert run_partner(instance, partner).success
    target = tmp_path / "roster.jsonl"
    load = ["rosters", "load", f"{partner.partner_id}/north", "--to", str(target), "--sha256"]
    for digits in (first.sha256[:12], first.sha256):
        assert CliRunner().invoke(main, [*load, digits]).exit_code == 0
        assert target.read_bytes() == body
        target.unlink()
    for digits, found in (("no-digest", 0), ("", 2)):
        refused = CliRunner().invoke(main, [*load, digits])
        assert refused.exit_code == 1
        assert f"got digits that {found} kept snapshots begin with." in refused.output
        assert not target.exists()


def test_without_settings_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.delenv("RUNWAY_BUCKET")
    result = CliRunner().invoke(main, ["rosters", "show", "acme/north"])
    assert result.exit_code == 1
    assert "RUNWAY_BUCKET" in result.output


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_ctrl_c_is_no_failure_of_serve(world: World, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    monkeypatch.setenv("RUNWAY_STREAM_TOKEN_KEY", "k" * 43)
    command = [sys.executable, "-m", "runway_pipelines.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("READY "):
                process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == code, said
    assert "curl" not in "".join(said)
    assert "Aborted" not in "".join(said)


@pytest.mark.slow
def test_purge_is_refused_while_the_partner_has_rosters_and_deletes_when_it_left(
    partner: TestPartner, world: World
) -> None:
    arguments = ["rosters", "purge", partner.partner_id, "--yes", "--by", "Ann", "--reason", "left"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert partner.published("north") is not None
    with world.connect() as connection:
        connection.execute("update partner set cross_year_matching_enabled = false where id = %s", [partner.partner_id])
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert partner.published("north") is None
    assert partner.pointer("north") is None
    assert [key for key in partner.object_keys() if key.endswith(".jsonl")], "the history stays"
    assert CliRunner().invoke(main, [*arguments, "--with-snapshots"]).exit_code == 0
    assert partner.object_keys() == []
    record = CliRunner().invoke(main, ["rosters", "audit", partner.partner_id])
    assert record.output.count("purge") == 2
    assert record.output.count("Ann: left") == 2
    assert CliRunner().invoke(main, ["rosters", "purge", partner.partner_id, "--yes"]).exit_code == ExitCode.USAGE


@pytest.mark.slow
def test_purge_of_one_tenant_leaves_the_others(world: World, instance: dg.DagsterInstance) -> None:
    warehouse = Warehouse()
    warehouse.students("gone", 2)
    warehouse.students("gone-2", 2)
    partner = world.partner(warehouse, ["gone", "gone-2"])
    assert run_partner(instance, partner).success
    with world.connect() as connection:
        connection.execute(
            "update tenant set deleted_on = now() where partner_id = %s and code = 'gone'", [partner.partner_id]
        )
    result = CliRunner().invoke(main, ["rosters", "purge", f"{partner.partner_id}/gone", "--yes", "--reason", "left"])
    assert result.exit_code == 0, result.output
    assert partner.published("gone") is None
    assert partner.published("gone-2") is not None
    assert run_partner(instance, partner).success
    document = world.s3.get_object(Bucket=BUCKET, Key=index_key(partner.partner_id))["Body"].read()
    assert [entry["tenant_code"] for entry in json.loads(document)["tenants"]] == ["gone-2"]


@pytest.mark.slow
def test_sync_brings_partitions_in_line_and_says_what_it_refuses(
    partner: TestPartner, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    assert CliRunner().invoke(main, ["partitions", "sync"]).exit_code == 0
    with dg.DagsterInstance.get() as instance:
        wanted = set(instance.get_dynamic_partitions("partner_tenants"))
        assert f"{partner.partner_id}/north" in wanted
        instance.add_dynamic_partitions("partner_tenants", [f"old/{n}" for n in range(len(wanted) + 3)])
        result = CliRunner().invoke(main, ["partitions", "sync"])
        assert result.exit_code == 1
        assert "refused to remove" in result.output
        assert CliRunner().invoke(main, ["partitions", "sync", "--allow-mass-removal"]).exit_code == 0
        assert set(instance.get_dynamic_partitions("partner_tenants")) == wanted


@pytest.mark.slow
def test_the_keys_report_tells_the_fingerprints_and_who_has_no_usable_key(partner: TestPartner) -> None:
    from snowflake.connector.auth.keypair import AuthByKeyPair

    partner.rotate()
    other = partner.world.partner(Warehouse(), ["south"])
    other.put_secret("{not json")
    result = CliRunner().invoke(main, ["credentials", "report", "--json"])
    assert result.exit_code == ExitCode.NOT_WELL  # the other one
    rows = {row["partner"]: row for row in json.loads(result.stdout)}
    (registered,) = partner.registered_keys()
    expected = AuthByKeyPair.calculate_public_key_fingerprint(PublicHalf(registered))
    mine = rows[partner.partner_id]
    assert (mine["fingerprint"], mine["is_fine"], mine["age_days"]) == (expected, True, 0)
    assert mine["previous_fingerprint"] not in (None, expected)
    assert (rows[other.partner_id]["is_fine"], rows[other.partner_id]["trouble"]) == (False, "text that is not JSON")
    table = CliRunner().invoke(main, ["credentials", "report"])
    assert table.exit_code == ExitCode.NOT_WELL
    assert partner.partner_id in table.output


class PublicHalf:
    """A registered key, as the connector's own fingerprint function wants a private one."""

    def __init__(self, text: str) -> None:
        self._key = load_pem_public_key(text.encode())

    def public_key(self) -> Any:
        return self._key


@pytest.mark.parametrize("place", ["no-such-folder/roster.csv", "a-file/roster.csv", "a-file/below/roster.csv"])
def test_an_output_that_cannot_be_written_is_one_line_before_any_work(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("")
    load = ["rosters", "load", "acme/north", "--to", str(tmp_path / place)]
    result = CliRunner().invoke(main, ["--state", str(tmp_path / "state"), *load])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    (line,) = result.output.splitlines()
    assert line.startswith("Error: Expected a folder for --to to write in; got ")
    assert str(tmp_path / place.split("/")[0]) in line
    assert not (tmp_path / "state").exists()


def test_a_folder_that_vanishes_meanwhile_is_one_line_too(partner: TestPartner, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()

    class Vanishing(OutputFile):
        def convert(self, value: Any, param: Any, ctx: Any) -> Path:
            path = super().convert(value, param, ctx)
            folder.rmdir()
            return path

    with pytest.MonkeyPatch.context() as patch:
        (option,) = (each for each in load_command.params if each.name == "file")
        patch.setattr(option, "type", Vanishing())
        result = CliRunner().invoke(
            main, ["rosters", "load", f"{partner.partner_id}/north", "--to", str(folder / "r.csv")]
        )
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("Error: Expected to use") and "no such folder" in line


def test_a_name_of_which_there_is_nothing_is_refused_and_leaves_no_record(world: World) -> None:
    partner = world.partner(Warehouse(), ["north"])
    for name, known in (("nobody", "(p-"), (f"{partner.partner_id}/nope", "(north)")):
        purged = CliRunner().invoke(main, ["rosters", "purge", name, "--yes", "--reason", "it left"])
        assert (purged.exit_code, "which has neither" in purged.output) == (1, True)
        read = CliRunner().invoke(main, ["rosters", "audit", name])
        assert read.exit_code == 1
        assert known in read.output and "To do: name one of these" in read.output
    assert "Nothing is on record" in CliRunner().invoke(main, ["rosters", "audit", partner.partner_id]).output
