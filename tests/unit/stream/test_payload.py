"""The executor's payload, and the OpenAPI document that names all routes."""

from runway_pipelines.partner_tenants.keys import PartnerTenant
from runway_pipelines.stream.openapi import document
from runway_pipelines.stream.payload import CROSS_YEAR_PATH, ROSTER_PATH, job_payload
from runway_pipelines.stream.runs import RunTenant

RUN = RunTenant(7, PartnerTenant("acme", "north"))


def test_the_roster_is_named_when_the_partner_can_be_connected_to() -> None:
    asked: list[str] = []
    payload = job_payload(lambda partner: not asked.append(partner), RUN, base_url="https://stream/")
    assert asked == ["acme"]
    assert payload == {
        "crossYearMatchAvailable": True,
        "appUrls": {"roster": "https://stream/earthbeam/jobs/7/roster"},
    }


def test_it_is_not_when_the_partner_cannot() -> None:
    expected = {"crossYearMatchAvailable": False, "appUrls": {}}
    assert job_payload(lambda partner: False, RUN, base_url="https://stream") == expected


def test_a_tenant_without_a_roster_asks_nobody() -> None:
    asked: list[str] = []
    payload = job_payload(lambda partner: not asked.append(partner), RunTenant(7, None), base_url="https://stream")
    assert payload["crossYearMatchAvailable"] is False
    assert asked == []


def test_the_document_names_every_route() -> None:
    assert set(document()["paths"]) == {
        ROSTER_PATH,
        CROSS_YEAR_PATH,
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    }
