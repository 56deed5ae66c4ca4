"""The demo's verdict: what the data set means, and only of this run; and how it is told."""

import logging
import sys
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from runway_pipelines.local.demo import (
    IdentityResult,
    PartnerResult,
    TenantResult,
    expected_trouble,
    log_told,
    print_identity,
    print_results,
    readable_log_line,
    results_document,
)

GOOD = TenantResult("acme", "ashford", "new", 5000, 6437, (2026,), "sha", "published", is_expected=True)


@pytest.mark.parametrize("is_expected", [True, False])
def test_the_demo_succeeds_only_when_every_tenant_ended_as_the_data_set_means_it(is_expected: bool) -> None:
    other = replace(GOOD, tenant_code="brookdale", status="failed", is_expected=is_expected)
    document = results_document([PartnerResult("acme", "run", 1.0, (GOOD, other))])
    assert document["is_success"] is is_expected
    assert [tenant["tenant_code"] for tenant in document["partners"][0]["tenants"]] == ["ashford", "brookdale"]


def test_the_data_set_means_one_district_without_students_and_one_partner_without_a_secret_to_fail() -> None:
    assert expected_trouble() >= {("acme", "kestrel"), ("driftwood", "north"), ("driftwood", "south")}
    assert ("acme", "ashford") not in expected_trouble()


def printed(*tenants: TenantResult, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    print_results([PartnerResult(tenants[0].partner_id, "run", 1.0, tenants)], console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_a_roster_without_a_school_year_is_new_but_said_not_to_be_published() -> None:
    table = printed(replace(GOOD, partner_id="cascade", school_years=()))
    (row,) = (line for line in table.splitlines() if "ashford" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "cascade", "ashford", "5,000", "6,437", "no year", "new",
    ]  # fmt: skip
    assert "cascade has no school year to publish to: the rosters of its 1 tenants are kept as snapshots" in " ".join(
        table.split()
    )


def test_a_tenant_that_never_had_a_roster_is_published_for_no_year_and_one_that_had_one_still_is() -> None:
    held = replace(GOOD, status="held", lines=0, reason="no student")
    assert "2026" not in printed(replace(held, sha256=None))
    kept = printed(held)
    assert "2026" in kept
    assert "no school year" not in kept


def test_the_columns_count_lines_of_the_file_and_fit_into_80_columns() -> None:
    table = printed(replace(GOOD, status="unchanged", school_years=(2024, 2025, 2026)))
    assert "┃ lines ┃ published for    ┃ result    ┃" in table
    assert "rows" not in table
    assert "…" not in table


def test_an_identity_run_with_nothing_due_is_told_as_that() -> None:
    console = Console(file=StringIO(), width=200)
    print_identity(IdentityResult("run", {"scanned": 0}, 1.5, is_expected=True), console)
    assert "Library identity: nothing was due; an earlier run did it (1.5 s)." in console.file.getvalue()  # type: ignore[attr-defined]


PREFIX = "2026-11-21 19:56:56 +0000 - dagster - INFO - "
EVENT = (
    'operator event credentials_failing: {"partner":"driftwood","run_id":null,"counts":{},"reasons_left_out":0,'
    '"occurred_at":"2026-11-21T19:56:56+00:00","credentials":{"code":"SecretGone","reason":"there is none"}}'
)


@pytest.mark.parametrize(
    ("logged", "told"),
    [
        (
            PREFIX + EVENT,
            "Operators are told of credentials_failing: partner driftwood; code SecretGone; reason there is none.",
        ),
        (PREFIX + "4 partners, 3 to try", "The sensor says: 4 partners, 3 to try."),
        (PREFIX.replace("INFO", "WARNING") + "late.", "The sensor says (WARNING): late."),
        (PREFIX + "operator event x: {no json}", "The sensor says: operator event x: {no json}."),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ("", ""),
    ],
)
def test_a_ticks_log_is_told_in_readable_lines_and_none_is_lost(logged: str, told: str) -> None:
    assert readable_log_line(logged) == told


def test_what_a_tick_logs_before_it_fails_is_told_as_well() -> None:
    console = Console(file=StringIO(), width=200)
    handler = logging.StreamHandler

    def failing_tick() -> None:
        handler(sys.stderr).handle(logging.makeLogRecord({"msg": PREFIX + "one [partner] more"}))
        raise LookupError

    with pytest.raises(LookupError), log_told(console):
        failing_tick()
    assert console.file.getvalue() == "The sensor says: one [partner] more.\n"  # type: ignore[attr-defined]
