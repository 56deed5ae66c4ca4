"""What a failed run says at its top line."""

import dagster as dg
import pytest

from runway_pipelines.operations.run_report import Problem, RunReport
from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.rosters.assets import fail_if_any_failed
from runway_pipelines.rosters.outcome import TenantOutcome, TenantStatus

REFUSED = "refused by not_empty, and nobody can approve it: no student"


def outcome(code: str, status: TenantStatus, reason: str) -> TenantOutcome:
    return TenantOutcome(PartnerTenant("acme", code), status, reason, 0.1)


def failure_of(*outcomes: TenantOutcome) -> dg.Failure:
    with pytest.raises(dg.Failure) as caught:
        fail_if_any_failed(outcomes, "run it again")
    return caught.value


def test_the_text_names_held_and_failed_tenants_with_their_reasons() -> None:
    failure = failure_of(
        outcome("kestrel", TenantStatus.HELD, REFUSED),
        outcome("ashford", TenantStatus.NEW, "published"),
        outcome("lark", TenantStatus.FAILED, "Expected a table; got none. To do: grant it."),
    )
    assert str(failure.description) == (
        "2 of 3 tenants are not published: acme/kestrel refused by not_empty, and nobody can approve it: no student; "
        "acme/lark failed: Expected a table; got none. To do: grant it. What was published before is untouched. Once "
        "the causes are fixed: run it again."
    )
    assert failure.metadata["acme/kestrel"].value == REFUSED
    report = RunReport.parse(failure.metadata["run report"].value)
    assert report == RunReport(
        counts={"held": 1, "new": 1, "failed": 1},
        problems={
            "acme/kestrel": Problem(REFUSED),
            "acme/lark": Problem("Expected a table; got none. To do: grant it.", "failed"),
        },
    )


def test_tenants_with_one_reason_are_named_together() -> None:
    refused = [outcome(f"t{number}", TenantStatus.FAILED, "the key is refused") for number in range(7)]
    assert str(failure_of(*refused).description).startswith(
        "7 of 7 tenants are not published: acme/t0, acme/t1, acme/t2, acme/t3, acme/t4 and 2 more failed: the key is "
        "refused. "
    )


def test_the_text_is_bounded_and_the_metadata_is_whole() -> None:
    failed = [outcome(f"t{number:03d}", TenantStatus.FAILED, f"{number}" + "x" * 5000) for number in range(400)]
    failure = failure_of(*failed)
    assert len(str(failure.description)) < 1500
    assert "and 397 more (the step's metadata has every reason)" in str(failure.description)
    assert failure.metadata["acme/t399"].value == "failed: " + failed[399].reason


def test_nothing_is_raised_if_all_are_published() -> None:
    fail_if_any_failed([outcome("a", TenantStatus.UNCHANGED, ""), outcome("b", TenantStatus.SUPERSEDED, "")], "")
