"""The executor's payload."""

from __future__ import annotations

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.stream.runs import RunTenant, job_payload

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


def test_a_run_without_a_roster_asks_about_no_partner() -> None:
    asked: list[str] = []
    payload = job_payload(lambda partner: not asked.append(partner), RunTenant(7, None), base_url="https://stream")
    assert payload["crossYearMatchAvailable"] is False
    assert asked == []
