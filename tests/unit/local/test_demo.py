"""The demo's verdict: what the data set means, and only of this run."""

from dataclasses import replace

import pytest

from runway_pipelines.local.demo import PartnerResult, TenantResult, expected_trouble, results_document

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
