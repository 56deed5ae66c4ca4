"""Tables and sentences of the command line: what one copies is whole, whatever the terminal's width."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from runway_pipelines.cli.board import print_board
from runway_pipelines.cli.registry import why_nothing
from runway_pipelines.cli.target import Target
from runway_pipelines.cli.terminal import history_table
from runway_pipelines.credentials.key_hygiene import NO_KEY_FACTS, KeyFacts
from runway_pipelines.operations.wording import minute
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.partner_tenants.registry import Registry, RosterPartner
from runway_pipelines.rosters.board import PartnerState, make_board
from runway_pipelines.rosters.index import IndexEntry
from tests.factories import manifest

FIRST = manifest(sha256="a" * 64, created_at="2026-11-21T19:24:59.123456+00:00", students=100_000, lines=1_234_567)
SECOND = replace(FIRST, sha256="b" * 64, created_at="2026-11-21T20:31:00+01:00", students_added=12_000)
PARTNERS = {
    "acme": RosterPartner("acme", "Acme", ("ashford", "brookdale"), (2026,)),
    "large": RosterPartner("large", "Large", tuple(f"district-{n:02}" for n in range(12)), (2026,)),
}
REGISTRY = Registry(PARTNERS, switched_off=("eventide",))


def rendered(width: int) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(history_table([SECOND, FIRST], FIRST.sha256))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 200])
def test_the_history_tells_snapshots_apart_by_time_and_digest_in_any_width(width: int) -> None:
    text = rendered(width)
    assert "…" not in text
    for shown in ("2026-11-21 19:24", "2026-11-21 19:31", "a" * 12, "b" * 12, "12,000", "1,234,567", "lines"):
        assert shown in text
    assert text.count("(current)") == 1
    assert "published" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_moment_that_is_none_is_shown_as_it_is() -> None:
    assert minute("yesterday") == "yesterday"


@pytest.mark.parametrize(
    ("tenant", "said"),
    [
        (
            "acme/ashford",
            "Expected something published for acme/ashford; got nothing so far. "
            "To do: materialize rosters/cross_year_roster, partition acme/ashford",
        ),
        ("acme/nope", "Expected a tenant of acme (ashford, brookdale); got nope. To do: name one of these"),
        ("large/nope", "district-09 and 2 more); got nope."),
        ("nobody/ashford", "(acme, large); got nobody. To do: name one of these."),
        ("eventide/north", "got eventide, which has it switched off. To do: switch cross_year_matching_enabled on"),
    ],
)
def test_why_nothing_is_published_is_the_registrys_answer(tenant: str, said: str) -> None:
    assert said in str(why_nothing(REGISTRY, PartnerTenant.parse(tenant), lambda partner_id: NO_KEY_FACTS))


def test_nothing_is_published_for_a_partner_without_credentials_and_that_is_said() -> None:
    said = str(
        why_nothing(REGISTRY, PartnerTenant("acme", "ashford"), lambda partner_id: KeyFacts(trouble="no secret"))
    )
    assert "got nothing so far, because acme has no usable credentials: no secret. To do: put its secret into" in said


def test_a_registry_without_partners_has_none_to_name() -> None:
    said = str(why_nothing(Registry({}), PartnerTenant("acme", "x"), lambda partner_id: NO_KEY_FACTS))
    assert "(there is none); got acme. To do: switch it on for a partner" in said


@pytest.mark.parametrize("width", [60, 200])
def test_a_command_of_the_board_is_whole_in_any_width(width: int) -> None:
    held = IndexEntry(
        "brookdale",
        "held",
        "held since 2026-11-21 19:24 UTC: students_lost: half are gone. To see what would change: runway-pipelines "
        "rosters diff acme/brookdale. To publish it all the same: runway-pipelines rosters approve acme/brookdale "
        "1a2b3c4d5e6f --reason '...'",
        refreshed_at="2026-11-20T19:24:00+00:00",
        since="2026-11-21T19:24:00+00:00",
    )
    now = datetime(2026, 11, 22, tzinfo=UTC)
    console = Console(file=StringIO(), width=width)
    board = make_board([PartnerState("acme", "Acme", [held])], now, timedelta(hours=30))
    print_board(console, board, most_groups=None)
    lines = str(console.file.getvalue()).splitlines()  # type: ignore[attr-defined]
    assert "  held brookdale, since 2026-11-21 19:24 UTC" in lines
    assert (
        "    To publish it all the same: runway-pipelines rosters approve acme/brookdale 1a2b3c4d5e6f --reason '...'"
        in lines
    )


def test_local_commands_advise_local_remedies() -> None:
    local, deployed = Target(True, Path(".runway")), Target(False, Path(".runway"))
    elsewhere = Target(True, Path("/tmp/my state"))
    assert elsewhere.adapted("run runway-pipelines doctor, or start dagster-daemon run with this DAGSTER_HOME") == (
        "run runway-pipelines --local --state '/tmp/my state' doctor, or run make dev STATE='/tmp/my state'"
    )
    remedy = "start dagster-daemon run with this DAGSTER_HOME"
    for text, locally in (
        (remedy, "run make dev"),
        ("run runway-pipelines rosters holds, then", "run runway-pipelines --local rosters holds, then"),
        ("install the extra runway-pipelines[local]", "install the extra runway-pipelines[local]"),
        ("runway-pipelines --local doctor", "runway-pipelines --local doctor"),
    ):
        assert local.adapted(text) == locally
        assert deployed.adapted(text) == text
