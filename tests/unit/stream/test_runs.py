"""The executor's payload."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.stream.runs import RunTenant, find_run, job_payload

RUN = RunTenant(7, PartnerTenant("acme", "north"))


def test_the_roster_has_a_url_if_the_partner_can_be_connected_to() -> None:
    asked: list[str] = []
    payload = job_payload(lambda partner: not asked.append(partner), RUN, base_url="https://stream/")
    assert asked == ["acme"]
    assert payload == {
        "crossYearMatchAvailable": True,
        "appUrls": {"roster": "https://stream/earthbeam/jobs/7/roster"},
    }


def test_the_roster_has_no_url_if_the_partner_cannot_be_connected_to() -> None:
    expected = {"crossYearMatchAvailable": False, "appUrls": {}}
    assert job_payload(lambda partner: False, RUN, base_url="https://stream") == expected


@pytest.mark.parametrize(
    ("row", "has_roster", "why"),
    [
        (("acme", "St. Mary"), True, None),
        (("acme", "a/b"), True, "U+002F"),
        (("acme", "x" * 129), True, "129 characters"),
        (("a.b", "north"), True, "partner's id"),
        (("acme", "a/b"), False, None),  # its partner is off, which is the reason
    ],
)
def test_a_run_of_a_tenant_with_an_unusable_code_says_why(
    row: tuple[str, str], has_roster: bool, why: str | None
) -> None:
    connection = SimpleNamespace(execute=lambda *_: SimpleNamespace(fetchone=lambda: (*row, has_roster)))
    run = find_run(SimpleNamespace(connection=lambda: nullcontext(connection)), "7")  # type: ignore[arg-type]
    assert run is not None
    assert (run.tenant is None) == (not has_roster or why is not None)
    assert (run.unusable is None) == (why is None)
    assert why is None or why in str(run.unusable)
    assert row[1] not in str(run.unusable)


def test_a_run_without_a_roster_asks_about_no_partner() -> None:
    asked: list[str] = []
    payload = job_payload(lambda partner: not asked.append(partner), RunTenant(7, None), base_url="https://stream")
    assert payload["crossYearMatchAvailable"] is False
    assert asked == []
