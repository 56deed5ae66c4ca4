"""What a mishap makes of a tenant's rows, who can have one, and that it is for the embedded stack alone."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from runway_pipelines.cli.app import main
from runway_pipelines.cli.exit_codes import ExitCode
from runway_pipelines.errors import Permanent
from runway_pipelines.local import mishaps
from runway_pipelines.local.dataset import ASSOCIATIONS, IDENTIFICATION_CODES, SCHEMAS, STUDENTS
from runway_pipelines.local.partners import Partner, Tenant, synthetic_partners

PARTNERS = synthetic_partners()
ACME, BOREALIS, CASCADE = PARTNERS[:3]
SAMPLES = [(ACME, "juniper"), (ACME, "brookdale"), (BOREALIS, "district-3")]
NO_NAMES = ["ashford", "nobody/ashford", "", "/", "acme/", "acme/nowhere", "acme/ashford/x"]
WITHOUT_A_ROSTER = ["driftwood", "eventide/north", "foxglove", "acme/lakeside", "acme/kestrel", "borealis/district-7"]


def tenant_of(partner: Partner, code: str) -> Tenant:
    return next(tenant for tenant in partner.tenants if tenant.code == code)


def values(rows: Mapping[str, pa.Table], table: str, column: str) -> set[str | None]:
    return set(rows[table][column].to_pylist())


@pytest.mark.parametrize(("partner", "code"), SAMPLES, ids=lambda value: getattr(value, "partner_id", value))
def test_one_student_in_twenty_is_left_with_all_of_its_rows(partner: Partner, code: str) -> None:
    tenant = tenant_of(partner, code)
    before = mishaps.seeded_rows(partner, tenant)
    after = mishaps.few_students(before)
    left = values(after, ASSOCIATIONS, "student_unique_id")
    assert len(left) == -(-tenant.students // 20)
    assert None not in left and "" not in left
    assert left < values(before, ASSOCIATIONS, "student_unique_id")
    keys = values(after, ASSOCIATIONS, "k_student_xyear")
    for name in (IDENTIFICATION_CODES, STUDENTS):
        assert values(after, name, "k_student_xyear") <= keys
        kept = [row for row in before[name].to_pylist() if row["k_student_xyear"] in keys]
        assert after[name].to_pylist() == kept
    assert values(after, STUDENTS, "k_student_xyear") == keys


def test_a_tenant_of_a_few_students_keeps_one() -> None:
    rows = mishaps.few_students(mishaps.seeded_rows(CASCADE, Tenant("tiny", 3)))
    assert len(values(rows, ASSOCIATIONS, "student_unique_id")) == 1


def test_rows_under_another_code_are_the_same_but_for_the_code() -> None:
    rows = mishaps.seeded_rows(ACME, tenant_of(ACME, "juniper"))
    lent = mishaps.under_code(rows, "district-1")
    for name, table in lent.items():
        assert table.schema == SCHEMAS[name]
        assert set(table["tenant_code"].to_pylist()) == {"district-1"}
        assert table.drop_columns("tenant_code").equals(rows[name].drop_columns("tenant_code"))


@pytest.mark.parametrize(
    ("partner", "codes", "other"),
    [
        (ACME, {"ashford"}, CASCADE),
        (ACME, {"brookdale"}, BOREALIS),
        (CASCADE, {"springfield"}, ACME),
        (BOREALIS, {"district-1"}, ACME),
    ],
    ids=lambda value: getattr(value, "partner_id", None),
)
def test_a_wrong_key_opens_the_warehouse_that_has_the_most_of_the_codes(
    partner: Partner, codes: set[str], other: Partner
) -> None:
    assert mishaps.other_partner(partner, codes, PARTNERS) is other


def test_without_a_second_partner_there_is_no_wrong_warehouse() -> None:
    with pytest.raises(Permanent, match="a second partner with rosters"):
        mishaps.other_partner(ACME, {"ashford"}, [ACME, *PARTNERS[3:]])


def test_the_stand_in_has_students_and_is_about_as_large() -> None:
    assert mishaps.stand_in(ACME, tenant_of(BOREALIS, "district-1")).code == "juniper"
    assert mishaps.stand_in(ACME, Tenant("none", 0)).code == "juniper"
    assert mishaps.stand_in(ACME, Tenant("huge", 90_000)).code == "ashford"


def test_a_code_that_both_have_is_not_borrowed() -> None:
    assert mishaps.borrowed_codes(CASCADE, ACME) == {"springfield", "shelbyville", "ogdenville"}


def test_a_name_is_a_partner_or_a_tenant_of_it() -> None:
    assert mishaps.named(PARTNERS, "borealis") == (BOREALIS, None)
    assert mishaps.named(PARTNERS, "acme/ashford") == (ACME, tenant_of(ACME, "ashford"))


@pytest.mark.parametrize("name", [*NO_NAMES, *WITHOUT_A_ROSTER])
def test_a_name_without_a_roster_is_refused(name: str) -> None:
    with pytest.raises(Permanent, match="name one of these"):
        mishaps.named(PARTNERS, name)


COMMANDS = [
    ["break", "mass-loss", "acme/ashford"],
    ["break", "empty", "acme/ashford"],
    ["break", "rotate", "acme/ashford"],
    ["break", "rotate", "acme"],
    ["break", "wrong-warehouse", "acme/ashford"],
    ["break", "wrong-warehouse", "acme"],
    ["mend"],
    ["mend", "acme"],
    ["mend", "acme/ashford"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_local_every_command_is_refused_with_one_line(command: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--state", str(tmp_path), *command])
    assert result.exit_code == 1
    assert result.output == (
        "Error: Expected --local, because this is for practice, on the embedded stack alone; got none. "
        "To do: say runway-pipelines --local ...\n"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_where_no_stack_runs_none_is_started(command: list[str], tmp_path: Path) -> None:
    for state in (tmp_path, tmp_path / "missing"):
        result = CliRunner().invoke(main, ["--local", "--state", str(state), *command])
        assert result.exit_code == 1
        assert result.output == (
            f"Error: Expected a stack that runs in {state}; got none. To do: run make dev STATE={state} in another "
            "terminal, then say this again.\n"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["stack.lock"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["break", "rotate", "nobody"], "has rosters (acme, borealis, cascade); got nobody. To do: name one of these."),
        (["break", "empty", "cascade/nope"], "(springfield, shelbyville, ashford, ogdenville); got nope. To do: name"),
        (["mend", "nobody/nowhere"], "got nobody. To do: name one of these."),
    ],
)
def test_an_unknown_name_is_one_line(command: list[str], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--local", "--state", str(tmp_path), *command])
    assert result.exit_code == 1
    assert result.output.startswith("Error: Expected ") and said in result.output
    assert result.output.count("\n") == 1


def test_a_partner_alone_is_a_wrong_call_where_a_tenant_is_meant(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--local", "--state", str(tmp_path), "break", "mass-loss", "acme"])
    assert result.exit_code == ExitCode.USAGE
    assert "Expected PARTNER/TENANT; got acme alone." in result.output
